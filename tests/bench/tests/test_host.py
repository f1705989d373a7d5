"""The host's memory: working memory that comes and goes is no growth, what stays is."""

import io
import json

from rivulet.tests.bench import host
from rivulet.tests.bench.records import Rows

MB = 1 << 20


def judged(values):
    rows = Rows("host", True, io.StringIO())
    at = [2.0 * (index + 1) for index in range(len(values))]
    status = host.verdict(rows, at, values, True, seconds=1.0)
    row = json.loads(rows.out.getvalue().splitlines()[-1])
    assert row["ok"] is (status == 0)
    return row


def test_peaks_of_a_block_are_no_growth():
    row = judged([700 * MB + (200 * MB if index % 3 else 0) for index in range(300)])
    assert row["is_flat"] and row["growth_bytes"] == 0


def test_what_stays_is_growth_under_the_same_peaks():
    row = judged([700 * MB + index * MB + (200 * MB if index % 3 else 0) for index in range(300)])
    # 300 MB over the video, the first fifth aside
    assert not row["is_flat"] and 200 * MB < row["growth_bytes"] < 300 * MB
