"""What cannot be compared is said before anything is run."""

import pytest
from rivulet.tests.bench import run

NOWHERE = {
    (): "give --peers FOLDER",
    ("--recipe", "videomla"): "no released code known for videomla; there is for causal_forcing, ",
    ("--peers", "{empty}", "--recipe", "krea_realtime"): "has no checkout named krea; see docs",
}


@pytest.mark.parametrize("options", NOWHERE)
def test_without_the_released_code_it_says_what_is_missing(monkeypatch, capsys, tmp_path, options):
    monkeypatch.delenv("RIVULET_PEERS", raising=False)
    assert run.main(["families", *(option.format(empty=tmp_path) for option in options)]) == 2
    said = capsys.readouterr()
    assert NOWHERE[options] in said.err and '"family"' not in said.out
