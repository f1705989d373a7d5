"""No name and no path is left in a report, whatever an exception said."""

import json
from pathlib import Path

import pytest
from rivulet.model_patches.check import privacy
from rivulet.model_patches.check.finding import Finding
from rivulet.model_patches.check.privacy import clean, clean_text
from rivulet.model_patches.check.report_file import to_json
from rivulet.model_patches.check.suite import Report

USER, HOST = "maria.lopez", "kitchen-pc"


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setenv("USER", USER)
    monkeypatch.setattr(privacy.socket, "gethostname", lambda: f"{HOST}.home")
    monkeypatch.setattr(privacy.Path, "home", lambda: Path("/users/Maria Lopez"))
    for names in (privacy._users, privacy._hosts, privacy._folders):
        names.cache_clear()
    yield
    for names in (privacy._users, privacy._hosts, privacy._folders):
        names.cache_clear()


SAID = [
    ("no file /data/maria.lopez/models/x.safetensors", "no file <path>"),
    ("cannot open '/mnt/my disk/take 1.mp4': denied", "cannot open '<path>': denied"),
    ("FileNotFoundError: C:\\Users\\maria.lopez\\ComfyUI\\main.py", "FileNotFoundError: <path>"),
    ('in "D:/AI stuff/ComfyUI/x.py", line 3', 'in "<path>", line 3'),
    ("\\\\nas\\maria\\x.bin is gone", "<path>"),
    ("/Users/John Smith/Comfy UI/x.py was not found", "<path> was not found"),
    ("in /users/Maria Lopez/a b/c.py", "in <path>"),
    ("file:///srv/x/y.so failed", "<path> failed"),
    ("see ~/ComfyUI/output", "see <path>"),
    ("Lopez logged in on KITCHEN-PC", "<user> logged in on <host>"),
    ("mail maria@example.org", "mail <user>"),
]


@pytest.mark.parametrize(("text", "left"), SAID)
def test_names_and_paths_are_taken_out(text, left):
    assert clean_text(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "800 GB/s and 100 TFLOP/s, 3/4 of it",
        "attention_flash, int8/int4, cuda:1: 0.5 ms",
        "NVIDIA GeForce RTX 4090, driver 560.35.03, 832x480",
        "torch 2.13.0+cu130",
    ],
)
def test_figures_and_units_stay(text):
    assert clean_text(text) == text


def test_all_texts_of_lists_and_dicts_are_cleaned_and_numbers_stay():
    value = {"a": ["/srv/secret/x", 3, None], "b": {"c": USER}}
    assert clean(value) == {"a": ["<path>", 3, None], "b": {"c": "<user>"}}


def test_json_has_no_number_that_json_does_not_know():
    finding = Finding("x", "broken", "said", figures={"error": float("nan"), "most": float("inf")})
    written = json.dumps(to_json(Report({}, (finding,), 1.0)), allow_nan=False)
    assert '"nan"' in written and '"inf"' in written
