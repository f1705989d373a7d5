"""The list of streams: whose they are, and from which workflow."""

from rivulet.tests.host.graphs import stream_graph


def queue(server, name, **more):
    """Queues a short stream as a page does; returns its state once it is over."""
    workflow = {"id": f"workflow of {name}", "nodes": [], "links": [], "version": 0.4}
    told = {"prompt": stream_graph(name), "extra_data": {"extra_pnginfo": {"workflow": workflow}}, **more}
    status, answer = server.post("/prompt", told)
    assert status == 200, answer
    server.done(answer["prompt_id"])
    known = server.get("/rivulet/streams")[1]["streams"]
    return next(each for each in known if each["prompt_id"] == answer["prompt_id"])


def test_a_page_is_told_which_streams_it_queued(server):
    ours, theirs = queue(server, "ours", client_id="we"), queue(server, "theirs", client_id="they")
    nobodys = queue(server, "nobodys")

    def own(asked):
        told = server.get(f"/rivulet/streams{asked}")[1]
        assert {ours["session"], theirs["session"], nobodys["session"]} <= {
            each["session"] for each in told["streams"]
        }
        return told["own"]

    assert own("?client=we") == [ours["session"]] and own("?client=they") == [theirs["session"]]
    assert own("") == own("?client=") == own("?client=None") == []
    assert ours["workflow"] == "workflow of ours" and ours["node"] == theirs["node"]
