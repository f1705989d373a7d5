"""Takes of `soak --faults` made by Stream Video in a ComfyUI, with the encoder that it has by itself.

Run in a process of ComfyUI's Python, see `soak_faults`: it has imported ComfyUI and read the models, and each
go of a take is a child of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from .bits_host import Graph, graph, resumed
from .bits_scenarios import Scenario
from .load_once import import_host
from .records import Rows
from .soak_faults_kinds import KINDS, Fault, Interrupt, Kinds, Operation
from .soak_faults_rows import complain, told
from .soak_faults_takes import BLOCK_FRAMES, EVERY_SECONDS, FPS, HEIGHT, PROMPTS, WIDTH, Setup, Take
from .soak_faults_trials import Trials


class HostInterrupt(Interrupt):
    """ComfyUI's own interruption inside a random operation of torch."""

    def error(self) -> BaseException:
        from comfy.model_management import InterruptProcessingException

        return InterruptProcessingException()


class Cancel(Operation):
    """The user cancels the run: ComfyUI raises when it next looks."""

    def act(self) -> None:
        from comfy.model_management import interrupt_current_processing

        self.strike()
        interrupt_current_processing()


class Unload(Fault):
    """Another job has all models leave between two blocks; the run goes on."""

    @contextmanager
    def inside(self) -> Iterator[None]:
        from rivulet.model_patches.writer.video import Mp4Writer

        write, count = Mp4Writer.write, iter(range(1 << 30))
        number = self.drawn.randrange(6)

        def then_unload(writer: Mp4Writer, frames: Any) -> None:
            from comfy.model_management import unload_all_models

            write(writer, frames)
            if next(count) == number:
                self.strike()
                unload_all_models()

        with patch.object(Mp4Writer, "write", then_unload):
            yield


HOST_KINDS: Kinds = {**KINDS, "interrupt": (HostInterrupt, 3), "cancel": (Cancel, 2), "unload": (Unload, 2)}


class Host:
    """Stream Video in ComfyUI."""

    name, file = "ComfyUI", "take_00001_.mp4"
    kinds: Kinds = HOST_KINDS
    is_exact = False  # an encoder that starts anew may round other pixels

    def __init__(self) -> None:
        self.graphs: dict[str, Graph] = {}

    def ready(self, setup: Setup) -> None:
        """Makes the nodes before Stream Video."""
        how = Scenario(setup.name, cache=setup.cache, exact=setup.exact, memory=setup.memory)
        if setup.name not in self.graphs:
            self.graphs[setup.name] = graph(how)

    def begin(self, take: Take) -> None:
        """Runs Stream Video."""
        self.stream(take, lambda: None)

    def go_on(self, take: Take) -> None:
        """Runs Stream Video behind Resume Stream."""
        self.stream(take, lambda: resumed(take.file))

    def stream(self, take: Take, start: Callable[[], Any]) -> None:
        """Runs Stream Video after the node that gives its beginning."""
        import folder_paths

        setup, made = take.setup, self.graphs[take.setup.name]
        given = {"seed": setup.seed, "cfg": 2.0 if setup.guided else 1.0, "filename_prefix": "take"}
        given |= {"width": WIDTH, "height": HEIGHT, "snapshot_seconds": EVERY_SECONDS}
        output = patch.object(folder_paths, "get_output_directory", lambda: str(take.folder))
        with output, torch.inference_mode():
            made.stream(setup.pictures, timeline(setup), start(), **given)


def timeline(setup: Setup) -> str:
    """The prompts as they are typed, each at a time in the middle of the block before its own."""
    lines = [f"[0s] {PROMPTS[0]}"]
    for (block, mode), prompt in zip(sorted(setup.switches.items()), PROMPTS[1:], strict=True):
        frame = 1 + 4 * (block * BLOCK_FRAMES - 1) - 2 * BLOCK_FRAMES
        lines.append(f"[{frame / FPS:.3f}s {mode}] {prompt}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Strikes takes: COMFYUI FOLDER SEED FAULTS quick|all; 0 when all is well."""
    comfyui, folder, seed, faults, how_many = arguments
    torch.set_num_threads(1)  # a child has the thread that forked it, and no other
    import_host(Path(comfyui))
    trials = Trials(Host(), Path(folder), int(seed), complain)
    trials.run(int(faults))
    return 0 if told(trials, Rows("soak faults", how_many == "quick")) else 1
