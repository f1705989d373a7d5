"""A basis file comes back as it was written, belongs to one model, and any other file is refused in words."""

import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.fingerprint import sketch
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.basis_file import about_model, check_model, load_basis, save_basis
from rivulet.model_patches.checkpoints.sealed import CHECKSUM, EMPTY, seal
from rivulet.tests.engine.conftest import SIZES
from safetensors import safe_open
from safetensors.torch import save_file

CPU = torch.device("cpu")
WIDTH = SIZES.dim


def layer(rank):
    return LayerBasis(torch.randn(WIDTH), torch.randn(WIDTH, rank), torch.randn(rank, WIDTH))


@pytest.fixture
def basis(model):
    plan = (LayerPlan("latent", 8, 4), LayerPlan("int8"), LayerPlan("latent", 12, 0))
    about = {"checkpoint": "tiny", "error": 0.0123, **about_model([model], WIDTH, torch.float32, CPU)}
    return Basis((layer(8), None, layer(12)), plan, 4, about)


@pytest.fixture
def file(basis, tmp_path):
    save_basis(basis, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def fits(basis, model, dtype=torch.float32, **more):
    return check_model(basis, sketch(model, WIDTH, dtype, CPU), WIDTH, **more)


def content_of(path):
    """What the file says of its tensors and of itself but for the checksum, and the tensors' bytes."""
    data = path.read_bytes()
    border = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:border])
    del header["__metadata__"][CHECKSUM]
    return header, data[border:]


def rewritten(file, about=None, **tensors):
    """The file with another entry in its metadata, or other tensors; None takes one away."""
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["rivulet"]) | (about or {})
        kept = {name: opened.get_tensor(name) for name in opened.keys()} | tensors  # noqa: SIM118
    kept = {name: tensor for name, tensor in kept.items() if tensor is not None}
    save_file(kept, file, {"rivulet": json.dumps(metadata), CHECKSUM: EMPTY})
    seal(file)


def test_a_change_of_any_byte_is_found(file):
    whole = file.read_bytes()
    for place in (whole.index(b"tiny"), whole.index(b"0.0123"), whole.index(b"wide"), len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"load_basis: .*tiny.safetensors .*(does not agree|damaged)"):
            load_basis(file)


def test_a_basis_that_lost_its_checksum_is_refused_and_an_older_one_is_read(basis, file):
    file.write_bytes(file.read_bytes().replace(b'"checksum"', b'"checksun"'))
    with pytest.raises(ValueError, match=r"tiny.safetensors has lost its checksum"):
        load_basis(file)
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["rivulet"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del about["sealed"]
    save_file(tensors, file, {"rivulet": json.dumps(about)})
    assert load_basis(file).fingerprint == basis.fingerprint


def test_it_comes_back_as_it_was(basis, file):
    back = load_basis(file)
    assert back.fingerprint == basis.fingerprint
    assert (back.plan, back.group, back.provenance) == (basis.plan, basis.group, basis.provenance)
    assert back.layers[1] is None and torch.equal(back.layers[2].down_CR, basis.layers[2].down_CR)


def test_the_same_basis_makes_the_same_file(basis, file, tmp_path):
    save_basis(basis, tmp_path / "again.safetensors")
    # the library writes the metadata's entries in any order
    assert content_of(tmp_path / "again.safetensors") == content_of(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "tiny.safetensors"]


def test_a_folder_that_is_not_there_is_named(basis, tmp_path):
    with pytest.raises(OSError, match=r"cannot write the basis to .*absent.*choose a folder that exists"):
        save_basis(basis, tmp_path / "absent" / "tiny.safetensors")


def test_no_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no file at .*none.safetensors; give the path of a basis: cal"
    ):
        load_basis(tmp_path / "none.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(file, share):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"is not a whole safetensors file: .* Calibrate the model again"):
        load_basis(file)


def test_another_file(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"holds 'no basis' in version \?, needs 'rivulet basis' in version 1"
    ):
        load_basis(tmp_path / "other.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "list.safetensors", {"rivulet": "[1]"})
    with pytest.raises(ValueError, match=r"holds 'no basis'"):
        load_basis(tmp_path / "list.safetensors")


DAMAGES = [
    ({"layers.0.up_RC": None}, None, r"is damaged \(there is no layers.0.up_RC\)"),
    ({"layers.1.mu_C": torch.zeros(WIDTH)}, None, r"has 1 tensors of no layer"),
    ({"layers.0.up_RC": torch.zeros(8, WIDTH - 1)}, None, r"layer 0 needs mu \[C\], down \[C, R\] and up"),
    ({"layers.2.mu_C": torch.full((WIDTH,), float("nan"))}, None, r"layer 2 holds NaN"),
    ({"layers.2.mu_C": torch.zeros(WIDTH)}, None, r"the numbers in .* have changed since it was written"),
    (
        {},
        {"plan": [{"rank": 16}, {"kind": "int8"}, {"rank": 12}]},
        r"layer 0 is planned with rank 16, its basis has",
    ),
    ({}, {"plan": [{"rank": 8, "breadth": 4}] * 3}, r"is damaged"),
    ({}, {"plan": None}, r"is damaged"),
    ({}, {"group": 8}, r"must be multiples of the group, 8"),
    ({}, {"group": 4.0}, r"is damaged \(group, rank and wide are whole numbers\)"),
    ({}, {"plan": [{"rank": 8.0}, {"kind": "int8"}, {"rank": 12}]}, r"whole numbers"),
    ({"layers.2.mu_C": torch.zeros(WIDTH, dtype=torch.int32)}, None, r"layers.2.mu_C are not of float32"),
    ({}, {"provenance": None}, r"is damaged \(its provenance has no"),
    ({}, {"provenance": {"channels": "24"}}, r"its provenance has no whole number of channels"),
    ({}, {"provenance": {"error": {}}}, r"its error is no number of 0 or more"),
    ({}, {"provenance": {"error": float("nan")}}, r"its error is no number of 0 or more"),
    ({}, {"provenance": {"checkpoint": 3}}, r"the name of its checkpoint is no text"),
    ({}, {"provenance": {"sketch": {}}}, r"is damaged"),
    ({}, {"provenance": {"sketch": [[float("nan")] * 16]}}, r"is damaged"),
    (
        {},
        {"provenance": {"sketch": [[1.0] * 20], "other_sketches": [[[float("inf")] * 20]]}},
        r"without an end",
    ),
    ({}, {"provenance": {"sketch": [[1.0] * 20], "other_sketches": 3}}, r"is damaged"),
    ({}, {"kind": "x" * 9000}, r"holds 'xxxxxxxxxxxx...xxxxxxxxxxxxx' in version"),
    ({}, {"version": 2}, r"in version 2, needs 'rivulet basis' in version 1"),
]


@pytest.mark.parametrize(("tensors", "about", "words"), DAMAGES)
def test_a_damaged_file(file, tensors, about, words):
    rewritten(file, about, **tensors)
    with pytest.raises(ValueError, match=words):
        load_basis(file)


def test_it_belongs_to_its_model(basis, file, model):
    assert fits(load_basis(file), model) == fits(basis, model) == ""


def test_it_belongs_to_every_model_that_it_was_calibrated_on(basis, model, make_model):
    adapted = make_model()
    adapted_by(adapted, 0.5)
    assert "differ by" in fits(basis, adapted, adapted=True)
    about = {**basis.provenance, **about_model([model, adapted], WIDTH, torch.float32, CPU)}
    both = replace(basis, provenance=about)
    assert fits(both, model) == fits(both, adapted, adapted=True) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_the_same_model(basis, make_model, dtype):
    assert fits(basis, make_model(dtype), dtype) == ""


@pytest.mark.parametrize("size", [1, 0.3, 0.01])
@pytest.mark.parametrize("adapted", [False, True])
def test_another_checkpoint_is_refused(basis, make_model, adapted, size):
    other = make_model(seed=2)
    for parameter in other.parameters():
        parameter *= size
    with pytest.raises(
        ValueError, match=r"the basis is of tiny, whose weights differ .* it is another checkpoint"
    ):
        fits(basis, other, adapted=adapted)


def test_a_basis_without_a_fingerprint_is_of_no_model(basis, model):
    about = {name: value for name, value in basis.provenance.items() if name != "sketch"}
    with pytest.raises(ValueError, match=r"the basis is of tiny and has no fingerprint of its weights"):
        fits(replace(basis, provenance=about), model)


def test_another_size_is_refused(basis, make_model):
    with pytest.raises(ValueError, match=r"tiny, 3 layers of 24 channels; the model has 2 of 24"):
        fits(basis, make_model(num_layers=2))
    wide = WanModel(replace(SIZES, dim=36)).requires_grad_(False)
    with pytest.raises(ValueError, match=r"tiny, 3 layers of 24 channels; the model has 3 of 36"):
        check_model(basis, sketch(wide, 36, torch.float32, CPU), 36)


def adapted_by(model, share):
    for block in model.blocks:
        for part in (
            block.self_attn.q,
            block.self_attn.k,
            block.self_attn.v,
            block.self_attn.o,
            block.ffn[0],
        ):
            part.weight += share * part.weight.std() * torch.randn_like(part.weight)
    return model


def test_an_adapter_is_told_and_a_strong_one_only_where_one_is_known(basis, make_model):
    told = fits(basis, adapted_by(make_model(), 0.05), adapted=True)
    assert "an adapter (LoRA)" in told and "1.2 % that were measured" in told and "differ by" in told
    assert "quantisation" in fits(basis, adapted_by(make_model(), 0.05))
    strong = adapted_by(make_model(), 0.3)
    assert "an adapter (LoRA)" in fits(basis, strong, adapted=True)
    with pytest.raises(ValueError, match=r"another checkpoint"):
        fits(basis, strong)
