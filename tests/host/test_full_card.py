"""Takes in ComfyUI on a card that is full now and then: the same pictures, or a sentence."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.tests.full_card import SAID
from rivulet.tests.host.streams import HostTake, live_stream

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
PICTURES = 21  # two blocks


class Full:
    """A hook of a module that finds no room in these calls."""

    def __init__(self, *calls):
        self.calls, self.count = calls, 0

    def __call__(self, module, args):
        self.count += 1
        if self.count - 1 in self.calls:
            raise torch.OutOfMemoryError(SAID)


@pytest.fixture
def made(load, vae, prompt, tmp_path):
    """Returns a function that makes a take: (the take, its pictures, the error that ended it)."""
    from rivulet.model_patches.stream.card_memory import CardFullError

    def make(name, before=lambda take: None, **hooks):
        live, written = live_stream(tmp_path / f"{name}.mp4", blocks=2)
        take, error = HostTake(load("plain"), vae, live, prompt, CONFIG), None
        before(take)
        layers = {"ffn": take.caller.tree.blocks[1].ffn, "decoder": vae.first_stage_model.decoder}
        handles = [layers[at].register_forward_pre_hook(hook) for at, hook in hooks.items()]
        try:
            take.run(PICTURES)
        except CardFullError as why:
            error = why
        finally:
            for handle in handles:
                handle.remove()
        return take, torch.cat(written), error

    return make


@pytest.fixture
def calm(made):
    """The pictures of a take that nothing disturbs."""
    return made("calm")[1]


@pytest.fixture
def seen(monkeypatch):
    """Returns what the host was asked to free: (models that stay), and where caches were moved."""
    import comfy.model_management
    from rivulet.model_patches.cache.core import SlotCache

    freed, moved = [], []
    free, move = comfy.model_management.free_memory, SlotCache.move

    def watched(memory, device, keep_loaded=(), **more):
        if memory >= 1e30:
            freed.append([each.model for each in keep_loaded])
        return free(memory, device, keep_loaded=list(keep_loaded), **more)

    monkeypatch.setattr(comfy.model_management, "free_memory", watched)
    monkeypatch.setattr(
        SlotCache, "move", lambda cache, device: (moved.append(device), move(cache, device))[1]
    )
    return freed, moved


def test_a_pass_that_finds_no_room_is_made_without_the_other_models(made, calm, seen):
    take, pictures, error = made("pass", ffn=Full(4))
    assert error is None and torch.equal(pictures, calm)
    assert "the model's pass" in take.session.live.notice and "leave the card" in take.session.live.notice
    stayed, _ = seen
    # the pass that failed, and each after it; the model itself is never sent away for its own pass
    assert stayed and all(each.model is take.caller.model.model for kept in stayed for each in kept)
    assert any(stayed)


def test_a_decode_that_finds_no_room_gets_the_models_and_then_the_caches(made, calm, seen):
    take, pictures, error = made("decode", decoder=Full(1, 2))
    assert error is None and torch.equal(pictures, calm)
    stayed, moved = seen
    assert [] in stayed and torch.device("cpu") in moved
    assert "the VAE" in take.session.live.notice


def test_a_take_that_never_fits_is_kept_and_can_be_gone_on_with(made, calm, load, vae, prompt, tmp_path):
    take, pictures, error = made("never", ffn=Full(*range(6, 99)))
    assert torch.equal(pictures, calm[: len(pictures)]) and len(pictures) in (9, 12)
    for words in (
        "block 1",
        "Tried to allocate 20.00 MiB",
        "what the decoder looks back on",
        "a smaller cache",
    ):
        assert words in str(error)
    assert take.path.is_file() and take.session.live.phase == "failed"
    from rivulet.model_patches.stream.pipeline import run
    from rivulet.model_patches.stream.snapshot import load as read

    again = HostTake(load("plain"), vae, take.session.live, prompt, CONFIG)
    state = read(take.path, again.caller, CONFIG, decoder=again.decoder)
    rest = Kept(state.ledger.written)
    run(again.caller, again.decoder, state, [rest], pictures=PICTURES)
    assert torch.equal(torch.cat([pictures, *rest.chunks]), calm)


class Kept:
    """A writer that keeps pictures."""

    def __init__(self, frames):
        self.frames_written, self.chunks = frames, []

    def __enter__(self):
        return self

    def write(self, frames):
        self.chunks.append(frames.read())
        self.frames_written += len(frames)

    def seal(self):
        pass

    def __exit__(self, *error):
        pass


def test_a_pause_sends_all_away_and_goes_on_with_the_same_pictures(made, calm, seen):
    def pausing(take):
        wait = take.session.live.mailbox.wait

        def resume(seconds):
            take.session.live.ask(Message("me", 2, "resume"))
            return wait(0)

        take.session.live.mailbox.wait = resume
        note = take.session.note_block

        def noted(frames, seconds):
            note(frames, seconds)
            with suppress(Exception):
                take.session.live.ask(Message("me", 1, "pause"))

        take.session.note_block = noted

    _, pictures, error = made("paused", pausing)
    stayed, moved = seen
    assert error is None and torch.equal(pictures, calm)
    assert [] in stayed and torch.device("cpu") in moved


def test_a_real_unload_takes_the_cache_along_unless_a_pass_is_under_way(made, calm, seen):
    import comfy.model_management

    def unloading(take):
        note = take.session.note_block

        def noted(frames, seconds):
            note(frames, seconds)
            seen[1].clear()
            comfy.model_management.unload_all_models()
            assert torch.device("cpu") in seen[1]

        take.session.note_block = noted

    take, pictures, error = made("unloaded", unloading)
    assert error is None and torch.equal(pictures, calm)
    seen[1].clear()
    comfy.model_management.unload_all_models()  # the take is over: nobody listens
    assert seen[1] == [] and take.caller._unloading.call is None


def test_a_cache_that_cannot_leave_with_its_model_does_not_break_the_hosts_list_of_models(
    made, calm, monkeypatch, caplog
):
    import comfy.model_management as management
    from rivulet.model_patches.cache.core import SlotCache

    def unloading(take):
        note = take.session.note_block

        def noted(frames, seconds):
            note(frames, seconds)
            with monkeypatch.context() as broken:
                broken.setattr(SlotCache, "move", lambda *_: 1 / 0)
                management.unload_all_models()
            assert management.current_loaded_models == []

        take.session.note_block = noted

    _, pictures, error = made("stuck", unloading)
    assert error is None and torch.equal(pictures, calm)
    assert "could not follow its model" in caplog.text and "ZeroDivisionError" in caplog.text


def test_the_host_says_what_a_full_card_is(load):
    from rivulet.nodes.host.caller import HostCaller

    caller = HostCaller(load("plain"))
    assert caller.is_out_of_memory(torch.OutOfMemoryError(SAID))
    assert caller.is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"))
    assert not caller.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not caller.is_out_of_memory(KeyboardInterrupt())


def test_the_node_lets_the_cache_shrink_where_it_is_asked_to(load, vae, prompt, tmp_path, monkeypatch):
    import folder_paths
    from rivulet.model_patches.stream.snapshot import read_header
    from rivulet.nodes.run.take import ALWAYS
    from rivulet.nodes.stream import RivuletStream

    hidden = SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)
    monkeypatch.setattr(RivuletStream, "hidden", hidden)
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    asked = {"width": 32, "height": 48, "seconds": 1.3, "fps": 16.0, "seed": 5, "num_frame_per_block": 3}
    inputs = {"preset": "pocket", "cfg": 1.0, "filename_prefix": "take", "positive": prompt(0)}
    model = load("plain")
    full = model.get_model_object("diffusion_model").blocks[1].ffn.register_forward_pre_hook(Full(8, 9, 10))
    try:
        options = {"snapshot": ALWAYS, "shrink_cache": True}
        *_, path = RivuletStream.execute(model, vae, **asked, **inputs, **options).args
    finally:
        full.remove()
    header = read_header(path)
    assert (header.cache, header.shrunk, header.block) == ("int8", "dense until block 1", 2)
