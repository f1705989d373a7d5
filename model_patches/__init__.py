"""The engine, host-free: torch and kernels/ only. A stage imports from the stages to its left.

                  +------------------- block after block ------------------+
    arch -------> attention -----> cache -------> memory ------> sampler --+--> vae -------> writer
    layers and    which frames,    keys and       what left      noise to       latents      pixels
    the parts     at which         values of      the window,    a clean        to pixels,   to files,
    of a forward  positions        the window     kept small     block          and back     as they come

Vocabulary of all stages: `geometry` (pixels, latents, tokens, frames). The state of one video: `stream`.
"""
