"""Go on with an earlier take in its own file, from its end or from any second of it."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .host.inputs import LONGEST_SECONDS, refuse_nan
from .run.going_on import WHO, Resume
from .run.take_files import RESUMED, find_take, list_names
from .start_from import StartType

NONE_CHOSEN = "no take is chosen"
END = -1.0  # second that stands for the end


class RivuletResume(io.ComfyNode):
    """An earlier take to go on with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletResume",
            display_name="Resume Stream",
            category="Rivulet",
            description="Goes on with an earlier take in the same file, from its end or from any second of "
            "it: after a stop, a crash, or to make the rest again.",
            search_aliases=[
                "continue",
                "extend",
                "go on",
                "snapshot",
                "unfinished",
                "recover",
                "redo",
                "crash",
            ],
            inputs=[
                io.Combo.Input(
                    "snapshot",
                    options=list_names() or [NONE_CHOSEN],
                    tooltip="A take in the output folder, newest first. Press R after a run to see new ones.",
                ),
                io.Float.Input(
                    "from_second",
                    default=END,
                    min=END,
                    max=LONGEST_SECONDS,
                    step=0.1,
                    optional=True,
                    tooltip="Second of its video from which on it is made again; what was there is kept as a "
                    "take of its own. -1: it goes on at its end.",
                ),
            ],
            outputs=[StartType.Output(display_name="start", tooltip="For Stream Video.")],
        )

    @classmethod
    def validate_inputs(cls, snapshot: str) -> bool | str:
        """Whether there is such a take; values of earlier releases name a snapshot of it."""
        if snapshot == NONE_CHOSEN:
            return f"{WHO}: no take is chosen. Choose one in its list; if that is empty, run Stream Video."
        try:
            find_take(WHO, snapshot)
        except ValueError as why:
            return str(why)
        return True

    @classmethod
    def fingerprint_inputs(cls, snapshot: str, from_second: float = END) -> str:
        """Changes when the take does, unless the run that it was asked for did it."""
        return f"{RESUMED.stamp(WHO, snapshot)} {from_second}"

    @classmethod
    def execute(cls, snapshot: str, from_second: float = END) -> io.NodeOutput:
        """Returns the take, of which nothing is read before the stream's size and length are known."""
        refuse_nan(WHO, {"from_second": from_second})
        video = find_take(WHO, snapshot)
        return io.NodeOutput(Resume(video=video, from_second=None if from_second < 0 else from_second))
