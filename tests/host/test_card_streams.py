"""ComfyUI's path on a card that is not there: nothing meets on two devices, no cap is passed."""

from importlib.util import find_spec

import pytest
import torch
from rivulet.model_patches.memory.policies import POLICIES
from rivulet.tests.card.caps import beyond, changed, highest, written
from rivulet.tests.card.covering import Row, covering
from rivulet.tests.card.faked import Card
from rivulet.tests.card.faked import triton_card as triton_card
from rivulet.tests.card.tiny import DURING, FOLLOWS, PLAIN, STARTS, SWITCHES
from rivulet.tests.card.watch import CAPPED, TO_CARD, TO_HOST, WAIT
from rivulet.tests.engine.checkpoints.published_files import BY_NAME
from rivulet.tests.host.card_streams import HostCase, HostStream

TRITON = find_spec("triton") is not None
# torch alone packs int4 out of order, where a kernel does not
KINDS = CAPPED if TRITON else (WAIT, TO_HOST, TO_CARD)

PRESETS = {"off": "infinity_rope", "ema": "reward_forcing", "memrope": "memrope", "learned": "pocket_memory"}
COLUMNS = {
    "format": ("dense", "latent", "int8", "mla"),
    "memory": tuple(PRESETS),
    "switch": ("recache", "smooth"),
    "start": STARTS,
    "vae": ("wan", "tiny"),
    "apart": (False, True),
    "second": (False, True),
    "guided": (False, True),
    "half": (torch.bfloat16, torch.float16),
}

ENCODED = {"latents": ("latent", "mla"), "follow": ("dense", "int8")}  # formats for starts that are long


def fits(row: Row) -> bool:
    """A tiny VAE of the host encodes no video; of a start with one only these formats are tried."""
    start = row.get("start", "nothing")
    return start not in ENCODED or (
        row.get("vae") != "tiny" and row.get("format", ENCODED[start][0]) in ENCODED[start]
    )


CASES = [HostCase(preset=PRESETS[row["memory"]], **row) for row in covering(COLUMNS, fits)]


# each asks for something that no other does
SHOWN = (HostCase("mla", guided=True, calls=2, vae="tiny"), HostCase("mla", start="follow"))


def test_every_memory_is_streamed():
    assert set(PRESETS) == set(POLICIES)


@pytest.fixture
def host_card(request, comfyui) -> Card:
    """Returns a fake card that tells the host's files, too; it has Triton where that is installed."""
    card = request.getfixturevalue("triton_card" if TRITON else "card")
    card.watch.host = comfyui
    return card


@pytest.fixture
def made(host_card, request, monkeypatch):
    """Returns a function that brings a case's stream to the card."""
    load, vae, tiny_vae, prompt = map(request.getfixturevalue, ("load", "vae", "tiny_vae", "prompt"))

    def make(case: HostCase) -> HostStream:
        if case.format == "mla":
            request.getfixturevalue("written")("videomla")
            model, _ = request.getfixturevalue("load_file")(BY_NAME["videomla"].file)
        else:
            model = load("plain")
        decoding = vae if case.vae == "wan" else tiny_vae
        return HostStream(host_card, case, model, decoding, prompt, monkeypatch)

    return make


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_stream_stays_on_its_card_and_under_the_caps(case, made, host_card, tmp_path):
    stream = made(case)
    with host_card:
        state = stream.run(tmp_path)
        devices = {each.device for each in state.cache.tensors().values()}
    assert devices <= {stream.device, torch.device("cpu")} and state.tail_BCTHW.device == stream.device
    labels = {section.label for section in host_card.watch.sections}
    assert labels >= {SWITCHES, FOLLOWS if case.start == "follow" else PLAIN}
    assert beyond("host", host_card.watch, DURING, KINDS) == []


def test_the_caps_are_what_blocks_ask_for_today(triton_card, made, tmp_path):
    for case in SHOWN:
        stream = made(case)
        with triton_card:
            stream.run(tmp_path)
    counts = highest("host", triton_card.watch, DURING)
    assert not changed("host", counts), f"{changed('host', counts)}\n\n{written(counts)}"
