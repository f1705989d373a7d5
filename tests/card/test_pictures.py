"""From latents on a card to a writer: one copy, of bytes, into pinned memory, and the loop waits for none."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.ledger import FrameLedger
from rivulet.model_patches.stream.pictures import VideoOutput
from rivulet.model_patches.stream.state import StreamState
from rivulet.model_patches.vae.decoder import VaeDecoder, decode_stream
from rivulet.model_patches.vae.tiny import TinyDecoder
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.model_patches.writer.frames import HostFrames
from rivulet.model_patches.writer.video import Mp4Writer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
NUMBERS = (Tensor.__bool__, Tensor.item, Tensor.tolist, Tensor.numpy, torch.equal)


class Asked(TorchFunctionMode):
    """Counts what the program waits for the card for."""

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if args and isinstance(args[0], Tensor) and args[0].is_cuda:
            self.waits += function in NUMBERS
        return function(*args, **(kwargs or {}))


class ToHost(TorchDispatchMode):
    """Notes each copy from the card: (dtype, whether nobody waits, whether into pinned memory)."""

    def __init__(self):
        super().__init__()
        self.seen, self.pinned = [], set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if function is aten.empty.memory_format and kwargs.get("pin_memory"):
            self.pinned.add(id(out))
        tensors = [each for each in args if isinstance(each, Tensor)]
        if function is aten.copy_.default and tensors[1].is_cuda and not tensors[0].is_cuda:
            self.seen.append(
                (tensors[1].dtype, bool((args[2:] or (False,))[0]), id(tensors[0]) in self.pinned)
            )
        elif function is aten._to_copy.default and tensors[0].is_cuda and not out.is_cuda:
            self.seen.append((tensors[0].dtype, kwargs.get("non_blocking", False), False))
        return out


class Room:
    """A card that has room for everything."""

    def attempt(self, work, run):
        return run()


ROOM = Room()


class Kept:
    """A writer that keeps what it gets, and reads none of it."""

    def __init__(self):
        self.given = []

    def write(self, frames):
        self.given.append(frames)


def state_with(ledger, past, device):
    config = StreamConfig(Geometry(48, 32), sigmas=(1.0, 0.5))
    tail = torch.empty(1, 16, 0, 4, 6, device=device)
    return StreamState(config, None, None, 1, 3, None, None, None, tail, past=past, ledger=ledger)


@pytest.mark.parametrize("joins", [False, True], ids=["on its own", "joins a picture"])
@pytest.mark.parametrize("make", [lambda: WanVAE(dim=8), TinyDecoder], ids=["wan", "tiny"])
def test_a_blocks_pictures_are_one_pinned_copy_of_bytes(card, make, joins):
    with torch.device("meta"):
        vae = make()
    card.carry(vae, torch.bfloat16)
    writer = Kept()
    with card:
        ledger = FrameLedger()
        if joins:
            ledger = ledger.prefill(1, 1, torch.zeros(32, 48, 3, dtype=torch.uint8, device=card.device))
        _, past = decode_stream(vae, card.empty(1, 16, 1, 4, 6))
        state = state_with(replace(ledger, skip=0), past, card.device)
        with Asked() as asked, ToHost() as copies:
            after, frames = VideoOutput(VaeDecoder(vae), [writer], ROOM).show(
                state, card.empty(1, 16, 3, 4, 6)
            )
    assert (asked.waits, copies.seen) == (0, [(torch.uint8, True, True)])
    assert writer.given == [frames] and len(frames) == 12 and after.ledger.written == 12
    waits = []
    frames._copied.synchronize = lambda: waits.append("for the copy")
    frames.read()
    frames.read()
    assert waits == ["for the copy"]


def test_a_decode_outside_of_a_stream_asks_once_whether_its_latents_are_numbers(card):
    with torch.device("meta"):
        vae = WanVAE(dim=8)
    card.carry(vae, torch.bfloat16)
    with card, Asked() as asked:
        decode_stream(vae, card.empty(1, 16, 7, 4, 6))
    assert asked.waits == 1


def test_a_writer_waits_in_its_thread(monkeypatch, tmp_path):
    """A card that is slow does not hold up who hands its pictures over."""
    import threading

    made, seen = threading.Event(), []
    frames = HostFrames(torch.zeros(5, 16, 32, 3, dtype=torch.uint8))

    class Slow:
        def synchronize(self):
            seen.append(threading.current_thread().name)
            assert made.wait(30)
            frames._frames_FHWC.fill_(200)

    frames._copied = Slow()
    with Mp4Writer(tmp_path / "take.mp4", width=32, height=16, fps=16) as writer:
        writer.write(frames)
        assert writer.frames_written == 5
        made.set()
        writer.seal()
    assert seen == ["writer of take.mp4"] and writer.result is not None
