"""A run on a card that is full: the same pictures, or an end in order with a sentence that helps."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from rivulet.model_patches.arch.mla import MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.memory.policy import OFF
from rivulet.model_patches.stream import recovery
from rivulet.model_patches.stream.card_memory import CardFullError, forget, is_out_of_memory
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.follow import Follow, encoder_of
from rivulet.model_patches.stream.incoming import Pictures
from rivulet.model_patches.stream.pipeline import Prefill, run, snapshot
from rivulet.model_patches.stream.recovery import PICTURES, PROMPT
from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.snapshot import load
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.model_patches.vae.decoder import VaeBuffers, VaeDecoder
from rivulet.tests.full_card import SAID, FullCard

from .full_runs import Now, Told, Unharmed, full_passes, numbers, same, went
from .videos import GEOMETRY, Collected, pictures, text

AWAY = torch.device("cpu", 0)
CONFIG = StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=7)
LATENTS = MlaSizes(6, 10, RopeLayout(4, (1.0, 0.3), (0.7,), (0.9,)))


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Everything lies on the CPU; `cpu:0` is another name of it, so that a cache that leaves is moved.

    Returns the pasts of a decoder that have left the card.
    """
    away, on = [], VaeBuffers.on
    monkeypatch.setattr(recovery, "HOST", AWAY)

    def noted(past, device):
        if any(past is each for each in away):
            return past
        away.append(on(past, device))
        return away[-1]

    monkeypatch.setattr(VaeBuffers, "on", noted)
    return away


@pytest.fixture
def start(wan):
    return lambda config=CONFIG: init(wan, (text(0),), config)


def test_a_run_comes_out_the_same_wherever_the_card_is_full(wan, vae, start):
    """In the pass, in the decoder, in the flush at the end: a few operations apart, over two blocks."""
    state = run(wan, VaeDecoder(vae), start(), [Collected()], blocks=1)
    went(wan, vae, state, blocks=2)
    with FullCard(lambda _: False) as card:
        run(wan, VaeDecoder(vae), state, [Unharmed(state.ledger.written)], blocks=2)
    pictures_there, expected, _, _ = went(wan, vae, state, blocks=2)
    for number in range(5, card.operations, 61):
        frames, after, told, raised = went(wan, vae, fresh(wan, vae, start), lambda k: k == number, blocks=2)  # noqa: B023
        assert np.array_equal(frames, pictures_there) and same(after, expected), number
        assert raised == 1 and len(told) == 1, number


def fresh(wan, vae, start):
    return run(wan, VaeDecoder(vae), start(), [Collected()], blocks=1)


def test_the_measures_come_one_after_another_are_told_once_and_stay(wan, vae, start):
    """The card is full in two passes, then in the decoder, and now and then later on."""
    whole, expected, _, _ = went(wan, vae, start(), blocks=6)
    full = {40, 50, 2500, 4000, 6000}
    frames, after, told, raised = went(wan, vae, start(), lambda number: number in full, blocks=6)
    assert np.array_equal(frames, whole) and same(after, expected) and raised == len(full)
    assert len(told) == len(set(told)) and len(told) < len(full) + 1
    assert "all models that are not needed leave the card" in told[0] and "the model's pass" in told[0]
    assert "the decoder looks back on stays in the computer's memory" in told[1]


def test_a_stream_that_never_fits_ends_in_order_and_says_what_was_tried(wan, vae, start, tmp_path):
    whole = went(wan, vae, start(), blocks=4)[0]
    kept, writer, viewers = [], Unharmed(), Told()
    full = FullCard(lambda number: len(kept) == 3)  # before the first block, and after two
    with pytest.raises(CardFullError) as raised, full:
        run(wan, VaeDecoder(vae), start(), [writer], blocks=4, keep=lambda s: kept.append(s), viewers=viewers)
    said = str(raised.value)
    for words in (
        *("block 2", "the model's pass", "Tried to allocate 20.00 MiB", "all models that are not needed"),
        *(
            "what the decoder looks back on",
            "smaller picture",
            "tiny VAE",
            "resume this take",
        ),
    ):
        assert words in said, said
    assert full.raised >= 3 and raised.value.__context__ is None is raised.value.__cause__
    assert np.array_equal(writer.frames, whole[:21])
    # what was kept is saved and gone on with
    snapshot(wan, kept[-1], [writer], tmp_path / "kept")
    rest = Unharmed(21)
    run(wan, VaeDecoder(vae), load(tmp_path / "kept", wan, CONFIG), [rest], blocks=2)
    assert np.array_equal(rest.frames, whole[21:])


def test_a_snapshot_is_saved_though_the_card_is_full(wan, vae, start, tmp_path):
    state = fresh(wan, vae, start)
    snapshot(wan, state, [], tmp_path / "calm")
    for number in (0, 7, 20):
        with FullCard(lambda k: k == number) as card:  # noqa: B023
            snapshot(wan, state, [], tmp_path / "full")
        assert card.raised == 1
        assert same(numbers(load(tmp_path / "full", wan)), numbers(load(tmp_path / "calm", wan)))


WORDS = {
    "smooth": Prompt(0, "5", "smooth"),
    "cut": Prompt(0, "5", "cut"),
    "recache": Prompt(0, "5", "recache"),
}


@pytest.mark.parametrize("mode", WORDS)
def test_a_full_card_at_a_prompt_switch_changes_nothing(wan, vae, start, mode):
    script = Script((text(0),), "0", {1: WORDS[mode]}, lambda words: (text(int(words)),))
    whole, expected, _, _ = went(wan, vae, start(), blocks=3, script=script)
    told = []
    for number in range(1300, 2100, 97):
        frames, after, sentences, raised = went(
            *(wan, vae, start(), lambda k: k == number),  # noqa: B023
            blocks=3,
            script=script,
        )
        assert np.array_equal(frames, whole) and same(after, expected) and raised == 1
        told += sentences
    assert len(told) == len(range(1300, 2100, 97))


def test_a_text_encoder_that_finds_no_room_is_given_it(wan, vae, start):
    """And where it never fits, a viewer's prompt is refused and the stream goes on."""
    asked = []

    def encode(words):
        asked.append(words)
        if len(asked) < 3:
            raise torch.OutOfMemoryError(SAID)
        return (text(int(words)),)

    script = Script((text(0),), "0", {1: WORDS["smooth"]}, encode)
    calm = Script((text(0),), "0", {1: WORDS["smooth"]}, lambda words: (text(int(words)),))
    whole = went(wan, vae, start(), blocks=2, script=calm)[0]
    frames, _, told, _ = went(wan, vae, start(), blocks=2, script=script)
    assert np.array_equal(frames, whole) and len(asked) == 3
    assert all("the text encoder" in sentence for sentence in told) and len(told) == 2


def test_a_followed_video_is_encoded_where_the_card_was_full(wan, vae, start):
    def follow(encode):
        return Follow(Pictures(pictures(33)), encode, CONFIG, 0.5)

    whole = went(wan, vae, start(), follow=follow(encoder_of(vae)))[0]
    failed = []

    def encode(pixels, past, *, last):
        if len(failed) < 2:
            failed.append(last)
            raise torch.OutOfMemoryError(SAID)
        return encoder_of(vae)(pixels, past, last=last)

    frames, _, told, _ = went(wan, vae, start(), follow=follow(encode))
    assert np.array_equal(frames, whole) and len(told) == 2 and "the VAE" in told[0]


def test_given_latents_are_remembered_where_the_card_was_full(wan, vae, start):
    latents = torch.randn(1, 16, 4, 2, 4, generator=torch.Generator().manual_seed(3))
    whole, expected, _, _ = went(wan, vae, start(), blocks=1, begin=Prefill(latents, 3))
    for number in (0, 100, 400, 800):
        frames, after, told, _ = went(
            *(wan, vae, start(), lambda k: k == number),  # noqa: B023
            blocks=1,
            begin=Prefill(latents, 3),
        )
        assert np.array_equal(frames, whole) and same(after, expected) and len(told) == 1


def test_the_failed_block_is_let_go_of_before_the_next_try(wan, vae, start):
    """Tensors of its frames are gone, without the help of a collector, when the second try comes so far."""
    state, failed, alive = fresh(wan, vae, start), [], []

    def fail(module, args):
        alive.append([each() is not None for each in failed])
        if not failed:
            failed.append(weakref.ref(args[0]))
            raise torch.OutOfMemoryError(SAID)

    hook = wan.tree.blocks[1].ffn.register_forward_pre_hook(fail)
    gc.disable()
    try:
        run(wan, VaeDecoder(vae), state, [Unharmed(state.ledger.written)], blocks=1)
    finally:
        gc.enable()
        hook.remove()
    assert alive[:2] == [[], [False]]


def test_a_pause_frees_the_card_and_the_stream_goes_on_bit_for_bit(wan, vae, start, beside):
    whole, expected, _, _ = went(wan, vae, start(), blocks=3)
    kept, lay = [start()], []

    class Pausing(Told):
        def should_continue(self, rest):
            rest()
            state = kept[-1]
            lay.append((state.cache.device, state.past is None or is_in(beside, state.past)))
            return True

    writer = Collected()
    after = run(wan, VaeDecoder(vae), kept[0], [writer], blocks=3, viewers=Pausing(), keep=kept.append)
    assert lay == [(AWAY, True)] * 3
    assert after.cache.device == wan.device
    assert np.array_equal(writer.frames, whole) and same(numbers(after), expected)


def is_in(pasts, past):
    return any(past is each for each in pasts)


def test_the_decoders_past_leaves_for_a_pass_and_the_cache_for_a_decode(wan, vae, start, beside):
    """Once the card was full twice in either; a measure holds to the end of the run."""
    whole = went(wan, vae, start(), blocks=4)[0]
    passes, decodes, lay, kept = full_passes(2), full_passes(2), {"pass": [], "decode": []}, []

    def in_pass(module, args):
        passes(module, args)
        lay["pass"].append((kept[-1].cache.device, is_in(beside, kept[-1].past)))

    def in_decode(module, args):
        decodes(module, args)
        lay["decode"].append(kept[-1].cache.device)

    state = fresh(wan, vae, start)
    kept.append(state)
    hooks = [
        wan.tree.blocks[1].ffn.register_forward_pre_hook(in_pass),
        vae.decoder.conv1.register_forward_pre_hook(in_decode),
    ]
    writer, viewers = Collected(state.ledger.written), Told()
    try:
        run(wan, VaeDecoder(vae), state, [writer], blocks=3, viewers=viewers, keep=kept.append)
    finally:
        for hook in hooks:
            hook.remove()
    assert np.array_equal(writer.frames, whole[9:]) and len(viewers.sentences) == 4
    assert set(lay["pass"]) == {(wan.device, True)}
    assert set(lay["decode"]) == {AWAY}


@pytest.mark.parametrize("memory", [OFF, EmaSink(keep=0.9)], ids=["no memory", "a sink that takes in"])
def test_the_cache_shrinks_only_where_that_is_allowed(wide, vae, memory, tmp_path):
    config = replace(CONFIG, preset="reward_forcing")
    state = run(
        *(wide, VaeDecoder(vae), init(wide, (text(0),), config, memory=memory), [Collected()]), blocks=4
    )

    def ended(may_shrink, times):
        hook, told, writer = (
            wide.tree.blocks[1].ffn.register_forward_pre_hook(full_passes(times)),
            Told(),
            Collected(state.ledger.written),
        )
        try:
            return run(
                wide, VaeDecoder(vae), state, [writer], blocks=2, viewers=told, may_shrink=may_shrink
            ), told.sentences
        finally:
            hook.remove()

    with pytest.raises(CardFullError, match="allow the cache to shrink"):
        ended(False, 3)
    after, told = ended(True, 3)
    assert after.format.name == "int8" and after.shrunk == "dense until block 4" and after.block == 6
    assert "the cache is int8 instead of dense" in told[2]
    exact = 3 if memory is not OFF else 0
    assert after.format.cost.exact.sink == exact
    # half the bytes, and what it holds is what int8 makes of the frames
    assert after.cache.store.buffers["0.codes"].dtype == torch.int8
    snapshot(wide, after, [], tmp_path / "shrunk")
    with pytest.raises(
        ValueError, match=r"cache int8, not dense.*dense until block 4; then the card was full"
    ):
        load(tmp_path / "shrunk", wide, config, memory=memory)
    again = load(tmp_path / "shrunk", wide, config, cache=after.format, memory=memory)
    assert again.shrunk == after.shrunk and same(numbers(again), numbers(after))


def test_a_cache_that_shrank_holds_what_the_smaller_format_makes_of_its_frames(wide):
    from rivulet.model_patches.cache.shrink import shrink, smaller

    state = init(wide, (text(0),), CONFIG)
    for _ in range(3):
        _, state = step(wide, state)
    target = smaller(state.format, wide.tree)
    made = shrink(state.cache, target, wide.tree, CONFIG.dtype, wide.device)
    assert made.frames == state.cache.frames and 2 * made.bytes < 1.2 * state.cache.bytes
    for layer in range(made.shape.layers):
        pairs = zip(
            made.keys_values(layer, made.frames), state.cache.keys_values(layer, made.frames), strict=True
        )
        for coded, dense in pairs:
            groups = dense.flatten(2).unflatten(2, (-1, 64))
            # half a step of int8, and the scale's own rounding to half precision
            most = groups.abs().amax(-1, keepdim=True) * (0.5 / 127 + 2**-11) + 1e-7
            assert ((coded.flatten(2).unflatten(2, (-1, 64)) - groups).abs() <= most).all()
    assert smaller(target, wide.tree) is None


SAYINGS = {
    "CUDA out of memory. Tried to allocate 2.00 GiB": torch.OutOfMemoryError,
    "CUDA error: out of memory\nCUDA kernel errors might be reported later": torch.AcceleratorError,
    "HIP out of memory. Tried to allocate 2.00 GiB": torch.OutOfMemoryError,
    "HIP error: out of memory": RuntimeError,
    "MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB)": RuntimeError,
    "XPU out of memory. Tried to allocate 2.00 GiB": RuntimeError,
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": RuntimeError,
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": RuntimeError,
    "Allocation on device 0 would exceed allowed memory. (out of memory)": torch.OutOfMemoryError,
    "Could not allocate tensor with 99 bytes. There is not enough GPU video memory available!": RuntimeError,
}
OTHERS = {
    "CUDA error: an illegal memory access was encountered": torch.AcceleratorError,
    "CUDA error: device-side assert triggered": RuntimeError,
    "CUBLAS_STATUS_EXECUTION_FAILED": RuntimeError,
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED": RuntimeError,
    "mat1 and mat2 shapes cannot be multiplied": RuntimeError,
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory": RuntimeError,
    "out of memory": ValueError,
    "the card is full, out of memory": CardFullError,
    "out of resource: shared memory, Required: 131072, Hardware limit: 101376": RuntimeError,
}


@pytest.mark.parametrize("said", [*SAYINGS, *OTHERS])
def test_a_full_card_is_told_from_other_errors(wan, said):
    kind = (SAYINGS | OTHERS)[said]
    error = RuntimeError.__new__(kind, said) if kind is torch.AcceleratorError else kind(said)
    assert is_out_of_memory(error) is wan.is_out_of_memory(error) is (said in SAYINGS)


def test_an_error_that_is_let_go_of_holds_nothing():
    class Big:
        pass

    def inner(refs):
        big = Big()
        refs.append(weakref.ref(big))
        raise torch.OutOfMemoryError(SAID)

    def outer(refs):
        try:
            inner(refs)
        except RuntimeError as why:
            raise RuntimeError("CUDA error: out of memory") from why

    refs, kept = [], None
    try:
        outer(refs)
    except RuntimeError as why:
        kept = why
    assert refs[0]() is not None
    forget(kept)
    assert refs[0]() is None and kept.__traceback__ is None is kept.__cause__


def test_other_errors_and_interruptions_pass_through_untouched(wan, vae, start):
    now = Now(wan, fresh(wan, vae, start))
    for error in (ValueError("out of memory"), KeyboardInterrupt(), RuntimeError("broken")):
        with pytest.raises(type(error)) as raised:
            now.recovery.attempt(PICTURES, lambda: (_ for _ in ()).throw(error))  # noqa: B023
        assert raised.value is error
    assert not now.sentences and PROMPT.needs_model is False
