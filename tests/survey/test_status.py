"""A run seen from outside while it works, after it was stopped, and after it died."""

import json
import logging
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from support.command_line import MAIN, CommandLine, reached, stopped
from support.shards import encoded, sample_members, write_tar

from jvpsvd.cli import main
from jvpsvd.survey import open_store, status
from jvpsvd.survey.progress.journal import events, journal, journals, note, others_at_work


def event_names(folder):
    return [event["event"] for file in journals(folder) for event in events(file)]


def shown(capsys, folder):
    """What `jvpsvd run --status` prints, line by line."""
    with pytest.raises(SystemExit) as end:
        main(["run", "--status", str(folder)])
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def snapshot(folder):
    """Name, content and time of every file that is not a lock."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.suffix != ".lock")
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture
def line(tiny, tmp_path):
    return CommandLine(tmp_path)


@pytest.mark.slow
def test_run_is_running_then_stopped_then_died(line, capsys):
    process = line.start()
    assert reached(process, lambda: line.finished() >= 3)
    (one,) = status(open_store(line.out)).processes
    assert (one.state, line.photos > one.photos >= 2) == ("running", True)
    stopped(process, signal.SIGTERM)
    process = line.start()
    assert reached(process, lambda: line.finished() >= 10)
    running = shown(capsys, line.out)
    stopped(process, signal.SIGKILL)
    assert re.fullmatch(r"[\d.]+ photos/min, \d:\d\d:\d\d left", running[1])
    assert ": stopped (interrupted), " in running[2]
    assert ": running, " in running[3]
    before = snapshot(line.out)
    lines = shown(capsys, line.out)
    assert snapshot(line.out) == before
    done = line.finished()
    assert lines[0].startswith(f"{done} of 40 photos done ({100 * done / 40:.0f} %), 0 failures, ")
    assert len(lines) == 5
    assert ": died, " in lines[2]
    command = (
        "jvpsvd run --shards s.tar --model tiny:net --layers 2,output -k 5 --batch 1 --out out"
    )
    assert lines[3:] == [f"continue: {command}", f"in: {line.folder}"]
    assert sum(p.photos for p in status(open_store(line.out)).processes) in (done, done - 1)


@pytest.mark.slow
def test_run_killed_before_the_manifest_says_so(line, capsys):
    line.out.mkdir()
    process = line.start()
    assert reached(process, lambda: event_names(line.out), look_every=0)
    stopped(process, signal.SIGKILL)
    for file in line.out.glob("manifest.parquet*"):
        file.unlink()
    first, second, *resume = shown(capsys, line.out)
    assert first.startswith("no manifest yet")
    assert [text.split(" ")[0] for text in resume] == ["continue:", "in:"]
    assert re.search(r": died, 0 photos(, last line \d:\d\d:\d\d ago)?$", second)


def test_ended_runs_and_shares_have_a_process_each(surveyed, shard, capsys):
    store = surveyed([shard], share=(0, 2)).store
    half = status(store)
    assert (half.photos, half.done, half.counts.values) == (4, 2, 4)
    assert half.seconds_left is None
    surveyed([shard], share=(1, 2))
    names = event_names(store.folder)
    assert [event for event in names if event not in ("called", "finished")] == [
        "began",
        "ended",
    ] * 2
    whole = status(store)
    assert (whole.done, {process.state for process in whole.processes}) == (4, {"ended"})
    assert sum(process.photos for process in whole.processes) == 4
    assert shown(capsys, store.folder)[0].startswith("4 of 4 photos done (100 %), 0 failures, ")


def test_failures_are_counted_and_their_reasons_named(surveyed, tmp_path):
    members = [*sample_members("good", 0, 0), ("bad.jpg", encoded(1)[:99])]
    store = surveyed([write_tar(tmp_path / "s.tar", members)]).store
    found = status(store)
    assert (found.photos, found.done) == (2, 2)
    assert (found.counts.values, found.counts.failures) == (2, 2)
    assert (found.counts.failed, "1 failure," in found.lines()[0]) == (1, True)
    lines = [event for file in journals(store.folder) for event in events(file)]
    reasons = [reason for event in lines for reason in event.get("reasons", [])]
    assert len(reasons) == 1
    assert reasons[0].startswith("bad-photo: 99 bytes")


def per_second(store):
    """Photos per second of the one process, and the seconds from its first line to its last."""
    (file,) = journals(store.folder)
    lines = events(file)
    finished = [line for line in lines if line["event"] == "finished"]
    first, last = (datetime.fromisoformat(line["time"]) for line in (lines[0], finished[-1]))
    (process,) = status(store).processes
    return process.per_second, (last - first).total_seconds()


def test_photos_that_cannot_be_read_are_no_rate(surveyed, tmp_path):
    bad = [(f"bad{i}.jpg", encoded(1)[:99]) for i in range(3)]
    members = [*sample_members("good", 0, 0), *bad]
    store = surveyed([write_tar(tmp_path / "s.tar", members)]).store
    rate, seconds = per_second(store)
    assert rate == pytest.approx(1 / seconds)
    assert status(store).processes[0].photos == 4


def test_photos_that_fail_after_work_are_of_the_rate(surveyed, shard):
    rate, seconds = per_second(surveyed([shard], memory=100, layers=["output"]).store)
    assert rate == pytest.approx(4 / seconds)


def test_failures_that_may_be_mended_are_not_done(surveyed, shard):
    store = surveyed([shard], memory=100, layers=["output"]).store
    found = status(store)
    assert (found.photos, found.done, found.counts.failures) == (4, 0, 4)


def test_interrupted_library_run_says_how_it_stopped(surveyed, shard):
    class EnoughError(Exception):
        pass

    def report(progress):
        if progress.photos_done == 2:
            raise EnoughError("that will do")

    with pytest.raises(EnoughError):
        surveyed([shard], report=report)
    found = status(open_store(shard.parent / "run"))
    assert found.done == 2
    assert [process.state for process in found.processes] == ["stopped (EnoughError: that will do)"]


def typed(arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def test_status_says_how_to_go_on_as_one_would_type_it(tiny, shard, tmp_path, monkeypatch, capsys):
    """Two of three shares are not done."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "my run"
    command = [
        "run", "--shards", shard.name, "--model", "tiny:net", "--layers", "output", "-k", "5",
        "--choice", "first", "--batch", "1", "--share",
    ]  # fmt: skip
    assert typed([*command, "0/3", "--out", str(out)]) == 0
    assert typed([*command, "1/3", "--out", str(out), "--limit", "9"]) == 2  # another run
    capsys.readouterr()
    lines = shown(capsys, out)
    assert lines[-3:] == [
        f"continue: jvpsvd {' '.join(command)} 1/3 --out '{out}'",
        f"continue: jvpsvd {' '.join(command)} 2/3 --out '{out}'",
        f"in: {tmp_path}",
    ]
    assert typed([*command, "1/3", "--out", str(out)]) == 0
    capsys.readouterr()
    assert shown(capsys, out)[-2] == lines[-2]
    assert typed([*command[:-1], "--out", str(out)]) == 0
    capsys.readouterr()
    assert not any(line.startswith("continue") for line in shown(capsys, out))


def test_a_run_that_was_copied_is_continued_where_it_lies(
    tiny, shard, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = ["run", "--shards", shard.name, "--model", "tiny:net", "-k", "5", "--batch", "1"]
    assert typed([*command, "--share", "0/2", "--out", "run"]) == 0
    capsys.readouterr()
    shutil.copytree("run", "copy")
    assert shown(capsys, "copy")[-2:] == [
        f"continue: jvpsvd {' '.join(command)} --share 1/2 --out {tmp_path / 'copy'}",
        f"in: {tmp_path}",
    ]
    assert shown(capsys, "run")[-2].endswith("--share 1/2 --out run")
    for journal_file in (tmp_path / "copy" / "log").glob("*.jsonl"):
        text = journal_file.read_text().replace(f'"{tmp_path}"', '"/nowhere/at/all"')
        journal_file.write_text(text)
    last = shown(capsys, "copy")[-1]
    assert last == "in place of /nowhere/at/all, which is not here"


def test_a_run_of_the_library_is_continued_by_the_library(surveyed, shard):
    store = surveyed([shard], share=(0, 2)).store
    assert status(store).resume_lines() == [
        "continue: the same survey.Spec, which computes nothing twice"
    ]


def test_status_writes_nothing(finished, capsys):
    folder = finished().folder
    before = snapshot(folder)
    shown(capsys, folder)
    assert snapshot(folder) == before


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_missing_run_is_exit_2_and_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(SystemExit) as end:
        main(["run", "--status", str(tmp_path)])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert re.fullmatch(r"jvpsvd: .*run.*\n", printed.err)


def test_damaged_rows_do_not_hide_the_status(finished):
    store = finished()
    store.layout.task_files()[0].write_bytes(b"damaged")
    assert (status(store).done, status(store).counts.values) == (3, 6)


def test_a_damaged_manifest_is_reported(finished, capsys):
    store = finished()
    manifest = store.folder / "manifest.parquet"
    manifest.write_bytes(manifest.read_bytes()[:-100])
    with pytest.raises(SystemExit) as stop:
        main(["run", "--status", str(store.folder)])
    assert stop.value.code == 2
    assert "manifest.parquet" in capsys.readouterr().out


def test_half_a_line_is_tolerated(finished):
    store = finished()
    (file,) = journals(store.folder)
    text = file.read_text()
    file.write_text(text[: text.rindex('"failures"')])
    (process,) = status(store).processes
    assert (process.state, process.photos) == ("died", 4)
    file.write_bytes(b"\xff\x00\n[1]\n")
    assert status(store).processes[0].state == "died"


def test_every_line_is_json_with_time_level_and_event(finished):
    (file,) = journals(finished().folder)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line.keys() >= {"time", "level", "event"} for line in lines)
    solved = [line for line in lines if line["event"] == "finished"]
    assert sorted(key for line in solved for key in line["keys"]) == [f"photo{i}" for i in range(4)]
    assert all((line["values"], line["failures"]) == (2, 0) for line in solved)


def test_warnings_of_the_package_are_in_the_journal(surveyed, shard, caplog):
    store = surveyed([shard], model="tiny:looking", layers=["output"]).store
    lines = [event for file in journals(store.folder) for event in events(file)]
    warned = [line["event"] for line in lines if line["level"] == "warning"]
    assert any("it is differentiated by vmap(jvp) and vmap(vjp), slower" in text for text in warned)
    ours = [record for record in caplog.records if record.name.startswith("jvpsvd")]
    assert warned == [record.getMessage() for record in ours]


def configuration():
    """Everything that a user may have set of the loggers we touch."""
    loggers = [logging.getLogger(name) for name in ("", "jvpsvd")]
    return [(x.level, x.propagate, x.disabled, list(x.handlers), x.filters) for x in loggers]


def test_logging_of_the_user_is_left_as_it_was(tmp_path, caplog):
    package = logging.getLogger("jvpsvd")
    mine = logging.NullHandler()
    package.addHandler(mine)
    try:
        before = configuration()
        with journal(tmp_path):
            note("began", samples=1)
        with pytest.raises(ValueError), journal(tmp_path):
            raise ValueError
        assert configuration() == before
    finally:
        package.removeHandler(mine)
    note("nobody listens")
    assert caplog.records == []
    assert set(event_names(tmp_path)) == {"began", "stopped"}


def test_runs_in_two_threads_write_to_a_journal_each(tmp_path):
    both, first_is_over = threading.Barrier(2), threading.Event()

    def work(name):
        (tmp_path / name).mkdir()
        with journal(tmp_path / name):
            both.wait(10)
            note(f"event of {name}")
            logging.getLogger("jvpsvd.svd").warning("warning of %s", name)
            if name == "second":
                first_is_over.wait(10)
                note("after the other has ended")
        first_is_over.set()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    of_both = {name: event_names(tmp_path / name) for name in ("first", "second")}
    assert of_both["first"] == ["event of first", "warning of first"]
    assert of_both["second"] == [
        "event of second", "warning of second", "after the other has ended",
    ]  # fmt: skip


def test_a_disk_too_full_for_the_journal_is_not_a_traceback(line):
    """Rows fit in 6000 bytes each, the lines of forty photos do not."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); "
    code, printed = line.complete(main=limit + MAIN)
    assert "Traceback" not in printed
    assert code in (0, 2)


def test_another_process_at_the_same_share_is_seen(tmp_path):
    with journal(tmp_path), ThreadPoolExecutor(1) as other:
        assert other.submit(others_at_work, tmp_path, (0, 1)).result() == []
        note("began", share=[0, 1])
        (seen,) = other.submit(others_at_work, tmp_path, (0, 1)).result()
        assert seen == journals(tmp_path)[0].stem
        assert other.submit(others_at_work, tmp_path, (0, 2)).result() == []
        assert others_at_work(tmp_path, (0, 1)) == []
    assert others_at_work(tmp_path, (0, 1)) == []


@pytest.mark.slow
def test_two_runs_of_the_same_share_are_told(line):
    process = line.start()
    assert reached(process, lambda: line.finished() >= 1)
    code, output = line.complete()
    process.communicate()
    assert code == 0
    assert "works on the same share of out: both compute every photo of it" in output
