"""What one block may ask of a card, by file: each number is what it asks for today, and may only fall."""

from __future__ import annotations

from collections.abc import Iterable

from rivulet.tests.card.watch import CAPPED, Watch

# wait: the program waits until the card has a number for it; aim: one a block, that of the check for NaN
# to host: a copy that the program waits for; aim: none, pictures come through pinned memory
# to card: a copy from memory that is not pinned; aim: none
# strided: arithmetic over a large tensor that does not lie as it is read; aim: none
# comfy/samplers.py asks whether the latents that it is given are empty; what is awaited then is done already
# of several streams the highest count holds; a block of a switch has more to do, and so has one that follows
TABLE = """
part    during  kind     file                                          at most
engine  block   to host  model_patches/cache/coded.py                  1
engine  block   wait     model_patches/stream/step.py                  1
engine  follow  to host  model_patches/cache/coded.py                  1
engine  follow  wait     model_patches/stream/step.py                  1
engine  switch  to host  model_patches/cache/coded.py                  2
engine  switch  wait     model_patches/stream/model_caller.py          1
engine  switch  wait     model_patches/stream/step.py                  2
host    block   to host  model_patches/cache/coded.py                  1
host    block   wait     comfy/samplers.py                             1
host    block   wait     model_patches/stream/step.py                  1
host    follow  to host  model_patches/cache/coded.py                  1
host    follow  wait     comfy/samplers.py                             1
host    follow  wait     model_patches/stream/step.py                  1
host    switch  to host  model_patches/cache/coded.py                  2
host    switch  wait     comfy/samplers.py                             2
host    switch  wait     model_patches/stream/step.py                  2
"""

Cap = tuple[str, str, str, str]  # part (engine or host), during, kind, file


def caps() -> dict[Cap, int]:
    """The table."""
    rows = [line.rsplit(maxsplit=1) for line in TABLE.strip().splitlines()[1:]]
    read: dict[Cap, int] = {}
    for words, count in rows:
        part, during, *kind, file = words.split()
        read[part, during, " ".join(kind), file] = int(count)
    return read


def beyond(part: str, watch: Watch, during: Iterable[str], kinds: Iterable[str] = CAPPED) -> list[str]:
    """A sentence for each count above its cap, with the lines that ask."""
    known, found = caps(), []
    for section in watch.sections:
        if section.label not in during:
            continue
        for (kind, file), count in section.by_file().items():
            cap = known.get((part, section.label, kind, file), 0)
            if count > cap and kind in kinds:
                lines = section.lines(kind, file)
                found.append(f"{part}, {section.label}: {count} of '{kind}', at most {cap}: {lines}")
    return found


def highest(part: str, watch: Watch, during: Iterable[str]) -> dict[Cap, int]:
    """The table's numbers as these streams have them."""
    most: dict[Cap, int] = {}
    for section in watch.sections:
        for (kind, file), count in section.by_file().items():
            cap = part, section.label, kind, file
            if section.label in during:
                most[cap] = max(count, most.get(cap, 0))
    return most


def written(counts: dict[Cap, int]) -> str:
    """Rows of the table."""
    return "\n".join(
        f"{part:<8}{during:<8}{kind:<9}{file:<46}{count}"
        for (part, during, kind, file), count in sorted(counts.items())
    )


def changed(part: str, counts: dict[Cap, int]) -> str:
    """What is to be done to the table, "" where its numbers are these."""
    known = {cap: count for cap, count in caps().items() if cap[0] == part}
    lines = []
    for cap in sorted({**known, **counts}):
        now, most = counts.get(cap, 0), known.get(cap, 0)
        if now < most:
            lines.append(f"lower the cap in tests/card/caps.py: {' '.join(cap)}: {most} -> {now}")
        if now > most:
            lines.append(f"more than the cap: {' '.join(cap)}: {now}, at most {most}")
    return "\n".join(lines)
