"""A pocket model of random numbers, small enough for tests, and a take that tests feed themselves."""

import http.client
import json
import time
from types import SimpleNamespace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.model_patches.viewers.live import LiveStream, PromptChange
from rivulet.model_patches.viewers.session import Session
from rivulet.model_patches.viewers.streams import Streams
from rivulet.model_patches.writer.video import Mp4Writer
from rivulet.pocket import text
from rivulet.pocket.demo.server import DemoServer
from rivulet.pocket.demo.take import LEAD_SECONDS, PAGE, SWITCH
from rivulet.pocket.demo.watching import serving
from rivulet.pocket.models import PocketRecipe, save_dit, save_vae

PROMPT = "a red circle on a green ground"
FPS, WIDTH, HEIGHT = 16, 32, 16


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Returns a folder with a model that can be loaded, streamed and steered, but shows noise."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    dit = WanModel(WanConfig(dim=128, ffn_dim=128, num_layers=1, text_dim=text.TEXT_DIM))
    recipe = PocketRecipe(
        size=16,
        fps=FPS,
        preset="pocket",
        block_frames=3,
        timesteps=(1000, 500),
        shift=5.0,
        cfg=1.0,
        trained="random numbers",
    )
    for module in (dit, vae := WanVAE(dim=4)):
        for value in module.parameters():
            value.data = torch.randn(value.shape) / max(1, value[0].numel()) ** 0.5
    save_dit(dit, recipe, folder)
    save_vae(vae, folder)
    return folder


@pytest.fixture
def feed(tmp_path):
    """Returns an endless take whose blocks tests make: `block()` writes the next one, in grey."""
    writer = Mp4Writer(tmp_path / "take.mp4", width=WIDTH, height=HEIGHT, fps=FPS, threads=1)
    named = {"node": PAGE, "prompt_id": "", "client": PAGE}
    live = LiveStream(writer, **named, blocks=None, modes=(SWITCH,), switch=SWITCH)
    streams = Streams()
    session = Session(live, streams, lead_seconds=LEAD_SECONDS)

    def block():
        first, frames = writer.frames_written, 12 if writer.frames_written else 9
        if (message := session.next_prompt()) is not None:
            session.note_prompt(PromptChange(message.prompt, message.mode, live.block, first))
            session.accept(message, live.block, first)
        grey = (5 * torch.arange(first, first + frames) % 250).to(torch.uint8)
        writer.write(grey[:, None, None, None].repeat(1, HEIGHT, WIDTH, 3))
        session.note_block(frames, 0.1)

    with session:
        yield SimpleNamespace(session=session, live=live, streams=streams, block=block)


class Client:
    """Asks a server on this machine."""

    def __init__(self, port):
        self.port = port

    def ask(self, method, path, body=None, **headers):
        """Returns (status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, path, value):
        """Returns (status, the answer's JSON)."""
        body = value if isinstance(value, bytes) else json.dumps(value)
        status, _, told = self.ask("POST", path, body, Content_Type="application/json")
        return status, json.loads(told)

    def states(self):
        """Returns the states of all streams that are known."""
        return json.loads(self.ask("GET", "/rivulet/streams")[2])["streams"]

    def stream(self, rest=""):
        """Returns the path of the only stream, or of what lies below it."""
        return f"/rivulet/stream/{self.states()[0]['session']}{rest}"

    def state(self):
        return json.loads(self.ask("GET", self.stream())[2])

    def wish(self, number, do, **more):
        """Sends a message; returns (status, the answer's JSON)."""
        return self.post(self.stream("/control"), {"viewer": "test", "number": number, "do": do, **more})

    def wait(self, condition):
        """Returns the first state for which the condition holds."""
        deadline = time.monotonic() + 60
        while not (self.states() and condition(state := self.state())):
            assert time.monotonic() < deadline, f"not within 60 s: {self.states()}"
            time.sleep(0.02)
        return state


@pytest.fixture
def connect():
    """Returns what makes a client of a port."""
    return Client


@pytest.fixture
def client(feed):
    with serving(DemoServer(feed.streams)) as server:
        yield Client(server.server_port)
