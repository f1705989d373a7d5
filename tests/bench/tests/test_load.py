"""A load that holds the weights twice is seen."""

import io
import json

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.tests.bench import load, load_once
from rivulet.tests.bench.records import Rows

GB = 10**9


@pytest.mark.parametrize(
    ("peak", "after", "once"), [(5.9, 5.7, True), (11.4, 5.7, False), (5.9, 11.4, False)]
)
def test_a_second_copy_is_told_even_if_it_goes_again(tmp_path, peak, after, once):
    (tmp_path / "model.pt").write_bytes(b"12")
    rows = Rows("load", True, io.StringIO())
    figures = {"seconds": 1.0, "weights_bytes": 5.68 * GB, "peak_bytes": peak * GB, "after_bytes": after * GB}
    assert load.judged(rows, "pt", "ours", tmp_path / "model.pt", figures) is once
    row = json.loads(rows.out.getvalue())
    assert row["is_held_once"] is once and row["file_bytes"] == 2


def test_its_files_are_read_whole(tmp_path):
    for case, path in load.files(tmp_path, WanConfig(256, 8, 1, text_dim=8)):
        found = open_checkpoint(path)
        assert found.tensors["head.head.weight"].dtype == (torch.bfloat16 if "bf" in case else torch.float32)
        assert (found.structure.kind == "video_mla") is ("videomla" in case)


def test_memory_that_is_given_back_is_in_the_peak():
    before = load_once.own_bytes()
    with load_once.Watch() as watch:
        spent = torch.ones(50_000_000)
        spent.mul_(2)
        del spent
    assert watch.peak - before > 190_000_000
