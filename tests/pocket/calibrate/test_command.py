"""`run.py calibrate`: any Wan-named file and encoded prompts become a basis that fits that file."""

import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.fingerprint import sketch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.cache.basis_file import check_model, load_basis
from rivulet.model_patches.cache.calibration.calibrate import split
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.pocket import held_out, world
from rivulet.pocket.calibrate import main, parser
from rivulet.pocket.calibrate.subjects import pocket_subject
from rivulet.pocket.choices import remembering
from rivulet.pocket.defaults import DEFAULT
from rivulet.pocket.models import DIT_FILE, WEIGHTS, load_pocket
from safetensors import safe_open
from safetensors.torch import save_file

SIZES = WanConfig(dim=64, ffn_dim=128, num_layers=2, num_heads=2, text_dim=8)
CPU = torch.device("cpu")
SHIPPED = WEIGHTS / "pocket_basis.safetensors"


@pytest.fixture
def files(tmp_path):
    """Returns a checkpoint with its sizes in the metadata, and six encoded prompts with the negative one."""
    torch.manual_seed(4)
    config = json.dumps({"transformer": {"num_heads": SIZES.num_heads}})
    tensors = {name: value.contiguous() for name, value in WanModel(SIZES).state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", {"config": config})
    prompts = ["", *(f"prompt {i}" for i in range(6))]
    save_file({prompt: torch.randn(5, 8) for prompt in prompts}, tmp_path / "texts.safetensors")
    return tmp_path


def run(files, *more, model="model.safetensors"):
    given = ["--model", files / model, "--texts", files / "texts.safetensors", "--size", "32x32"]
    given += [
        "--preset",
        "pocket",
        "--blocks",
        "7",
        "--device",
        "cpu",
        "--out",
        files / "new" / "b.safetensors",
    ]
    return main([str(word) for word in (*given, *more)])


def rows_of(printed):
    return [json.loads(line) for line in printed.splitlines()]


def test_a_checkpoint_and_texts_become_a_basis_of_that_checkpoint(files, capsys):
    assert run(files, "--bytes", "40") == 0
    rows = rows_of(capsys.readouterr().out)
    told = rows[-1]
    assert told["calibrate"] == "basis" and told["bytes_per_token_layer"] <= 40
    # five of six are learned from: one of four is held out; 7 blocks of 3 frames of 2 x 2 tokens
    assert (told["prompts"], told["tokens"]) == (6, 5 * 7 * 12)
    curve = [row for row in rows if row["calibrate"] == "allocated"]
    sizes = [row["bytes_per_token_layer"] for row in curve]
    assert sizes == sorted(sizes, reverse=True) and len(curve) > 3
    assert [row["attention_error_share"] for row in curve] == sorted(
        row["attention_error_share"] for row in curve
    )
    basis = load_basis(files / "new" / "b.safetensors")
    model = open_checkpoint(files / "model.safetensors").load()
    assert check_model(basis, sketch(model, 64, torch.float32, CPU), 64) == ""
    about = basis.provenance
    assert about["checkpoint"] == "model.safetensors" and about["held_out_prompts"] == ["prompt 3"]
    assert (
        about["error"]
        == told["attention_error_share"]
        == pytest.approx((sum(e * e for e in about["layer_errors"]) / 2) ** 0.5, rel=1e-3)
    )
    assert basis.provenance["token_bytes"] == told["bytes_per_token_layer"]


def test_it_is_written_anew_bit_for_bit(files):
    """All but the order of the metadata's two entries, and so the checksum."""
    written, path = [], files / "new" / "b.safetensors"
    for _ in range(2):
        assert run(files, "--no-rows") == 0
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
            written.append((file.metadata()["rivulet"], tensors))
    assert written[0] == written[1]


def test_an_error_and_chosen_prompts_and_guidance(files, capsys):
    (files / "prompts.txt").write_text("prompt 1\n\nprompt 2\nprompt 2\nprompt 5\n")
    assert run(files, "--error", "0.05", "--prompts", files / "prompts.txt", "--cfg", "2", "--no-rows") == 0
    told = rows_of(capsys.readouterr().out)[-1]
    basis = load_basis(files / "new" / "b.safetensors")
    assert basis.provenance["prompts"] == ["prompt 1", "prompt 2"]
    # the negative's tokens are kept as well
    assert told["tokens"] == 2 * 7 * 12 * 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--bytes", "3"], "3 bytes per token and layer were asked for, and the smallest basis"),
        (["--error", "1e-9"], "no basis of this model gets below"),
        (["--bytes", "-3"], "above 0"),
        (["--size", "wide"], "--size must be WIDTHxHEIGHT in pixels"),
        (["--prompts", "absent.txt"], "no file at absent.txt; --prompts takes a text file"),
        (["--blocks", "1"], "a stream of 1 blocks looks back on nothing"),
        (["--model", "absent.safetensors"], "no file at absent.safetensors"),
        (["--texts", "absent.safetensors"], "no file at absent.safetensors"),
        (["--out", "/dev/null/b.safetensors"], "/dev/null"),
        (["--out", "basis.pt"], "--out must be a file that ends in .safetensors, got basis.pt"),
    ],
)
def test_what_cannot_work_is_said_and_nothing_is_written(files, capsys, more, words):
    assert run(files, *more) == 2
    assert words in capsys.readouterr().err
    assert not (files / "new" / "b.safetensors").exists()


def test_a_model_without_texts_is_refused(files, capsys):
    assert main(["--model", str(files / "model.safetensors"), "--out", str(files / "b.safetensors")]) == 2
    assert "--model needs --texts" in capsys.readouterr().err


def test_prompts_that_are_not_encoded_are_named(files, capsys):
    (files / "prompts.txt").write_text("prompt 1\nanother\n")
    assert run(files, "--prompts", files / "prompts.txt") == 2
    assert "does not hold, the first is 'another'" in capsys.readouterr().err


def test_bytes_and_error_exclude_each_other():
    with pytest.raises(SystemExit):
        parser().parse_args(["--bytes", "100", "--error", "0.1"])


def test_the_built_in_model_is_the_default():
    subject = pocket_subject(parser().parse_args(["--memory", "off"]), CPU)
    (plain,) = subject.models
    assert subject.name == DIT_FILE and len(subject.texts) == 12 and plain.dit.dim == load_pocket().dit.dim
    assert (subject.negative is not None) == plain.config.guided
    assert replace(plain.config, seed=0) == load_pocket().config()
    assert {subject.of(index) for index in range(12)} == {plain}


def test_half_of_the_streams_are_made_with_the_default_memory():
    subject = pocket_subject(parser().parse_args([]), CPU)
    plain, changed = subject.models
    assert (plain.memory.name, changed.memory.name) == ("off", DEFAULT.memory)
    assert changed.config.positions.memory_frames and not plain.config.positions.memory_frames
    assert len(subject.texts) == 24
    learned, held_out = split(range(24))
    for kind in (learned, held_out):  # both kinds of stream are learned from, and both tell the error
        assert sum(subject.of(index) is plain for index in kind) == len(kind) / 2


def test_the_built_in_model_is_calibrated_on_nothing_that_is_held_out():
    orders = ((objects[::order], ground) for objects, ground in held_out.unseen() for order in (1, -1))
    unseen = {world.prompt(list(objects), ground) for objects, ground in orders}
    assert len(unseen) == 9 + 2 * 54
    assert not unseen & set(pocket_subject(parser().parse_args([]), CPU).texts)


def test_the_shipped_basis_is_of_the_shipped_model():
    if not SHIPPED.exists():
        made_by = f"python run.py calibrate --out pocket/weights/{SHIPPED.name}"
        pytest.skip(f"no {SHIPPED.name}; `{made_by}` makes it")
    pocket = load_pocket()
    for dit in (
        pocket.dit,
        remembering(pocket, DEFAULT.memory)[0].dit,
    ):  # as it is, and as the default runs it
        assert check_model(load_basis(SHIPPED), sketch(dit, dit.dim, torch.float32, CPU), dit.dim) == ""
