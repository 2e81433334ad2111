"""The seconds to a first row, by phases, are those of functions that this tree has."""

import importlib
from operator import attrgetter

import pytest

from benchmarks.parts.first_result import Took, print_table
from benchmarks.parts.first_result_child import PHASES, Clock


@pytest.mark.parametrize(("module", "name"), PHASES)
def test_every_phase_is_a_function_of_this_tree(module, name):
    assert callable(attrgetter(name)(importlib.import_module(module)))


def test_a_phase_counts_without_what_began_inside_it():
    clock = Clock(began=0.0)
    with clock.phase("import torch"):
        assert clock.imported == "import torch"
        inside_before = clock.seconds["inner"][1]
        with clock.phase("inner"):
            sum(range(3_000_000))
    assert clock.imported is None
    assert clock.seconds["inner"][1] > inside_before + clock.seconds["import torch"][1]


def test_what_imports_of_its_own_count_as_torch():
    clock = Clock(began=0.0)
    with clock.phase("import jvpsvd"):
        assert clock.imported is None
        with clock.phase("import torch"):
            assert clock.imported == "import torch"


def test_phases_that_take_little_are_one_line(capsys):
    ours = {"recording": Took(2.0, 1.0), "rich": Took(0.02, 0.01), "first row": Took(2.1, 1.1)}
    print_table({"this tree": ours, "older": {**ours, "recording": Took(4.0, 2.0)}})
    printed = capsys.readouterr().out
    assert "| recording | 1.00 (2.00) | 2.00 (4.00) | 0.50 |" in printed
    assert "| other phases | 0.01 (0.02) | 0.01 (0.02) | 1.00 |" in printed
    assert "| first row | 1.10 (2.10) | 1.10 (2.10) | 1.00 |" in printed
