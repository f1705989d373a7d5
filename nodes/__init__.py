"""The ComfyUI nodes: thin V3 forms over `model_patches/`. The only folder that may import the host."""

import logging

from comfy_api.v0_0_2 import ComfyExtension, io

from .host.needs import why_not_host


class RivuletExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def on_load(self) -> None:
        """Adds the routes of the live preview to ComfyUI's server, and its operations to the engine's."""
        if why_not_host():
            return
        from server import PromptServer

        from .host.operations import offer_operations
        from .run.next_run import NEXT_RUNS
        from .run.owners import on_queued
        from .viewers.routes import register

        register(PromptServer.instance.routes, PromptServer.instance.app)
        PromptServer.instance.add_on_prompt_handler(on_queued)
        PromptServer.instance.add_on_prompt_handler(NEXT_RUNS.on_queued)
        offer_operations()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Returns the node classes in the order of a graph; in a ComfyUI that lacks something, the doctor."""
        from .doctor import RivuletDoctor

        if refusal := why_not_host():
            logging.getLogger(__name__).error(refusal)
            return [RivuletDoctor]
        from .calibrate import RivuletCalibrate
        from .load_streaming_model import RivuletLoadModel
        from .memory import RivuletMemory
        from .plan import RivuletPlan
        from .pocket_model import RivuletPocketModel
        from .prompts import RivuletPrompts
        from .resume import RivuletResume
        from .small_cache import RivuletLatentCache
        from .start_from import RivuletStartFrom
        from .stream import RivuletStream

        return [
            RivuletPocketModel,
            RivuletLoadModel,
            RivuletMemory,
            RivuletPrompts,
            RivuletStartFrom,
            RivuletResume,
            RivuletStream,
            RivuletPlan,
            RivuletLatentCache,
            RivuletCalibrate,
            RivuletDoctor,
        ]
