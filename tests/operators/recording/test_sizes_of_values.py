"""Values decide on sizes: the derivative at each point has those of that point."""

import logging

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from jvpsvd import JacobianOperator, spectra, survey, svds
from jvpsvd.errors import TraceError
from jvpsvd.networks import Derivatives
from jvpsvd.operators import LinearMap, StreamedStack, Trace

torch.manual_seed(0)
W = torch.randn(8, 5, dtype=torch.float64)
EXPERT = torch.randn(2, 2, dtype=torch.float64)


def points():
    """Points at which the masks below have different numbers of ones."""
    return torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def std_of_rows(h):
    rows = h.reshape(4, 2)
    return rows[rows.sum(1) > 0].var(0, unbiased=False)


def two_dimensions(h):
    return h.reshape(2, 2, 2)[:, h[:4].reshape(2, 2) > 0].var(1, unbiased=False)


def expert_of_some_rows(h):
    rows = h.reshape(4, 2)
    mask, out = rows[:, 0] > 0, torch.zeros_like(rows)
    out[mask] = torch.tanh(rows[mask] @ EXPERT)
    return out.flatten()


def sizes_of_groups(h):
    return (h.mean() * torch.unique((2 * h).long(), return_counts=True)[1]).var(unbiased=False)


def sizes_of_runs(h):
    return (h.mean() * torch.unique_consecutive(h > 0, return_counts=True)[1]).var(unbiased=False)


OPERATIONS = {
    "mask": lambda h: h[h > 0].var(unbiased=False),
    "rows of a mask": std_of_rows,
    "product over a mask": lambda h: h[h > 0].prod(),
    "mask in the middle": two_dimensions,
    "masked_select": lambda h: torch.masked_select(h.reshape(4, 2), h[:2] > -0.5).sum().square(),
    "var of masked_select": lambda h: torch.masked_select(h, h > 0).var(unbiased=False),
    "masked_scatter": lambda h: torch.zeros_like(h).masked_scatter(h > 0, h.square()),
    "nonzero": lambda h: h[torch.nonzero(h > 0)[:, 0]].var(unbiased=False),
    "where": lambda h: h[torch.where(h > 0)].var(unbiased=False),
    "argwhere": lambda h: h[torch.argwhere(h > 0)[:, 0]].var(unbiased=False),
    "unique": sizes_of_groups,
    "unique_consecutive": sizes_of_runs,
    "bincount": lambda h: (h.mean() * torch.bincount((4 + 4 * h).long())).var(unbiased=False),
    "repeat_interleave": lambda h: torch.repeat_interleave(h, (h > 0) + 1).var(unbiased=False),
    "write": expert_of_some_rows,
    "length alone": lambda h: h.sum() * len(h[h > 0]),
    "zeros of a product": lambda h: torch.relu(h[:2] + 0.3).prod(),
}


def function(name):
    return lambda x: torch.tanh(W @ x) + OPERATIONS[name](torch.tanh(W @ x)).sum()


class Net(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.fn = function(name)

    def forward(self, x):
        return torch.stack([self.fn(one) for one in x])


def recorded(fn, X):
    J = JacobianOperator(fn, X[0], derivatives="trace")
    return torch.stack([J.at(x).to_dense() for x in X])


def recorded_on_demand(fn, X):
    J = JacobianOperator(fn, X[0])
    for _ in range(40):  # as much work as a recording
        J @ torch.ones(5, dtype=X.dtype)
    others = [J.at(x) for x in X]
    return torch.stack([each.to_dense() for each in others])


def batch(fn, X):
    return JacobianOperator(fn, X, batch_dims=1) @ torch.eye(5, dtype=X.dtype)


def streamed(fn, X):
    return (StreamedStack.over(fn, X) @ torch.eye(5, dtype=X.dtype)).reshape(len(X), -1, 5)


WAYS = {each.__name__: each for each in (recorded, recorded_on_demand, batch, streamed)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_products_are_those_of_each_point(name, way):
    fn, X = function(name), points()
    expected = torch.stack([jacobian(fn, x) for x in X])
    torch.testing.assert_close(WAYS[way](fn, X), expected)


@pytest.mark.parametrize("together", [None, 1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_spectra_are_those_of_each_input(name, together):
    net, X = Net(name).eval(), points()
    S = spectra(net, X, k="all", batch=together, progress=False)["output"]
    expected = torch.stack([torch.linalg.svdvals(jacobian(net.fn, x)) for x in X])
    torch.testing.assert_close(S.s, expected)
    assert bool(S.certified.all())


def test_rows_of_a_survey_are_those_of_each_input(tmp_path):
    net, X = Net("rows of a mask").eval(), points()
    spec = survey.Spec(inputs=[x[None] for x in X], model=net, layers=["output"], k=3, out=tmp_path)
    s = survey.run(spec, report=False).results.spectra("output").s
    expected = [torch.linalg.svdvals(jacobian(net.fn, x))[:3] for x in X]
    torch.testing.assert_close(torch.as_tensor(s).double(), torch.stack(expected))


def test_a_trace_says_what_differs_and_what_to_do():
    fn, X = function("mask"), points()
    trace = Trace(fn, X[0])
    another = next(x for x in X if (W @ x > 0).sum() != (W @ X[0] > 0).sum())
    with pytest.raises(TraceError, match=r"aten.nonzero gives \(\d, 1\), .*at this point anew"):
        trace.at(another, anew=False)
    with pytest.raises(TraceError, match=r"^at point \d of the batch values of the input decide"):
        trace.at_many(X, anew=False)


def test_a_number_that_is_written_has_no_size(caplog):
    def fn(x):
        h = torch.tanh(W @ x)
        rows = 1 * h.reshape(4, 2)
        rows[rows.sum(1) > 0] = 0.5
        return rows.flatten()

    X = points()
    with caplog.at_level(logging.INFO, logger="jvpsvd"):
        (together,) = Trace(fn, X[0]).at_many(X)
        found = together.jvp(torch.eye(5).double().expand(5, 5, 5), chunk=8).mT
    torch.testing.assert_close(found, torch.stack([jacobian(fn, x) for x in X]))
    assert not caplog.records  # all points at once


def test_inputs_of_other_sizes_are_told_in_the_log_and_are_no_warning(caplog):
    derivatives = Derivatives(Net("mask").eval(), points()[:1], ["output"])
    with caplog.at_level(logging.INFO, logger="jvpsvd"):
        for index, x in enumerate(points()):
            (J,) = derivatives.at(x[None], f"input {index}")
            assert isinstance(J, LinearMap)
    derivatives.at_many(points()[:, None])
    told = [r for r in caplog.records if "values of the input decide on a size" in r.getMessage()]
    assert told[0].getMessage().startswith("output: ")
    assert {r.levelname for r in told} == {"INFO"}


def test_a_point_that_rounding_moves_across_the_bound_of_a_mask():
    x = torch.full((9,), 0.25, dtype=torch.float64)
    (J,) = Trace(lambda x: x * x[x >= 0.25].sum(), x).at(x)
    assert svds(JacobianOperator.from_linear_map(J), 3).certificate.defined_to > 0.01


def test_a_mask_of_weights_that_changed_is_seen():
    kept = torch.tensor([True, True, False])
    trace, x = Trace(lambda x: x * x[kept].var(unbiased=False), torch.rand(3)), torch.rand(3)
    trace.at(x)
    kept.data.fill_(True)
    with pytest.raises(TraceError, match=r"gives \(3, 1\), and gave \(2, 1\)"):
        trace.at(x, anew=False)
    (J,) = trace.at(x)
    truth = jacobian(lambda x: x * x.var(unbiased=False), x)
    torch.testing.assert_close(J.jvp(torch.eye(3)).T, truth)


def test_a_number_written_at_a_transposed_mask_leaves_the_layout():
    def fn(x):
        h = torch.tanh(W @ x).reshape(2, 4) * 1
        h[(h.reshape(4, 2) > 0).T] = 0.0
        return h.view(-1)

    x = points()[0]
    J = JacobianOperator(fn, x, derivatives="trace")
    torch.testing.assert_close(J.to_dense(), jacobian(fn, x))


@torch.library.custom_op("jvpsvd_tests::is_positive", mutates_args=())
def is_positive(x: torch.Tensor) -> torch.Tensor:
    return (x > 0).to(x.dtype)


def test_operations_of_users_are_replayed_at_all_points_in_one_call():
    calls = []

    def of_many(info, in_dims, x):
        calls.append(len(x))
        return is_positive(x), in_dims[0]

    is_positive.register_fake(torch.empty_like)
    is_positive.register_vmap(of_many)
    X = points()
    trace = Trace(lambda x: (x * is_positive(x.detach())).sin(), X[0])
    calls.clear()
    (J,) = trace.at_many(X, check=False)
    assert len(X) in calls
    truth = torch.diag_embed(torch.where(X > 0, torch.cos(X), 0.0))
    torch.testing.assert_close(J.jvp(torch.eye(5).double().expand(5, 5, 5), 64), truth)
