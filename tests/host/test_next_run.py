"""A page's wish for the next run of its node: bound to what it queues, and to nothing else."""

import pytest


@pytest.fixture
def wishes(comfyui):
    """Returns what is wished for, empty."""
    from rivulet.nodes.run.next_run import NextRuns

    return NextRuns()


@pytest.fixture
def run(comfyui):
    """Returns a wish."""
    from rivulet.nodes.run.next_run import NextRun

    return NextRun("rivulet/stream_00001_.mp4")


def queued(client="c", workflow="w", nodes=("4",), **more):
    graph = {node: {"class_type": "RivuletStream", "inputs": {}} for node in nodes}
    extra = {"extra_pnginfo": {"workflow": {"id": workflow}}}
    return {"prompt": graph, "client_id": client, "extra_data": extra, **more}


def test_it_holds_for_the_run_that_is_queued_and_for_no_later_one(wishes, run):
    wishes.wish("c", "w", "4", run)
    first, second = wishes.on_queued(queued()), wishes.on_queued(queued())
    assert "prompt_id" not in second
    own = first["prompt_id"]
    assert wishes.find(own, "4") == run == wishes.take(own, "4") and wishes.take(own, "4") is None


def test_an_id_that_the_page_gave_is_kept(wishes, run):
    wishes.wish("c", "w", "12:7", run)
    assert wishes.on_queued(queued(nodes=("12:7",), prompt_id="p"))["prompt_id"] == "p"
    assert wishes.take("p", "12:7") == run


@pytest.mark.parametrize(
    "other", [{"client": "d"}, {"workflow": "v"}, {"nodes": ("5",)}, {"prompt": []}, {"extra_data": 3}]
)
def test_another_run_does_not_get_it(wishes, run, other):
    wishes.wish("c", "w", "4", run)
    assert "prompt_id" not in wishes.on_queued(
        {**queued(), **other} if "prompt" in other or "extra_data" in other else queued(**other)
    )
    assert wishes.take(wishes.on_queued(queued())["prompt_id"], "4") == run


def test_a_graph_without_an_id_is_a_graph(wishes, run):
    from rivulet.nodes.run.owners import UNNAMED

    wishes.wish("c", "", "4", run)
    assert "prompt_id" in wishes.on_queued(queued(workflow=UNNAMED))


def test_it_does_not_wait_for_ever_until_it_is_queued(wishes, run, monkeypatch):
    from rivulet.nodes.run import next_run

    wishes.wish("c", "w", "4", run)
    late = next_run.time.monotonic() + next_run.KEEP_SECONDS
    monkeypatch.setattr(next_run.time, "monotonic", lambda: late)
    assert "prompt_id" not in wishes.on_queued(queued())


def test_the_newest_wish_holds_and_they_are_bounded(wishes, run):
    from rivulet.nodes.run.next_run import MOST, NextRun

    for number in range(MOST + 2):
        wishes.wish("c", "w", str(number), run)
    wishes.wish("c", "w", "5", NextRun("other.mp4"))
    kept = wishes.on_queued(queued(nodes=[str(number) for number in range(MOST + 2)]))["prompt_id"]
    assert wishes.take(kept, "1") is None and wishes.take(kept, "2") == run
    assert wishes.take(kept, "5").take == "other.mp4"
