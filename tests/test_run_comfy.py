"""`run.py comfy` finds a ComfyUI and its Python, links the pack and hands over; nothing here starts one."""

import importlib.util
import os
import subprocess
import sys

import pytest


@pytest.fixture
def run(root):
    spec = importlib.util.spec_from_file_location("rivulet_run", root / "run.py")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    sys.modules["rivulet_run"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["rivulet_run"]


@pytest.fixture
def host(tmp_path):
    """Returns a folder that looks like ComfyUI, with an interpreter of its own."""
    folder = tmp_path / "ComfyUI"
    for name in ("main.py", "comfy/model_patcher.py", "comfy_api/v0_0_2/__init__.py", "venv/bin/python"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "venv/bin/python").chmod(0o755)
    return folder


@pytest.fixture
def started(run, monkeypatch):
    """Returns what was handed over and what pip was asked for; every interpreter has a torch."""
    commands, installed = [], []

    def ask(command, **_):
        return subprocess.CompletedProcess(command, 0, stdout=ask.lacking)

    ask.lacking = ""
    monkeypatch.setattr(run.subprocess, "run", ask)
    monkeypatch.setattr(run, "torch_of", lambda python: ("2.13.0", "there"))
    monkeypatch.setattr(run, "hand_over", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(run, "pip_install", lambda python, wanted: installed.append((str(python), wanted)))
    monkeypatch.setattr(run.os, "chdir", lambda folder: None)
    return commands, installed, ask


def test_the_pack_is_linked_and_comfyui_started_with_its_own_python(run, host, started, root, capsys):
    more = ["--disable-api-nodes"]
    assert run.main(["comfy", "--comfyui", str(host), "--port", "8200", "--cpu", *more]) == 0
    python, link = str(host / "venv/bin/python"), host / "custom_nodes" / "rivulet"
    assert started[0] == [[python, str(host / "main.py"), "--port", "8200", "--cpu", *more]]
    assert link.is_symlink() and link.resolve() == root
    said = capsys.readouterr().err
    assert f"linked {link} to {root}" in said and "http://127.0.0.1:8200" in said
    assert run.main(["comfy", "--comfyui", str(host)]) == 0
    assert "the pack is in" in capsys.readouterr().err


def test_another_base_keeps_comfyui_as_it_is(run, host, started, tmp_path):
    base = tmp_path / "base"
    run.main(["comfy", "--comfyui", str(host), "--base", str(base)])
    assert started[0][0][-2:] == ["--base-directory", str(base)]
    assert (base / "custom_nodes" / "rivulet").is_symlink() and not (host / "custom_nodes").exists()


def test_what_the_pack_needs_is_installed_into_comfyuis_python(run, host, started):
    started[2].lacking = "imageio-ffmpeg\n"
    run.main(["comfy", "--comfyui", str(host)])
    assert started[1] == [(str(host / "venv/bin/python"), ["imageio-ffmpeg"])]


def test_a_pack_that_lies_in_custom_nodes_is_not_linked_again(run, tmp_path):
    packs = tmp_path / "custom_nodes"
    (packs / "my-rivulet").mkdir(parents=True)
    assert run.link_pack(packs, packs / "my-rivulet") == packs / "my-rivulet"
    assert os.listdir(packs) == ["my-rivulet"]


@pytest.mark.parametrize("kind", ["folder", "broken link"])
def test_what_lies_in_the_links_place_is_not_touched(run, host, started, kind):
    place = host / "custom_nodes" / "rivulet"
    place.parent.mkdir()
    place.mkdir() if kind == "folder" else place.symlink_to(host / "gone")
    with pytest.raises(run.StopError, match="is there and is not this pack; move it away"):
        run.main(["comfy", "--comfyui", str(host)])
    assert not started[0]


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ("main.py", "is not ComfyUI: it has no main.py; give --comfyui its own folder"),
        ("comfy/model_patcher.py", "is not ComfyUI: it has no comfy/model_patcher.py"),
        ("comfy_api/v0_0_2", "update it to 0.21 or newer"),
    ],
)
def test_what_is_not_comfyui_is_refused_in_a_sentence(run, host, started, absent, words):
    (host / absent).rename(host / "elsewhere")
    with pytest.raises(run.StopError, match=words):
        run.main(["comfy", "--comfyui", str(host)])
    assert not started[0] and not (host / "custom_nodes").exists()


def test_a_comfyui_without_a_usable_python_is_told_which_were_looked_at(run, host, monkeypatch):
    monkeypatch.setattr(run, "torch_of", lambda python: None)
    with pytest.raises(run.StopError, match=r"looked at .*venv.bin.python, .*; give --python"):
        run.comfyui_python(host, None)
    with pytest.raises(run.StopError, match="looked at /no/python;"):
        run.comfyui_python(host, "/no/python")


def test_lacking_packages_are_named(run):
    names = ["pytest", "no-such-package-here"]
    done = subprocess.run([sys.executable, "-c", run.LACKING, *names], capture_output=True, text=True)
    assert done.stdout.split() == ["no-such-package-here"]


@pytest.fixture
def asked(run, monkeypatch):
    """Returns what the check in ComfyUI is asked for, and its answer."""
    said = []

    class Module:
        class FailedError(Exception):
            pass

        @staticmethod
        def check_in_comfyui(start, folder, how, target):
            said.append((start, folder, how, target))
            if Module.fault:
                raise Module.FailedError(Module.fault)
            return 1

        fault = ""

    monkeypatch.setattr(run, "load_pack", lambda: None)
    monkeypatch.setattr(run.importlib, "import_module", lambda name: Module)
    return said, Module


def test_a_check_inside_comfyui_starts_it_with_this_pack_alone(run, host, started, asked, tmp_path, root):
    more = ["--cpu", "--use-split-cross-attention"]
    assert run.main(["check", "--quick", f"--comfyui={host}", *more]) == 1
    ((start, folder, how, target),) = asked[0]
    assert (folder, how, target) == (host, "quick", None) and not (host / "custom_nodes").exists()
    base = tmp_path / "base"
    command = start(base, 8190)
    assert command[:2] == [str(host / "venv/bin/python"), str(host / "main.py")]
    assert command[2:6] == ["--base-directory", str(base), "--port", "8190"] and command[-2:] == more
    assert (base / "custom_nodes" / "rivulet").resolve() == root


def test_a_comfyui_that_fails_in_the_check_is_said(run, host, started, asked):
    asked[1].fault = "ComfyUI did not come up. Its last lines:\nno"
    with pytest.raises(run.StopError, match="did not come up"):
        run.main(["check", "--comfyui", str(host)])
