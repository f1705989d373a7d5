"""Denoising of a block: noise levels, noise, and the few-step loop."""
