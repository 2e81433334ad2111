"""In a notebook without ipywidgets, bars work and ask for nothing."""

import builtins

import pytest
import torch
from torch import nn

from jvpsvd import spectra, svds


class ZMQInteractiveShell:
    """What rich takes for the shell of a notebook."""


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)


def study():
    spectra(nn.Linear(3, 2).eval(), torch.zeros(2, 3), k=1)


def solve():
    svds(torch.eye(40), 3, progress=True)


@pytest.mark.parametrize("work", [study, solve])
def test_a_bar_of_one_line_is_written_over_itself(work, notebook, capsys):
    work()  # a notice would be a warning, and warnings are errors
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "\r" in shown.err
    assert "\x1b[1A" not in shown.err  # no line above the bar is written again
