"""Small files under the names that templates ask for, with true keys and nesting, and a graph for them.

The text encoder and the VAE are the Pocket Model's: umT5 cannot be made small, the host fixes its sizes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from rivulet.pocket.models import VAE_FILE
from rivulet.pocket.models import WEIGHTS as POCKET
from rivulet.tests.engine.checkpoints.published_files import BY_NAME, SMALL, lora_of
from rivulet.tests.engine.memory.echo_files import base, encoder_shapes, filled
from rivulet.tests.host import template_files as files
from rivulet.tests.host.graphs import BLUE, GREEN, Graph
from safetensors.torch import save_file

ECHO_TOKENS = 3 * 30 * 52  # of the published memory: in a .pt file nothing says another number
COLOURS = ("red", "blue", "yellow", "magenta", "cyan")
PICTURE = (19, 76, 22)  # colour of the picture that Load Image opens: a ground that the pocket's VAE knows
SIDE, TENTH = 64, 0.1  # pixels; of the seconds
SHORT_SECONDS = 5.0  # that stay: a window fills within them


def write_downloads(models: Path, pictures: Path) -> None:
    """All files of the table but umT5, and the picture that Load Image begins with."""
    from PIL import Image

    for file in files.DOWNLOADS:
        (models / file.folder).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    published = {
        "self_forcing": files.SELF_FORCING,
        "longlive": files.LONGLIVE,
        "reward_forcing": files.REWARD,
    }
    for family, file in published.items():
        BY_NAME[family].write(models / file.folder, BY_NAME[family].model(small=True), file.name)
    dense = BY_NAME["longlive"].model(small=True)
    lora = models / files.LONGLIVE_LORA.folder / files.LONGLIVE_LORA.name
    torch.save({"generator_lora": lora_of(dense, 4)}, lora)
    echo = base(filled(encoder_shapes(SMALL.dim, ECHO_TOKENS, normed=True), 1), dense.state_dict())
    torch.save(echo, models / files.ECHO.folder / files.ECHO.name)
    config = {"causal_ar": True, "text_dim": SMALL.text_dim, "num_heads": SMALL.num_heads}
    framewise = models / files.FRAMEWISE.folder / files.FRAMEWISE.name
    save_file(dense.state_dict(), framewise, {"config": json.dumps({"transformer": config})})
    shutil.copy(POCKET / VAE_FILE, models / files.VAE.folder / files.VAE.name)
    pictures.mkdir(exist_ok=True)
    Image.new("RGB", (96, 64), PICTURE).save(pictures / "example.png")


def made_small(graph: Graph) -> Graph:
    """The same graph with the Pocket Model's text encoder and prompts, at its size; a tenth of long ones."""
    for node in graph.values():
        inputs = node["inputs"]
        for name in ("width", "height"):
            if name in inputs:
                inputs[name] = SIDE
        if inputs.get("seconds", 0.0) > SHORT_SECONDS:
            inputs["seconds"] *= TENTH
        if node["class_type"] == "CLIPLoader":
            node |= {"class_type": "RivuletPocketModel", "inputs": {}}
        if node["class_type"] == "CLIPTextEncode" and inputs["text"]:
            inputs["text"] = GREEN
        if node["class_type"] == "RivuletPrompts":
            inputs["text"] = _pocket_lines(inputs["text"])
        if node["class_type"] == "RivuletCalibrate":
            inputs["prompts"] = "\n".join(f"a {colour} circle on a green ground" for colour in COLOURS)
    return _clip_of_the_pocket(graph)


def _clip_of_the_pocket(graph: Graph) -> Graph:
    """Its CLIP is its second output, CLIPLoader's the first."""
    for node in graph.values():
        if "clip" in node["inputs"]:
            node["inputs"]["clip"] = [node["inputs"]["clip"][0], 1]
    return graph


def _pocket_lines(text: str) -> str:
    """Prompts of the pocket world at a tenth of the times."""
    lines = []
    for number, line in enumerate(text.splitlines()):
        prompt = (GREEN, BLUE)[number % 2]
        if not line.startswith("["):
            return prompt
        time, *switch = line[1 : line.index("]")].split()
        when = " ".join([f"{TENTH * float(time.rstrip('s')):g}s", *switch])
        lines.append(f"[{when}] {prompt}")
    return "\n".join(lines)
