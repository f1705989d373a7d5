"""Copies to a card: pinned, and nobody waits for them."""

import pytest
import torch
from rivulet.model_patches import transfer
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.sampler import noise
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, rollout
from rivulet.model_patches.transfer import to_device
from rivulet.model_patches.writer.frames import HostFrames
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
            drawn = noise.KeyedNoise(3).draw(0, 0, 0, like)
    assert (drawn.device, drawn.dtype, drawn.shape) == (card.device, dtype, like.shape)
    assert copies.seen == [(True, True)]


def test_what_is_there_already_is_not_copied(card):
    there, here = card.empty(3), torch.arange(3.0)
    with card:
        assert to_device(there, card.device) is there
    assert to_device(here, CPU) is here


def test_where_no_memory_can_be_pinned_the_copy_is_made_all_the_same(card, monkeypatch, caplog):
    """The system refuses it in the words of a full card; no measure against one would help."""
    transfer._tell_once.cache_clear()
    there, empty = card.empty(5, 16, 16, 3, dtype=torch.uint8), torch.empty

    def refuse(*shape, pin_memory=False, **options):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")
        return empty(*shape, **options)

    with card:
        monkeypatch.setattr(torch, "empty", refuse)
        for _ in range(2):
            assert to_device(torch.arange(3.0), card.device).device == card.device
            assert HostFrames(there).read().shape == (5, 16, 16, 3)
    (record,) = caplog.records
    assert record.getMessage().endswith("none is pinned: CUDA error: out of memory")


def test_on_the_cpu_it_is_a_change_of_dtype():
    here = torch.tensor([1.0, 2.0**-30])
    assert torch.equal(to_device(here, CPU, torch.bfloat16), here.to(torch.bfloat16))
    assert to_device(here, CPU, torch.float64).dtype == torch.float64


def test_the_next_blocks_first_noise_is_drawn_while_the_card_works(card, monkeypatch):
    """Each is drawn once, none more than a block ahead, and as it would be drawn in time."""
    with torch.device("meta"):
        model = WanModel(WanConfig(dim=256, ffn_dim=64, num_layers=1, text_dim=32))
    card.carry(model, torch.bfloat16)
    text = card.empty(1, 7, 32, dtype=torch.bfloat16)
    done, drawn = [], noise.block_noise

    class Noted(ModelCaller):
        def run(self, work, prompt, config):
            done.append(("run", work.block))
            return super().run(work, prompt, config)

    def note(seed, block, step, *like):
        done.append((block, step))
        return drawn(seed, block, step, *like)

    monkeypatch.setattr(noise, "block_noise", note)
    config = StreamConfig(Geometry(64, 48), "infinity_rope", 3, (1.0, 0.5), dtype=torch.bfloat16)
    caller = Noted(model, card.device)
    with card:
        for _ in rollout(caller, init(caller, (text,), config), 3):
            pass
    first, second, third = (("run", block) for block in range(3))
    assert done == [first, (0, 0), (0, 1), (1, 0), second, (1, 1), (2, 0), third, (2, 1), (3, 0)]


def test_noise_that_was_drawn_ahead_is_given_once_and_in_its_place(card):
    source = noise.KeyedNoise(3)
    with card:
        like = torch.empty(1, 16, 3, 6, 8, device=card.device)
        source.draw_ahead(4, 1, like)
        (kept,) = source._ahead.values()
        assert source.draw(4, 0, 0, like) is not kept
        assert source.draw(4, 1, 0, like) is kept and source.draw(4, 1, 0, like) is not kept
        source.draw_ahead(5, 0, like)
        source.draw_ahead(6, 0, like)
        assert len(source._ahead) == 1
        source.draw_ahead(7, 0, torch.empty(1, 16, 3, 6, 8))
        assert not source._ahead
    assert source == noise.KeyedNoise(3) and hash(source) == hash(noise.KeyedNoise(3))
