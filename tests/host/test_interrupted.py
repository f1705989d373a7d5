"""Takes in ComfyUI that are interrupted at every call of the host's memory, sampling and decoding."""

import itertools
from contextlib import suppress

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.tests.full_card import SAID
from rivulet.tests.host.streams import HostTake, live_stream
from rivulet.tests.host.test_full_card import Full

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
PICTURES = 21  # two blocks


@pytest.fixture
def made(load, vae, prompt, tmp_path):
    """Returns a function that makes a take: (the take, its pictures, what ended it)."""
    names = itertools.count()

    def make(before=lambda take: None, full=(), resume=None, **more):
        """resume: a take that is gone on with."""
        video, ended = resume.folder.video if resume else tmp_path / f"{next(names)}.mp4", None
        live, written = live_stream(video, resume=bool(resume), blocks=2, modes=("smooth", "recache"))
        take = HostTake(load("plain"), vae, live, prompt, CONFIG, resume=bool(resume), **more)
        before(take)
        handle = take.caller.tree.blocks[1].ffn.register_forward_pre_hook(Full(*full))
        try:
            take.run(PICTURES)
        except BaseException as why:
            ended = why
        finally:
            handle.remove()
        return take, torch.cat(written), ended

    return make


class Calls:
    """Calls of the host and of what moves memory, counted; one of them is interrupted before it begins."""

    def __init__(self, monkeypatch):
        import comfy.model_management as management
        import comfy.samplers
        from rivulet.model_patches.cache.core import SlotCache
        from rivulet.model_patches.vae.decoder import VaeBuffers
        from rivulet.nodes.host.vae import HostDecoder

        self.stopped, self.count, self.at, self.unloading = management.InterruptProcessingException, 0, -1, 0
        for owner, name in (
            (management, "free_memory"),
            (management, "load_models_gpu"),
            (comfy.samplers.CFGGuider, "sample"),
            (SlotCache, "move"),
            (VaeBuffers, "on"),
            (HostDecoder, "decode"),
        ):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name), name == "free_memory"))

    def counted(self, real, unloads):
        def call(*args, **more):
            # what the host calls while it unloads is not interrupted: nothing there looks for it
            if not self.unloading:
                self.count += 1
                if self.count - 1 == self.at:
                    raise self.stopped
            self.unloading += unloads
            try:
                return real(*args, **more)
            finally:
                self.unloading -= unloads

        return call


def pausing(take):
    """Has a viewer pause after each block, and go on at once."""
    wait, note = take.session.live.mailbox.wait, take.session.note_block

    def resume(seconds):
        take.session.live.ask(Message("me", 2, "resume"))
        return wait(0)

    def noted(frames, seconds):
        note(frames, seconds)
        with suppress(Exception):
            take.session.live.ask(Message("me", 1, "pause"))

    take.session.live.mailbox.wait, take.session.note_block = resume, noted


@pytest.mark.parametrize("how", ["recovery", "pause"])
def test_a_take_interrupted_anywhere_goes_on_from_its_snapshot(made, monkeypatch, how):
    hows = {"recovery": {"full": (5, 6)}, "pause": {"before": pausing}}[how]
    calm, calls, kept = made()[1], Calls(monkeypatch), 0
    assert torch.equal(made(**hows)[1], calm)
    for at in range(calls.count):
        calls.count, calls.at = 0, at
        take, pictures, ended = made(**hows)
        calls.at = -1
        assert isinstance(ended, calls.stopped)
        if not take.path.is_file():  # before the first block
            assert not len(pictures)
            continue
        kept += 1
        if len(pictures) < PICTURES:
            again, rest, _ = made(resume=take)
            pictures = torch.cat([pictures[: again.session.writer.start_frame], rest])
        assert torch.equal(pictures, calm), at
    assert kept >= 5


@pytest.mark.parametrize(("tries", "outcome"), [(1, "done"), (2, "done"), (3, "refused")])
def test_a_typed_prompt_without_room_for_its_encoder_is_read_after_all_or_refused(
    made, prompt, tries, outcome
):
    def typing(take):
        note = take.session.note_block

        def noted(frames, seconds):
            note(frames, seconds)
            with suppress(Exception):
                take.session.live.ask(Message("me", 1, "prompt", prompt="abc", mode="recache"))

        take.session.note_block = noted

    def made_with(failing):
        asked = itertools.count()

        def encode(text):
            if next(asked) < failing:
                raise torch.OutOfMemoryError(SAID)
            return prompt(len(text))

        take, pictures, ended = made(typing, encode=encode)
        assert ended is None
        return pictures, take.session.live.state()["acknowledged"][0]["outcome"]

    expected = made_with(0)[0] if outcome == "done" else made()[1]
    pictures, told = made_with(tries)
    assert told == outcome and torch.equal(pictures, expected)


def test_a_snapshot_without_room_is_saved_from_the_computers_memory(made, monkeypatch):
    from rivulet.model_patches.stream import recovery

    asked, real = itertools.count(), recovery.capture

    def capture(*args):
        if not next(asked):
            raise torch.OutOfMemoryError(SAID)
        return real(*args)

    monkeypatch.setattr(recovery, "capture", capture)
    take, _, ended = made()
    assert ended is None and take.path.is_file() and take.state.cache.device == torch.device("cpu")
