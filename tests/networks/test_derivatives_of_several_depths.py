"""Derivatives to several depths: one that cannot be recorded leaves the others alone."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from jvpsvd.errors import DerivativeError, ModelError
from jvpsvd.networks import Derivatives, layer_maps


class Deciding(nn.Module):
    """A layer that cannot be recorded."""

    def forward(self, x):
        return x * (2.0 if bool(x.sum() > 0) else 3.0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Deciding(), nn.Linear(4, 2)).double().eval()


def test_depths_before_it_are_recorded(caplog):
    net, X = network(), torch.randn(2, 1, 3, dtype=torch.float64)
    derivatives = Derivatives(net, X[0], ["0", "1", "output"])
    for x in X:
        for depth, J in enumerate(derivatives.at(x, "one")):
            part = [net[:1], net[:2], net][depth]
            expected = torch.func.jacrev(part)(x).detach().reshape(-1, 3)
            torch.testing.assert_close(
                J.jvp(torch.eye(3).double()[:, None]).flatten(1).mT, expected
            )
    assert [one.trace is not None for one in derivatives._recordings] == [True, True, False]
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 1
    assert warned[0].startswith("output: cannot record the function: it decides by values")
    assert "test_derivatives_of_several_depths.py, line" in warned[0]


def test_all_depths_share_the_evaluations_of_a_recording():
    """The values, J v, and points nearby are those of all depths; J'u goes no further than one."""
    calls = {0: 0, 2: 0}
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    for index in calls:
        net[index].register_forward_hook(
            lambda *_, index=index: calls.update({index: calls[index] + 1})
        )
    x = torch.randn(1, 3, dtype=torch.float64)
    derivatives = Derivatives(net, x, ["0", "1", "output"])
    calls.update(dict.fromkeys(calls, 0))  # listing the depths evaluates them, too
    derivatives.at(x, "one")
    assert calls == {0: 7, 2: 5}


class Half(nn.Module):
    """A layer whose products explain half of how it moves."""

    def forward(self, x):
        return x + x.detach()


class OnlyHere(nn.Module):
    """A layer that fails at every point but one."""

    def __init__(self, x):
        super().__init__()
        self.total = float(x.sum())

    def forward(self, x):
        if bool((x.sum() - 2 * self.total).abs() > 1e-9):
            raise ValueError("elsewhere")
        return 2 * x


def test_a_depth_that_fails_nearby_hides_no_other(caplog):
    x = torch.ones(1, 3, dtype=torch.float64)
    derivatives = Derivatives(nn.Sequential(Half(), OnlyHere(x)).eval(), x, ["0", "output"])
    derivatives.at(x, "one")
    assert "0: products explain only a part of how fn moves (50 % is missing)" in caplog.text


class Words(nn.Module):
    """Takes token ids and a mask, which reaches every layer."""

    def __init__(self):
        super().__init__()
        self.embedding, self.mix = nn.Embedding(9, 4), nn.Linear(5, 5)
        self.head = nn.Linear(4, 2)

    def forward(self, ids, mask):
        x = self.embedding(ids)
        if not mask.all():
            x = x * mask[..., None]
        return self.head(self.mix(x.mT).mT.tanh())


@pytest.mark.parametrize("masked", [[0, 0], [0, 2], [2, 1]])
def test_from_a_depth_at_inputs_of_other_ids_and_masks(masked):
    torch.manual_seed(0)
    net = Words().double().eval()
    points = []
    for count in masked:
        mask = torch.ones(1, 5, dtype=torch.int64)
        mask[:, 5 - count :] = 0
        points.append({"ids": torch.randint(9, (1, 5)), "mask": mask})
    derivatives = Derivatives(net, points[0], ["mix", "output"], since="embedding")
    for x in points:
        maps = layer_maps(net, x, ["mix", "output"], since="embedding")
        z = maps.start(x)
        for depth, J in enumerate(derivatives.at(x, "one")):
            expected = torch.func.jacrev(lambda z, depth=depth, maps=maps: maps(z)[depth])(z)
            images = J.jvp(torch.eye(20).double().reshape(20, *z.shape)).flatten(1).mT
            torch.testing.assert_close(images, expected.detach().reshape(-1, 20))


class Padded(Words):
    """Finds the mask in the ids, in one of several ways."""

    def __init__(self, find_mask):
        super().__init__()
        self.find_mask = find_mask

    def forward(self, ids):
        mask = self.find_mask(ids)
        return self.head(self.mix((self.embedding(ids) * mask).mT).mT.tanh()) + 1e6


MASKS = {
    "entries": lambda ids: torch.tensor([[[i != 0] for i in ids[0]]]),
    "compared": lambda ids: (ids != 0)[..., None],
    "numbers": lambda ids: torch.tensor([[[float(i != 0)] for i in ids[0].tolist()]]),
    "length": lambda ids: (torch.arange(5) < ids.count_nonzero())[:, None],
    "selected": lambda ids: (torch.arange(5) < len(ids[ids != 0]))[:, None],
    "written": lambda ids: torch.zeros(1, 5, 1).index_put_((ids[..., None] != 0,), torch.ones(())),
}


@pytest.mark.parametrize("find_mask", MASKS.values(), ids=MASKS)
def test_ids_that_the_depths_depend_on_are_those_of_the_input(find_mask):
    torch.manual_seed(0)
    net, start = Padded(find_mask).double().eval(), {"since": "embedding"}
    rows = [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [2, 1, 0, 0, 0], [1, 2, 3, 4, 0], [3, 3, 3, 3, 3]]
    points = [torch.tensor([row]) for row in rows]
    derivatives = Derivatives(net, points[0], ["output"], **start)
    for x in points:
        maps = layer_maps(net, x, ["output"], **start)
        z = maps.start(x)
        (J,) = derivatives.at(x, "one")
        expected = torch.func.jacrev(lambda z, maps=maps: maps(z)[0])(z).detach().reshape(-1, 20)
        images = J.jvp(torch.eye(20).double().reshape(20, *z.shape)).flatten(1).mT
        torch.testing.assert_close(images, expected)


class Gated(nn.Module):
    """Its derivative takes a mask that its value does not depend on."""

    def forward(self, x, mask):
        gated = x * mask
        return x.detach() + (gated - gated.detach()) + 1e6


class Sized(nn.Module):
    """Its value depends on whether there is a mask, and how long it is."""

    def forward(self, x, mask):
        return (x if mask is None else x * mask.shape[1]) + 1e6


ONES = torch.ones(1, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("net", "masks"),
    [
        (Gated(), [ONES, 0.5 * ONES, ONES]),
        (Sized(), [ONES, ONES[:, :3], None, ONES]),
        (Sized(), [None, ONES, None]),
    ],
    ids=["a derivative", "a shape", "nothing"],
)
def test_derivatives_that_values_do_not_show_are_those_of_the_input(net, masks):
    x = torch.tensor([[1.0, -2.0, 3.0, 0.5]], dtype=torch.float64)
    points = [{"x": x, "mask": mask} for mask in masks]
    derivatives = Derivatives(net.eval(), points[0], ["output"], wrt="x")
    for point in points:
        (J,) = derivatives.at(point, "one")
        mask = point["mask"]
        entries = 1.0 if mask is None else mask.shape[1] * torch.ones(4)
        expected = mask[0] if isinstance(net, Gated) else entries * torch.ones(4).double()
        images = J.jvp(torch.eye(4, dtype=torch.float64).reshape(4, 1, 4)).flatten(1)
        torch.testing.assert_close(images, torch.diag(expected.double()))


def test_texts_of_another_length_are_recorded_anew(caplog):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Tanh()).double().eval()
    points = [torch.randint(9, (1, length)) for length in (5, 7, 7, 5)]
    derivatives = Derivatives(net, points[0], ["output"], since="0")
    for x in points:
        assert derivatives.at(x, "one")[0].value.shape == (1, x.shape[1], 3)
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("reads", [False, True])
def test_texts_share_a_recording_unless_the_depths_depend_on_their_ids(reads, recordings):
    torch.manual_seed(0)
    net = Padded((lambda ids: ids[..., None] + 1) if reads else (lambda ids: torch.ones(1, 5, 1)))
    points = [torch.tensor([row]) for row in ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1] * 5)]
    derivatives = Derivatives(net.eval(), points[0], ["mix", "output"], since="embedding")
    for x in points:
        derivatives.at(x, "one")
    assert len(recordings) == (3 if reads else 1)


class Scaled(nn.Module):
    """Its first output is so large that values hardly show the step, which the derivative does."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 5)
        with torch.no_grad():
            self.last.bias[0] = 1e5

    def forward(self, sample, step):
        return self.last(torch.tanh(self.first(sample)) * step)


@pytest.mark.parametrize("start", [{"since": "first"}, {"wrt": "sample"}], ids=str)
@pytest.mark.parametrize("step", [torch.tensor, float])
def test_what_is_held_fixed_is_that_of_the_input(start, step):
    torch.manual_seed(0)
    net, sample = Scaled().eval(), torch.randn(1, 6)
    points = [{"sample": sample, "step": step(value)} for value in (1.0, 1.0001, 2.0, 1.0)]
    derivatives = Derivatives(net, points[0], ["output"], **start)
    for x in points:
        maps = layer_maps(net, x, ["output"], **start)
        z = maps.start(x)
        (J,) = derivatives.at(x, "one")
        expected = torch.func.jacrev(lambda z, maps=maps: maps(z)[0])(z).detach().reshape(-1, 6)
        images = J.jvp(torch.eye(6).reshape(6, *z.shape)).flatten(1).mT
        torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)


def test_a_depth_that_is_gone_around_is_refused():
    with pytest.raises(ModelError, match="since='mix' is not computed before to='embedding'"):
        layer_maps(
            Words().eval(),
            {"ids": torch.ones(1, 5, dtype=torch.int64), "mask": torch.ones(1, 5)},
            ["embedding"],
            since="mix",
        )


class Hiding(nn.Module):
    """A layer whose second term has no derivative that autograd sees, and is 0 up to x = 0."""

    def __init__(self, hide):
        super().__init__()
        self.hide = hide

    def forward(self, x, gate=None):
        with self.hide():
            hidden = x.relu() ** 2 if gate is None else x * gate
        return x + (hidden.clone() if self.hide is torch.inference_mode else hidden.detach())


@pytest.mark.parametrize("first", [-1.0, 0.0])
@pytest.mark.parametrize("together", [False, True])
def test_what_inference_mode_hides_is_refused_at_a_later_input(first, together):
    net = nn.Sequential(Hiding(torch.inference_mode), nn.Linear(3, 2)).double().eval()
    X = torch.full((3, 1, 3), first, dtype=torch.float64)
    X[2] = torch.tensor([0.5, 1.0, 2.0])
    derivatives = Derivatives(net, X[0], ["0", "output"])
    if together:
        found = [derivatives.at_many(X[:2]), derivatives.at_many(X[1:])]
    else:
        found = [derivatives.at(x, "one") for x in X[1:]]
    flat, live = found
    assert not any(isinstance(J, DerivativeError) for J in flat)
    for J in live:
        assert isinstance(J, DerivativeError)
        assert "torch.inference_mode hides the derivative" in str(J)


def test_the_first_batch_is_compared_at_each_of_its_points():
    net = nn.Sequential(Hiding(torch.inference_mode)).double().eval()
    X = torch.tensor([[[-1.0, -2.0]], [[-2.0, -1.0]], [[1.0, 2.0]]], dtype=torch.float64)
    (J,) = Derivatives(net, X[0], ["output"]).at_many(X)
    assert isinstance(J, DerivativeError)
    assert not isinstance(Derivatives(net, X[0], ["output"]).at_many(X[:2])[0], DerivativeError)


def test_what_a_later_mask_lets_inference_mode_hide_is_refused():
    net = Hiding(torch.inference_mode).double().eval()
    x = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    points = [{"x": x, "gate": torch.full((1,), gate).double()} for gate in (0.0, 1.0)]
    derivatives = Derivatives(net, points[0], ["output"], wrt="x")
    off, on = (derivatives.at(point, "one")[0] for point in points)
    assert not isinstance(off, DerivativeError)
    assert isinstance(on, DerivativeError)


def test_what_a_detach_hides_is_told_once_at_the_first_input_that_shows_it(caplog):
    net = nn.Sequential(Hiding(nullcontext)).double().eval()
    derivatives = Derivatives(net, torch.zeros(1, 3).double(), ["output"])
    told = "output: products explain only a part of how fn moves"
    for value, times in ((-1.0, 0), (1.0, 1), (2.0, 1)):
        derivatives.at(torch.full((1, 3), value, dtype=torch.float64), "one")
        assert caplog.text.count(told) == times


class HidingTwice(nn.Module):
    """What a detach hides shows above 0, and what inference mode hides above 1."""

    def forward(self, x):
        with torch.inference_mode():
            hidden = (x - 1).relu() ** 2
        return x + x.relu().detach() + hidden.clone()


def test_what_inference_mode_hides_is_refused_after_a_detach_was_told():
    net = nn.Sequential(HidingTwice()).double().eval()
    derivatives = Derivatives(net, torch.zeros(1, 3).double(), ["output"])
    for value in (-1.0, 3.0):
        (J,) = derivatives.at(torch.full((1, 3), value, dtype=torch.float64), "one")
        assert isinstance(J, DerivativeError) == (value == 3.0)


class Around(nn.Module):
    """The embedding goes around `mix` where the mask has a zero."""

    def __init__(self):
        super().__init__()
        self.embedding, self.mix, self.side = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, ids, mask):
        x = self.embedding(ids)
        y = self.mix(x).tanh()
        return y if mask.all() else y + self.side(x) * (1 - mask[..., None])


def test_a_path_that_a_later_mask_opens_is_refused():
    net, ids = Around().double().eval(), torch.tensor([[1, 2, 3]])
    whole, masked = torch.ones(1, 3).double(), torch.tensor([[1.0, 0.0, 1.0]]).double()
    derivatives = Derivatives(net, {"ids": ids, "mask": whole}, ["output"], since="mix")
    for _ in range(2):
        assert derivatives.at({"ids": ids, "mask": whole}, "one")[0].jvp is not None
        with pytest.raises(ModelError, match="a path from the input to 'output' goes around it"):
            derivatives.at({"ids": ids, "mask": masked}, "two")


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_an_input_of_nan_comes_first_and_the_next_one_is_recorded(caplog):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    X = torch.randn(3, 1, 3, dtype=torch.float64)
    derivatives = Derivatives(net, X[0], ["1", "output"])
    assert all(J.value.isnan().all() for J in derivatives.at(X[0] * torch.nan, "broken"))
    assert derivatives.at_many(X * torch.nan) == ()
    # At a batch there are derivatives where the network is recorded, and else none.
    assert [J.value.shape for J in derivatives.at_many(X)] == [(3, 1, 4), (3, 1, 2)]
    assert warnings_in(caplog) == []


def test_a_derivative_that_is_hidden_is_told_after_an_input_of_nan(caplog):
    x = torch.ones(1, 3, dtype=torch.float64)
    derivatives = Derivatives(nn.Sequential(Half()).eval(), x, ["output"])
    derivatives.at(x * torch.nan, "broken")
    assert warnings_in(caplog) == []
    derivatives.at(x, "one")
    (warning,) = warnings_in(caplog)
    assert warning.startswith("output: products explain only a part of how fn moves")


def test_a_value_of_nan_is_no_fault_of_the_recording(caplog, recordings):
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    x = -torch.ones(1, 3, dtype=torch.float64)
    derivatives = Derivatives(Root().eval(), x, ["output"])
    (J,) = derivatives.at(x, "negative")
    assert J.value.isnan().all()
    (J,) = derivatives.at(-4 * x, "positive")
    torch.testing.assert_close(J.jvp(torch.ones_like(x)[None])[0], 0.25 * torch.ones_like(x))
    assert len(recordings) == 1
    assert warnings_in(caplog) == []
