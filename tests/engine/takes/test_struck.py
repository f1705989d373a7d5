"""A take that ends at any operation is whole, and goes on in the same process bit for bit."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.stream.card_memory import CardFullError
from rivulet.tests.bench import soak_faults_engine
from rivulet.tests.bench.soak_faults_disk import frames_in, picture_sums, standing
from rivulet.tests.bench.soak_faults_engine import Engine, models
from rivulet.tests.bench.soak_faults_kinds import AtOperations
from rivulet.tests.bench.soak_faults_takes import Take, lines, make, noting, setups
from rivulet.tests.full_card import SAID

SETUPS = {made.name: replace(made, blocks=4, guided=False) for made in setups()}
POINTS = 4  # of a take, at which it ends


class StopError(BaseException):
    """No Exception, as an interruption is none."""


class OddError(Exception):
    """None that a snapshot's own faults are."""


# of whatever a state may hold, something
CHOSEN = (("dense-off", OddError), ("latent-learned", StopError), ("mla-ema", StopError))


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are made in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def take_of(tmp_path):
    """Returns a maker of empty takes."""

    def make(name, file):
        folder, beside = tmp_path / file, tmp_path / f"{file}-beside"
        folder.mkdir()
        beside.mkdir()
        return Take(SETUPS[name], folder, beside, "take.mp4")

    return make


def made(take, numbers=(), error=StopError):
    """Makes the take, or as much as there is until the operation of one of these numbers; how many ran."""

    def act():
        raise error("a fault of this test")

    mode = AtOperations(list(numbers), act)
    with noting(take), mode:
        make(Engine(), take)
    return mode.operations


def no_room(*_, **__):
    raise torch.OutOfMemoryError(SAID)


def pictures(take):
    """Digests by their frames' numbers; a frame that was made twice must be the same."""
    found = {}
    for line in lines(take.pictures):
        assert found.setdefault(line["frame"], line["is"]) == line["is"], line["frame"]
    return found


@pytest.mark.parametrize(("name", "error"), CHOSEN)
def test_a_take_that_ends_at_any_operation_goes_on_from_what_was_kept(take_of, name, error):
    calm = take_of(name, "calm")
    operations = made(calm)
    shown, expected = picture_sums(calm.video), pictures(calm)
    assert len(shown) == len(expected) == calm.setup.pictures
    went_on = 0
    for point in range(POINTS):
        take = take_of(name, str(point))
        with pytest.raises(error):
            made(take, [operations * (point + 1) // (POINTS + 2)], error)
        kept = standing(take).committed()
        made(take)
        assert kept == len(expected) or lines(take.goes)[-1]["first"] >= kept
        assert pictures(take) == expected and picture_sums(take.video) == shown
        went_on += kept > 0
    assert went_on


def test_a_take_that_cannot_be_loaded_now_is_refused_and_stays_as_it_was(take_of, monkeypatch):
    calm, take = take_of("dense-off", "calm"), take_of("dense-off", "changed")
    operations = made(calm)
    with pytest.raises(StopError):
        made(take, [operations // 2])
    before = {path: path.read_bytes() for path in take.folder.rglob("*") if path.is_file()}
    weight = models("dense", "off", False).pocket.dit.patch_embedding.weight
    kept = weight.detach().clone()
    try:
        weight[0] += 0.5
        with pytest.raises(ValueError, match="weights"):
            made(take)
    finally:
        weight.copy_(kept)
    with monkeypatch.context() as full, pytest.raises(CardFullError, match="while the take is loaded"):
        full.setattr(soak_faults_engine, "load", no_room)
        made(take)
    assert {path: path.read_bytes() for path in take.folder.rglob("*") if path.is_file()} == before
    made(take)
    assert pictures(take) == pictures(calm) and frames_in(take.video) == take.setup.pictures


def test_a_full_card_at_many_operations_leaves_the_take_as_it_is(take_of):
    calm, take = take_of("int8-learned", "calm"), take_of("int8-learned", "full")
    operations = made(calm)
    numbers = range(operations // 10, operations, operations // 4)
    made(take, numbers, torch.OutOfMemoryError)
    assert pictures(take) == pictures(calm)
