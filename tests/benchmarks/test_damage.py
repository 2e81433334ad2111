"""The fuzz of damaged runs, for a few of its seeds."""

from benchmarks.parts import damage


def test_a_few_damages_are_named_and_cost_nothing(capsys):
    assert damage.main(["--seeds", "0", "24", "--run-every", "8"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1].startswith("| all | ")
