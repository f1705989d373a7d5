"""Takes of Stream Video that are interrupted at any operation, or whose models leave or are changed."""

from dataclasses import replace

import pytest
import torch
from rivulet.tests.bench.soak_faults_disk import frames_in, standing
from rivulet.tests.bench.soak_faults_kinds import AtOperations
from rivulet.tests.bench.soak_faults_takes import Take, lines, make, noting, setups

SETUPS = {made.name: replace(made, blocks=4, guided=False) for made in setups()}
POINTS = 4  # of a take, at which it ends


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are made in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def host(comfyui):
    """Returns what makes takes by the nodes."""
    from rivulet.tests.bench.soak_faults_host import Host

    return Host()


@pytest.fixture
def take_of(host, tmp_path):
    """Returns a maker of empty takes."""

    def make(name, file):
        folder, beside = tmp_path / file, tmp_path / f"{file}-beside"
        folder.mkdir()
        beside.mkdir()
        host.ready(SETUPS[name])
        return Take(SETUPS[name], folder, beside, host.file)

    return make


@pytest.fixture
def made(host):
    """Returns a function that makes a take, or as much as there is until operations at which `act` raises."""

    def run(take, numbers=(), act=lambda: None):
        mode = AtOperations(list(numbers), act)
        with noting(take), mode:
            make(host, take)
        return mode.operations

    return run


def interrupt():
    from comfy.model_management import InterruptProcessingException

    raise InterruptProcessingException


def pictures(take):
    """Digests by their frames' numbers; a frame that was made twice must be the same."""
    found = {}
    for line in lines(take.pictures):
        assert found.setdefault(line["frame"], line["is"]) == line["is"], line["frame"]
    return found


def is_whole(take, calm):
    """Whether it has every picture of the calm take, and its file plays them."""
    return pictures(take) == pictures(calm) and frames_in(take.video) == take.setup.pictures


@pytest.mark.parametrize("name", ["dense-off", "latent-learned"])
def test_a_take_interrupted_at_any_operation_goes_on_when_all_models_have_left(take_of, made, name):
    from comfy.model_management import InterruptProcessingException, unload_all_models

    calm = take_of(name, "calm")
    operations = made(calm)
    assert is_whole(calm, calm)
    went_on = 0
    for point in range(POINTS):
        take = take_of(name, str(point))
        with pytest.raises(InterruptProcessingException):
            made(take, [operations * (point + 1) // (POINTS + 2)], interrupt)
        kept = standing(take).committed()
        unload_all_models()
        made(take)
        assert is_whole(take, calm)
        assert kept == take.setup.pictures or lines(take.goes)[-1]["first"] >= kept
        went_on += kept > 0
    assert went_on


def test_models_that_leave_between_blocks_change_no_picture(take_of, made, monkeypatch):
    from comfy.model_management import unload_all_models
    from rivulet.model_patches.writer.video import Mp4Writer

    calm, take = take_of("mla-ema", "calm"), take_of("mla-ema", "left")
    made(calm)
    write, left = Mp4Writer.write, []

    def then_leave(writer, frames):
        write(writer, frames)
        left.append(unload_all_models())

    monkeypatch.setattr(Mp4Writer, "write", then_leave)
    made(take)
    assert left and is_whole(take, calm)


def test_a_take_whose_model_was_changed_is_refused_and_nothing_of_it_is_lost(take_of, made, host):
    calm, take = take_of("dense-off", "calm"), take_of("dense-off", "changed")
    operations = made(calm)
    with pytest.raises(BaseException):  # noqa: B017 - the host's own is none of ours
        made(take, [operations // 2], interrupt)
    before = standing(take)
    weight = host.graphs["dense-off"].model.model.diffusion_model.patch_embedding.weight
    kept = weight.detach().clone()
    try:
        weight[0] += 0.5
        with pytest.raises(ValueError, match="weights"):
            made(take)
    finally:
        weight.copy_(kept)
    assert standing(take).snapshots == before.snapshots
    assert standing(take).committed() == before.committed() > 0
    made(take)
    assert is_whole(take, calm)
