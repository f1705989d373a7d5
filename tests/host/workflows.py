"""The shipped workflows as graphs, and the files for ComfyUI's page, made from them and from the schema."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTE = "MarkdownNote"  # of the page, unknown to the server

RED, MORNING = (
    "a red circle on a green ground",
    "a paper boat drifts down a brook at dawn, soft light",
)
FOLLOWING = "a yellow circle on a blue ground"
JOURNEY = """[0s] a red circle on a green ground
[3s] a blue square on a green ground
[6s cut] a yellow triangle and a red circle on a blue ground"""
HIDING = """[0s] a green ground
[0.5s] a red circle on a green ground
[2s] an object on a green ground behind a grey band
[8s] an object on a green ground"""
HUB = "https://huggingface.co/"
FRAMEWISE = "TalmajM/causal_forcing_framewise"
REPACKED = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
FILES = {
    "diffusion_models/causal_forcing-framewise.safetensors": f"{FRAMEWISE}_ComfyUI_repackaged",
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors": REPACKED,
    "vae/wan_2.1_vae.safetensors": REPACKED,
}
FILE_LIST = "\n".join(f"- `models/{name}` from [{place}]({HUB}{place})" for name, place in FILES.items())
WAN_NOTE = f"""## Files

{FILE_LIST}

These weights make **one latent frame at a time**: `num_frame_per_block` is 1. Weights that were trained \
with three (Self-Forcing, LongLive, Reward Forcing) want 3.

Rivulet has not been run with published weights yet; what a run needs is computed by **Plan Stream**, which \
stops it where memory or disk is too small."""


@dataclass(frozen=True)
class Box:
    """A node of a graph and its place on the page."""

    type: str
    at: tuple[int, int]
    size: tuple[int, int]
    inputs: dict[str, Any] = field(default_factory=dict)  # values, or (id of a box, output)
    text: str = ""  # of a note


def wan(stream_inputs: dict[str, Any], more: dict[int, Box], note: str) -> dict[int, Box]:
    """A graph over core's loaders; the stream is 6, its model has come through the plan."""
    size = {"width": 832, "height": 480, "seconds": 10.0, "num_frame_per_block": 1, "cfg": 1.0}
    return {
        1: Box(
            "UNETLoader",
            (0, 0),
            (330, 90),
            {"unet_name": "causal_forcing-framewise.safetensors", "weight_dtype": "default"},
        ),
        2: Box(
            "CLIPLoader",
            (0, 140),
            (330, 110),
            {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan", "device": "default"},
        ),
        3: Box("VAELoader", (0, 300), (330, 60), {"vae_name": "wan_2.1_vae.safetensors"}),
        4: Box("CLIPTextEncode", (380, 560), (380, 140), {"clip": (2, 0), "text": MORNING}),
        5: Box("RivuletPlan", (380, 0), (380, 500), {"model": (1, 0), "vae": (3, 0), **size}),
        6: Box(
            "RivuletStream",
            (810, 0),
            (420, 640),
            {"model": (5, 0), "vae": (3, 0), "positive": (4, 0), **size, **stream_inputs},
        ),
        90: Box(NOTE, (0, 520), (330, 330), text=note),
        **more,
    }


def pocket_stream(positive: tuple[int, int], negative: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Inputs of a stream of the Pocket Model, which is 1."""
    given = {"model": (1, 0), "vae": (1, 2), "positive": positive, "negative": negative}
    return {**given, "width": 64, "height": 64, "seconds": 6.0, "seed": 3, **more}


WORKFLOWS: dict[str, dict[int, Box]] = {
    "01_pocket_stream": {
        1: Box("RivuletPocketModel", (0, 0), (240, 80)),
        2: Box("CLIPTextEncode", (290, 0), (360, 120), {"clip": (1, 1), "text": RED}),
        3: Box("CLIPTextEncode", (290, 170), (360, 100), {"clip": (1, 1), "text": ""}),
        4: Box(
            "RivuletStream",
            (700, 0),
            (420, 640),
            {
                "model": (1, 0),
                "vae": (1, 2),
                "positive": (2, 0),
                "negative": (3, 0),
                "width": 64,
                "height": 64,
                "seconds": 10.0,
                "seed": 3,
            },
        ),
        90: Box(
            NOTE,
            (0, 330),
            (650, 310),
            text="""## A stream without a download

Run it: the picture appears in **Stream Video** while it is made, and the file grows in `output/rivulet`. \
The **Pocket Model** comes with Rivulet and runs on any processor. It is a toy: it knows circles, squares \
and triangles in red, green, blue, yellow, magenta and cyan on coloured grounds, and often gets an \
object wrong.

- `seconds` as many as you like: memory does not grow.
- `seed`: with the same seed, a shorter take is the beginning of a longer one.
- The empty prompt is the negative one; the model's guidance needs it.""",
        ),
    },
    "02_text_to_stream": wan(
        {},
        {},
        f"{WAN_NOTE}\n\nSet `seconds` in both nodes. Beyond the 81 pictures of the model's training, the "
        "preset keeps positions bounded and memory constant.",
    ),
    "03_prompt_journey": {
        1: Box("RivuletPocketModel", (0, 0), (240, 80)),
        2: Box(
            "RivuletPrompts",
            (290, 0),
            (420, 240),
            {"clip": (1, 1), "text": JOURNEY, "mode": "recache"},
        ),
        3: Box("CLIPTextEncode", (290, 290), (420, 100), {"clip": (1, 1), "text": ""}),
        4: Box(
            "RivuletStream",
            (760, 0),
            (420, 640),
            {
                "model": (1, 0),
                "vae": (1, 2),
                "prompts": (2, 0),
                "negative": (3, 0),
                "width": 64,
                "height": 64,
                "seconds": 9.0,
                "seed": 3,
            },
        ),
        90: Box(
            NOTE,
            (0, 440),
            (710, 300),
            text="""## Prompts over time

Write lines with times, such as `[3s] ...`, `[0-3s] ...` or `[1:30-2:00 cut] ...`; or several prompts \
parted by lines of `---`; or one. A line that begins with `#` is ignored.

How the stream goes over to a prompt is the word after the time, else `mode`:

- `cut` forgets everything: another scene
- `recache` runs the newest frames again under the new prompt
- `smooth` changes the text alone

Another prompt can be typed into **Stream Video** while it runs; it holds from the next block on.""",
        ),
    },
    "04_image_to_stream": wan(
        {"start": (8, 0)},
        {
            7: Box("LoadImage", (0, 900), (330, 330), {"image": "example.png"}),
            8: Box("RivuletStartFrom", (380, 900), (380, 100), {"image": (7, 0), "fit": "crop"}),
        },
        f"{WAN_NOTE}\n\n**Start From** makes the picture the first of the video. With `crop` it "
        "is scaled until it covers the video's size, and its middle is taken. Say in the prompt what is to "
        "move.",
    ),
    "05_endless": {
        1: Box("RivuletPocketModel", (0, 0), (240, 80)),
        2: Box(
            "RivuletMemory",
            (0, 130),
            (360, 200),
            {"model": (1, 0), "memory": "learned", "memory_file": "built in (Pocket Model)"},
        ),
        3: Box(
            "RivuletPrompts",
            (410, 0),
            (420, 330),
            {"clip": (1, 1), "text": HIDING, "mode": "smooth"},
        ),
        4: Box("CLIPTextEncode", (0, 380), (360, 100), {"clip": (1, 1), "text": ""}),
        5: Box(
            "RivuletLatentCache",
            (410, 380),
            (420, 130),
            {"format": "latent", "basis_file": "built in (Pocket Model)"},
        ),
        6: Box(
            "RivuletStream",
            (880, 0),
            (420, 640),
            {
                "model": (2, 0),
                "vae": (1, 2),
                "prompts": (3, 0),
                "negative": (4, 0),
                "cache": (5, 0),
                "width": 64,
                "height": 64,
                "seconds": 10.0,
                "seed": 1,
            },
        ),
        90: Box(
            NOTE,
            (0, 560),
            (830, 420),
            text="""## Without end: a small cache and a memory

A stream sees its first frames and its newest ones. What lies between leaves the window and is forgotten, \
unless something remembers it. **Evolving Memory** does, at constant cost: a state as large as three latent \
frames reads what leaves. **Small Cache** keeps the window in an eighth of the bytes. Both together cost the \
same after ten seconds and after ten hours: raise `seconds` to 86400 if you like.

Here a band comes down over a red circle for six seconds, three times as long as the window sees. The \
prompts after that say only "an object": its colour and shape come back from memory. Not with every seed: \
the built-in memory brings both back in about eight of ten cases, chance in one of fifteen. Set `memory` \
to off and run again to see it guess.

- Other checkpoints: `learned` needs Echo-Infinity's files, `ema` needs none.
- **Stream Video** takes memory, LoRA and positions from the model; leave its `preset` alone.""",
        ),
    },
    "06_small_cache": {
        1: Box("RivuletPocketModel", (0, 0), (240, 80)),
        2: Box("CLIPTextEncode", (0, 130), (360, 120), {"clip": (1, 1), "text": RED}),
        3: Box("CLIPTextEncode", (0, 300), (360, 100), {"clip": (1, 1), "text": ""}),
        4: Box(
            "RivuletCalibrate",
            (410, 0),
            (420, 460),
            {"model": (1, 0), "clip": (1, 1), "name": "pocket", "width": 64, "height": 64},
        ),
        5: Box("RivuletLatentCache", (410, 510), (420, 130), {"format": "latent", "basis": (4, 0)}),
        6: Box(
            "RivuletPlan",
            (880, 0),
            (400, 520),
            {"model": (1, 0), "vae": (1, 2), "cache": (5, 0), "width": 64, "height": 64, "seconds": 10.0},
        ),
        7: Box(
            "RivuletStream",
            (1330, 0),
            (420, 640),
            {
                "model": (6, 0),
                "vae": (1, 2),
                "positive": (2, 0),
                "negative": (3, 0),
                "cache": (5, 0),
                "width": 64,
                "height": 64,
                "seconds": 10.0,
                "seed": 3,
            },
        ),
        90: Box(
            NOTE,
            (0, 690),
            (830, 420),
            text="""## A cache an eighth as large

A stream looks back on its newest frames. **Small Cache** keeps them in fewer bytes, so that a longer \
window or a larger picture fits into graphics memory. It saves memory, not time: keys and values are made \
again for every call.

| format | for which checkpoint | size | what it costs |
|---|---|---|---|
| `dense` | every one | 1 | nothing; the same as without this node |
| `int8` | every one, without calibration | 1/2 | almost nothing |
| `latent` | the one that was calibrated | 1/4 to 1/14 | an error of attention, measured and told |
| `mla`, `mla-int8` | VideoMLA weights alone | 1/14, 1/26 | nothing beside their training; others refused |

**Calibrate Cache** runs once: it watches the model, measures the error on prompts that it did not learn \
from, and writes `models/rivulet/pocket.safetensors`. Later, take it away and choose that file in \
**Small Cache**.

For your own checkpoint: put its loader and text encoder in place of the Pocket Model, and write prompts \
like those you will stream. Up to 2 % error is good; above 5 % expect pictures to change.""",
        ),
    },
    "07_follow_video": {
        1: Box("RivuletPocketModel", (0, 0), (240, 80)),
        2: Box("CLIPTextEncode", (0, 130), (360, 120), {"clip": (1, 1), "text": RED}),
        3: Box("CLIPTextEncode", (0, 300), (360, 100), {"clip": (1, 1), "text": ""}),
        4: Box("RivuletStream", (410, 0), (420, 640), pocket_stream((2, 0), (3, 0))),
        5: Box("CLIPTextEncode", (880, 250), (360, 120), {"clip": (1, 1), "text": FOLLOWING}),
        6: Box(
            "RivuletStartFrom",
            (880, 0),
            (360, 200),
            {"video": (4, 0), "mode": "follow", "strength": 0.8},
        ),
        7: Box("RivuletStream", (1290, 0), (420, 640), pocket_stream((5, 0), (3, 0), start=(6, 0))),
        90: Box(
            NOTE,
            (0, 690),
            (650, 310),
            text="""## Video to video

The first **Stream Video** makes a video. The second one follows it: what moves stays where it was, and \
another prompt says what it looks like. With **Load Video** in place of the first stream, any video is \
followed, of any length, at constant memory.

- `strength` is the share of noise put over the video, down to the model's next noise level; the Pocket \
Model has 1, 0.92, 0.77 and 0.41. Less keeps more of the video, and more of its colours too.
- The stream ends with the video, or after `seconds` if that is earlier.
- `mode` **go on** begins where the video ends instead.""",
        ),
    },
}


def ui_form(graph: dict[int, Box], schema: dict[str, Any]) -> dict[str, Any]:
    """Returns what the page saves for this graph; schema: the answer to /object_info."""
    nodes, links = [], []
    outputs: dict[tuple[int, int], list[int]] = {}
    for number, box in graph.items():
        node = {"id": number, "type": box.type, "pos": list(box.at), "size": list(box.size), "flags": {}}
        node |= {"order": len(nodes), "mode": 0, "properties": {}}
        nodes.append(node)
        if box.type == NOTE:
            node |= {"inputs": [], "outputs": [], "widgets_values": [box.text]}
            continue
        slots, values = [], []
        for name, kind, options in inputs_of(schema[box.type]):
            given = box.inputs.get(name)
            if isinstance(given, tuple):
                links.append([len(links) + 1, *given, number, len(slots), kind])
                outputs.setdefault(given, []).append(len(links))
            if kind in WIDGETS:
                values += [default(kind, options) if given is None else given, *beside(options)]
            else:
                link = len(links) if isinstance(given, tuple) else None
                slots.append({"name": name, "type": kind, "link": link})
        node |= {"inputs": slots, "widgets_values": values, "properties": {"Node name for S&R": box.type}}
    for node in nodes:
        info = schema.get(node["type"], {"output": [], "output_name": []})
        node["outputs"] = [
            {"name": name, "type": kind, "links": outputs.get((node["id"], slot)) or None}
            for slot, (kind, name) in enumerate(zip(info["output"], info["output_name"], strict=True))
        ]
    whole = {"last_node_id": max(graph), "last_link_id": len(links), "nodes": nodes, "links": links}
    return {"id": "", "revision": 0, **whole, "groups": [], "config": {}, "extra": {}, "version": 0.4}


def inputs_of(info: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns (name, type, options) of a node's inputs in their order."""
    found = []
    for part in ("required", "optional"):
        for name in info["input_order"].get(part, []):
            kind, *options = info["input"][part][name]
            options = dict(options[0]) if options else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            found.append((name, kind, options))
    return found


def default(kind: str, options: dict[str, Any]) -> Any:
    """Returns what a widget shows before anybody touched it."""
    if "default" in options:
        return options["default"]
    return options["options"][0] if kind == "COMBO" and options["options"] else ""


def beside(options: dict[str, Any]) -> list[str]:
    """Returns values of widgets that the page puts behind an input by itself."""
    return (["fixed"] if options.get("control_after_generate") else []) + (
        ["image"] if options.get("image_upload") else []
    )


def written(graph: dict[int, Box], schema: dict[str, Any]) -> str:
    """Returns the text of a workflow's file."""
    return json.dumps(ui_form(graph, schema), indent=1, ensure_ascii=False) + "\n"
