"""`jvpsvd.plot`: what library users draw, in the style of every figure."""

import numpy as np
import pytest
import torch

import jvpsvd
from jvpsvd.errors import ArgumentError
from jvpsvd.plot import style

matplotlib = pytest.importorskip("matplotlib", reason="figures need jvpsvd[plot]")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_spectra_have_a_line_and_a_band_each():
    few, one = np.array([[4.0, 2.0], [6.0, 4.0]]), torch.tensor([3.0, 1.0, 0.5])
    ax = jvpsvd.plot.spectra({"middle": few, "output": one})
    middle, output = ax.lines
    assert middle.get_ydata().tolist() == [5.0, 3.0]
    assert output.get_xdata().tolist() == [1, 2, 3]
    (band,) = ax.collections  # a single spectrum has none
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(6.0)
    assert [text.get_text() for text in ax.legend().get_texts()] == ["middle", "output"]
    shades = [matplotlib.colors.to_hex(line.get_color()) for line in ax.lines]
    assert shades == style.shades(2)
    assert middle.get_linestyle() != output.get_linestyle()
    assert ax.get_yscale() == "log"


def test_ticks_are_whole_indices():
    ax = jvpsvd.plot.spectra(np.linspace(3, 1, 4))
    ax.figure.canvas.draw()
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


def _solved():
    return jvpsvd.svds(torch.eye(3), 2)


def _of_network(lengths=(2, 3)):
    net = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 2)).eval()
    texts = [torch.arange(length) for length in lengths]
    return jvpsvd.spectra(net, texts, ["1", "output"], since="0", k="all", progress=False)


def test_what_spectra_returns_is_a_line_for_each_depth():
    S = _of_network()
    lines = jvpsvd.plot.spectra(S).lines
    assert [line.get_label() for line in lines] == ["1", "output"]
    for line, depth in zip(lines, S, strict=True):
        assert depth.s.isnan().sum() == 2
        np.testing.assert_allclose(line.get_ydata(), depth.mean)


def test_results_are_drawn_as_they_come():
    result = jvpsvd.svds(torch.diag(torch.tensor([3.0, 2.0, 1.0])), "all")
    (line,) = jvpsvd.plot.spectra(result, color="red").lines
    np.testing.assert_allclose(line.get_ydata(), [3, 2, 1], rtol=1e-5)
    assert line.get_color() == "red"


def test_vectors_are_images_around_grey():
    rows = torch.zeros(3, 2 * 4 * 4)[:, : 3 * 4].reshape(3, 12)
    rows[0, 0] = -1.0
    figure = jvpsvd.plot.vectors(rows, (3, 2, 2), titles=["v1"], columns=2)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 3
    picture = shown[0].images[0].get_array()
    assert picture.shape == (2, 2, 3)
    assert picture[0, 0].tolist() == [0.0, 0.5, 0.5]
    assert shown[0].get_title() == "v1"
    assert jvpsvd.plot.vectors(torch.randn(2, 5, 5)).axes[0].images
    assert jvpsvd.plot.vectors(torch.randn(1, 5, 5), titles="v1").axes[0].get_title() == "v1"


@pytest.mark.parametrize("columns", [0, -1, 2.5, True])
def test_images_in_a_line_are_a_whole_number(columns):
    with pytest.raises(ArgumentError, match=r"^columns=.* must be a whole number at least 1$"):
        jvpsvd.plot.vectors(torch.randn(2, 5, 5), columns=columns)


def test_depth_by_index_leaves_what_a_depth_has_not():
    ax = jvpsvd.plot.depth_by_index({"a": [4.0, 2.0, 1.0], "b": [3.0]})
    table = ax.images[0].get_array()
    assert table.shape == (2, 3)
    assert np.isnan(np.ma.filled(table, np.nan)[1, 1:]).all()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: jvpsvd.plot.spectra(np.ones((2, 2, 2))), r"s has shape \(2, 2, 2\)"),
        (lambda: jvpsvd.plot.spectra({"a": [-1.0]}), "give singular values"),
        (lambda: jvpsvd.plot.vectors(np.ones((2, 7)), (3, 2, 2)), "give shape="),
        (lambda: jvpsvd.plot.vectors(np.ones((2, 8)), (2, 2, 2)), "give shape="),
        (lambda: jvpsvd.plot.depth_by_index({"a": [0.0]}), "all singular values are 0"),
        (lambda: jvpsvd.plot.depth_by_index({"a": [[1.0]]}), r"give \(k,\)"),
        (lambda: jvpsvd.plot.spectra([1.0], ax=3), "ax is a int; give axes"),
        (lambda: jvpsvd.plot.spectra({"a": "b"}), r"^s\['a'\] is 'b'; give a tensor or array"),
        (lambda: jvpsvd.plot.spectra({"a": torch.ones(2, device="meta")}), "real numbers, as "),
        (lambda: jvpsvd.plot.spectra({"a": torch.ones(2) * 1j}), "array of real numbers, as "),
        (lambda: jvpsvd.plot.vectors(_solved()), r"^rows is .*; give .*as result\.Vh\[:5\]$"),
        (lambda: jvpsvd.plot.depth_by_index({"a": "b"}), r"^means\['a'\] is 'b'; give a tensor"),
        (lambda: jvpsvd.plot.depth_by_index(_solved()), r"give \(k,\) values by name"),
        (lambda: jvpsvd.plot.depth_by_index(_of_network()), r"as {layer: S\[layer\].mean}"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_a_line(draw, said):
    with pytest.raises(ArgumentError, match=said):
        draw()


@pytest.mark.parametrize("name", ["viridis", "cividis"])
def test_stops_are_those_of_matplotlib(name):
    stops = getattr(style, name.upper())
    shares = np.linspace(0, 1, len(stops))
    assert list(stops) == [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps[name](shares)]


def test_a_figure_has_the_colours_of_the_page():
    for share in np.linspace(0, 1, 101):
        theirs = matplotlib.colors.to_rgb(style.interpolate(style.CIVIDIS, share))
        assert np.abs(np.subtract(style.heat_colours()(share)[:3], theirs)).max() <= 2 / 255


@pytest.mark.parametrize(("on_dark", "back"), [(False, "#ffffff"), (True, "#16161a")])
def test_shades_and_inks_stand_out_from_what_is_behind_them(on_dark, back):
    def luminance(colour):
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
            for v in matplotlib.colors.to_rgb(colour)
        ]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    inks = style.INKS_ON_DARK if on_dark else style.INKS
    for colours, least in ((style.shades(12, on_dark=on_dark), 1.7), (inks, 4.5)):
        for colour in colours:
            low, high = sorted([luminance(colour), luminance(back)])
            assert (high + 0.05) / (low + 0.05) >= least, colour


@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_are_drawn_as_they_are(requires_grad):
    s = torch.tensor([3.0, 1.0]).requires_grad_(requires_grad)
    (line,) = jvpsvd.plot.spectra(s).lines
    assert line.get_ydata().tolist() == [3.0, 1.0]
    jvpsvd.plot.depth_by_index({"output": s})
    jvpsvd.plot.vectors(torch.rand(2, 12).requires_grad_(requires_grad), (3, 2, 2))


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [-1.0, 1.0], [np.inf, 1.0]])
def test_what_are_no_singular_values_is_refused(bad):
    with pytest.raises(ArgumentError, match="singular values"):
        jvpsvd.plot.depth_by_index({"output": bad})
    with pytest.raises(ArgumentError, match="singular values"):
        jvpsvd.plot.spectra(bad)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("low", [0.0, 5e-324, 1e-320, 1e-250])
def test_numbers_that_no_axis_shows_are_left_out(low):
    values = np.array([1.0, low])
    assert np.isnan(jvpsvd.plot.spectra(values).lines[0].get_ydata()[1])
    jvpsvd.plot.depth_by_index({"a": values, "b": values}).figure.canvas.draw()


@pytest.mark.parametrize("large", [[1e308, 1e308], [1e308, 1e-308]])
def test_numbers_too_large_for_an_axis_are_refused(large):
    with pytest.raises(ArgumentError, match="draw them over the largest"):
        jvpsvd.plot.spectra(np.array(large))
    with pytest.raises(ArgumentError, match="draw them over the largest"):
        jvpsvd.plot.depth_by_index({"a": np.array(large)})


@pytest.mark.filterwarnings("error")
def test_values_that_differ_by_rounding_alone_are_drawn():
    ax = jvpsvd.plot.spectra(np.array([1 + 4e-16, 1.0]))
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    assert low < 0.9 < 1.1 < high


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_images_of_numbers_that_are_not_finite_are_refused(wrong):
    rows = np.ones((2, 4))
    rows[1, 2] = wrong
    with pytest.raises(ArgumentError, match="finite numbers"):
        jvpsvd.plot.vectors(rows, (2, 2))


def test_figures_of_bfloat16():
    ax = jvpsvd.plot.spectra(torch.tensor([2.0, 1.0], dtype=torch.bfloat16))
    assert ax.lines[0].get_ydata().tolist() == [2.0, 1.0]


def test_networks_side_by_side_are_drawn_a_depth_at_a_time():
    S = _of_network()
    with pytest.raises(ArgumentError, match=r"^s\['a'\] holds 2 depths; give one, as S\['1'\]$"):
        jvpsvd.plot.spectra({"a": S, "b": S})
    assert len(jvpsvd.plot.spectra({"a": S["output"], "b": S["output"]}).lines) == 2


def test_vectors_in_the_shape_of_a_batch_of_one_are_images():
    J = jvpsvd.JacobianOperator(torch.nn.Conv2d(3, 2, 3).eval(), torch.randn(1, 3, 5, 5))
    right = jvpsvd.svds(J, 2).right(J)
    assert right.shape == (2, 1, 3, 5, 5)
    assert len(jvpsvd.plot.vectors(right).axes) == 2
    assert len(jvpsvd.plot.vectors(right, (1, 3, 5, 5)).axes) == 2
