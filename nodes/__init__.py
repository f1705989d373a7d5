"""The ComfyUI nodes: thin V3 forms over `model_patches/`. The only folder that may import the host."""

from comfy_api.v0_0_2 import ComfyExtension, io


class RivuletExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Returns the node classes in the order of a graph."""
        return []
