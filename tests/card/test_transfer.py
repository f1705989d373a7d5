"""Copies to a card: pinned, and nobody waits for them."""

import pytest
import torch
from rivulet.model_patches.sampler.noise import KeyedNoise
from rivulet.model_patches.transfer import to_device
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CPU = torch.device("cpu")


class Copies(TorchDispatchMode):
    """Notes each copy to a card: whether nobody waits, and whether its source was made in pinned memory."""

    def __init__(self):
        super().__init__()
        self.seen, self.pinned = [], set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function is aten.empty.memory_format and kwargs.get("pin_memory"):
            self.pinned.add(id(result))
        if function is aten._to_copy.default and result.is_cuda and not args[0].is_cuda:
            self.seen.append((kwargs.get("non_blocking", False), id(args[0]) in self.pinned))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_goes_to_the_card_pinned_and_nobody_waits(card, dtype):
    with card:
        like = torch.empty(1, 16, 3, 6, 8, dtype=dtype, device=card.device)
        with Copies() as copies:
            noise = KeyedNoise(3).draw(0, 0, 0, like)
    assert (noise.device, noise.dtype, noise.shape) == (card.device, dtype, like.shape)
    assert copies.seen == [(True, True)]


def test_what_is_there_already_is_not_copied(card):
    there, here = card.empty(3), torch.arange(3.0)
    with card:
        assert to_device(there, card.device) is there
    assert to_device(here, CPU) is here


def test_on_the_cpu_it_is_a_change_of_dtype():
    here = torch.tensor([1.0, 2.0**-30])
    assert torch.equal(to_device(here, CPU, torch.bfloat16), here.to(torch.bfloat16))
    assert to_device(here, CPU, torch.float64).dtype == torch.float64
