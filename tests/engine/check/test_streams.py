"""A check passes on a machine that computes right, and on none that does not."""

import pytest
import torch
from rivulet.model_patches.attention import sdpa as default_attention
from rivulet.model_patches.check import streams, suite
from rivulet.model_patches.check.clock import Clock
from rivulet.model_patches.check.decoders import DECODERS, check_decoder
from rivulet.model_patches.check.streams import CPU, Run, check_moved_away, check_stream
from rivulet.model_patches.check.subject import BLOCKS, Start, Subject, subjects
from rivulet.model_patches.check.tolerance import ROUNDINGS, allowed, relative
from torch.nn.functional import scaled_dot_product_attention

HALF = torch.bfloat16
ALL = subjects(HALF)
PLAIN, COMBINED = ALL[0], next(each for each in ALL if each.name == "latent, learned memory")
SINGLES = [Subject(each.kind, each.memory, torch.float32) for each in (PLAIN, COMBINED)]


@pytest.fixture
def clock():
    made = Clock(500)
    with made.bounded(400), torch.inference_mode():
        yield made


def test_every_format_has_its_stream_with_and_without_the_memory():
    assert len({each.name for each in ALL}) == len(ALL) == 10


@pytest.mark.parametrize("subject", [PLAIN, COMBINED], ids=lambda each: each.name)
def test_a_machine_that_computes_right_is_ok_in_halves(subject, clock):
    finding = check_stream(subject, CPU, clock)
    assert finding.verdict == "ok" and 0 < finding.figures["error"] < finding.figures["tolerance"] < 0.05


def permute(start: Start, seed: int) -> Start:
    """The same model with its hidden channels in another order: sums come in another order, no more."""
    generator = torch.Generator().manual_seed(seed)
    for block in start.model.blocks:
        up, _, down = block.ffn
        order = torch.randperm(up.out_features, generator=generator)
        up.weight.data, up.bias.data = up.weight[order].contiguous(), up.bias[order].contiguous()
        down.weight.data = down.weight[:, order].contiguous()
    return start


def test_another_order_of_sums_stays_within_the_tolerance(clock):
    subject = SINGLES[0]
    true, rounded, *others = (
        Run(start, clock).go_on(BLOCKS).whole_BCTHW
        for start in (
            subject.on(CPU, torch.float64),
            subject.on(CPU, torch.float32),
            *(permute(subject.on(CPU, torch.float32), seed) for seed in range(3)),
        )
    )
    spread = [relative(other, true) / relative(rounded, true) for other in others]
    assert len(set(spread)) == 3 and min(spread) > 1 / ROUNDINGS and max(spread) < ROUNDINGS


def test_a_code_that_rounds_the_other_way_is_no_fault(clock, monkeypatch):
    """In float32 that is far more than rounding: a whole step of a format, of four or eight bits here.

    Which order of sums tips a code depends on the processor, so orders are tried until one does.
    """
    true = Subject.on

    def checked(seed):
        calls = []

        def third_in_another_order(self, device, dtype):
            calls.append(dtype)
            return permute(true(self, device, dtype), seed) if len(calls) == 3 else true(self, device, dtype)

        monkeypatch.setattr(Subject, "on", third_in_another_order)
        return check_stream(Subject(COMBINED.kind, "off", torch.float32), CPU, clock)

    tipped = 0
    for seed in range(3, 23):
        finding = checked(seed)
        figures = finding.figures
        assert finding.verdict == "ok" and figures["error"] < figures["format_error"] / 5
        if tipped := figures["error"] > 2 * ROUNDINGS * figures["processor_error"]:
            break
    assert tipped, "no code went the other way"


def late_keys(q, k, v):
    """Attention that does not see the oldest token."""
    return default_attention.sdpa(q, k[:, 1:], v[:, 1:])


def flat(q, k, v):
    """Attention whose scores are 2 % too large."""
    out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), scale=1.02 / 128**0.5)
    return out.transpose(1, 2)


# in a format that rounds a scale of 2 % is not more than the format itself
@pytest.mark.parametrize(
    ("subject", "wrong"), [(SINGLES[0], late_keys), (SINGLES[0], flat), (SINGLES[1], late_keys)]
)
def test_a_machine_that_attends_wrong_is_broken(subject, wrong, clock, monkeypatch):
    true, calls = Subject.on, []

    def third_attends_wrong(self, device, dtype):
        calls.append(true(self, device, dtype))
        if len(calls) == 3:
            calls[-1].caller.attention = wrong
        return calls[-1]

    monkeypatch.setattr(Subject, "on", third_attends_wrong)
    finding = check_stream(subject, CPU, clock)
    assert finding.verdict == "broken" and finding.way_round == streams.OTHER_FORMAT


def test_nan_and_other_shapes_are_broken():
    finding = compare_with(torch.full((2,), float("nan")))
    assert finding.verdict == "broken"
    assert compare_with(torch.ones(3)).verdict == "broken"


def compare_with(found):
    from rivulet.model_patches.check.finding import compared

    return compared("x", relative(found, torch.ones(2)), allowed(1e-3, HALF), "error", "way")


def test_a_tolerance_is_never_less_than_one_rounding():
    assert allowed(0.0, torch.float32) == ROUNDINGS * 2**-24


@pytest.mark.parametrize("name", list(DECODERS))
def test_decoders_are_held_to_float64(name, clock, monkeypatch):
    from rivulet.model_patches.check import decoders

    assert check_decoder(name, CPU, torch.float32, clock).verdict == "ok"
    true, calls = decoders._frames, []

    def third_is_wrong(decoder, latents):
        calls.append(1)
        frames = true(decoder, latents)
        return frames if len(calls) != 3 else frames.roll(1, 2)

    monkeypatch.setattr(decoders, "_frames", third_is_wrong)
    assert check_decoder(name, CPU, torch.float32, clock).verdict == "broken"


def resumed(clock):
    return suite._resume(SINGLES[1], CPU, clock)


def test_resume_is_the_same_bits(clock):
    finding = resumed(clock)
    assert (finding.verdict, finding.name) == ("ok", "Resume latent, learned memory")


def test_a_file_that_comes_back_changed_is_broken(clock, monkeypatch):
    from dataclasses import replace

    load = streams.load

    def changed(*args, **options):
        state = load(*args, **options)
        past = replace(state.past, layers=(state.past.layers[0] + 1e-2, *state.past.layers[1:]))
        return replace(state, past=past)

    monkeypatch.setattr(streams, "load", changed)
    finding = resumed(clock)
    assert finding.verdict == "broken" and finding.said == "pictures differ" and finding.way_round


def test_a_device_that_gives_other_bits_each_time_is_no_fault_of_resume(clock, monkeypatch):
    noise = torch.Generator().manual_seed(0)
    true = Subject.on

    def restless(self, device, dtype):
        start = true(self, device, dtype)
        start.model.head.head.bias.data += 1e-6 * torch.rand(1, generator=noise)
        return start

    monkeypatch.setattr(Subject, "on", restless)
    monkeypatch.setattr("rivulet.model_patches.stream.model_caller.refuse_other_weights", lambda *_: None)
    finding = resumed(clock)
    assert finding.verdict == "slow" and "within rounding" in finding.way_round


def test_a_model_that_is_moved_away_is_refused_in_words_and_comes_back(clock):
    finding = check_moved_away(SINGLES[0], CPU, clock)
    assert finding.verdict == "ok"
    assert "the model's weights are on meta and the stream is on cpu" in finding.said
    assert "Load it again" in finding.said
