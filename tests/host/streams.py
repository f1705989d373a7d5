"""One stream through ComfyUI as tests drive it: the engine's steps, latents in the VAE's units."""

from typing import Any

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


class HostTake:
    """One run of Stream Video without its node: the loop over a session that writes a file."""

    def __init__(self, model, vae, live, prompt, config, *, changes=None, encode=None, resume=None):
        """prompt: a function that gives CONDITIONING of a seed. encode: of a text; left out, its length is
        the seed. resume: the snapshot of an earlier take."""
        from rivulet.model_patches.stream.script import Script
        from rivulet.nodes.host.caller import HostCaller, HostPrompt
        from rivulet.nodes.host.decoder import decoder_for
        from rivulet.nodes.run.beginnings import FROM_NOTHING, Resume
        from rivulet.nodes.run.session import session_of
        from rivulet.nodes.run.take import LastPicture

        def encoded(text):
            return HostPrompt((encode or (lambda text: prompt(len(text))))(text), prompt(1))

        begin = FROM_NOTHING if resume is None else Resume.from_snapshot(resume)
        self.caller, self.config, self.begin = HostCaller(model), config, begin
        self.script = begin.script(Script(HostPrompt(prompt(0), prompt(1)), None, changes or {}, encoded))
        self.decoder = decoder_for(vae, self.caller.to_vae)
        self.session, self.last = session_of(live, self.caller.device), LastPicture()

    def run(self, pictures: int, **more: Any) -> None:
        """Makes so many pictures; the snapshot lies at `path` in the end."""
        from rivulet.model_patches.cache.dense import DENSE
        from rivulet.model_patches.memory.policy import OFF
        from rivulet.model_patches.stream.pipeline import run
        from rivulet.model_patches.writer.protocol import OpenWriter
        from rivulet.nodes.run.take import ALWAYS, Snapshots

        state = self.begin.state(self.caller, self.script, self.config, DENSE, OFF, 8)
        writer = self.session.writer
        more |= {"script": self.script, "viewers": self.session}
        with self.session, Snapshots(self.caller, writer.path, ALWAYS) as snapshots:
            self.path, writers = snapshots.path, [OpenWriter(writer), self.last]
            self.state = run(
                self.caller, self.decoder, state, writers, pictures=pictures, keep=snapshots.keep, **more
            )
        self.tail = self.caller.to_vae(self.state.tail_BCTHW)


def prefill_of(take: HostTake, latents: Tensor, hidden: int = 0, ending: Tensor | None = None) -> Any:
    """Latents in the VAE's units before a take's first block."""
    from rivulet.model_patches.stream.pipeline import Prefill

    return Prefill(take.caller.from_vae(latents), hidden, ending)
