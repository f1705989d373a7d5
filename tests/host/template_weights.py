"""Templates for published weights, each with the files that it was written for."""

from __future__ import annotations

from typing import Any

from rivulet.tests.host.template_files import (
    ECHO,
    FRAMEWISE,
    LONGLIVE,
    LONGLIVE_LORA,
    REWARD,
    SELF_FORCING,
    UMT5,
    VAE,
    Download,
)
from rivulet.tests.host.workflows import NOTE, STREAM, Box, Story

SIZE = {"width": 832, "height": 480}
HONEST = (
    "**Not run with these weights where Rivulet is made**: what they show and how long it takes is not known."
)

MARKET = """A slow tracking shot through a covered market in the early morning. Steam rises from copper \
pots, a woman in a blue apron lifts lids one after another, warm light falls in stripes through the \
roof, people pass close to the camera, shallow focus, natural colours."""

COAST = """[0s] Aerial view of a rocky coast at sunrise, a white lighthouse on the headland, long waves \
roll in, the camera flies slowly towards the tower, soft orange light, light haze over the water.
[10s] The camera passes the lighthouse and follows a narrow road along the cliff, a small red van \
drives ahead, grass bends in the wind, the sun stands a little higher.
[20s] The red van reaches a fishing village, the camera sinks to the height of the roofs, gulls circle \
over the harbour, boats rock at the pier.
[30s cut] Close-up of an old fisherman on the pier who mends a green net, his hands move slowly, boats \
out of focus behind him, warm light from the side.
[40s] He looks up and smiles, stands and carries the net to his boat, the camera follows at his shoulder."""

DOG = """A brown dog with a red collar runs along a beach, the camera glides beside it at the same \
height, wet sand mirrors the sky, small waves run out, low evening sun, steady colours."""

LIKE_DOG = """A grey cat walks along a garden wall, the camera follows, soft morning light
A girl in a yellow coat rides a bicycle down a lane, the camera beside her, autumn leaves
A horse trots through shallow water, spray in the low sun, tracking shot
Two children fly a kite on a hill, wide shot, clouds drift
A train crosses a stone bridge, aerial view, evening
A cook tosses noodles in a wok, close to the flames, steam
Waves break on dark rocks, slow motion, overcast
A street at night in the rain, neon signs mirror in puddles, people with umbrellas pass"""

MOVES = """The picture comes alive: the camera moves forward slowly, light changes gently, leaves and \
cloth move in the wind, nothing else changes."""


WIDE, REPORT = (
    400,
    460,
)  # pixels of a column; of one with a report, which lies last, as it grows with its text


def note(title: str, wanted: tuple[Download, ...], text: str, size: tuple[int, int] = (REPORT, 300)) -> Box:
    """What the template is for, and which file goes where."""
    lines = "\n".join(file.line() for file in wanted)
    whole = f"## {title}\n\n{text}\n\n{lines}\n\nFiles that are missing are offered when it opens. {HONEST}"
    return Box(NOTE, size, text=whole)


def loader(file: Download, **inputs: Any) -> Box:
    """The model with its recipe."""
    return Box("RivuletLoadModel", (REPORT, 270), {"model_file": file.name, **inputs})


def text_encoder() -> Box:
    """umT5."""
    given = {"clip_name": UMT5.name, "type": "wan", "device": "default"}
    return Box("CLIPLoader", (WIDE, 120), given)


def vae() -> Box:
    """Wan 2.1's."""
    return Box("VAELoader", (WIDE, 90), {"vae_name": VAE.name})


def prompts(text: str, height: int = 180) -> Box:
    """Prompts through 2, so that others can be typed while it runs."""
    return Box("RivuletPrompts", (WIDE, height), {"clip": (2, 0), "text": text})


def calibrate(name: str, **inputs: Any) -> Box:
    """The basis of the model from 6, as it is streamed."""
    given = {"model": (6, 0), "clip": (2, 0), "prompts": LIKE_DOG, "name": name, **SIZE}
    return Box("RivuletCalibrate", (REPORT, 440), {**given, **inputs})


def picture() -> dict[int, Box]:
    """A picture and what makes it the first of the video."""
    return {
        7: Box("LoadImage", (WIDE, 380), {"image": "example.png"}),
        6: Box("RivuletStartFrom", (WIDE, 220), {"image": (7, 0), "fit": "crop"}),
    }


def stream(seconds: float, **inputs: Any) -> Box:
    """Stream Video with prompts from 4."""
    given = {"vae": (3, 0), "prompts": (4, 0), **SIZE}
    return Box("RivuletStream", STREAM, {**given, "seconds": seconds, **inputs})


WEIGHTS = {
    "02_text_to_video_t2v": Story(
        SELF_FORCING.model,
        "text to video, small cache, memory",
        (
            {
                90: note(
                    "Text to video without end",
                    (SELF_FORCING, UMT5, VAE),
                    "**Evolving Memory** folds what leaves the window into the first frames, **Small \
Cache** halves the bytes of the rest, and **Plan Stream** stops a run that your card cannot hold. Set \
**seconds** there and in **Stream Video**. Another prompt can be typed while it runs.",
                ),
                2: text_encoder(),
                3: vae(),
                1: loader(SELF_FORCING),
            },
            {
                4: prompts(MARKET),
                6: Box("RivuletMemory", (WIDE, 215), {"model": (1, 0), "memory": "ema"}),
                7: Box("RivuletLatentCache", (WIDE, 140), {"format": "int8", "keep_sink_exact": True}),
                5: Box(
                    "RivuletPlan",
                    (REPORT, 360),
                    {"model": (6, 0), "vae": (3, 0), "cache": (7, 0), **SIZE, "seconds": 60.0},
                ),
            },
            {8: stream(60.0, model=(5, 0), cache=(7, 0))},
        ),
    ),
    "03_prompts_over_time_longlive": Story(
        LONGLIVE.model,
        "prompts over time",
        (
            {
                90: note(
                    "A film from lines with times",
                    (LONGLIVE, LONGLIVE_LORA, UMT5, VAE),
                    "Each line of **Prompts over Time** begins at its second. LongLive was trained to \
change prompts: the scene goes over without a jump (**recache**), and **cut** begins another one. Say who \
is there, what they do, where the camera is, and the light: 40 words a line or more.",
                ),
                2: text_encoder(),
                3: vae(),
                1: loader(LONGLIVE, lora_file=LONGLIVE_LORA.name),
            },
            {4: prompts(COAST, 640)},
            {8: stream(50.0, model=(1, 0))},
        ),
    ),
    "04_image_to_video_i2v": Story(
        FRAMEWISE.model,
        "image to video",
        (
            {
                90: note(
                    "A picture comes alive",
                    (FRAMEWISE, UMT5, VAE),
                    "Choose your picture in **Load Image**; **Start From** makes it the first of the \
video, cut to its size. Say in the prompt what moves and what the camera does. These weights were \
trained on 5 seconds; beyond, memory stays the same and how the picture keeps is to be seen.",
                ),
                2: text_encoder(),
                3: vae(),
                1: loader(FRAMEWISE),
            },
            {**picture(), 4: prompts(MOVES)},
            {8: stream(20.0, model=(1, 0), start=(6, 0))},
        ),
    ),
    "05_memory_echo_infinity": Story(
        ECHO.model,
        "trained memory, cache an eighth",
        (
            {
                90: note(
                    "A trained memory, and a cache an eighth as large",
                    (ECHO, UMT5, VAE),
                    "**Calibrate Cache** learns once how to keep this model's frames in an eighth of the \
bytes. Later, take it away and choose **echo_infinity.safetensors** in **Small Cache**.\n\n**This file is \
for 5 seconds.** For hours, put the release's second file (LoRA and memory, its name is not known here) \
into **models/loras**, choose it as **memory_file** and raise **seconds**.",
                    (REPORT, 340),
                ),
                3: vae(),
                6: Box(
                    "RivuletMemory",
                    (WIDE, 215),
                    {"model": (1, 0), "memory": "learned", "memory_file": f"{ECHO.folder}/{ECHO.name}"},
                ),
                1: loader(ECHO),
            },
            {
                2: text_encoder(),
                4: prompts(DOG),
                7: Box("RivuletLatentCache", (WIDE, 140), {"format": "latent", "basis": (5, 0)}),
                5: calibrate("echo_infinity", blocks=7),  # as long as this memory was trained for
            },
            {8: stream(5.0, model=(6, 0), cache=(7, 0))},
        ),
    ),
    "06_core_i2v_made_endless": Story(
        FRAMEWISE.model,
        "ComfyUI's own image to video, without end",
        (
            {
                90: note(
                    "ComfyUI's own image to video, without its end",
                    (FRAMEWISE, UMT5, VAE),
                    "Files, loaders and size are those of ComfyUI's template *Causal Forcing*; **Start \
From** and **Stream Video** stand for its sampler, decoder and saver. There: 81 pictures at most, seen \
when all are done, one prompt. Here: any length at the same memory, seen while it is made, prompts that \
change.\n\nThat loader brings no recipe: **num_frame_per_block** and **cfg** are 1 in **Stream Video**. The \
same seed gives another video than there.\n\nIn that template itself, connect **MODEL** of **ARVideoI2V** to \
**Stream Video**: it begins with the picture in it.",
                    (WIDE, 460),
                ),
                1: Box("UNETLoader", (WIDE, 120), {"unet_name": FRAMEWISE.name, "weight_dtype": "default"}),
                2: text_encoder(),
                3: vae(),
            },
            {**picture(), 4: prompts(MOVES)},
            {8: stream(20.0, model=(1, 0), start=(6, 0), num_frame_per_block=1, cfg=1.0)},
        ),
    ),
    "11_endless_reward_forcing": Story(
        REWARD.model,
        "memory without end, cache an eighth",
        (
            {
                90: note(
                    "Hours from one model, its past in an eighth of the bytes",
                    (REWARD, UMT5, VAE),
                    "Reward Forcing was trained with this memory: **ema** folds what leaves the window into \
the first frames, which **Small Cache** therefore keeps exact. **Calibrate Cache** learns once how to keep \
the rest in an eighth of the bytes. Later, take it away and choose **reward_forcing.safetensors** in **Small \
Cache**.\n\nRaise **seconds** as you like; 0 goes on until you stop it.",
                    (REPORT, 360),
                ),
                3: vae(),
                6: Box("RivuletMemory", (WIDE, 215), {"model": (1, 0), "memory": "ema"}),
                1: loader(REWARD),
            },
            {
                2: text_encoder(),
                4: prompts(DOG),
                7: Box(
                    "RivuletLatentCache",
                    (WIDE, 140),
                    {"format": "latent", "basis": (5, 0), "keep_sink_exact": True},
                ),
                5: calibrate("reward_forcing"),
            },
            {8: stream(60.0, model=(6, 0), cache=(7, 0))},
        ),
    ),
    "12_memory_without_training": Story(
        SELF_FORCING.model,
        "evolving memory, not trained",
        (
            {
                90: note(
                    "A memory and a small cache that nobody trained",
                    (SELF_FORCING, UMT5, VAE),
                    "Self-Forcing was trained on 5 seconds, for neither of the two. **memrope** keeps a slow \
and a quick average of what leaves the window in every layer and shows them beside the first frames and \
the newest. **Calibrate Cache** learns once how to keep the rest in an eighth of the bytes. Later, take \
it away and choose **self_forcing_memrope.safetensors** in **Small Cache**.\n\nLongLive's files of \
template 03 do as well.",
                    (REPORT, 360),
                ),
                3: vae(),
                6: Box("RivuletMemory", (WIDE, 215), {"model": (1, 0), "memory": "memrope"}),
                1: loader(SELF_FORCING),
            },
            {
                2: text_encoder(),
                4: prompts(MARKET),
                7: Box("RivuletLatentCache", (WIDE, 140), {"format": "latent", "basis": (5, 0)}),
                5: calibrate("self_forcing_memrope"),
            },
            {8: stream(60.0, model=(6, 0), cache=(7, 0))},
        ),
    ),
    "13_core_i2v_nodes_kept": Story(
        FRAMEWISE.model,
        "ComfyUI's own nodes up to the sampler",
        (
            {
                90: note(
                    "ComfyUI's own nodes, up to its sampler",
                    (FRAMEWISE, UMT5, VAE),
                    "**ARVideoI2V** and **BasicScheduler** are those of ComfyUI's template *Causal Forcing*; \
**Stream Video** begins with the picture that the first puts into its MODEL, at the noise levels of the \
second. It stands for the rest: SamplerARVideo, CFGGuider, SamplerCustomAdvanced, VAEDecode, CreateVideo, \
SaveVideo. \
Width and height are the same in both nodes; **length** does not count.\n\nWith that sampler's noise and \
rounding, latents are the same to the last bit. With its own noise, the video has no end.",
                    (WIDE, 460),
                ),
                1: Box("UNETLoader", (WIDE, 120), {"unet_name": FRAMEWISE.name, "weight_dtype": "default"}),
                2: text_encoder(),
                3: vae(),
            },
            {
                7: Box("LoadImage", (WIDE, 380), {"image": "example.png"}),
                6: Box(
                    "ARVideoI2V",
                    (WIDE, 220),
                    {"model": (1, 0), "vae": (3, 0), "start_image": (7, 0), **SIZE},
                ),
                5: Box("BasicScheduler", (WIDE, 140), {"model": (6, 0), "scheduler": "simple", "steps": 4}),
                4: prompts(MOVES),
            },
            {8: stream(20.0, model=(6, 0), sigmas=(5, 0), num_frame_per_block=1, cfg=1.0)},
        ),
    ),
}
