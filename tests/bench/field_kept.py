"""What `bench field` measured, one JSON object a line, so that a table grows row by row over many runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

Values = Sequence[float | None]  # of each stream or story; None: none was found, or told


@dataclass(frozen=True)
class Line:
    """One part of one method's measurement."""

    part: str  # of field_parts.PARTS
    method: str
    setting: str  # seed, how many, how long: lines of one setting and span are paired value by value
    weights: str  # how the model and its memory were trained
    needs: str  # what a user of the method must have
    span: str = ""  # which seconds, or how many blocks hidden
    cpu_seconds: float = 0.0  # of all spans together
    figures: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)

    @property
    def measured(self) -> tuple[str, ...]:
        """Lines of the same need not be measured again."""
        return self.part, self.method, self.setting, self.weights


def read(path: Path) -> list[Line]:
    """The lines of a file, none where there is no file. SystemExit for a line that is none."""
    lines: list[Line] = []
    if not path.exists():
        return lines
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            lines.append(Line(**json.loads(text)))
        except (ValueError, TypeError) as error:
            raise SystemExit(
                f"bench field: line {number} of {path} is no line of this bench ({error}); remove it."
            ) from error
    return lines


def add(path: Path, lines: Sequence[Line]) -> None:
    """Writes lines behind those that are there, all at once: two runs may share a file."""
    with path.open("a", encoding="utf-8") as out:
        out.write("".join(json.dumps(asdict(line)) + "\n" for line in lines))
