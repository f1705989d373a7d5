"""How a model, a VAE and a text encoder of ComfyUI are called."""
