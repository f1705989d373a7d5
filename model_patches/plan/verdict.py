"""Verdict whether a plan fits a machine, else the nearest request that does, as text for a user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ..attention.positions import preset
from ..cache.cost import CacheCost
from ..stream.config import StreamConfig
from .plan import SECONDS_PER_HOUR, Plan, Request, plan_stream
from .probe import Device

HEADROOM = 1.1  # for fragmentation and libraries' workspaces; assumed, not measured
BUS_RATE = 25e9  # bytes a second from RAM to a card, PCIe 4.0 x16 from pinned memory; assumed
MIN_WIDTH_SHARE = 0.4  # of the requested width, the least to propose

FITS, FITS_WITH, NO_FIT = "fits", "fits if", "does not fit"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, what is to be read of it, and a request that fits."""

    answer: str  # one of FITS, FITS_WITH, NO_FIT
    lines: tuple[str, ...]  # for the user: the answer first, then its figures or reasons
    proposal: Request | None = None  # that fits, where the answer is FITS_WITH
    way: str = ""  # out of it: "take a window of ..."

    @property
    def text(self) -> str:
        """The lines as one."""
        return " ".join(self.lines)


def judge(request: Request, device: Device, formats: Sequence[CacheCost] = ()) -> Verdict:
    """The verdict on a request. formats: cache formats to propose.

    A proposal changes one setting before two, and each as little as fits. The cache format comes before the
    window and the window before the picture size, because a format alters the video least.
    """
    plan = plan_stream(request)
    short = shortages(request, plan, device)
    where = "this computer's RAM" if device.is_cpu else f"your card ({device.name})"
    if not short:
        first = f"Fits {where}: needs {_of_free(_main_bytes(plan, device), device)}."
        return Verdict(FITS, (first, *describe(request, plan, device)))
    fitting = (
        other for other in _proposals(request, formats) if not shortages(other, plan_stream(other), device)
    )
    proposal = _shorten(request, plan, device) or next(fitting, None)
    if proposal is None:
        way = "take a smaller model or a device with more memory"
        first = f"Does not fit, and no smaller window, picture or cache helps. Do this: {way}."
        return Verdict(NO_FIT, (first, *short), way=way)
    way = f"take {changes(request, proposal)}"
    figures = describe(proposal, plan_stream(proposal), device)
    lines = (f"Does not fit. Do this: {way}.", *short, "Then it fits:", *figures)
    return Verdict(FITS_WITH, lines, proposal, way)


def _main_bytes(plan: Plan, device: Device) -> float:
    """Bytes of the memory that decides, with headroom."""
    return HEADROOM * (plan.device_bytes + (plan.ram_bytes if device.is_cpu else 0))


def _of_free(needed: float, device: Device) -> str:
    free = device.free_ram_bytes if device.is_cpu else device.free_bytes
    return (
        gigabytes(needed) if free is None else f"{gigabytes(needed)} of the {gigabytes(free)} that are free"
    )


def shortages(request: Request, plan: Plan, device: Device) -> list[str]:
    """A sentence for each memory or disk that is too small; unknown sizes are not judged."""
    ram = plan.ram_bytes + (plan.device_bytes if device.is_cpu else 0)
    seconds = request.seconds or SECONDS_PER_HOUR
    length = "" if request.seconds else " for an hour"
    rows = [
        ("RAM", ram, device.free_ram_bytes, ""),
        (f"Disk space{length}", plan.disk_bytes(seconds), device.free_disk_bytes, ""),
    ]
    if not device.is_cpu:
        rows.insert(0, ("Graphics memory", plan.device_bytes, device.free_bytes, f" on {device.name}"))
    return [
        f"{what}: needs {gigabytes(HEADROOM * needed)}, {gigabytes(free)} free{where}."
        for what, needed, free, where in rows
        if free is not None and HEADROOM * needed > free
    ]


def calls_of(stream: StreamConfig) -> int:
    """Calls of the model for one block: one per noise level, or one for all, and the one at timestep 0."""
    return (1 if stream.rolling else len(stream.sigmas)) + 1


def moved_bytes(request: Request, device: Device) -> int:
    """Bytes copied to a card for one block, where the weights that have no room on it stay in RAM.

    0 where all of it fits. Nothing is kept from one call to the next: layers are used in turn, so the one
    that was pushed out is the one that is needed next.
    """
    plan = plan_stream(request)
    if device.is_cpu or device.free_bytes is None:
        return 0
    missing = max(0, round(HEADROOM * plan.device_bytes) - device.free_bytes)
    return calls_of(request.stream) * min(missing, plan.weights_bytes)


def describe(request: Request, plan: Plan, device: Device) -> tuple[str, ...]:
    """A plan in a user's units, a line a question: GB with headroom, seconds at the device's rates.

    A stream without end has its figures for an hour of video.
    """
    memory = "RAM" if device.is_cpu else "graphics memory"
    chunk, first = plan.seconds_per_chunk(device), plan.seconds_to_first_chunk(device)
    pace = plan.chunk_seconds / chunk
    seconds = request.seconds or SECONDS_PER_HOUR
    length = f"{duration(seconds)} long" if request.seconds else "without end"
    each = "it" if request.seconds else "an hour of it"
    video = plan.video_bytes_per_hour / SECONDS_PER_HOUR * seconds
    return (
        f"Video: {_sizes(request)} at {request.fps:g} pictures a second, {length}.",
        f"Time: {each} takes about {duration(first + seconds / pace)}. The first picture comes after about "
        f"{short(first)} s, then {short(plan.chunk_seconds)} s of video every {short(chunk)} s: "
        f"{short(pace)} times the speed it plays at.",
        f"Memory: {gigabytes(_main_bytes(plan, device))} of {memory}, of which weights "
        f"{gigabytes(plan.weights_bytes + plan.vae_weights_bytes)}, what the stream remembers "
        f"{gigabytes(plan.cache_bytes)}.",
        f"Disk: {each} takes about {_video_size(video)}, and {gigabytes(plan.disk_bytes(seconds))} while "
        f"it is made and snapshots lie beside it.",
        "Computed, not measured.",
    )


def _sizes(request: Request) -> str:
    """The size of the pictures, and the stream's where the VAE draws them larger."""
    geometry, (width, height) = request.geometry, request.picture_size
    size = f"{width}x{height}"
    return size if width == geometry.width else f"{size} from a {geometry.width}x{geometry.height} stream"


def _video_size(count: float) -> str:
    return gigabytes(count) if count >= 1e9 else f"{short(count / 1e6)} MB"


def changes(old: Request, new: Request) -> str:
    """The settings that differ, in a user's words."""
    texts: list[str] = []
    if new.cache.name != old.cache.name:
        texts.append(f"the cache format {new.cache.name} instead of {old.cache.name}")
    before, after = old.stream.positions, new.stream.positions
    if after != before:
        was = "all frames" if before.window_frames is None else f"{before.window_frames} frames"
        texts.append(f"a window of {after.window_frames} latent frames instead of {was}")
    if new.geometry != old.geometry:
        what = "picture" if new.decoder.upscale == 1 else "stream"
        texts.append(
            f"a {what} of {new.geometry.width}x{new.geometry.height} instead of "
            f"{old.geometry.width}x{old.geometry.height}"
        )
    if new.seconds != old.seconds and new.seconds is not None:
        texts.append(f"a length of {new.seconds / 60:.3g} minutes")
    return " and ".join(texts)


def gigabytes(count: float) -> str:
    """A number of bytes in GB (10^9)."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e9:.3f} GB"


def duration(seconds: float) -> str:
    """A time in the largest unit that leaves at least two of it: 90 s, 12 minutes, 5.6 hours, 3 days."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60))
    for name, size in units:
        if seconds >= 2 * size:
            return f"{short(seconds / size)} {name}"
    return f"{short(seconds)} s"


def short(number: float) -> str:
    """A number to two digits, never with an exponent: 0.0023, 1.6, 160."""
    rounded = float(f"{number:.2g}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:.10f}".rstrip("0").rstrip(".")


def _shorten(request: Request, plan: Plan, device: Device) -> Request | None:
    """The same stream at the length that fits the disk, if only the disk is too small; else None."""
    free = device.free_disk_bytes
    if free is None or shortages(request, plan, replace(device, free_disk_bytes=None)):
        return None
    video_bytes = free / HEADROOM - 2 * plan.snapshot_bytes
    seconds = int(video_bytes / (2 * plan.video_bytes_per_hour) * SECONDS_PER_HOUR)
    return replace(request, seconds=float(seconds)) if seconds >= plan.chunk_seconds else None


def _proposals(request: Request, formats: Sequence[CacheCost]) -> Iterator[Request]:
    """Requests near this one, fewest changed settings first."""
    caches = [cost for cost in formats if cost.name != request.cache.name]
    kinds: tuple[list[Callable[[Request], Request]], ...] = (
        [lambda r, c=c: replace(r, cache=c) for c in caches],
        list(_smaller_windows(request)),
        list(_smaller_pictures(request)),
    )
    for chosen in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        for steps in product(*(kinds[index] for index in chosen)):
            other = request
            for step in steps:
                other = step(other)
            yield other


def _smaller_windows(request: Request) -> Iterator[Callable[[Request], Request]]:
    """Smaller windows, the largest first, down to what is denoised together."""
    stream, base = request.stream, request.stream.positions
    if base.window_frames is None:
        base = preset(base.endless or "pocket")
        yield lambda r: replace(r, stream=replace(r.stream, preset=base))
    assert base.window_frames is not None
    for window in range(base.window_frames - 1, stream.joint_frames - 1, -1):
        smaller = replace(base, window_frames=window)
        yield lambda r, smaller=smaller: replace(r, stream=replace(r.stream, preset=smaller))


def _smaller_pictures(request: Request) -> Iterator[Callable[[Request], Request]]:
    """Smaller pictures of about the same shape, the largest first."""
    geometry = request.geometry
    step = geometry.space_stride * geometry.patch
    for width in range(geometry.width - step, int(MIN_WIDTH_SHARE * geometry.width), -step):
        height = max(step, round(geometry.height * width / geometry.width / step) * step)
        smaller = replace(geometry, width=width, height=height)
        yield lambda r, smaller=smaller: replace(r, stream=replace(r.stream, geometry=smaller))
