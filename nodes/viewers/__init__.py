"""The routes and pictures of the live preview in ComfyUI's server."""
