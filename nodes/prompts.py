"""The node that reads a list or a timeline of prompts and encodes each of them once."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..model_patches.stream.timeline import DEFAULT_MODE, MODES, Timeline
from ..model_patches.stream.typed import read_timeline
from .host.inputs import seconds_input
from .start_from import one_picture

PromptsType = io.Custom("RIVULET_PROMPTS")
FROM_RECIPE = "recipe"  # in place of a switch's name: as the model is, which is known when the stream begins
CHOICES = (FROM_RECIPE, *MODES)
TYPED_KEPT = 8  # encoded prompts kept besides the timeline's; umT5 gives 8 MB each

EXAMPLE = """[0s] a red circle on a green ground
[5s] a blue square on a green ground
[10s cut] a yellow triangle on a blue ground"""


class Prompts:
    """A timeline and the host's CLIP, which also encodes what is typed while the stream runs."""

    def __init__(
        self, text: str, seconds_each: float, mode: str, clip: Any, reference_BHWC: Tensor | None = None
    ) -> None:
        """text: as it was typed. mode: how to go over to a prompt that names no switch, one of CHOICES.
        reference: a picture that a shot keeps in place of the last one's frames, [1, H, W, 3] in [0, 1].

        Raises ValueError with the line and what to write where the text cannot be read.
        """
        self.mode, self.reference_BHWC = mode, reference_BHWC
        self._text, self._seconds_each, self._clip = text, seconds_each, clip
        self._known: dict[str, Any] = {}
        self._written = {prompt.text for prompt in self.timeline().prompts}

    def timeline(self, recipe_switch: str = DEFAULT_MODE) -> Timeline:
        """The prompts and their switches; recipe_switch: what the mode FROM_RECIPE stands for."""
        mode = recipe_switch if self.mode == FROM_RECIPE else self.mode
        return read_timeline(self._text, seconds_each=self._seconds_each, mode=mode)

    def conditioning(self, prompt: str) -> Any:
        """CONDITIONING of the text; of one that was asked for before without asking the CLIP again.

        Call it where the host may move models: between two sampling calls, never inside one.
        """
        if prompt in self._known:
            return self._known[prompt]
        made = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(prompt))
        typed = [text for text in self._known if text not in self._written]
        if prompt not in self._written and len(typed) >= TYPED_KEPT:
            del self._known[typed[0]]
        self._known[prompt] = made
        return made


class RivuletPrompts(io.ComfyNode):
    """One prompt, a list of them, or a timeline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletPrompts",
            display_name="Prompts over Time",
            category="Rivulet",
            description="One prompt; several, separated by lines of ---; or timed lines such as "
            "[0-5s] a red circle. Each is encoded once, before the stream begins.",
            search_aliases=["prompt travel", "prompt schedule", "timeline", "scenes"],
            inputs=[
                io.Clip.Input("clip", tooltip="Encodes the prompts, also those typed while the stream runs."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default=EXAMPLE,
                    tooltip="One prompt, or several separated by lines of ---, or lines with times: "
                    "[5s] text, [0-5s] text, [1:30-2:00 cut] text. Lines that begin with # are ignored.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(CHOICES),
                    default=FROM_RECIPE,
                    tooltip="How the stream changes to a prompt whose line names no switch. "
                    f"{FROM_RECIPE}: as the model's recipe says, {DEFAULT_MODE} if it says nothing. "
                    + " ".join(f"{name}: {MODES[name]}." for name in MODES),
                ),
                seconds_input(
                    "seconds_each",
                    5.0,
                    0.1,
                    "Seconds that each prompt of a --- list is shown; timed lines have their own times.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="One picture, of a character for instance, that every shot keeps in sight; "
                    "without it a shot keeps the newest frames of the scene before. It is cut to the video's "
                    "size.",
                ),
            ],
            outputs=[PromptsType.Output(display_name="prompts", tooltip="For Stream Video.")],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        """True, or why the graph cannot be queued; what comes over a link is read when it is there.

        The host tells the reason once for each input that is named here, and looks at the others itself.
        """
        try:
            return text is None or bool(read_timeline(text))
        except ValueError as refusal:
            return str(refusal)

    @classmethod
    def execute(
        cls, clip: Any, text: str, mode: str, seconds_each: float, reference: Tensor | None = None
    ) -> io.NodeOutput:
        """Returns the prompts, all encoded: the text encoder need not be loaded again while it streams."""
        if clip is None:
            raise ValueError(
                "Prompts over Time: clip is empty: the loader found no text encoder in its file; "
                "connect CLIPLoader with type wan, or the Pocket Model's CLIP."
            )
        if reference is not None:
            reference = one_picture(reference, "Prompts over Time: reference")
        prompts = Prompts(text, seconds_each, mode, clip, reference)
        for prompt in prompts.timeline().prompts:
            prompts.conditioning(prompt.text)
        return io.NodeOutput(prompts)
