"""A fixture for what trains: no picture and no prompt of a combination that is held out may be drawn."""

from collections.abc import Iterator

import pytest
from rivulet.pocket import held_out, text, world

ORDERS = [(each.objects[::order], each.ground) for each in held_out.unseen() for order in (1, -1)]
PROMPTS = {world.prompt(list(objects), ground, band) for objects, ground in ORDERS for band in (False, True)}


@pytest.fixture(autouse=True)
def nothing_unseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Has every scene that a test draws a picture of looked up in the list, and every prompt that it encodes.

    Gives the number of scenes of each drawing.
    """
    counts: list[int] = []
    render, encode = world.render, text.encode

    def looking(scenes: world.Scenes, *given: object) -> object:
        unseen = scenes.unseen_B()
        assert not unseen.any(), f"held out, and drawn: {scenes.select(unseen).prompts()}"
        counts.append(len(scenes))
        return render(scenes, *given)

    def reading(prompt: str) -> object:
        assert prompt not in PROMPTS, f"held out, and read: {prompt}"
        return encode(prompt)

    monkeypatch.setattr(world, "render", looking)
    monkeypatch.setattr(text, "encode", reading)
    yield counts
