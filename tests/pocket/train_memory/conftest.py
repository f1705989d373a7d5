"""Every test here trains on nothing that is held out."""

from rivulet.tests.pocket.nothing_unseen import nothing_unseen  # noqa: F401 - a fixture, for every test here
