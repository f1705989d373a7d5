"""A report as a JSON file to send: no names, no paths, written whole or not at all."""

from __future__ import annotations

import datetime
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .suite import Report

KIND, VERSION = "rivulet check", 1


def to_json(report: Report) -> dict[str, Any]:
    """The report in JSON's types; numbers that JSON has not are words."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return {
        "kind": KIND,
        "version": VERSION,
        "date": today.isoformat(),
        "seconds": round(report.seconds, 1),
        "quick": report.quick,
        "facts": _plain(dict(report.facts)),
        "findings": [_plain(asdict(finding)) for finding in report.findings],
    }


def write_report(report: Report, path: Path) -> None:
    """Raises OSError where it cannot be written."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(to_json(report), indent=1, allow_nan=False), encoding="utf-8")
    os.replace(part, path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
