"""What the registry gets: pyproject.toml, the archive, the pictures, and when it may be published."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from rivulet.tests.bench.registry import banner, icon
from rivulet.tests.test_docs import CODE, LINK

VERSION = r"(?:[<>=!~]=|<|>)?\d+\.\d+\.\d+"  # as comfy-cli reads one; what it cannot read it leaves out
LEFT_OUT = {"run.py", "tests", ".ci", ".github"}


@pytest.fixture
def project(root) -> str:
    return (root / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture
def publishable(root):
    spec = importlib.util.spec_from_file_location("rivulet_publishable", root / ".github" / "publishable.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reasons


def listed(root: Path, *options: str) -> set[str]:
    if not shutil.which("git") or not (root / ".git").exists():
        pytest.skip("needs a git checkout")
    done = subprocess.run(
        ["git", "ls-files", "-z", *options], cwd=root, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("\0")) - {""}


def archive(root: Path) -> set[str]:
    """Returns the files that comfy-cli packs: those git knows, without those .comfyignore names."""
    return listed(root) - listed(root, "-ci", "-X", ".comfyignore")


def addresses(project: str) -> dict[str, str]:
    """Returns every address in the project file by its key."""
    return dict(re.findall(r'^"?([\w ]+?)"? = "(https?://[^"]+)"$', project, re.MULTILINE))


def test_addresses_lead_to_files_of_one_repository(root, project):
    found = addresses(project)
    assert set(found) == {"Repository", "Documentation", "Bug Tracker", "Changelog", "Icon", "Banner"}
    home = found.pop("Repository")
    assert all(address.startswith(f"{home}/") for address in found.values())
    paths = {
        key: re.sub(r"^/(blob|raw)/main/", "", address.removeprefix(home)) for key, address in found.items()
    }
    assert paths.pop("Bug Tracker") == "/issues"
    assert [path for path in paths.values() if not (root / path).is_file()] == []


def test_the_registry_can_read_name_version_and_oldest_comfyui(project):
    name, version = (re.search(rf'^{key} = "(.+)"$', project, re.M)[1] for key in ("name", "version"))
    assert re.fullmatch(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*", name) and "comfy" not in name
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert re.fullmatch(VERSION, re.search(r'^requires-comfyui = "(.+)"$', project, re.M)[1])


def test_oldest_versions_are_said_alike_everywhere(root, project):
    needs = (root / "nodes" / "host" / "needs.py").read_text(encoding="utf-8")
    oldest = re.search(r'^OLDEST = "(.+)"', needs, re.M)[1]
    assert re.search(r'^requires-comfyui = ">=(.+)"$', project, re.M)[1] == f"{oldest}.0"
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert f"ComfyUI {oldest} or newer" in readme
    assert f"ComfyUI {oldest} or newer" in (root / "__init__.py").read_text(encoding="utf-8")
    tested = re.search(r'^TESTED = "(.+)"', needs, re.M)[1]
    assert tested in readme


def test_no_system_or_card_is_claimed_that_was_not_tried(root, project):
    claimed = set(re.findall(r'"((?:Operating System|Environment) :: .+)"', project))
    status = " ".join((root / "docs" / "status.md").read_text(encoding="utf-8").split())
    assert "Nothing has run on a GPU" in status and "nobody has run them" in status
    assert claimed == {"Operating System :: POSIX :: Linux"}


def test_requirements_are_the_dependencies(root, project):
    wanted = (root / "requirements.txt").read_text(encoding="utf-8").split()
    assert re.findall(r'"(.+?)"', re.search(r"^dependencies = \[(.*)\]$", project, re.M)[1]) == wanted


def test_the_archive_has_the_pack_and_no_checks(root):
    packed = archive(root)
    tops = {name.partition("/")[0] for name in packed}
    assert not tops & LEFT_OUT
    assert {
        "__init__.py",
        "pyproject.toml",
        "requirements.txt",
        "README.md",
        "LICENSE",
        "web",
        "locales",
    } <= tops
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert "The registry's copy has nodes, templates and docs, not `run.py`" in " ".join(readme.split())


def test_no_module_of_the_archive_imports_what_is_not_in_it(root):
    packed = {name for name in archive(root) if name.endswith(".py")}
    outside = re.compile(r"^\s*(?:from|import) (?:\.+|rivulet\.)tests\b", re.MULTILINE)
    assert len(packed) > 200
    assert [name for name in packed if outside.search((root / name).read_text(encoding="utf-8"))] == []


def test_the_archives_readme_leads_to_files_of_the_archive(root):
    packed = archive(root)
    text = CODE.sub("", (root / "README.md").read_text(encoding="utf-8"))
    targets = {"".join(groups).partition("#")[0] for groups in LINK.findall(text)} - {""}
    assert {each for each in targets if "://" not in each} - packed == set()


@pytest.mark.parametrize("draw", [icon, banner])
def test_the_pictures_are_what_the_command_draws(root, draw):
    kept = Image.open(root / "docs" / f"{draw.__name__}.png").convert("RGB")
    drawn = draw()
    assert kept.size == drawn.size
    # another Pillow smooths edges a little differently
    different = ImageChops.difference(kept, drawn).convert("L").point(lambda value: 255 * (value > 32))
    assert sum(different.histogram()[255:]) < 0.01 * kept.width * kept.height


def test_icon_and_banner_have_the_registrys_shapes():
    assert icon().size == (400, 400)
    assert banner().width * 9 == banner().height * 21


def test_it_is_not_published_before_addresses_and_changelog_are_filled_in(root, publishable):
    assert [why.partition(":")[0].split(" ")[0] for why in publishable(root)] == [
        "pyproject.toml",
        "CHANGELOG.md",
    ]


def test_a_filled_in_checkout_can_be_published(tmp_path, project, publishable):
    version = re.search(r'^version = "(.+)"$', project, re.M)[1]
    filled = project.replace("fill-in.invalid", "example.org").replace('"fill-in"', '"someone"')
    (tmp_path / "pyproject.toml").write_text(filled)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {version}\n")
    assert publishable(tmp_path) == []
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.0.9\n")
    assert publishable(tmp_path) == [
        f"CHANGELOG.md begins with Unreleased, the version is {version}; make the two the same."
    ]
    (tmp_path / "pyproject.toml").write_text(filled.replace(f'"{version}"', '"1"'))
    assert publishable(tmp_path) == ["pyproject.toml has no version of three numbers."]


def test_released_versions_are_below_the_one_that_comes(root, project):
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    version = re.search(r'^version = "(.+)"$', project, re.M)[1]
    numbers = [tuple(map(int, name.split("."))) for name in headings if name != "Unreleased"]
    here = tuple(map(int, version.split(".")))
    assert headings[0] in ("Unreleased", version) and "Unreleased" not in headings[1:]
    assert numbers == sorted(set(numbers), reverse=True)
    assert all(each < here for each in (numbers if headings[0] == "Unreleased" else numbers[1:]))


@pytest.mark.parametrize("name", ["tests", "publish"])
def test_the_workflows_run_commands_that_exist(root, name):
    text = (root / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    named = re.findall(r"(?:python3?|-r) ((?!ComfyUI/)[\w./-]+\.(?:py|txt))", text)
    assert named
    assert [each for each in named if not (root / each.removeprefix("rivulet/")).is_file()] == []
    if name == "publish":
        assert text.index("publishable.py") < text.index("publish-node-action")
        assert "${{ secrets.REGISTRY_ACCESS_TOKEN }}" in text
    else:
        assert all(f"{system}-latest" in text for system in ("ubuntu", "windows", "macos"))
