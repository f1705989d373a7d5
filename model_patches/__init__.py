"""The engine, host-free: torch and kernels/ only. A stage imports from the stages to its left.

    arch > attention > sampler > checkpoints > cache > memory > vae > writer > viewers > stream > takes > plan
    > check

                  +------------------- block after block ------------------+
    arch -------> attention -----> cache -------> memory ------> sampler --+--> vae -------> writer
    layers and    which frames,    keys and       what left      noise to       latents      pixels
    the parts     at which         values of      the window,    a clean        to pixels,   to files,
    of a forward  positions        the window     kept small     block          and back     as they come

`stream` is the heart: the state of one video, the steps from one state to the next, its file, and the loop.
`takes` is what lies beside a video, so that it can be gone on with from any second. `checkpoints` reads
files as they are published, `viewers` is what those who watch see and ask for, `plan`
says before a run what it will need, `check` what of all this runs on a machine. For all stages: `geometry`
(pixels, latents, tokens, frames) and `transfer` (copies to and from a card).
"""
