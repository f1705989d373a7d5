"""Videos of phones in HDR (HLG or PQ, 10 bit), brought to the colours of ordinary ones.

Shown as they are they look washed out. White of a picture lies at 203 cd/m2 (ITU-R BT.2408), so that is what
white becomes here; brighter lights, up to 1000 cd/m2, are squeezed into what is left.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from .ffmpeg import file_url, told_by

WHO = "Video reader"
KINDS = {"arib-std-b67": "HLG", "smpte2084": "PQ"}  # by ffmpeg's names of their curves
WHITE, BRIGHTEST = 203, 1000  # cd/m2
NEEDED = "zscale", "tonemap"
_CURVE = re.compile(rf"^\s*Stream #\S+ Video: .*\b({'|'.join(KINDS)})\b", re.MULTILINE)


def tone_mapping(program: str, path: Path) -> str:
    """ffmpeg's filters that make an ordinary video of this one, and a comma; "" where it is one.

    ValueError, with the command that converts the file, where this ffmpeg cannot.
    """
    found = _CURVE.search(told_by(program, "-i", file_url(path)))
    if not found:
        return ""
    filters = filters_for(found[1])
    if not all(_has(program, name) for name in NEEDED):
        raise ValueError(
            f"{WHO}: {path.name} is in HDR ({KINDS[found[1]]}), and {program} lacks {' or '.join(NEEDED)} to "
            f"convert it. Convert it with another ffmpeg: "
            f'ffmpeg -i "{path.name}" -vf "{filters}format=yuv420p" -c:v libx264 -crf 16 -c:a copy '
            f'"{path.stem}_sdr.mp4"'
        )
    return filters


def filters_for(curve: str) -> str:
    """The filters for a curve of KINDS, and a comma."""
    # some files leave out the rest, which is the same in all of them
    known = f"setparams=color_primaries=bt2020:colorspace=bt2020nc:color_trc={curve}"
    linear = f"zscale=t=linear:npl={WHITE}:agamma=0,format=gbrpf32le,zscale=p=bt709"
    # exact up to half of white's light; from there on the brightest still fits
    squeezed = f"tonemap=mobius:param=0.5:peak={BRIGHTEST / WHITE:.2f}:desat=0"
    return f"{known},{linear},{squeezed},zscale=t=bt709:m=bt709:r=tv,format=yuv444p,"


@functools.lru_cache(maxsize=16)
def _has(program: str, name: str) -> bool:
    return bool(re.search(rf"^\s*\S+\s+{name}\s", told_by(program, "-filters"), re.MULTILINE))
