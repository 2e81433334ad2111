"""The fuzz makes an input again, counts what is not ours, and finds nothing in a few inputs."""

import pytest

from benchmarks.parts import fuzz
from jvpsvd.errors import ShardError


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_inputs_follow_from_seed_kind_and_number(kind):
    if kind != "torch-legacy":  # its tensors lie in the order of memory
        assert fuzz.make_input(kind, 3, 17) == fuzz.make_input(kind, 3, 17)
    assert len({fuzz.make_input(kind, seed, 17) for seed in range(9)}) > 3


def test_no_failure_that_is_not_ours(capfd):
    assert fuzz.main(["--count", "40", "--seed", "1"]) == 0
    printed = capfd.readouterr().out.splitlines()
    assert printed[-1] == f"{40 * len(fuzz.KINDS)} inputs, 0 failures that are not ours"
    assert [line.split()[0] for line in printed[2:-1]] == list(fuzz.KINDS)


def test_failures_that_are_not_ours_are_counted_shown_and_kept(capfd, monkeypatch, tmp_path):
    def read(data, folder):
        if len(data) % 3 == 0:
            raise KeyError("two\nlines")
        if len(data) % 3 == 1:
            raise ShardError(f"two\nlines in {folder}")

    monkeypatch.setitem(fuzz.KINDS, "photos", fuzz.Kind(fuzz.KINDS["photos"].make, read))
    assert fuzz.main(["photos", "--count", "60", "--keep", str(tmp_path / "kept")]) == 1
    *_, first, second, last = capfd.readouterr().out.splitlines()
    assert "KeyError" in first + second
    assert "ShardError" in first + second
    others = int(last.split()[2])
    assert 20 < others < 60
    assert len(list((tmp_path / "kept").iterdir())) == others


def test_an_unknown_kind_is_refused():
    with pytest.raises(SystemExit):
        fuzz.main(["nothing"])
