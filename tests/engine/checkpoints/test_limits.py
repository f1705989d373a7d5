"""Files that would take minutes or the computer's memory are refused in a sentence, before they do."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.checkpoints import limits
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.model_patches.checkpoints.files import first_few, open_tensors
from rivulet.model_patches.checkpoints.lora_file import lora_from, read_lora
from rivulet.model_patches.checkpoints.nesting import read_tensors, unpickle
from rivulet.pocket import models
from rivulet.tests.engine.checkpoints.published_files import SMALL, lora_of
from safetensors.torch import save_file


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return dict(WanModel(SMALL).state_dict())


def header_file(path, header, data=b""):
    """A safetensors file with this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def empty(shape=(0,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]}


def zipped(path, pickled, records=(), compression=zipfile.ZIP_STORED):
    """A file of torch.save around this pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        for name, data in records:
            file.writestr(name, data)
    return path


def refused(path, words, read=None):
    """The refusal names the file and says what to do."""
    with pytest.raises(ValueError, match=words) as caught:
        (read or (lambda path: open_checkpoint(path, caller="Test")))(path)
    text = str(caught.value)
    assert text.startswith("Test: ") and path.name in text and len(text) < 1000
    assert text.endswith(".") and "weights_only" not in text
    return text


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            {f"k{i}": empty() for i in range(limits.MAX_TENSORS + 1)},
            r"holds 32,769 tensors, and at most 32,768",
        ),
        (
            b'{"a": 1,' + b" " * limits.MAX_HEADER_BYTES + b"}",
            r"header has 16,777,\d+ bytes, and at most 16,777,216",
        ),
        ({"k" * 1025: empty()}, r"a key of 1,025 letters, and at most 1,024"),
        ({"k": empty([0] * 9)}, r"a tensor of the shape \[0, 0, 0"),
        ({"k": empty([0, 1 << 62])}, r"a tensor of the shape \[0, 4611686018427387904\], which no model has"),
        (b"[" * 100000, r"is not a whole safetensors file"),
        (b"[1]", r"is not a whole safetensors file"),
    ],
    ids=["tensors", "header", "key", "axes", "side", "depth", "list"],
)
def test_a_header_beyond_all_models_is_refused(tmp_path, header, words):
    refused(header_file(tmp_path / "x.safetensors", header), words)


def test_a_header_as_large_as_is_allowed_is_read(tmp_path):
    path = header_file(tmp_path / "x.safetensors", {f"k{i}": empty() for i in range(limits.MAX_TENSORS)})
    with open_tensors("Test", path, "x") as file:
        assert len(file.keys()) == limits.MAX_TENSORS


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"transformer": {"num_layers": 100000}}', r"num_layers must be .* to 512, got 100000"),
        ('{"transformer": {"dim": "a"}}', r"dim must be a whole number from 1 to 1048576, got 'a'"),
        ('{"transformer": {"dim": 1e400}}', r"dim must be a whole number from 1 to 1048576, got inf"),
        ('{"transformer": {"patch_size": 0}}', r"patch must be three whole numbers .* got 0"),
        ('{"transformer": {"patch_size": [1, 2]}}', r"patch must be three whole numbers .* got \(1, 2\)"),
        ('{"transformer": {"eps": "small"}}', r"eps must be a small number above 0, got 'small'"),
        ('{"transformer": [1]}', r"`config` of .* must be a JSON object with a `transformer`"),
        ("[" * 100000, r"`config` of .* must be a JSON object, got '\[\[\["),
        (" " * (limits.MAX_JSON_LETTERS + 1), r"`config` of .* must be a JSON object"),
    ],
    ids=["layers", "text", "infinite", "zero", "two", "eps", "list", "depth", "long"],
)
def test_metadata_that_no_model_has_is_refused(weights, tmp_path, config, words):
    path = tmp_path / "x.safetensors"
    save_file(weights, path, {"config": config})
    refused(path, words)


def test_layers_that_only_have_a_name_are_refused(weights, tmp_path):
    more = {f"blocks.{i}.x": torch.zeros(0) for i in range(20000)}
    save_file(weights | more, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", r"num_layers must be .* to 512, got 20000")


@pytest.mark.parametrize("shape", [(), (2,), (2, 0, 1, 2, 2), (256, 16, 1, 0, 2)], ids=str)
def test_shapes_that_no_size_can_be_read_from_are_refused(weights, tmp_path, shape):
    save_file(weights | {"patch_embedding.weight": torch.zeros(shape)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", r"patch_embedding.weight \[.* can be of no Wan 2.1 model")


def test_what_deflates_is_refused_before_it_does(tmp_path):
    path = zipped(
        tmp_path / "x.pt", b"\x80\x02}.", [("archive/data/0", bytes(1 << 24))], zipfile.ZIP_DEFLATED
    )
    refused(path, "holds compressed records, which torch.save never writes")


def test_records_that_share_their_bytes_are_refused(tmp_path):
    """Of two thousand entries of the list each leads to the same megabyte."""
    path = zipped(tmp_path / "x.pt", b"\x80\x02}.", [("archive/data/0", bytes(1 << 20))])
    with zipfile.ZipFile(path) as file:
        info = file.infolist()
    held = path.read_bytes()
    start, entry = (
        held.index(b"PK\x01\x02"),
        held.index(b"PK\x01\x02" + held[held.index(b"PK\x01\x02") + 4 :]),
    )
    assert start == entry and len(info) == 3
    last = held.rindex(b"PK\x01\x02")
    end = held.rindex(b"PK\x05\x06")
    lists = held[start:end] + held[last:end] * 2000
    tail = bytearray(held[end:])
    tail[8:16] = (2003).to_bytes(2, "little") * 2 + len(lists).to_bytes(4, "little")
    path.write_bytes(held[:start] + lists + tail)
    refused(path, "holds compressed records")


def test_a_list_of_records_longer_than_any_is_refused_unread(tmp_path):
    path = zipped(tmp_path / "x.pt", b"\x80\x02}.", [(f"archive/data/{i}", b"") for i in range(40000)])
    refused(path, "says that it holds 40,002 records, and at most 32,832 are read")


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (
            b"\x80\x02cbuiltins\nbytearray\nq\x00\x8a\x05\x00\x00\x00\x00\x10\x85R.",
            r"it asks for builtins.bytearray",
        ),
        (b"\x80\x02ctorch\nTensor\n\x8a\x05\x00\x00\x00\x00\x10\x85R.", r"it asks for torch.Tensor"),
        (b"\x80\x02" + b"]" * (limits.MAX_STEPS + 1) + b".", r"describes more than 1,000,000 values"),
        (b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00}.", r"is not a whole file of plain tensors"),
        (b"\x80\x02}X\xff\xff\xff\x7fabc", r"is not a whole file of plain tensors"),
        (b"", r"is not a whole file of plain tensors"),
    ],
    ids=["bytearray", "tensor", "steps", "protocol 4", "long text", "empty"],
)
def test_a_pickle_that_would_grow_is_refused(tmp_path, pickled, words):
    refused(zipped(tmp_path / "x.pt", pickled), words)
    (tmp_path / "old.pt").write_bytes(pickled)
    refused(tmp_path / "old.pt", words)


class Disguised(OrderedDict):
    """Pickled as an OrderedDict with an `items` and a `values` of its own."""

    def __reduce__(self):
        return OrderedDict, (), {"items": 3, "values": 4, "keys": 5}, None, iter(dict.items(self))


def test_a_dict_cannot_hide_what_it_holds(weights, tmp_path):
    torch.save({"generator": Disguised(weights)}, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt", caller="Test").load()
    torch.save({"generator": Disguised(a=cyclic())}, tmp_path / "y.pt")
    refused(tmp_path / "y.pt", "holds dicts more than 8 deep")


def test_a_tensor_brings_no_methods_of_its_own(weights, tmp_path):
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.to = 3
    torch.save({"generator": weights, "x": parameter}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "asks for torch._utils._rebuild_parameter_with_state")


def test_a_text_gets_no_more_room_than_there_are_bytes(tmp_path, monkeypatch):
    """A pickle may say that a text of two gigabytes comes; a file would make room for it at once."""
    asked = []

    class Watched(io.BytesIO):
        def read(self, size=-1, /):
            asked.append(size)
            return super().read(size)

    monkeypatch.setattr(limits.io, "BytesIO", Watched)
    (tmp_path / "x.pt").write_bytes(b"\x80\x02}X\xff\xff\xff\x7fabc")
    refused(tmp_path / "x.pt", "is not a whole file of plain tensors: expected 2147483647 bytes")
    assert max(asked) == 2**31 - 1  # of what is in memory already, which makes no room


def nested_dict(depth):
    value = {}
    for _ in range(depth):
        value = {"generator": value}
    return value


def cyclic():
    value = {}
    value["generator"] = value
    return value


def doubling():
    """2^30 values by reference to 30 dicts."""
    value = {}
    for _ in range(30):
        value = {"a": value, "generator": value}
    return value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (cyclic(), "holds dicts more than 8 deep, or one that holds itself"),
        (nested_dict(20000), "holds dicts more than 8 deep, or one that holds itself"),
        (doubling(), "holds dicts more than 8 deep"),
        ({1: torch.zeros(2)}, r"1 in .* are no tensors by name"),
        ({"a": torch.zeros(2).to_sparse()}, r"holds a tensor that is no plain block of numbers"),
        ({"a": torch.zeros(2, device="meta")}, r"holds a tensor that is no plain block of numbers"),
        ({"a" * 2000: torch.zeros(2)}, r"a{80}\.\.\. in .* are no tensors by name"),
    ],
    ids=["cycle", "deep", "doubling", "number", "sparse", "meta", "key"],
)
def test_dicts_without_an_end_are_refused(tmp_path, content, words):
    path = tmp_path / "x.pt"
    try:
        torch.save(content, path)
    except RecursionError:
        pickled = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 20000 + b"}" + b"s" * 20000 + b"."
        zipped(path, pickled)
    refused(path, words)
    with pytest.raises(ValueError, match="Test: "):
        read_tensors("Test", path, "weights")
    refused(path, "Test: ", lambda path: read_lora("Test", path))


def test_views_that_repeat_a_few_numbers_are_not_copied(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FEW_BYTES", 0)
    path = tmp_path / "x.pt"
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in weights.items()}, path)
    found = open_checkpoint(path, caller="Test")
    with pytest.raises(
        ValueError, match=r"x.pt has [0-9,]+ bytes, and its tensors would have [0-9,]+: most of"
    ):
        found.load()
    torch.save(weights, path)
    open_checkpoint(path, caller="Test").load()


def test_a_training_that_was_saved_whole_is_read(weights, tmp_path):
    """What else trainers leave in a file: counts by number, moments of an optimizer, names of types."""
    moments = {i: {"exp_avg": value, "step": torch.tensor(3.0)} for i, value in enumerate(weights.values())}
    content = {
        "generator": OrderedDict(weights),
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.99)}]},
        "step": 3,
        "dtype": torch.bfloat16,
        "bfloat16": torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)),
    }
    for new in (True, False):
        if new:  # what torch wrote before 1.6 had no name for it
            content["float8"] = torch.zeros(2).to(torch.float8_e4m3fn)
        else:
            del content["float8"]
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        assert open_checkpoint(tmp_path / "x.pt", caller="Test").nest == ("generator",)


def test_torchs_advice_is_not_passed_on(tmp_path):
    """An unknown step of a pickle has torch say that a file should be trusted."""
    path = tmp_path / "x.pt"
    zipped(path, pickle.dumps({"a": 1}, protocol=4))
    refused(
        path, "not a whole file of plain tensors: there is more in it, or less. Copy or download it again"
    )
    with pytest.raises(ValueError, match="Test: "):
        unpickle("Test", path, "weights")


@pytest.mark.parametrize(
    "alpha",
    [torch.tensor([1.0, 2.0]), torch.tensor(float("nan")), torch.tensor(0.0), torch.tensor(1j)],
    ids=str,
)
def test_an_alpha_that_is_no_number_is_refused(alpha):
    tensors = lora_of(WanModel(SMALL), 2)
    layer = next(iter(tensors)).removesuffix(".lora_A.weight")
    with pytest.raises(ValueError, match=r"alpha is one number above 0, and that of blocks"):
        lora_from("Test", tensors | {f"{layer}.alpha": alpha})


@pytest.mark.parametrize(
    ("alpha", "words"), [("0", "alpha is 0"), ('"a"', "could not convert"), ("[]", "of another kind")]
)
def test_an_alpha_in_the_metadata_is_a_number_above_0(tmp_path, alpha, words):
    path = tmp_path / "x.safetensors"
    save_file(lora_of(WanModel(SMALL), 2), path, {"lora_adapter_metadata": f'{{"lora_alpha": {alpha}}}'})
    refused(
        path, rf"`lora_adapter_metadata` .* cannot be used .*{words}", lambda path: read_lora("Test", path)
    )


@pytest.mark.parametrize(
    "change",
    [{"size": "a"}, {"size": 63}, {"fps": 0}, {"fps": "24"}, {"preset": "none"}, {"preset": 3},
     {"timesteps": []}, {"timesteps": 3}, {"timesteps": ["a"]}, {"shift": 0}, {"shift": None},
     {"cfg": "1"}, {"block_frames": 0}, {"trained": 1}, {"fresh_noise": 2}, {"unknown": 1},
     {"block_frames": 10**9}],
    ids=str,
)  # fmt: skip
def test_a_recipe_that_no_stream_can_be_run_by_is_refused(tmp_path, change):
    checkpoint = open_checkpoint(models.WEIGHTS / models.DIT_FILE, caller="Test")
    recipe = json.loads(checkpoint.metadata["recipe"])
    path = tmp_path / "pocket.safetensors"
    with pytest.raises(
        ValueError, match=r"Test: the metadata entry `recipe` of .*pocket.safetensors cannot be used"
    ):
        models.recipe_of("Test", path, {"recipe": json.dumps(recipe | change)})
    assert models.recipe_of("Test", path, {"recipe": json.dumps(recipe)}) == models.recipe_in(
        "Test", checkpoint
    )


def test_a_list_of_keys_is_short_and_can_be_printed():
    assert first_few(["a" * 100]) == "a" * 80 + "..."
    assert first_few(["a\nb", "\ud800"]) == r"'a\nb', '\ud800'"
