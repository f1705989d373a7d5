"""Rivulet: video that does not end, for ComfyUI.

Only points ComfyUI to `nodes/` and `web/`. Outside ComfyUI it does nothing, so that tests, `run.py` and other
programs can load the pack without a host.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import RivuletExtension

if __package__ and find_spec("comfy_api") is not None:
    WEB_DIRECTORY = "./web"

    async def comfy_entrypoint() -> RivuletExtension:
        """Returns the extension; ComfyUI calls this once at start-up."""
        from .nodes import RivuletExtension

        return RivuletExtension()

elif __package__ and find_spec("folder_paths") is not None:
    import logging

    logging.getLogger(__name__).warning(
        "Rivulet needs ComfyUI 0.21 or newer; this one has no comfy_api, so no Rivulet node is loaded. "
        "Update ComfyUI."
    )
