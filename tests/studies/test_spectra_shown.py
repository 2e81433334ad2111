"""Spectra as tables, figures and xarray datasets, and taken apart as a list is."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from support.spectra_problems import INPUTS, LAYERS, K, inputs, network
from torch import nn

from jvpsvd import spectra
from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.networks import Model


def test_means_table_and_representation():
    found = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    depth = found["1"]
    assert torch.allclose(depth.mean, depth.s.double().mean(0))
    assert torch.allclose(depth.std, depth.s.double().std(0))
    text = str(found)
    assert all(word in text for word in ("σ1", "72 x 192", "5 x 192", "7/7", *LAYERS))
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "\n" not in repr(found)
    assert repr(found[LAYERS[0]]).startswith(
        f"<DepthSpectra: 7 inputs at {LAYERS[0]}, 72 x 192, k="
    )
    assert all("\n" not in repr(one) and str(one) == repr(one) for one in found)
    assert [one.layer for one in found] == LAYERS
    single = spectra(network(), inputs()[:1], k=2, progress=False)["output"]
    assert single.std.tolist() == [0.0, 0.0]


def test_no_cell_of_the_table_is_cut():
    name = "a_module_with_a_long_name_of_its_own_" * 4
    model = nn.Sequential(OrderedDict([(name, nn.Linear(40, 30)), ("b", nn.Linear(30, 8))])).eval()
    S = spectra(model, torch.randn(3, 40), layers=[name, "b"], k=4, progress=False)
    lines = str(S).split("\n")
    assert "…" not in str(S)
    assert any(name in line and "30 x 40" in line and "3/3" in line for line in lines)


def test_plot_draws_every_depth(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    axes = spectra(network(), inputs(), LAYERS, k=K, progress=False).plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == LAYERS
    axes.figure.savefig(tmp_path / "plot.png")
    import matplotlib.pyplot as plt

    plt.close(axes.figure)


def test_no_mean_below_its_residual_is_drawn():
    pytest.importorskip("matplotlib").use("Agg")
    found = spectra(nn.Linear(6, 6).eval(), torch.zeros(2, 6), k=6, progress=False)
    s = torch.tensor([[3, 2, 1, 1e-17, 1e-20, 0]] * 2, dtype=torch.float64)
    depth = replace(found["output"], s=s, residuals=torch.full_like(s, 1e-7))
    axes = replace(found, depths=(depth,)).plot()
    assert list(axes.lines[0].get_ydata()) == [3, 2, 1]
    assert axes.get_ylim()[0] > 0.1
    import matplotlib.pyplot as plt

    plt.close(axes.figure)


def test_xarray_has_the_dimensions_input_depth_index():
    pytest.importorskip("xarray")
    found = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    data = found.to_xarray()
    assert dict(data.sizes) == {"input": INPUTS, "depth": 3, "index": K}
    assert data.s.sel(depth="1").values == pytest.approx(found["1"].s.numpy())
    assert bool(data.s.sel(depth="output")[:, -1].isnull().all())


def test_xarray_has_the_shape_of_each_input_where_they_differ():
    pytest.importorskip("xarray")
    alike = spectra(network(), inputs(), LAYERS, k=K, progress=False)
    data = alike.to_xarray()
    assert data.m.dims == data.n.dims == ("depth",)
    assert list(zip(data.m.values, data.n.values, strict=True)) == [one.shape for one in alike]
    net = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 5)).eval()
    texts = [torch.tensor(ids) for ids in ([1, 2], [3, 4, 5], [6, 7])]
    found = spectra(net, texts, layers=["1", "output"], since="0", k=2, progress=False)
    data = found.to_xarray()
    assert data.m.dims == ("input", "depth")
    assert data.m.sel(depth="output").values.tolist() == [10, 15, 10]
    assert data.n.sel(depth="1").values.tolist() == [8, 12, 8]


def test_a_bar_on_stderr(capsys):
    spectra(network(), inputs(), k=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "spectra" in shown.err


def test_depths_and_inputs_are_found_walked_and_cut_as_in_a_list():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    S = spectra(model, torch.zeros(5, 3), layers=["1", "output"], k=2, progress=False)
    assert "1" in S
    assert S.depths[1] in S
    assert "2" not in S
    depth = S["1"]
    assert len(list(depth)) == len(depth) == 5
    assert torch.equal(S["1", 1:3], depth.s[1:3])


def test_one_input_is_one():
    S = spectra(nn.Linear(3, 2).eval(), torch.ones(1, 3), k=2, progress=False)
    assert str(S).startswith("Linear, 1 input: means")
    assert repr(S) == "<NetworkSpectra: Linear, 1 input at output>"
    with pytest.raises(ArgumentError, match=r"none of the 1 input$"):
        S["output", 1]


def test_a_compiled_network_has_its_own_name():
    compiled = torch.compile(network(), backend="eager")
    S = spectra(compiled, inputs()[:2], k=2, progress=False)
    plain = spectra(network(), inputs()[:2], k=2, progress=False)
    assert (S.model, Model.of(compiled).spec) == ("Sequential", "Sequential")
    assert torch.equal(S["output"].s, plain["output"].s)
    with pytest.raises(ModelError, match="Sequential, called at x,"):
        spectra(compiled, torch.zeros(2, 3), progress=False)
