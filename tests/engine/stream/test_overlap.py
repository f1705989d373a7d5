"""Decoding beside the making of the next block: in what order, how far ahead, and what a failure leaves."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.overlap import Overlap
from rivulet.model_patches.stream.pipeline import run
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init
from rivulet.model_patches.stream.watching import Unwatched
from rivulet.model_patches.vae.decoder import VaeDecoder

from .videos import GEOMETRY, Collected, text

CARD = torch.device("cuda", 0)


class Streams:
    """Streams and events of a card that does its work when somebody waits for it, in the order of `told`."""

    def __init__(self, monkeypatch):
        self.told, self.events, self.inside = [], 0, None
        outer = self

        class Stream:
            device = CARD

            def __init__(self, device):
                assert device == CARD

            def wait_stream(self, other):
                assert other == "the model's"
                outer.told.append("after the model")

            def record_event(self):
                outer.events += 1
                outer.told.append(f"work {outer.events} is all asked for")
                return Event(outer.events)

        class Event:
            def __init__(self, number):
                self.number = number

            def synchronize(self):
                outer.told.append(f"wait for work {self.number}")

        @contextmanager
        def entered(stream):
            before, outer.inside = outer.inside, stream
            yield
            outer.inside = before

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", entered)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the model's")

    @property
    def waits(self):
        return [line for line in self.told if line.startswith("wait")]


@pytest.fixture
def streams(monkeypatch):
    return Streams(monkeypatch)


class Telling(VaeDecoder):
    """A decoder that tells when it is asked, and may fail at one of its calls."""

    def __init__(self, vae, streams, fails_at=None):
        super().__init__(vae)
        self.streams, self.fails_at, self.calls, self.may_be_outside = streams, fails_at, 0, False

    def decode(self, latents_BCTHW, past, **how):
        assert self.streams.inside or self.may_be_outside, "decoding is asked for outside of its stream"
        self.calls += 1
        self.streams.told.append(f"decode {self.calls}")
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        return super().decode(latents_BCTHW, past, **how)


class TellingCaller:
    """A caller that tells when it makes a block, and may fail at one."""

    def __init__(self, caller, streams, fails_at=None):
        self._caller, self._streams, self._fails_at, self._calls = caller, streams, fails_at, 0

    def __getattr__(self, name):
        return getattr(self._caller, name)

    def run(self, *given):
        assert self._streams.inside is None, "the model runs on the decoder's stream"
        self._calls += 1
        self._streams.told.append(f"model {self._calls}")
        if self._calls == self._fails_at:
            raise KeyboardInterrupt
        return self._caller.run(*given)


@pytest.fixture
def start(wan):
    return lambda: init(wan, (text(0),), StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=7))


def test_a_block_is_made_while_the_one_before_is_decoded_and_no_more(wan, vae, start, streams):
    writer, told = Collected(), streams.told
    caller, decoder = TellingCaller(wan, streams), Telling(vae, streams)
    after = run(caller, decoder, start(), [writer], blocks=3, overlap=Overlap(CARD))
    work = lambda n: ["after the model", f"decode {n}", f"work {n} is all asked for"]  # noqa: E731
    assert told == [
        *("model 1", *work(1)),
        *("model 2", "wait for work 1", *work(2)),
        *("model 3", "wait for work 2", *work(3)),
        *("wait for work 3", *work(4)),  # what a decoder held back
        "wait for work 4",  # nobody finds the state unfinished
    ]
    alone, again = Collected(), start()
    assert run(wan, VaeDecoder(vae), again, [alone], blocks=3).ledger == after.ledger
    assert np.array_equal(writer.frames, alone.frames)


@pytest.mark.parametrize("fails", ["model", "decoder"])
def test_a_failure_in_either_half_leaves_a_state_that_agrees_with_the_file(
    wan, vae, start, streams, tmp_path, fails
):
    """What was kept has its decoder's past, is done by then, and goes on to the same pictures."""
    whole = Collected()
    run(wan, VaeDecoder(vae), start(), [whole], blocks=4)
    kept, writer = [], Collected()
    caller = TellingCaller(wan, streams, 3 if fails == "model" else None)
    decoder = Telling(vae, streams, 3 if fails == "decoder" else None)
    with pytest.raises(KeyboardInterrupt):
        run(caller, decoder, start(), [writer], blocks=4, keep=kept.append, overlap=Overlap(CARD))
    assert streams.told[-1] == f"wait for work {streams.events}"
    state = kept[-1]
    assert state.block == 2 and state.ledger.written == len(writer.frames) == 21
    save(wan, state, tmp_path / "stream.safetensors")
    for state in (kept[-1], load(tmp_path / "stream.safetensors", wan)):
        rest = Collected(21)
        run(wan, VaeDecoder(vae), state, [rest], blocks=2)
        assert np.array_equal(rest.frames, whole.frames[21:])


def test_a_pause_or_a_stop_finds_at_most_one_block_on_the_way(wan, vae, start, streams):
    ahead = []

    def stop():
        asked = sum("all asked" in line for line in streams.told)
        ahead.append(asked - len(streams.waits))
        return len(ahead) == 4

    run(
        TellingCaller(wan, streams), Telling(vae, streams), start(), [], viewers=Unwatched(stop),
        overlap=Overlap(CARD),
    )  # fmt: skip
    assert ahead == [0, 1, 1, 1] and streams.told[-1].startswith("wait for work")


def test_a_card_that_is_full_decodes_in_turns_from_there_on(wan, vae, start, streams):
    """Two at once are what there may be no room for; what was made until then is the same."""
    alone, writer = Collected(), Collected()
    run(wan, VaeDecoder(vae), start(), [alone], blocks=4)

    class Full(TellingCaller):
        def run(self, *given):
            if self._calls == 2:
                self._calls += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().run(*given)

    decoder = Telling(vae, streams)
    decoder.may_be_outside = True
    run(Full(wan, streams), decoder, start(), [writer], blocks=4, overlap=Overlap(CARD))
    assert np.array_equal(writer.frames, alone.frames)
    assert streams.events == 2 and streams.waits == ["wait for work 1", "wait for work 2"]


class Lent:
    """A tensor on a card, of which it is noted who uses it."""

    def __init__(self, is_cuda):
        self.is_cuda, self.users = is_cuda, []

    def record_stream(self, stream):
        self.users.append(stream)


def test_memory_is_not_given_away_while_it_is_read(streams):
    there, here, overlap = Lent(True), Lent(False), Overlap(CARD)
    with overlap.beside([there, here]):
        inside = streams.inside
    assert there.users == [inside] and here.users == []


def test_what_a_failure_left_is_waited_for(streams):
    overlap = Overlap(CARD)
    with pytest.raises(ValueError), overlap.beside([]):
        raise ValueError
    overlap.finish()
    overlap.finish()
    assert streams.waits == ["wait for work 1"]


@pytest.mark.parametrize("device", [None, torch.device("cpu"), torch.device("mps")], ids=str)
def test_without_a_card_everything_is_in_turns(wan, vae, start, streams, device):
    writer = Collected()
    run(wan, VaeDecoder(vae), start(), [writer], blocks=2, overlap=Overlap(device))
    assert len(writer.frames) == 21 and streams.told == []
