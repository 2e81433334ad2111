"""Reports on a disk that is full."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.full_disk import files_up_to

from jvpsvd.cli import main
from jvpsvd.errors import DiskError
from jvpsvd.report import read_values, write_report


@pytest.fixture
def store(finished):
    return finished()


def test_the_file_is_named_and_the_earlier_report_stays(store):
    values = read_values(store)
    written = write_report(values)
    files = [*written.files, written.page]
    before = {file: file.read_bytes() for file in files}
    sizes = sorted({len(data) for data in before.values() if len(data) > 1000})
    named = set()
    for size in (sizes[0] - 1, sizes[-1] - 1):
        with files_up_to(size), pytest.raises(DiskError) as caught:
            write_report(values, threshold=2.0)
        named.add(str(caught.value).split(" cannot be written: File too large; ")[0])
        assert "\n" not in str(caught.value)
        assert {file.name for file in files[0].parent.iterdir()} == {
            *(file.name for file in files), ".written.json",
        }  # fmt: skip
        assert before[written.page] == written.page.read_bytes()
    assert named <= {str(file) for file in files}
    assert str(written.page) in named
    assert any(name.endswith(".csv") for name in named)


def test_the_command_says_it_in_one_line(store, capsys):
    capsys.readouterr()
    with files_up_to(2000), pytest.raises(SystemExit) as ended:
        main(["report", str(store.folder)])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"jvpsvd: {store.folder}/report/")
    assert "cannot be written: File too large; raise the limit on the size of files" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_is_printed_to_a_full_disk_is_one_line():
    command = [sys.executable, "-m", "jvpsvd", "--version"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "jvpsvd: the output cannot be written: No space left on device; send it to another place, "
        "or make room\n"
    )
