"""A stream in the making, in this process: what its viewers ask for, block by block."""

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.timeline import MODES, Prompt
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.tests.host.streams import HostRun, HostTake

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
PICTURES = 40  # four blocks


@pytest.fixture
def making(load, vae, prompt, tmp_path):
    """Returns a function that makes a take: (take, its session); `tell` is called before each block."""
    from rivulet.model_patches.viewers.live import LiveStream
    from rivulet.model_patches.writer.video import Mp4Writer
    from rivulet.nodes.run.session import client_of_run

    def encode(text):
        if text == "unknown":
            raise ValueError("There is no unknown.")
        return prompt(len(text))

    def make(name="take", changes=None, tell=lambda live: None):
        writer = Mp4Writer(tmp_path / f"{name}.mp4", width=32, height=48, fps=16, threads=1)
        queued = {"node": "1", "prompt_id": "p", "client": client_of_run()}
        live = LiveStream(writer, **queued, blocks=4, modes=tuple(MODES))
        take = HostTake(load("plain"), vae, live, prompt, CONFIG, changes=changes, encode=encode)
        should_continue = take.session.should_continue
        take.session.should_continue = lambda rest: (tell(live), should_continue(rest))[1]
        take.run(PICTURES)
        return take, live

    return make


def pictures(live):
    import av

    with av.open(str(live.writer.result)) as video:
        return torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in video.decode(video=0)])


def asking(messages):
    """A `tell` that puts messages in before the blocks they are listed under."""

    def tell(live):
        for number, (do, more) in enumerate(messages.pop(live.block, []), 1):
            live.ask(Message("me", 100 * live.block + number, do, *more))

    return tell


def told(live):
    return [(each["prompt"], each["mode"], each["block"], each["first_frame"]) for each in live.prompts]


def test_it_makes_whole_blocks_and_keeps_the_newest_latents(making):
    take, live = making()
    assert live.block == 4 and live.writer.frames_written == 45 == len(pictures(live))
    assert take.tail.shape == (1, 16, 9, 6, 4) and take.last.last_HWC.shape == (48, 32, 3)
    assert (live.phase, live.state()["video"], live.state()["blocks"]) == ("ended", True, 4)


def test_a_prompt_before_the_first_block_makes_it(making):
    usual, _ = making("usual")
    _, live = making("early", tell=asking({0: [("prompt", ("other", "smooth"))]}))
    assert told(live) == [("other", "smooth", 0, 0)]
    assert not torch.equal(pictures(live)[:9], pictures(usual.session.live)[:9])


@pytest.mark.parametrize("mode", ["smooth", "recache", "cut", "shot"])
def test_a_switch_changes_the_blocks_after_it_and_none_before(making, mode):
    _, usual = making("usual")
    _, live = making(mode, changes={2: Prompt(1, "other", mode)})
    first = 21
    assert told(live) == [("other", mode, 2, first)]
    ours, theirs = pictures(live), pictures(usual)
    assert torch.equal(ours[:first], theirs[:first]) and not torch.equal(ours[first:45], theirs[first:45])


def test_the_switches_differ(making):
    made = {}
    for mode in ("smooth", "recache", "cut"):
        take, _ = making(mode, changes={2: Prompt(1, "other", mode)})
        made[mode] = take.tail[:, :, -3:]
    assert not torch.equal(made["smooth"], made["recache"]) and not torch.equal(made["recache"], made["cut"])


def test_a_cut_begins_as_a_stream_does_and_still_gives_all_pictures(making, prompt):
    _, live = making(changes={1: Prompt(1, "other", "cut"), 2: Prompt(2, "third", "cut")})
    # blocks that begin a scene give 9 pictures, the others 12
    assert [first for *_, first in told(live)] == [9, 18]
    assert live.block == live.blocks == 5 and live.writer.frames_written == 9 + 9 + 33 == len(pictures(live))


def test_a_shot_before_the_first_block_is_refused_and_the_stream_goes_on(making):
    _, live = making(tell=asking({0: [("prompt", ("other", "shot"))]}))
    (entry,) = live.mailbox.acknowledged
    assert entry["outcome"] == "refused" and "no block was made yet; take the switch cut" in entry["sentence"]
    assert live.block == 4 and live.prompts == [] and live.writer.frames_written == 45


def test_a_recache_shows_the_old_frames_to_the_new_prompt(load, prompt):
    def keys(mode, text):
        stream = HostRun(load("plain"), prompt(0), prompt(1), CONFIG)
        state = stream.begin()
        for _ in range(3):
            _, state = stream.step(state)
        state = stream.switch(state, prompt(text), mode)
        kept = state.cache.tensors()["kv"].clone()
        _, after = stream.step(state)
        return state.cache.frames, kept, after.cache.frames

    frames, old, after = keys("smooth", 9)
    again, same, _ = keys("recache", 0)
    _, other, after_other = keys("recache", 9)
    assert frames == again == tuple(range(9)) and after == after_other
    sink = 3 * CONFIG.geometry.frame_tokens
    first_layer = (slice(None, 1), slice(None), slice(None))
    # the first layer's keys and values come from the frames alone, so what ran again must agree with what was
    assert torch.allclose(same[first_layer], old[first_layer], atol=1e-4)
    assert torch.equal(other[:, :, :, :sink], old[:, :, :, :sink])
    assert not torch.allclose(other[1:, :, :, sink:], old[1:, :, :, sink:], atol=1e-4)
    assert torch.equal(keys("recache", 9)[1], other)


def test_an_unreadable_prompt_is_refused_and_the_stream_goes_on(making):
    _, live = making(tell=asking({1: [("prompt", ("unknown", "smooth"))]}))
    (entry,) = live.mailbox.acknowledged
    assert (entry["outcome"], entry["sentence"]) == ("refused", "There is no unknown.")
    assert live.block == 4 and live.prompts == []


def test_stop_keeps_what_was_made_but_not_before_something_is(making):
    _, live = making("early", tell=asking({0: [("stop", ())]}))
    assert live.block == 1 and len(pictures(live)) == 9 and live.phase == "ended"
    _, live = making("later", tell=asking({2: [("pause", ()), ("stop", ())]}))
    assert live.block == 2 and len(pictures(live)) == 21


def test_what_fails_is_told_and_the_file_is_kept(making):
    def tell(live):
        if live.block == 2:
            raise RuntimeError("It broke.")

    with pytest.raises(RuntimeError, match="It broke"):
        making("broken", tell=tell)
    from rivulet.nodes.run.session import STREAMS

    live = STREAMS.all()[0]
    assert (live.phase, live.sentence) == ("failed", "It broke.")
    assert len(pictures(live)) == live.writer.frames_written == 17


def test_a_pause_ends_with_an_interruption(making):
    import comfy.model_management as management

    looks = []

    def tell(live):
        if live.block == 1:
            live.ask(Message("me", 1, "pause"))
            wait = live.mailbox.wait
            live.mailbox.wait = lambda seconds: (looks.append(live.phase), wait(0), interrupt())

    def interrupt():
        if len(looks) == 3:
            management.interrupt_current_processing()

    with pytest.raises(management.InterruptProcessingException):
        making("paused", tell=tell)
    from rivulet.nodes.run.session import STREAMS

    live = STREAMS.all()[0]
    assert looks == ["paused"] * 3 and live.phase == "ended" and "interrupted" in live.sentence
    assert len(pictures(live)) == 9


@pytest.mark.parametrize("client", ["tab", None])
def test_the_page_that_queued_the_run_is_told_once_per_block_and_phase(making, monkeypatch, client):
    from rivulet.nodes.run import session

    sent = []

    class Server:
        client_id = client

        def send_sync(self, event, state, to):
            sent.append((event, to, state))

    class PromptServer:
        instance = Server()

    monkeypatch.setattr(session, "PromptServer", PromptServer)
    making()
    if client is None:
        # sent to nobody, the host would tell every page of every user
        assert sent == []
        return
    assert {(event, to) for event, to, _ in sent} == {("rivulet.stream", "tab")}
    states = [state for *_, state in sent]
    assert [state["phase"] for state in states] == ["starting", *["running"] * 4, "ended"]
    assert [state["block"] for state in states] == [0, 1, 2, 3, 4, 4] and "prompts" not in states[0]
    numbers = [state["sequence"] for state in states]
    assert numbers == sorted(set(numbers))
