"""A training goes on as it was begun, or says why not."""

import json

import pytest
import torch
from rivulet.pocket import held_out
from rivulet.pocket.train_pocket import main, whole_file
from rivulet.pocket.train_pocket.record import RECORD_FILE, PhaseRecord, begin_or_go_on


def test_a_training_goes_on_with_what_it_was_begun_with(tmp_path):
    begin_or_go_on(tmp_path, {"steps": 5})
    (tmp_path / "dit.pt").touch()
    begin_or_go_on(tmp_path, {"steps": 5})
    with pytest.raises(ValueError, match="begun with steps 5, and now it is 6"):
        begin_or_go_on(tmp_path, {"steps": 6})


def test_a_training_without_other_combinations_is_not_gone_on_with(tmp_path, monkeypatch, capsys):
    begin_or_go_on(tmp_path, {})
    monkeypatch.setattr(held_out, "fingerprint", lambda: "another")
    assert main(["--run", str(tmp_path)]) == 2
    assert "the list is now another" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_FILE]


def test_a_training_from_before_combinations_were_held_out_is_not_gone_on_with(tmp_path, capsys):
    torch.save({}, tmp_path / "dit.pt")
    assert main(["--run", str(tmp_path)]) == 2
    assert "begun before combinations" in capsys.readouterr().err


@pytest.mark.parametrize("entry", [3, None, {"lengths": 3}, {"lengths": [[0]]}])
def test_an_edited_record_is_named(entry, tmp_path):
    begin_or_go_on(tmp_path, {})
    (tmp_path / "dit.pt").touch()
    record = tmp_path / RECORD_FILE
    record.write_text(json.dumps(json.loads(record.read_text()) | {"dit": entry}))
    with pytest.raises(ValueError, match=r"record\.json is no record of a training"):
        PhaseRecord({"rate": 1.0}, {"steps": 5}).begin_or_go_on(tmp_path, "dit", 4, writes=True)


def test_a_record_that_was_stopped_in_the_midst_of_writing_is_the_one_before(tmp_path, monkeypatch):
    begin_or_go_on(tmp_path, {"steps": 5})
    before = (tmp_path / RECORD_FILE).read_bytes()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_file.os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        begin_or_go_on(tmp_path, {"more": 6})
    assert (tmp_path / RECORD_FILE).read_bytes() == before
    monkeypatch.undo()
    begin_or_go_on(tmp_path, {"steps": 5})
