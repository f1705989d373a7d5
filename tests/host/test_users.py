"""A ComfyUI of several users: nobody but who queued a run, or is given its id, sees, stops or steers it."""

import asyncio
import json
import threading

import pytest
from rivulet.tests.host.comfy_server import WORKFLOW, Server, Stream
from rivulet.tests.host.graphs import GREEN, LONG_SECONDS, stream_graph


@pytest.fixture(scope="module")
def shared(comfyui, tmp_path_factory):
    """Returns a running ComfyUI that was told of several users."""
    with Server(comfyui, tmp_path_factory.mktemp("shared"), "--multi-user") as running:
        yield running


def queue(server, name, client, user, **more):
    graph = stream_graph(name, seconds=LONG_SECONDS)
    told = {
        "prompt": graph,
        "client_id": client,
        "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}},
        **more,
    }
    status, answer = server.post("/prompt", told, Comfy_User=user)
    assert status == 200, answer
    return answer["prompt_id"]


def listed(server, client, user):
    asked = "" if client is None else f"?client={client}"
    told = json.loads(server.send(f"/rivulet/streams{asked}", Comfy_User=user)[2])
    assert told["own"] == [each["session"] for each in told["streams"]] or not asked
    return [each["session"] for each in told["streams"]]


def overheard(server, client, stop):
    """What the host's own events tell a page of another user."""
    import aiohttp

    heard = []

    async def listen():
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{server.url}/ws?clientId={client}") as socket,
        ):
            while not stop.is_set():
                try:
                    heard.append(str((await socket.receive(timeout=0.5)).data))
                except asyncio.TimeoutError:
                    continue

    asyncio.run(listen())
    return heard


def test_a_run_is_its_users_own(shared):
    stop, heard = threading.Event(), []
    ears = threading.Thread(target=lambda: heard.extend(overheard(shared, "theirs", stop)))
    ears.start()
    prompt_id = queue(shared, "ours", "ours", "anna")
    session = shared.until(lambda: listed(shared, "ours", "anna"), "the run began no stream")[0]
    stream = Stream(shared, session)
    try:
        for client, user in (
            (None, "bert"),
            ("theirs", "bert"),
            ("ours", "bert"),
            (None, "anna"),
            ("x", "anna"),
        ):
            assert listed(shared, client, user) == [], (client, user)
        assert listed(shared, "ours", "anna") == [session]
        assert stream.until(lambda state: state["block"] >= 1)["prompts"][0]["prompt"] == GREEN
        for path in ("/queue", "/history", "/rivulet/takes", "/api/jobs", "/prompt"):
            assert session not in json.dumps(
                shared.get(path)[1] if path != "/api/jobs" else str(shared.send(path))
            )
    finally:
        assert stream.ask("stop")["outcome"] == "done"
    shared.done(prompt_id)
    stop.set()
    ears.join()
    assert any("execution" in each or "status" in each for each in heard), "nothing was heard at all"
    assert not any(session in each for each in heard)
    assert session not in json.dumps(shared.get("/history")[1])


def test_a_video_that_is_given_again_is_told_to_the_user_who_made_it(shared):
    graph = stream_graph("twice")

    def run(client, user):
        told = {"prompt": graph, "client_id": client, "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}}}
        prompt_id = shared.post("/prompt", told, Comfy_User=user)[1]["prompt_id"]
        (file,) = shared.done(prompt_id)["outputs"]["4"]["images"]
        word = {"client": client, "prompt_id": prompt_id, "node": "4", "file": file["filename"]}
        return file["filename"], shared.post("/rivulet/given", word, Comfy_User=user)[1]["known"]

    def given(client, user):
        told = json.loads(shared.send(f"/rivulet/streams?client={client}", Comfy_User=user)[2])
        return len(told["streams"]), len(told["own"]), len(told["given"])

    file = run("first", "anna")[0]
    assert given("first", "anna") == (1, 1, 0)
    assert run("second", "anna") == (file, True) and run("third", "bert") == (file, False)
    assert given("second", "anna") == (1, 0, 1) and given("first", "anna") == (1, 1, 0)
    assert given("second", "bert") == given("third", "bert") == given("third", "anna") == (0, 0, 0)


def test_what_no_page_queued_is_listed_for_nobody(shared):
    prompt_id = queue(shared, "nobodys", None, "anna", client_id=None)
    shared.until(lambda: len(shared.get("/queue")[1]["queue_running"]), "the run did not begin")
    assert listed(shared, None, "anna") == listed(shared, "None", "anna") == listed(shared, "", "anna") == []
    shared.post("/interrupt", {})
    shared.done(prompt_id)


def test_a_wish_for_the_next_run_holds_for_the_user_who_has_it(comfyui, monkeypatch):
    from rivulet.nodes.run import next_run, owners

    wishes, run = next_run.NextRuns(), next_run.NextRun("rivulet/stream_00001_.mp4")
    graph = {"4": {"class_type": "RivuletStream", "inputs": {}}}
    message = {"prompt": graph, "client_id": "c", "extra_data": {}}
    token = owners._asking.set("bert")
    try:
        wishes.wish("c", "", "4", run)
        owners._asking.set("anna")
        assert "prompt_id" not in wishes.on_queued(message)
        owners._asking.set("bert")
        assert wishes.find(wishes.on_queued(message)["prompt_id"], "4") == run
    finally:
        owners._asking.reset(token)


def test_a_run_that_let_others_in_stays_its_users(comfyui, monkeypatch):
    from types import SimpleNamespace

    from rivulet.nodes.run import owners

    monkeypatch.setattr(owners.args, "multi_user", True)
    token = owners._asking.set("anna")
    try:
        prompt_id = owners.on_queued({"prompt": {}})["prompt_id"]
        owners.hand_on(prompt_id, "again")
        owners.hand_on("unknown", "another")
        for known, listed in ((prompt_id, True), ("again", True), ("another", False)):
            live = SimpleNamespace(clients=lambda: {"c"}, prompt_id=known)
            assert owners.may_list(live, "c") is listed
            assert not owners.may_list(live, "x") and not owners.may_list(live, None)
        owners._asking.set("bert")
        assert not owners.may_list(SimpleNamespace(clients=lambda: {"c"}, prompt_id="again"), "c")
    finally:
        owners._asking.reset(token)


@pytest.mark.parametrize(
    "name", ["evil.com", "evil.com:{port}", "localhost.evil.com:{port}", "localhost@evil.com"]
)
def test_another_sites_name_for_this_machine_is_refused(shared, name):
    host = name.replace("{port}", str(shared.port))
    status, _, told = shared.send("/rivulet/streams", Host=host)
    assert status == 403 and json.loads(told)["error"]
    assert shared.send("/rivulet/streams", Host=f"localhost:{shared.port}")[0] == 200
    assert shared.send("/rivulet/streams", Host="pc.example.org", X_Forwarded_For="203.0.113.9")[0] == 200
