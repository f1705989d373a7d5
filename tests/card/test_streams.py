"""Streams of every choice on a card that is not there: nothing meets on two devices, no cap is passed."""

from collections import Counter

import pytest
import torch
from rivulet.kernels import dispatch
from rivulet.model_patches.attention.positions import PRESETS, why_no_shot
from rivulet.model_patches.cache.formats import FORMATS
from rivulet.model_patches.memory.policies import POLICIES
from rivulet.model_patches.stream.timeline import MODES
from rivulet.tests.card.caps import beyond
from rivulet.tests.card.covering import Row, covering
from rivulet.tests.card.tiny import DURING, FOLLOWS, PLAIN, STARTS, SWITCHES, Case, TinyStream
from rivulet.tests.card.watch import CAPPED, TO_CARD, TO_HOST, WAIT

COLUMNS = {
    "format": tuple(FORMATS),
    "memory": tuple(POLICIES),
    "switch": tuple(MODES),
    "start": STARTS,
    "vae": ("tiny", "wan"),
    "apart": (False, True),
    "second": (False, True),
    "half": (torch.bfloat16, torch.float16),
    "kernels": (True, False),
}


def fits(memory: str, switch: str, start: str, name: str) -> bool:
    """Whether these positions have what memory, switch and start need: ids, a sink, blocks one by one."""
    preset = PRESETS[name]
    if start == "follow" and preset.sink_within:
        return False
    if switch == "shot" and why_no_shot(preset, 3):
        return False
    if memory == "memrope":
        return name == memory
    if memory == "learned":
        return preset.memory_frames > 0
    return memory == "off" or (preset.sink_frames == 3 and preset.window_frames is not None)


def streams() -> list[tuple[Case, bool]]:
    """Every pair of choices; the presets in turn, each at least once."""
    used: Counter[str] = Counter()
    found = []
    for row in covering(COLUMNS, _all):
        fit = [each for each in PRESETS if fits(row["memory"], row["switch"], row["start"], each)]
        # those without a shot first, as fewer rows are for them
        name = min(fit, key=lambda each: (used[each], why_no_shot(PRESETS[each], 3) is None))
        used[name] += 1
        kernels = row.pop("kernels")
        found.append((Case(preset=name, **row), kernels))
    return found + [(Case(preset=name), True) for name in PRESETS if not used[name]]


def _all(row: Row) -> bool:
    return True


STREAMS = streams()


@pytest.mark.parametrize(
    ("case", "kernels"), STREAMS, ids=[f"{case}-{'triton' if on else 'torch'}" for case, on in STREAMS]
)
def test_a_stream_stays_on_its_card_and_under_the_caps(case, kernels, triton_card, monkeypatch, tmp_path):
    if not kernels:
        none = dispatch.Support(False, "the card has no kernels")
        monkeypatch.setattr(dispatch, "_support", lambda *_: none)
    with triton_card:
        state = TinyStream(triton_card, case).run(tmp_path)
        devices = {each.device for each in state.cache.tensors().values()}
    device = triton_card.other if case.second else triton_card.device
    assert devices <= {device, torch.device("cpu")} and state.tail_BCTHW.device == device
    labels = {section.label for section in triton_card.watch.sections}
    assert labels >= {SWITCHES, FOLLOWS if case.start == "follow" else PLAIN}
    # torch alone packs int4 out of order, where a kernel does not
    kinds = CAPPED if kernels else (WAIT, TO_HOST, TO_CARD)
    assert beyond("engine", triton_card.watch, DURING, kinds) == []
