"""ComfyUI's /object_info of the nodes in our templates, kept so that they are checked where no ComfyUI is."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("object_info.json")
# lists of a user's files, which differ from one ComfyUI to the next
CHOSEN_FILES = {
    *("unet_name", "clip_name", "vae_name", "image", "video", "file", "model_file", "lora_file", "lora_name"),
    *("basis_file", "memory_file", "snapshot", "take", "ckpt_name"),
}
PAGES_OWN = (
    "control_after_generate",
    "image_upload",
)  # the page puts a widget of its own behind such an input


def stored(info: dict[str, Any], types: set[str]) -> dict[str, Any]:
    """Returns what is kept of the answer: our nodes and those types, without texts and names of files."""
    names = sorted(name for name in info if name in types or name.startswith("Rivulet"))
    return {name: _node(info[name]) for name in names}


def _node(info: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        part: {name: _input(name, given) for name, given in info["input"].get(part, {}).items()}
        for part in ("required", "optional")
    }
    kept = {key: info[key] for key in ("input_order", "output", "output_name", "name")}
    return {**kept, "input": inputs, "input_order": {part: list(inputs[part]) for part in inputs}}


def _input(name: str, given: list[Any]) -> list[Any]:
    kind, options = given[0], (given[1] if len(given) > 1 else {})
    choices = kind if isinstance(kind, list) else options.get("options")
    about = {key: options[key] for key in PAGES_OWN if key in options}
    if choices is None:
        return [kind, about] if about else [kind]
    return ["STRING", about] if name in CHOSEN_FILES else ["COMBO", {"options": choices, **about}]


def kept() -> dict[str, Any]:
    """Returns what the file holds."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def write(value: dict[str, Any]) -> None:
    """Writes the file, a line for each input."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    FILE.write_text(f"{text}\n", encoding="utf-8")
