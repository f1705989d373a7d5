"""Templates that run with nothing downloaded."""

from __future__ import annotations

from typing import Any

from rivulet.pocket.defaults import DEFAULT
from rivulet.tests.host.workflows import NOTE, STREAM, Box, Story

JOURNEY = """[0s] a red circle on a green ground
[4s] a blue square on a green ground
[7s cut] a yellow triangle and a red circle on a blue ground"""
HIDING = """[0s] a {ground} ground
[0.5s] a {looks} on a {ground} ground
[2s] an object on a {ground} ground behind a grey band
[8s] an object on a {ground} ground"""
CYAN, RED, FOLLOWING = (
    "a cyan square on a red ground",
    "a red circle on a green ground",
    "a yellow circle on a blue ground",
)


WIDE, HALF = 360, 580  # pixels of a column; of one of two streams
BUILT_IN = "built in (Pocket Model)"


def pocket(attention: str = "Wan's") -> Box:
    """The built-in models."""
    return Box("RivuletPocketModel", (WIDE, 160), {"attention": attention})


def memory() -> Box:
    """The built-in memory, of the Pocket Model as it is 1."""
    given = {"model": (1, 0), "memory": DEFAULT.memory, "memory_file": BUILT_IN}
    return Box("RivuletMemory", (WIDE, 215), given)


def small_cache(format: str = DEFAULT.cache, basis_file: str = BUILT_IN) -> Box:
    """The window at a fraction of its bytes."""
    return Box("RivuletLatentCache", (WIDE, 140), {"format": format, "basis_file": basis_file})


def prompts(text: str, height: int = 180, mode: str = "recache") -> Box:
    """Prompts through the Pocket Model's CLIP, so that others can be typed while it runs."""
    return Box("RivuletPrompts", (WIDE, height), {"clip": (1, 1), "text": text, "mode": mode})


def hiding(looks: str, ground: str) -> Box:
    """A band comes down over an object for six seconds, and the prompts after that do not say what it was."""
    return prompts(HIDING.format(looks=looks, ground=ground), 300, "smooth")


def negative() -> Box:
    """The empty prompt, which the Pocket Model is guided away from."""
    return Box("CLIPTextEncode", (WIDE, 110), {"clip": (1, 1), "text": ""}, title="Negative prompt, empty")


def follow() -> Box:
    """The first stream's video to follow."""
    given = {"video": (4, 0), "mode": "follow", "strength": 0.8}
    return Box("RivuletStartFrom", (WIDE, 220), given)


def stream(seconds: float, seed: int = 3, wide: int = STREAM[0], **inputs: Any) -> Box:
    """Stream Video at the Pocket Model's size; the model is 1 unless it is told another."""
    given = {"model": (1, 0), "vae": (1, 2), "width": 64, "height": 64}
    return Box("RivuletStream", (wide, STREAM[1]), {**given, "seconds": seconds, "seed": seed, **inputs})


TOYS = {
    "01_infinite_video_no_download": Story(
        "Pocket Model",
        "prompts over time",
        (
            {1: pocket(), 2: prompts(JOURNEY, 240), 3: negative()},
            {
                5: memory(),
                6: small_cache(),
                90: Box(
                    NOTE,
                    (WIDE, 420),
                    text="""## A video while it is made

Press **Run**. The picture appears in **Stream Video** while it is made, and the file grows in \
**output/rivulet**. While it runs: pause, type another prompt, go back to any second, stop and keep.

**Prompts over Time** says what comes when: **[4s] ...**, **[1:30-2:00 cut] ...**, prompts parted by \
lines of **---**, or just one. **cut** begins another scene, **recache** goes over to the new prompt.

**Evolving Memory** remembers what left the stream's view, **Small Cache** keeps what it looks back on in an \
eighth of the bytes. Both cost the same after ten hours: **seconds** can be as many as you like. Without \
them (**memory** off, **format** dense) it is another video.

The **Pocket Model** comes with Rivulet and runs on any processor, on two cores about twice as fast as \
it plays. It is a toy that often gets one wrong. It knows **circle**, **square** and **triangle** in \
**red**, **green**, **blue**, **yellow**, **magenta** and **cyan**, one or two on a coloured **ground**. \
Try: a magenta square and a cyan circle on a green ground. Templates 02 to 06 and 11 to 13 are for real \
models.

**Run** again makes another video once something is changed, such as the **seed**.""",
                ),
            },
            {4: stream(10.0, model=(5, 0), prompts=(2, 0), negative=(3, 0), cache=(6, 0))},
        ),
    ),
    "07_toy_memory_and_small_cache": Story(
        "Pocket Model",
        "small cache, memory",
        (
            {1: pocket(), 3: hiding("red circle", "green"), 4: negative()},
            {
                2: memory(),
                5: small_cache(),
                90: Box(
                    NOTE,
                    (WIDE, 360),
                    text="""## It remembers what it cannot see

A band comes down over a red circle for six seconds, three times as long as the stream looks back. The \
prompts after that say only "an object". **Evolving Memory** brings colour and shape back; **Small Cache** \
keeps what the stream looks back on in an eighth of the bytes. Both cost the same after ten hours.

Not with every seed: the built-in memory brings both back in about three of four cases, chance in one of \
fifteen.

**memory** off is the model before it was taught such stories: it cannot draw the band. In template 10 off \
leaves what was taught: that comparison is fair.""",
                ),
            },
            {6: stream(10.0, 1, model=(2, 0), prompts=(3, 0), negative=(4, 0), cache=(5, 0))},
        ),
    ),
    "08_toy_calibrate_small_cache": Story(
        "Pocket Model",
        "calibrates a small cache",
        (
            {
                1: pocket(),
                2: prompts(CYAN),
                3: negative(),
                90: Box(
                    NOTE,
                    (WIDE, 390),
                    text="""## A cache an eighth as large

**Calibrate Cache** watches the model once, measures the error on prompts that it did not learn from, and \
writes **models/rivulet/pocket.safetensors**. **Small Cache** then keeps what the stream looks back on in an \
eighth of the bytes: less memory, the same time. Later, take Calibrate Cache away and choose that file in \
Small Cache.

**For your model**: put its loader and text encoder in place of the Pocket Model, and write prompts like \
those you will stream. Up to 2 % error is good; above 5 % expect pictures to change. **int8** needs no \
calibration and halves the bytes; **mla** is for VideoMLA.""",
                ),
            },
            {
                5: Box("RivuletLatentCache", (460, 140), {"format": "latent", "basis": (4, 0)}),
                4: Box(
                    "RivuletCalibrate",
                    (460, 560),
                    {"model": (1, 0), "clip": (1, 1), "name": "pocket", "width": 64, "height": 64},
                ),
            },
            {7: stream(10.0, prompts=(2, 0), negative=(3, 0), cache=(5, 0))},
        ),
    ),
    "09_toy_video_to_video_v2v": Story(
        "Pocket Model",
        "video to video",
        (
            {1: pocket(), 2: prompts(RED), 3: negative(), 5: prompts(FOLLOWING), 6: follow()},
            {
                4: stream(6.0, wide=HALF, prompts=(2, 0), negative=(3, 0)),
                90: Box(
                    NOTE,
                    (HALF, 220),
                    text="""## Another picture for a video

The second **Stream Video** follows the first: what moves stays where it was, and another prompt says \
what it looks like. **Load Video** in place of the first stream follows any video, of any length.

**strength** is the share of noise put over the video: less keeps more of it, and more of its colours too. \
**mode** **go on** begins where the video ends instead.""",
                ),
            },
            {7: stream(6.0, wide=HALF, prompts=(5, 0), negative=(3, 0), start=(6, 0))},
        ),
    ),
    "10_toy_videomla_and_memory": Story(
        "Pocket Model",
        "VideoMLA's attention, memory",
        (
            {1: pocket("VideoMLA's, for Evolving Memory"), 3: hiding("green square", "blue"), 4: negative()},
            {
                2: memory(),
                5: small_cache("mla", "none"),
                90: Box(
                    NOTE,
                    (WIDE, 300),
                    text="""## Two published ideas in one model

**Pocket Model** has VideoMLA's attention here: of each place that the stream looks back on it keeps one \
small latent, a fourteenth of the bytes (**mla** in **Small Cache**). It was taught to read Echo-Infinity's \
memory, and **Evolving Memory** brings the square back from behind the band, in about seven of ten cases.

**A fair comparison**: set **memory** to off and run again. The same weights draw the same story, have \
nothing to remember the square by: what comes out is a guess, or nothing at all. Chance is one in fifteen.""",
                ),
            },
            {6: stream(10.0, 1, model=(2, 0), prompts=(3, 0), negative=(4, 0), cache=(5, 0))},
        ),
    ),
}
