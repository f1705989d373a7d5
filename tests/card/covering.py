"""Few rows that hold every pair of values of every two columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

Row = dict[str, Any]


def covering(columns: Mapping[str, Sequence[Any]], allowed: Callable[[Row], bool]) -> list[Row]:
    """Rows so that any two values that an allowed row can hold together are in one of them.

    allowed: of a row that is not whole, whether it can be completed. Each row takes, value by value, what
    covers the most pairs that are still missing; the same rows come at every run.
    """
    names = list(columns)
    missing = {
        ((one, a), (other, b))
        for one, other in combinations(names, 2)
        for a in columns[one]
        for b in columns[other]
        if allowed({one: a, other: b})
    }
    rows: list[Row] = []
    while missing:
        seed = min(missing, key=repr)
        row = dict(seed)
        for name in sorted((each for each in names if each not in row), key=lambda name: -len(columns[name])):
            fitting = [value for value in columns[name] if allowed({**row, name: value})]
            row[name] = max(fitting, key=lambda value, name=name: _new(row, name, value, names, missing))
        covered = {pair for pair in missing if all(row[name] == value for name, value in pair)}
        missing -= covered
        rows.append({name: row[name] for name in names})
    return rows


def _new(row: Row, name: str, value: Any, names: Sequence[str], missing: set[Any]) -> int:
    """Missing pairs that the row would hold with this value."""
    place = {each: names.index(each) for each in (*row, name)}
    pairs = (
        tuple(sorted(((name, value), (each, row[each])), key=lambda item: place[item[0]])) for each in row
    )
    return sum(pair in missing for pair in pairs)
