"""Prints why this checkout cannot be published to the registry yet, and exits with 1; with 0 when it can."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PLACEHOLDER = "fill-in"
SEMANTIC = re.compile(r"\d+\.\d+\.\d+")


def reasons(root: Path) -> list[str]:
    """Returns a sentence for each thing that is still to be done; raises OSError where a file is missing."""
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    found = []
    settings = [line for line in project.splitlines() if PLACEHOLDER in line and not line.startswith("#")]
    if settings:
        names = ", ".join(line.split(" = ")[0].strip('"') for line in settings)
        found.append(
            f"pyproject.toml: {PLACEHOLDER} in {names}; put the repository's address and your id there."
        )
    if not version or not SEMANTIC.fullmatch(version[1]):
        found.append("pyproject.toml has no version of three numbers.")
    elif not headings or headings[0] != version[1]:
        top = headings[0] if headings else "nothing"
        found.append(f"CHANGELOG.md begins with {top}, the version is {version[1]}; make the two the same.")
    return found


if __name__ == "__main__":
    why = reasons(Path(__file__).resolve().parents[1])
    print("\n".join(why) or "ready to be published")
    sys.exit(1 if why else 0)
