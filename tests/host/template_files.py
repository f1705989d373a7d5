"""The published files that templates ask for: where they lie in ComfyUI, where they come from.

The addresses of the first three are those of the host's own template `video_causal_forcing_i2v`; hashes of
VAE and text encoder are those of its other templates, those of LongLive its publisher's file list has, as
several public scripts check them. Of the other files no hash is known for sure, so none is given. None of
them was opened here.
"""

from __future__ import annotations

from dataclasses import dataclass

HUB = "https://huggingface.co/"
REPACKED = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"


@dataclass(frozen=True, slots=True)
class Download:
    """One file."""

    model: str  # of which it is a part
    name: str
    folder: str  # of models/
    repository: str  # on Hugging Face
    path: str  # there
    sha256: str = ""  # "": not known for sure
    gigabytes: float = 0.0  # 10^9 bytes

    @property
    def url(self) -> str:
        """Where a browser gets it."""
        return f"{HUB}{self.repository}/resolve/main/{self.path}"

    def entry(self, value: str) -> dict[str, str]:
        """What a node's property `models` says of it; value: of the widget that names the file."""
        said = {"name": value, "url": self.url, "directory": self.folder}
        return said | ({"hash": self.sha256, "hash_type": "SHA256"} if self.sha256 else {})

    def line(self) -> str:
        """What a note says of it: without code's typeface, which some pages draw blue on grey."""
        return f"- models/{self.folder}/**{self.name}** ({self.gigabytes:g} GB)"


FRAMEWISE = Download(
    "Causal-Forcing",
    "causal_forcing-framewise.safetensors",
    "diffusion_models",
    "TalmajM/causal_forcing_framewise_ComfyUI_repackaged",
    "split_files/diffusion_models/causal_forcing-framewise.safetensors",
    gigabytes=5.68,
)
VAE = Download(
    "Wan 2.1",
    "wan_2.1_vae.safetensors",
    "vae",
    REPACKED,
    "split_files/vae/wan_2.1_vae.safetensors",
    "2fc39d31359a4b0a64f55876d8ff7fa8d780956ae2cb13463b0223e15148976b",
    gigabytes=0.25,
)
UMT5 = Download(
    "umT5",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "text_encoders",
    REPACKED,
    "split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "c3355d30191f1f066b26d93fba017ae9809dce6c627dda5f6a66eaa651204f68",
    gigabytes=6.74,
)
SELF_FORCING = Download(
    "Self-Forcing",
    "self_forcing_dmd.pt",
    "diffusion_models",
    "gdhe17/Self-Forcing",
    "checkpoints/self_forcing_dmd.pt",
    gigabytes=5.68,
)
LONGLIVE = Download(
    "LongLive",
    "longlive_base.pt",
    "diffusion_models",
    "Efficient-Large-Model/LongLive-1.3B",
    "models/longlive_base.pt",
    "10a2aa8fcf89c77d9033f4c117405412a690e289625766619d293f0c5a208ee7",
    gigabytes=5.68,
)
LONGLIVE_LORA = Download(
    "LongLive",
    "lora.pt",
    "loras",
    "Efficient-Large-Model/LongLive-1.3B",
    "models/lora.pt",
    "c4e43b87d62d4b0614b496773639f1ab170a7ee486dc23407901e9d3a5ebc07a",
    gigabytes=2.8,
)
ECHO = Download(
    "Echo-Infinity",
    "echo_infinity.pt",
    "diffusion_models",
    "Echo-Team/Echo-Infinity",
    "checkpoints/echo_infinity.pt",
    gigabytes=5.95,
)
REWARD = Download(
    "Reward Forcing",
    "rewardforcing.pt",
    "diffusion_models",
    "JaydenLu666/Reward-Forcing-T2V-1.3B",
    "rewardforcing.pt",
    gigabytes=5.68,
)
DOWNLOADS = (FRAMEWISE, VAE, UMT5, SELF_FORCING, LONGLIVE, LONGLIVE_LORA, ECHO, REWARD)


def named(value: object) -> Download | None:
    """The file that a widget's value names, with or without its folder."""
    for file in DOWNLOADS:
        if value in (file.name, f"{file.folder}/{file.name}"):
            return file
    return None
