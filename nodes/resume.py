"""Go on with an earlier take: another file begins where its pictures end, without a seam."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .run.beginnings import Resume
from .run.snapshot_files import find_snapshot, list_snapshots, snapshot_stamp
from .start_from import StartType

WHO = "Resume Stream"
NONE_YET = "no snapshot in the output folder"


class RivuletResume(io.ComfyNode):
    """An earlier take to go on with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletResume",
            display_name="Resume Stream",
            category="rivulet",
            description="Continues a stream that was stopped or interrupted: its memory is restored from the "
            "snapshot, and a new file begins where its pictures end.",
            search_aliases=["continue", "extend", "go on", "snapshot", "unfinished"],
            inputs=[
                io.Combo.Input(
                    "snapshot",
                    options=list_snapshots() or [NONE_YET],
                    tooltip="A file that Stream Video saved next to its video, newest first. Press R after a "
                    "run to see new ones.",
                )
            ],
            outputs=[StartType.Output(display_name="start", tooltip="For Stream Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, snapshot: str) -> str:
        """Changes when the file does."""
        return snapshot_stamp(WHO, snapshot)

    @classmethod
    def execute(cls, snapshot: str) -> io.NodeOutput:
        """Returns the take, its header read; the stream reads the rest when it is there."""
        return io.NodeOutput(Resume.from_snapshot(find_snapshot(WHO, snapshot)))
