"""A training goes on as it was begun, or says why not."""

import pytest
import torch
from rivulet.pocket import held_out
from rivulet.pocket.train_pocket import main
from rivulet.pocket.train_pocket.record import RECORD_FILE, begin_or_go_on


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
