"""Runs that let others in between: what waits in the host's queue, and what comes out of it afterwards."""

import pytest

GRAPH = {"4": {"class_type": "RivuletStream", "inputs": {"seed": 3}}}
EXTRA = {"client_id": "c", "extra_pnginfo": {"workflow": {"id": "w"}}, "create_time": 1}


class FakeServer:
    """As much of ComfyUI's server as its queue asks for."""

    def __init__(self, number: int) -> None:
        from execution import PromptQueue

        self.number, self.prompt_queue, self.client_id = number, PromptQueue(self), None

    def queue_updated(self) -> None:
        pass


@pytest.fixture
def host(comfyui, monkeypatch):
    """Returns a server whose queue has just begun the run `mine`."""
    from rivulet.nodes.run import yielding
    from server import PromptServer

    running = FakeServer(number=5)
    monkeypatch.setattr(PromptServer, "instance", running, raising=False)
    monkeypatch.setattr(yielding, "NEXT_RUNS", type(yielding.NEXT_RUNS)())
    running.prompt_queue.put((0, "mine", GRAPH, EXTRA, ["4", "5"], {"auth_token_comfy_org": "secret"}))
    item, _ = running.prompt_queue.get()
    item[2]["4"]["is_changed"] = "the host notes this in what it runs"
    yield running
    del GRAPH["4"]["is_changed"]


@pytest.fixture
def run(comfyui):
    from rivulet.nodes.run.next_run import NextRun

    return NextRun("rivulet/stream_00001_.mp4")


def others(host, *numbers):
    for number in numbers:
        host.prompt_queue.put((number, f"other {number}", {}, {}, [], {}))


@pytest.mark.parametrize("numbers", [(), (1, 2), (-1, 4), (7, 90.5)], ids=str)
def test_it_comes_behind_all_that_wait_and_before_all_that_come_later(host, run, numbers):
    from rivulet.nodes.run import yielding

    others(host, *numbers)
    assert yielding.others_wait() == bool(numbers)
    again = yielding.queue_again("mine", "4", run)
    others(host, host.number)
    taken = [host.prompt_queue.get()[0][1] for _ in range(len(numbers) + 2)]
    assert taken[:-1] == [*(f"other {number}" for number in sorted(numbers)), again]
    assert yielding.NEXT_RUNS.take(again, "4") == run and yielding.NEXT_RUNS.take("mine", "4") is None


def test_it_is_the_same_job_under_a_new_id(host, run):
    from rivulet.nodes.run import yielding

    again = yielding.queue_again("mine", "4", run)
    _, named, graph, extra, outputs, sensitive = host.prompt_queue.get()[0]
    assert named == again != "mine" and (extra, outputs) == (EXTRA, ["4", "5"])
    assert graph == {"4": {"class_type": "RivuletStream", "inputs": {"seed": 3}}}, "nothing of the first run"
    assert sensitive == {"auth_token_comfy_org": "secret"}


def test_a_run_that_the_queue_does_not_have_cannot_be_queued_again(host, run, monkeypatch):
    from rivulet.nodes.run import yielding

    assert yielding.can_yield("mine") and not yielding.can_yield("another")
    with pytest.raises(RuntimeError, match="not in ComfyUI's queue"):
        yielding.queue_again("another", "4", run)
    monkeypatch.delattr("server.PromptServer.instance")
    assert not yielding.can_yield("mine") and not yielding.others_wait()


def test_a_turn_is_over_after_its_time_where_others_wait(host):
    from rivulet.nodes.run.yielding import Turn

    asked, short = Turn(0), Turn(1e-9)
    assert not short.over and not Turn(1e-9).over
    others(host, 1)
    assert short.over and not asked.over and not Turn(3600).over
