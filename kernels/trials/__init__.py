"""One call of each operation on random numbers, and how far from float64 its results may be."""

from .elementwise import (
    add_norm_modulate_trial,
    dequantize_trial,
    norm_modulate_trial,
    norm_rope_trial,
    quantize_trial,
    rotate_trial,
)
from .products import latent_write_trial, rebuild_trial, segment_attention_trial
from .trial import Build

# the name that an operation has where its implementation is chosen -> its trials
TRIALS: dict[str, tuple[Build, ...]] = {
    "rotate": (rotate_trial,),
    "norm_rope": (norm_rope_trial,),
    "norm_modulate": (norm_modulate_trial,),
    "add_norm_modulate": (add_norm_modulate_trial,),
    "quantize": (quantize_trial(8), quantize_trial(4)),
    "dequantize": (dequantize_trial(8), dequantize_trial(4)),
    "latent_write": (latent_write_trial,),
    "rebuild": (rebuild_trial(True, False), rebuild_trial(False, True), rebuild_trial(True, True)),
    "segment_attention": (segment_attention_trial,),
}
