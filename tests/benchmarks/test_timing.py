"""Pairs take turns, or lie before and after a switch; ratios are those of rounds."""

import re

import pytest

from benchmarks.measure.timing import Comparison, Pair, Side, compare, compare_across
from benchmarks.parts import small_timings, sparse_phases


def pairs(calls, *names):
    return [
        Pair(
            name,
            ("a", lambda n=name: calls.append(n + "a")),
            ("b", lambda n=name: calls.append(n + "b")),
        )
        for name in names
    ]


def test_sides_take_turns_and_the_first_round_is_not_counted():
    calls = []
    found = compare(pairs(calls, "x")[0], rounds=2)
    assert calls == ["xa", "xb"] * 3
    assert len(found.first.milliseconds) == len(found.second.milliseconds) == 2


def test_all_first_sides_come_before_the_switch():
    calls = []
    found = compare_across(pairs(calls, "x", "y"), 1, lambda: calls.append("switch"))
    assert calls == ["xa", "ya", "xa", "ya", "switch", "xb", "yb", "xb", "yb"]
    assert [one.name for one in found] == ["x", "y"]


def test_the_ratio_is_taken_round_by_round():
    found = Comparison("x", Side("a", (2.0, 9.0, 8.0), 0), Side("b", (1.0, 3.0, 2.0), 5))
    assert (found.ratio.least, found.ratio.median, found.ratio.most) == (2.0, 3.0, 4.0)
    assert str(found).endswith(
        "a 8 (2 to 9) ms   b 2 (1 to 3) ms, 5 page faults   ratio 3 (2 to 4)"
    )
    assert found.to_json()["ratio"]["rounds"] == 3


def test_times_are_given_for_one_of_many():
    slow = Pair("x", ("a", lambda: sum(range(10**5))), ("b", lambda: None), count=1000)
    assert compare(slow, 1).first.milliseconds[0] < 1


@pytest.mark.parametrize(
    "name",
    [
        *("tall", "projected", "tangent_kernel"),
        pytest.param("together", marks=pytest.mark.slow),
        pytest.param("repeated_points", marks=pytest.mark.slow),
    ],
)
def test_small_timings_print_a_line_for_each_pair(name, capsys):
    report = small_timings.main([name, "--quick", "-k", "3"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "   ratio " in line]
    assert len(lines) == len(report[name]) > 0
    assert all(pair["ratio"]["median"] > 0 for pair in report[name])


def test_an_unknown_timing_is_refused(capsys):
    with pytest.raises(SystemExit):
        small_timings.main(["nothing"])
    assert "there are allocator, batches" in capsys.readouterr().err


def test_phases_of_sparse_solves_add_up(capsys):
    sparse_phases.main(["--quick", "-k", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ms")[0].split()[-2] for line in lines] == ["ARPACK", "U", "svds"] * 10
    for line in lines:
        wall, *parts = (int(number) for number in re.findall(r"([0-9]+)(?: ms|,|$)", line))
        assert abs(wall - sum(parts)) <= len(parts)
