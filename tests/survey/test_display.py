"""What a run shows of its progress: what is under way, how long it takes, and each failure once."""

import contextlib
import dataclasses
import itertools
import os
import re
import sys
import time

import pytest
from support.shards import encoded, sample_members, write_tar
from support.terminal import WIDTHS, screen, terminal

from jvpsvd.survey import Row, RunProgress, show_progress
from jvpsvd.survey.progress.display import Rate

KEY, LAYER = "n02084071_a_photo_of_a_rather_long_name", "encoder.layers.11.mlp.dense_4h_to_h"
PHOTO = RunProgress(KEY, LAYER, photos_done=1, photos=4, share_of_photo=0.5)
FAILED = [Row("s.tar", KEY, 0, None, d, "bad-photo", "cut short", k=5) for d in (LAYER, "output")]

GOOD = [Row("s.tar", KEY, 0, None, LAYER, "ok", "", s=[1.0], residuals=[0.0], k=1)]


def plain(text):
    """Text of a terminal, as a line; rich breaks what is longer than the terminal."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return text.replace("\r", "").replace("\n", "")


@pytest.mark.parametrize("width", [*WIDTHS, 40])
def test_the_bar_says_what_is_under_way_and_cuts_no_name(monkeypatch, width):
    monkeypatch.setenv("TERM", "xterm")
    with terminal(width, monkeypatch, "stderr") as made, show_progress() as show:
        for progress in (
            RunProgress(photos=4, recording=8.3),
            RunProgress(KEY, LAYER, photos=4),
            RunProgress(KEY, photos_done=1, photos=4, rows=FAILED),
            PHOTO,
        ):
            show(progress)
            time.sleep(0.3)  # it is drawn four times a second
    text = plain(made.text)
    assert "recording the network (once, about 8 s)" in text
    assert f"{KEY} at {LAYER}" in text
    assert "photo 2/4" in text
    assert "1 failure" in text
    assert "1 failures" not in text
    assert text.count("bad-photo") == 1
    assert f"s.tar {KEY} at '{LAYER}' and 1 more depth: bad-photo: cut short" in text
    assert "…" not in text


def clock(*times):
    ticks = iter(times)
    return lambda: next(ticks)


def test_time_left_is_told_from_the_second_photo_on_and_without_the_recording():
    """The recording took 100 s, the first photo 10 s, half of the second one 5 s."""
    rate = Rate(clock(100.0, 100.0, 100.0, 110.0, 110.0, 115.0))
    assert rate.left(RunProgress(photos=4, recording=99.0)) == ""
    rate.count(RunProgress("a", "output", photos=4))
    assert rate.left(RunProgress("a", "output", photos=4)) == ""
    rate.count(RunProgress("a", photos_done=1, photos=4, rows=GOOD))
    assert rate.left(RunProgress("a", photos_done=1, photos=4)) == "0:00:30 left"
    half = RunProgress("b", "output", photos_done=1, photos=4, share_of_photo=0.5)
    assert rate.left(half) == "0:00:25 left"


def test_a_broken_photo_counts_once_whatever_the_depths(surveyed, tmp_path):
    members = [*sample_members("good", 0, 0), ("bad.jpg", encoded(1)[:99])]
    outcome = surveyed([write_tar(tmp_path / "s.tar", members)], layers=["0", "2", "output"])
    assert (outcome.computed, outcome.failed, outcome.failures) == (1, 1, 3)
    assert "1 computed, 1 failed" in repr(outcome)


def test_texts_are_called_texts(capsys):
    with show_progress() as show:
        row = Row("s.tar", "a", 0, None, "output", "ok", "", s=[1.0], residuals=[0.0], k=1)
        show(RunProgress("a", photos_done=1, photos=2, rows=[row], one="text"))
    assert capsys.readouterr().err.startswith("text 1/2 a: 1 of 1 depth, ")


def test_photos_that_were_solved_together_are_counted_by_rows(capsys):
    rows = [dataclasses.replace(GOOD[0], key=key, layer=d) for key in "ab" for d in ("1", "2", "3")]
    with show_progress() as show:
        show(RunProgress("b", photos_done=2, photos=4, rows=rows))
        show(RunProgress("c", photos_done=3, photos=4, rows=rows[:3]))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("photo 2/4 b: 6 of 6 rows of 2 photos, ")
    assert second.startswith("photo 3/4 c: 3 of 3 depths, ")


@pytest.mark.parametrize("status", ["bad-photo", "bad-shard", "duplicate-key", "undelivered"])
def test_photos_that_cannot_be_read_are_no_rate(status):
    failed = [dataclasses.replace(row, status=status) for row in FAILED]
    rate = Rate(clock(0.0, 1e-5, 1e-5, 10.0))
    assert "/min" not in rate.count(RunProgress(KEY, photos_done=1, photos=4, rows=failed))
    assert rate.left(RunProgress(KEY, photos_done=1, photos=4)) == ""
    assert rate.count(RunProgress("b", photos_done=2, photos=4, rows=GOOD)).startswith("6 photos/m")


@pytest.mark.parametrize("status", ["out-of-memory", "non-finite", "refused", "error"])
def test_photos_that_fail_after_work_are_of_the_rate(status):
    failed = [dataclasses.replace(row, status=status) for row in FAILED]
    rate = Rate(clock(0.0, 0.0, 10.0, 10.0))
    rate.count(RunProgress(KEY, LAYER, photos=4))
    done = RunProgress(KEY, photos_done=1, photos=4, rows=failed)
    assert rate.count(done).startswith("6 photos/min")
    assert rate.left(RunProgress(KEY, photos_done=1, photos=4)) == "0:00:30 left"


def test_a_high_rate_has_no_exponent():
    rate = Rate(clock(0.0, 0.0, 0.0372))
    rate.count(RunProgress(KEY, LAYER, photos=4))
    assert rate.count(RunProgress(KEY, photos_done=1, photos=4, rows=GOOD)).startswith("1613 ")


def interrupted_at(width, monkeypatch):
    """What a terminal shows of a run that ends by Ctrl-C, which it echoes where the cursor is."""
    with terminal(width, monkeypatch, "stderr") as made:
        with (
            contextlib.suppress(KeyboardInterrupt),
            show_progress(itertools.count().__next__) as show,
        ):
            show(RunProgress(KEY, photos_done=1, photos=4, rows=GOOD))
            show(PHOTO)
            time.sleep(0.3)  # it is drawn four times a second
            os.write(made.slave, b"^C")
            raise KeyboardInterrupt
        sys.stderr.write("interrupted\n")
    return screen(made.text, width)


def test_ctrl_c_behind_a_full_line_leaves_no_line_twice(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    width = len(interrupted_at(200, monkeypatch)[2])
    first, *places, counts, last, end = interrupted_at(width, monkeypatch)
    assert first.startswith("photo 2/4 ")
    assert "".join(places).replace(" ", "") == f"{KEY} at {LAYER}".replace(" ", "")
    assert len(counts) == width
    assert (last, end) == ("interrupted", "")
