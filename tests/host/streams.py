"""One stream through ComfyUI as tests drive it: the engine's steps, latents in the VAE's units."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rivulet.model_patches.sampler.denoise import InitLatents
from rivulet.model_patches.stream.state import StreamState
from torch import Tensor


class HostRun:
    """A MODEL, its prompts and its config; it holds nothing of the stream."""

    def __init__(self, model, positive, negative, config, *, noise=None, like_host=False, batch=1, **options):
        from rivulet.nodes.host.caller import HostCaller, HostPrompt

        self.caller = HostCaller(model, batch=batch, like_host=like_host)
        self.prompt, self.config = HostPrompt(positive, negative), config
        self.noise, self.options = noise, options

    def begin(self, reserve_frames: int = 0) -> StreamState:
        from rivulet.model_patches.stream.step import init

        return init(self.caller, self.prompt, self.config, reserve_frames=reserve_frames, **self.options)

    def step(self, state: StreamState, begin: InitLatents | None = None) -> tuple[Tensor, StreamState]:
        """(latents in the VAE's units, state); begin: in the VAE's units, too."""
        from rivulet.model_patches.stream.step import step

        if begin is not None:
            begin = InitLatents(self.caller.from_vae(begin.clean_BCTHW), begin.call)
        latents, state = step(self.caller, state, noise=self.noise, begin=begin)
        return self.caller.to_vae(latents), state

    def prefill(self, state: StreamState, latents: Tensor) -> StreamState:
        """The state after latents that are there, in the VAE's units."""
        from rivulet.model_patches.stream.step import prefill

        return prefill(self.caller, state, self.caller.from_vae(latents))

    def switch(self, state: StreamState, positive: Any, mode: str) -> StreamState:
        """The state under another prompt, a recache done."""
        from rivulet.model_patches.stream.step import recache
        from rivulet.model_patches.stream.switch import switch
        from rivulet.nodes.host.caller import HostPrompt

        prompt = HostPrompt(positive, self.prompt.negative)
        return recache(self.caller, switch(self.caller, state, prompt, mode))


def recorded(writer: Any) -> list[Tensor]:
    """The list that gets all pictures that a writer is given from here on; an empty one is there at once."""
    written, write = [torch.empty(0, writer.height, writer.width, 3, dtype=torch.uint8)], writer.write
    writer.write = lambda frames: (written.append(frames.read()), write(frames))
    return written


def live_stream(video: Path, *, resume: bool = False, **more: Any) -> tuple[Any, list[Tensor]]:
    """A live stream that writes this video, 32x48 at 16 pictures a second, and the list of its pictures.

    resume: it goes on with what is there. more: of `LiveStream`.
    """
    from rivulet.model_patches.takes.folder import TakeFolder
    from rivulet.model_patches.takes.point import find_point
    from rivulet.model_patches.viewers.live import LiveStream
    from rivulet.model_patches.writer.video import Mp4Writer

    point = find_point(TakeFolder(video)) if resume else None
    begins = {} if point is None else {"start_frame": point.start_frame, "go_on": True}
    writer = Mp4Writer(video, width=32, height=48, fps=16, threads=1, **begins)
    block = 0 if point is None else point.header.block
    return LiveStream(writer, node="1", prompt_id="p", block=block, **more), recorded(writer)


class HostTake:
    """One run of Stream Video without its node, whose first session a test has in its hands."""

    def __init__(self, model, vae, live, prompt, config, *, changes=None, encode=None, resume=False):
        """prompt: a function that gives CONDITIONING of a seed. encode: of a text; left out, its length is
        the seed. resume: it goes on with the video of `live`."""
        from rivulet.model_patches.stream.script import Script
        from rivulet.model_patches.takes.folder import TakeFolder
        from rivulet.nodes.host.caller import HostCaller, HostPrompt
        from rivulet.nodes.host.decoder import decoder_for
        from rivulet.nodes.run.session import session_of

        def encoded(text):
            return HostPrompt((encode or (lambda text: prompt(len(text))))(text), prompt(1))

        self.caller, self.config, self.resume = HostCaller(model), config, resume
        self.script = Script(HostPrompt(prompt(0), prompt(1)), None, changes or {}, encoded)
        self.decoder = decoder_for(vae, self.caller.to_vae)
        self.session, self.folder = session_of(live, self.caller.device), TakeFolder(live.writer.path)
        self.sessions = [self.session]
        self.later: list[list[Tensor]] = []  # pictures of the sessions after the first

    @property
    def path(self) -> Path:
        """Its newest snapshot; a path where nothing is if there is none."""
        snapshots = self.folder.snapshots()
        return snapshots[-1].path if snapshots else self.folder.path / "none"

    def run(self, pictures: int, begin: Any = None, follow: Any = None, **more: Any) -> None:
        """Makes so many pictures of the whole video."""
        from rivulet.model_patches.cache.dense import DENSE
        from rivulet.model_patches.memory.policy import OFF
        from rivulet.model_patches.takes.keeper import Policy
        from rivulet.nodes.run.going_on import Resume
        from rivulet.nodes.run.making import Order, Page

        sizes = (
            self.caller,
            self.decoder,
            self.config,
            DENSE,
            OFF,
            self.script,
            16.0,
            self.session.live.blocks,
        )
        policy = Policy(every_seconds=0.5, bytes_per_second=1e12)
        run = run_of(self, Order(*sizes, self.folder.video, {}, Page("1"), policy))
        given = Given(begin, follow)
        if self.resume:
            given = Resume(video=self.folder.video).read(None, self.config, 16.0, pictures)
        self.state = run.make(given, None, pictures, **more)
        newest_BCTHW = self.state.tail_BCTHW[:, :, -self.config.tail_frames :]
        self.tail, self.last = self.caller.to_vae(newest_BCTHW), run.pictures


class Given:
    """Begins with latents, or follows a video, that a test has made."""

    latents = blocks = 0
    may_redo = True

    def __init__(self, begin: Any, follow: Any) -> None:
        self.begin, self.followed = begin, follow

    def state(self, *given: Any) -> StreamState:
        from rivulet.nodes.run.beginnings import FROM_NOTHING

        return FROM_NOTHING.state(*given)

    def prefill(self, *_: Any) -> Any:
        return self.begin

    def follow(self, *_: Any) -> Any:
        return nullcontext(self.followed)

    def sound(self) -> Any:
        return nullcontext(None)


def run_of(take: HostTake, order: Any) -> Any:
    """The run of a take, whose first session is the test's."""
    from rivulet.nodes.run.making import Run

    class Begun(Run):
        def _open_writer(self, opening):
            if self.live is not None:
                writer = super()._open_writer(opening)
                take.later.append(recorded(writer))
                return writer
            writer = take.session.writer
            assert opening.start_frame == writer.start_frame
            if opening.lock is not None:
                opening.lock.release()  # the writer was made without it
            return writer

        def _open_session(self, writer, opening, offers):
            if self.live is not None:
                take.sessions.append(super()._open_session(writer, opening, offers))
                return take.sessions[-1]
            self.live, session = take.session.live, take.session
            session._rewind, session._mark = offers.rewind, offers.mark
            session.live.does = frozenset(("redo", "mark"))
            return session

    return Begun(order)


def prefill_of(take: HostTake, latents: Tensor, hidden: int = 0, ending: Tensor | None = None) -> Any:
    """Latents in the VAE's units before a take's first block."""
    from rivulet.model_patches.stream.pipeline import Prefill

    return Prefill(take.caller.from_vae(latents), hidden, ending)
