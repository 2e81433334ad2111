import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from support.shards import encoded, sample_members, write_tar

from jvpsvd.cli import main

COMMAND = [sys.executable, "-c", "from jvpsvd.cli import main; main()"]


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def jvpsvd(tiny, tmp_path, monkeypatch, capsys):
    """A function that runs the command line in a folder of its own, in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        return Ended(stopped.value.code, *capsys.readouterr())

    return call


RUN = (
    "run",
    "--model",
    "tiny:net",
    "-k",
    "10",
    "--layers",
    "2,output",
    "--out",
    "out",
    "--batch",
    "1",
)


def test_run_verify_report_and_run_again(jvpsvd, shard, tmp_path):
    first = jvpsvd(*RUN, "--shards", str(shard))
    assert first.returncode == 0, first.stderr
    assert "294 x 768" in first.stdout
    assert "4 photos computed, 0 finished before, 0 rows failed" in first.stdout
    assert "continue" not in first.stdout
    assert "photo 4/4 photo3: 2 of 2 depths" in first.stderr
    assert (tmp_path / "out" / "report" / "spectra.png").exists()
    whole = jvpsvd("verify", "out")
    assert (whole.returncode, whole.stdout.split(" ")[0]) == (0, "8")
    again = jvpsvd(*RUN, "--shards", str(shard))
    assert again.returncode == 0
    assert "0 photos computed, 4 finished before" in again.stdout
    next((tmp_path / "out" / "spectra").iterdir()).unlink()
    broken = jvpsvd("verify", "out")
    assert broken.returncode == 1
    assert len(re.findall(r"^missing: good-0000.tar photo\d (2|output)$", broken.stdout, re.M)) == 2
    assert jvpsvd("report", "out").returncode == 0


def test_a_threshold_changes_what_is_shown_and_no_run(jvpsvd, shard):
    first = jvpsvd(*RUN, "--shards", str(shard), "--threshold", "0.25")
    assert "σ ≥ 0.25" in first.stdout
    again = jvpsvd(*RUN, "--shards", str(shard))
    assert "0 photos computed, 4 finished before" in again.stdout
    assert "σ ≥ 1:" in again.stdout
    assert "σ ≥ 0.5" in jvpsvd("report", "out", "--threshold", "0.5").stdout


def test_failures_end_with_exit_code_1(jvpsvd, tmp_path):
    write_tar(tmp_path / "s.tar", [*sample_members("good", 0, 0), ("bad.jpg", encoded(1)[:99])])
    done = jvpsvd(*RUN, "--shards", "s.tar")
    assert done.returncode == 1
    assert "s.tar bad at '2' and 1 more depth: bad-photo: 99 bytes that" in done.stderr
    assert done.stderr.count("bad-photo") == 1
    assert "1 photo computed, 1 failed, 0 finished before, 2 rows failed" in done.stdout
    assert "continue:" not in done.stdout  # a photo that cannot be read is not tried again


def test_failures_that_are_tried_again_say_so(jvpsvd, shard):
    done = jvpsvd(*RUN, "--shards", str(shard), "--memory", "100")
    assert done.returncode == 1
    assert "continue: the same command tries again" in done.stdout
    assert jvpsvd("verify", "out").returncode == 0


MISTAKES = [
    (("run", "--model", "resnet1001"), "unknown model 'resnet1001'"),
    (("run", "--model", "tiny:missing"), "has no function 'missing'"),
    (("run", "--model", ".tiny:net"), "'.tiny:net' is relative; write the full name"),
    (("run", "--model", "tiny:quits"), "failed with SystemExit: no network today"),
    (("run", "--model", "tiny:training", "--shards", "good-0000.tar"), "in training mode"),
    (("run", "--model", "tiny:net", "--shards", "nowhere"), "no shard at nowhere"),
    (("run", "--model", "tiny:net", "--shards", ""), "nothing is named; give a folder"),
    (("run", "--model", "tiny:net", "--shards", "good-0000.tar", "-k", "0"), "k=0 must be"),
    ((*RUN[:5], "--shards", "good-0000.tar", "--layers", "8"), "no layer '8'"),
    ((*RUN[:5], "--shards", "good-0000.tar", "--layers", " , "), "no layer is named"),
    ((*RUN, "--shards", "good-0000.tar", "--weights", "w.pt"), "no weights at w.pt"),
    ((*RUN, "--shards", "good-0000.tar", "--memory", "lots"), "memory='lots' is not a size"),
    ((*RUN, "--shards", "good-0000.tar", "--device", "tpu"), "device tpu cannot be used"),
    ((*RUN, "--shards", "good-0000.tar", "--device", "meta"), "device meta cannot be used"),
    ((*RUN, "--shards", "good-0000.tar", "--tol", "-1e-3"), "tol=-0.001 must lie between"),
    ((*RUN, "--shards", "good-0000.tar", "--share", "4/4"), "--share 4/4 is not I/N"),
    ((*RUN, "--shards", "good-0000.tar", "--share", "0/1_0"), "--share 0/1_0 is not I/N"),
    ((*RUN, "--shards", "good-0000.tar", "--share", "0/" + "9" * 5000), "is not I/N"),
    ((*RUN, "--shards", "good-0000.tar", "--memory", "9" * 400), "is not a size"),
    ((*RUN, "--shards", "good-0000.tar", "--out", "code"), "exists and is not a run"),
    ((*RUN, "--shards", "good-0000.tar", "--out", "good-0000.tar/x"), "x cannot be written: Not a"),
    (("run", "-k", "many"), "'many' is not a valid integer"),
    (("run", "-k", "1_0"), "'1_0' is not a valid integer"),
    (("run", "--seed", "١"), "'١' is not a valid integer"),
    (("run", "--tol", "1_0e-5"), "'1_0e-5' is not a valid float"),
    (("report", "out", "--threshold", "0_1"), "'0_1' is not a valid float"),
    (("pack", "photos", "shards", "--per-shard", "1_000"), "is not a valid integer"),
    (("layers", "-k", "1_0"), "'1_0' is not a valid integer"),
    (("run", "--colour"), "No such option"),
    ((*RUN, "--threshold", "0"), "--threshold=0.0 must be a positive number"),
    (("report", "out", "--threshold", "-1"), "--threshold=-1.0 must be a positive number"),
    (("survey",), "No such command 'survey'"),
    (("verify", "nowhere"), "nowhere is not a run"),
    (("verify",), "Missing argument 'RUN'"),
    (("report", "nowhere"), "nowhere is not a run"),
    (("pack", "nowhere", "out"), "no folder nowhere"),
    (("layers", "--model", "nothing.here:f"), "needs nothing.here, which does not import"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistake_is_one_line_and_exit_code_2(jvpsvd, shard, arguments, message):
    done = jvpsvd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"jvpsvd: .*\n", done.stderr), done.stderr
    assert message in done.stderr


def test_a_run_without_samples_leaves_its_folder_to_others(jvpsvd, shard, tmp_path):
    (tmp_path / "text.tar").write_text("hi")
    nothing = jvpsvd(*RUN, "--shards", "text.tar")
    assert nothing.returncode == 2
    assert "no sample in 1 shard" in nothing.stderr
    assert not (tmp_path / "out").exists()
    assert jvpsvd(*RUN, "--shards", str(shard)).returncode == 0


def test_changed_arguments_are_refused_in_one_line(jvpsvd, shard):
    assert jvpsvd(*RUN, "--shards", str(shard)).returncode == 0
    other = jvpsvd(*RUN, "--shards", str(shard), "-k", "11")
    assert other.returncode == 2
    assert other.stderr == (
        "jvpsvd: out is a run with k = 10, now 11; give the same arguments or another --out\n"
    )


def test_pack_then_run(jvpsvd, tmp_path):
    for index, name in enumerate(["cat", "dog"]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.png").write_bytes(encoded(index, "PNG"))
    packed = jvpsvd("pack", "photos", "shards")
    assert packed.returncode == 0
    assert packed.stdout.splitlines() == [
        "photos, photos packed by class",
        "label  class  photos",
        "────────────────────",
        "    0  cat         1",
        "    1  dog         1",
        "2 photos of 2 classes in 1 shard",
        "shards: shards",
    ]
    assert jvpsvd(*RUN, "--shards", "shards").returncode == 0


def test_a_class_without_photos_keeps_its_label_and_is_named(jvpsvd, tmp_path):
    for name in ("cat", "dog", "eel"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    for name in ("cat", "eel"):
        (tmp_path / "photos" / name / "a.png").write_bytes(encoded(0, "PNG"))
    packed = jvpsvd("pack", "photos", "shards")
    assert packed.returncode == 0
    assert "    2  eel         1" in packed.stdout.splitlines()
    assert packed.stderr == (
        "left out: 1 folder of a class without a photo, which keeps its label (photos/dog)\n"
    )


@pytest.mark.parametrize(
    ("name", "code"), [("loose.jpg", 1), ("cat/b.heic", 1), ("cat/b", 1), ("notes.txt", 0)]
)
def test_what_pack_leaves_out_is_named(tmp_path, monkeypatch, capsys, name, code):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "a.png").write_bytes(encoded(0, "PNG"))
    (tmp_path / "photos" / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(("pack", "photos", "shards"))
    printed = capsys.readouterr()
    assert stopped.value.code == code
    assert printed.out.endswith("1 photo of 1 class in 1 shard\nshards: shards\n")
    assert re.fullmatch(rf"left out: 1 .* \(photos/{name}\)\n", printed.err)


def test_pack_into_the_photos_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "ph" / "a").mkdir(parents=True)
    (tmp_path / "ph" / "a" / "a.png").write_bytes(encoded(0, "PNG"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(("pack", "ph", "ph/a"))
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("jvpsvd: ph/a lies in ph, where it would count as")
    assert [file.name for file in (tmp_path / "ph" / "a").iterdir()] == ["a.png"]


def test_layers_as_table_and_json(jvpsvd):
    shown = jvpsvd("layers", "--model", "tiny:wide", "-k", "20")
    assert shown.returncode == 0
    assert "golub-kahan" in shown.stdout
    assert "tol = 1e-05" in shown.stdout
    record = json.loads(jvpsvd("layers", "--model", "tiny:wide", "-k", "20", "--json").stdout)
    assert [layer["name"] for layer in record["layers"]][-1] == "output"
    assert record["layers"][-1]["method"] == "golub-kahan"


@pytest.mark.parametrize("command", ["", "run", "layers", "verify", "report", "pack"])
def test_every_command_explains_itself(jvpsvd, command):
    shown = jvpsvd(*filter(None, [command]), "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("Usage: jvpsvd")


def test_no_command_shows_the_help(jvpsvd):
    shown = jvpsvd()
    assert shown.returncode == 0
    assert "jvpsvd pack PHOTOS SHARDS" in shown.stdout


def test_names_complete():
    variables = {
        "COMP_WORDS": "jvpsvd run --en",
        "COMP_CWORD": "2",
        "_JVPSVD_COMPLETE": "bash_complete",
    }
    done = subprocess.run(
        COMMAND, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "plain,--engine\n")


def test_version_names_what_matters(jvpsvd):
    assert re.match(r"jvpsvd 0\.\d+\.\d+ \(torch 2\.", jvpsvd("--version").stdout)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupt_is_130_and_the_same_command_continues(jvpsvd, tmp_path, number):
    members = [m for i in range(16) for m in sample_members(f"photo{i:02}", i, 0)]
    write_tar(tmp_path / "s.tar", members)
    arguments = (*RUN, "--shards", "s.tar")
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert any("photo 2/16" in line for line in process.stderr)
    process.send_signal(number)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert rest.endswith("jvpsvd: interrupted; the same command continues\n")
    assert "Traceback" not in rest
    done = jvpsvd(*arguments)
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"(\d+) finished before", done.stdout)[1]) >= 2


def test_killed_run_continues(jvpsvd, tmp_path):
    members = [m for i in range(16) for m in sample_members(f"photo{i:02}", i, 0)]
    write_tar(tmp_path / "s.tar", members)
    arguments = (*RUN, "--shards", "s.tar")
    process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stderr=subprocess.DEVNULL)
    spectra = tmp_path / "out" / "spectra"
    while not (spectra.exists() and any(spectra.glob("*.parquet"))):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(2):
        done = jvpsvd(*arguments)
        assert done.returncode == 0, done.stderr
    assert "0 photos computed, 16 finished before, 0 rows failed" in done.stdout


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("status", "jvpsvd run --status RUN"),
        ("plot", "jvpsvd report RUN"),
        ("resume", "jvpsvd run"),
        ("diff", "jvpsvd compare RUN1 RUN2"),
        ("help", "jvpsvd --help"),
    ],
)
def test_words_of_other_programs_have_a_hint(capsys, word, instead):
    with pytest.raises(SystemExit) as stopped:
        main((word, "RUN"))
    error = capsys.readouterr().err
    assert (stopped.value.code, error.count("\n")) == (2, 1)
    assert f"No such command '{word}'; it is '{instead}" in error


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "run --layers 2 output",
            "--layers takes names with commas between them: --layers 2,output.",
        ),
        ("run --layers=2, 3, output -k 5", "between them: --layers 2,3,output."),
        ("run --classes cat dog fox --seed 1", "between them: --classes cat,dog,fox."),
        (
            "run --layers 2 --layers output",
            "--layers was given twice; join the names: --layers A,B.",
        ),
        (
            "run --shards a.tar b.tar --density",
            "--shards takes one word, and 'b.tar' is another; put",
        ),
        ("report RUN --shards a.tar b.tar", "--shards takes one word, and 'b.tar' is another; put"),
        ("layers --device H100 80GiB", "--device takes one word, and '80GiB' is another; put a"),
        ("run --density photos", "Got unexpected extra argument (photos)."),
        ("run photos --layers 2", "Got unexpected extra argument (photos)."),
        ("compare RUN1 RUN2 RUN3", "Got unexpected extra argument (RUN3)."),
    ],
)
def test_a_word_too_many_is_told_how_several_are_written(capsys, typed, said):
    with pytest.raises(SystemExit) as stopped:
        main(typed.split())
    error = capsys.readouterr().err
    assert (stopped.value.code, error.count("\n")) == (2, 1)
    assert said in error
    assert f"See 'jvpsvd {typed.split()[0]} --help'" in error


def test_the_help_names_the_status_of_a_run(capsys):
    with pytest.raises(SystemExit):
        main(("--help",))
    assert "jvpsvd run --status RUN" in capsys.readouterr().out
