"""A pocket model of random numbers, small enough for tests, and a session that tests feed themselves."""

import http.client
import json
import time
from types import SimpleNamespace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.stream.pipeline import Chunk
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.model_patches.writer.video import Mp4Writer
from rivulet.pocket import text
from rivulet.pocket.demo.controls import Controls
from rivulet.pocket.demo.server import DemoServer
from rivulet.pocket.demo.session import Session
from rivulet.pocket.demo.take import EXAMPLES, serving
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
def controls():
    return Controls(text.encode, PROMPT)


@pytest.fixture
def feed(controls, tmp_path):
    """Returns a session with an open writer, and what makes its blocks: `block()` writes the next one."""
    with Mp4Writer(tmp_path / "take.mp4", width=WIDTH, height=HEIGHT, fps=FPS) as writer:
        session = Session(controls, writer, blocks=None, seed=3, examples=EXAMPLES)

        def block():
            first, frames = session.frames, 12 if session.frames else 9
            grey = (5 * torch.arange(first, first + frames) % 250).to(torch.uint8)
            pixels = grey[:, None, None, None].repeat(1, HEIGHT, WIDTH, 3)
            session.new_text(session.block)
            writer.write(pixels)
            session.on_chunk(Chunk(session.block, first, pixels, None))

        yield SimpleNamespace(session=session, writer=writer, controls=controls, block=block)


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

    def status(self):
        return json.loads(self.ask("GET", "/status")[2])

    def wait(self, condition):
        """Returns the first status for which the condition holds."""
        deadline = time.monotonic() + 60
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, f"not within 60 s: {status}"
            time.sleep(0.02)
        return status


@pytest.fixture
def connect():
    """Returns what makes a client of a port."""
    return Client


@pytest.fixture
def client(feed):
    with serving(DemoServer(feed.session)) as server:
        yield Client(server.server_port)
