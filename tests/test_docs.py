"""The pages for readers: links that lead somewhere, and a README that is read to its end."""

import re
from pathlib import Path

import pytest

README_WORDS = 900
MAPS = ("README.md", "SECURITY.md", "docs/architecture.md")  # whose paths are held to the repository
SOURCES = ("nodes", "model_patches", "kernels", "web", "pocket", "tests", "docs")
PATH = re.compile(r"[\w./-]+(?:/|\.(?:py|mjs|js|md|json|css|html|toml|txt))")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\]\(([^()\s]+)\)|src="([^"]+)"')


def pages(root: Path) -> list[Path]:
    """Returns the pages at the top, in docs/ and beside the widgets."""
    below = (root / folder for folder in ("docs", "web"))
    return [*sorted(root.glob("*.md")), *(page for folder in below for page in sorted(folder.rglob("*.md")))]


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = (f"{name}-{count}" for count in range(1, 100))
        found.add(name if name not in found else next(one for one in again if one not in found))
    return found


def broken(page: Path) -> list[str]:
    """Returns the relative links of a page that lead nowhere."""
    found = []
    for groups in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        target = "".join(groups)
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        if not there.exists():
            found.append(f"{page.name}: {target} is not there")
        elif anchor and anchor not in anchors(there.read_text(encoding="utf-8")):
            found.append(f"{page.name}: {target} has no such heading")
    return found


def missing(root: Path, text: str) -> list[str]:
    """Returns the paths in backticks that are none: from the root, or as a bare name anywhere below it."""
    named = [name for name in re.findall(r"`([^`\n]+)`", text) if PATH.fullmatch(name)]
    names = {path.name for folder in SOURCES for path in (root / folder).rglob("*")}
    return [name for name in named if not (root / name).exists() and name not in names]


def test_every_relative_link_leads_somewhere(root):
    assert len(pages(root)) > 20
    assert [line for page in pages(root) for line in broken(page)] == []


@pytest.mark.parametrize("name", MAPS)
def test_every_path_that_is_named_exists(root, name):
    assert missing(root, (root / name).read_text(encoding="utf-8")) == []


def test_paths_that_are_none_are_found(root):
    text = "`nodes/stream.py` `stream.py` `web/` `nodes/gone.py` `gone.mjs` `gone/` `python gone.py` `rope`"
    assert missing(root, text) == ["nodes/gone.py", "gone.mjs", "gone/"]


def test_the_readme_is_short(root):
    assert len((root / "README.md").read_text(encoding="utf-8").split()) <= README_WORDS


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "there.md").write_text("# One `word`\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    good = "[a](there.md) [b](there.md#one-word) [c](there.md#twice-1) [d](https://a.b/c) `[e](no.md)`"
    bad = "[f](no.md) [g](there.md#no-heading) [h](#here) ![i](no.png) <img src='' src=\"no.webp\">"
    page.write_text(good)
    assert broken(page) == []
    page.write_text(f"{good}\n{bad}\n")
    assert [line.split(" ")[1] for line in broken(page)] == [
        "no.md",
        "there.md#no-heading",
        "#here",
        "no.png",
        "no.webp",
    ]
