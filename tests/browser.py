"""Chromium, driven by a script of playwright-core.

PLAYWRIGHT_CORE names an installed playwright-core (npm). Without it, node and Chromium, tests are skipped.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def find_chromium() -> str:
    """Returns the path of the browser; skips the test where one of the three is missing."""
    chromium = shutil.which("chromium")
    if not chromium or not shutil.which("node") or not os.environ.get("PLAYWRIGHT_CORE"):
        pytest.skip("needs node, chromium, and PLAYWRIGHT_CORE, the folder of playwright-core")
    return chromium


def drive(script: Path, **told: Any) -> dict[str, Any]:
    """Returns what the script saw: the JSON object it printed last, after it was told these things."""
    done = subprocess.run(
        ["node", str(script), json.dumps(told)],
        capture_output=True,
        text=True,
        env={**os.environ, "CHROMIUM": find_chromium()},
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
