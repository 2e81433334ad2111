"""The plot of a result."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.svd_problems import spectrum, with_values

from jvpsvd import MatrixOperator, svds
from jvpsvd.errors import ArgumentError

matplotlib = pytest.importorskip("matplotlib", reason="needs the plot extra")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines_of(ax):
    return [line for line in ax.lines if line.get_marker() != "x"]


def test_it_draws_the_values_with_a_band_of_their_residuals():
    result = svds(with_values(spectrum("harmonic", 60), 60, 60), 10, tol=0.1, method="golub-kahan")
    ax = result.plot()
    (line,) = lines_of(ax)
    assert np.array_equal(line.get_xdata(), np.arange(1, 11))
    assert np.array_equal(line.get_ydata(), result.s)
    assert ax.get_yscale() == "log"
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert corners.max() == pytest.approx(float((result.s + result.residuals).max()))
    ax.figure.canvas.draw()


def test_it_draws_on_given_axes_and_takes_the_style_of_a_line():
    result = svds(torch.diag(torch.arange(1.0, 9)), 5)
    _, (left, right) = plt.subplots(1, 2)
    assert result.plot(right, color="black", label="mine", linestyle="--") is right
    assert not left.lines
    (line,) = lines_of(right)
    assert (line.get_color(), line.get_label(), line.get_linestyle()) == ("black", "mine", "--")
    svds(torch.eye(8), 5).plot(right, label="other")
    assert [text.get_text() for text in right.legend().get_texts()] == ["mine", "other"]


def test_values_that_missed_the_tolerance_are_crosses():
    matrix = with_values(spectrum("harmonic", 200), 250, 200).float()
    result = svds(matrix, 20, tol=1e-7, on_unconverged="ignore")
    (crosses,) = (line for line in result.plot().lines if line.get_marker() == "x")
    assert len(crosses.get_xdata()) == int((~result.converged).sum()) > 0


def test_a_batch_is_one_line_for_each_with_one_label():
    result = svds(MatrixOperator(torch.randn(7, 9, 8)), 4)
    ax = result.plot(label="all")
    assert len(lines_of(ax)) == 7
    assert len({line.get_color() for line in lines_of(ax)}) == 1
    assert len(ax.legend().get_texts()) == 1


@pytest.mark.parametrize("values", [[1.0, 0.0], [0.0, 0.0], [1.0, 1e-30], [2.0]])
def test_zeros_are_drawn_without_a_warning(values):
    ax = svds(torch.diag(torch.tensor(values)), len(values)).plot()
    ax.figure.canvas.draw()


@pytest.mark.parametrize("ax", ["axes", 3, plt])
def test_what_is_no_axes(ax):
    with pytest.raises(ArgumentError, match=r"^ax is a .*; give axes, as plt.subplots\(\) returns"):
        svds(torch.eye(3), 2).plot(ax)


def test_without_matplotlib_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import torch, jvpsvd\n"
        "result = jvpsvd.svds(torch.eye(3), 2)\n"
        "assert result._repr_html_() and str(result)\n"
        "try: result.plot()\n"
        "except jvpsvd.errors.ArgumentError as error: print(error)\n"
    )
    code = code.replace("import torch, jvpsvd", "import torch, jvpsvd, jvpsvd.errors")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "plot() needs matplotlib; pip install 'jvpsvd[plot]'\n"
