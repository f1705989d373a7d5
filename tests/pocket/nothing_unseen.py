"""A fixture for what trains: no picture of a combination that is held out may be drawn."""

from collections.abc import Iterator

import pytest
from rivulet.pocket import world


@pytest.fixture(autouse=True)
def nothing_unseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Has every scene that a test draws a picture of looked up in the list; gives the number of each call."""
    counts: list[int] = []
    render = world.render

    def looking(scenes: world.Scenes, *given: object) -> object:
        unseen = scenes.unseen_B()
        assert not unseen.any(), f"held out, and drawn: {scenes.select(unseen).prompts()}"
        counts.append(len(scenes))
        return render(scenes, *given)

    monkeypatch.setattr(world, "render", looking)
    yield counts
