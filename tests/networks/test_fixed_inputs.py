"""What an input holds fixed, such as a mask, is that of the input in its derivatives."""

from collections import UserDict

import pytest
import torch
from torch import nn

from jvpsvd.errors import ModelError
from jvpsvd.networks import Derivatives, layer_maps


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


def entry(J):
    return J.jvp(torch.ones_like(J.point)[None]).flatten()[0].item()


def test_a_batch_takes_what_the_last_input_holds_fixed():
    points = [{"x": ONES, "mask": mask} for mask in (ONES, 0.5 * ONES)]
    derivatives = Derivatives(Gated().eval(), points[0], ["output"], wrt="x")
    derivatives.values(points[1])
    (J,) = derivatives.at_many(torch.stack([ONES, 2 * ONES]))
    assert J.jvp(torch.ones(2, 1, 1, 4, dtype=torch.float64), chunk=1)[0, 0, 0, 0] == 0.5
    assert [entry(derivatives.at(x, "one")[0]) for x in points] == [1.0, 0.5]


def test_a_mapping_that_is_changed_in_place_is_another_input():
    class Net(Gated):
        def __init__(self):
            super().__init__()
            self.start = nn.Identity()

        def forward(self, x, mask):
            return super().forward(self.start(x), mask)

    x = UserDict(x=ONES, mask=ONES)
    derivatives = Derivatives(Net().eval(), x, ["output"], since="start")
    assert entry(derivatives.at(x, "one")[0]) == 1.0
    x["mask"] = 0.5 * ONES
    assert entry(derivatives.at(x, "two")[0]) == 0.5


def test_texts_of_another_length_are_recorded_anew(caplog):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Tanh()).double().eval()
    points = [torch.randint(9, (1, length)) for length in (5, 7, 7, 5)]
    derivatives = Derivatives(net, points[0], ["output"], since="0")
    for x in points:
        assert derivatives.at(x, "one")[0].value.shape == (1, x.shape[1], 3)
    assert "WARNING" not in caplog.text


READ = {
    "nothing": lambda ids: torch.ones(1, 5, 1),
    "entries": lambda ids: ids[..., None] + 1,
    "a number": lambda ids: float(ids.sum()),
}


@pytest.mark.parametrize("read", READ)
def test_texts_share_a_recording_unless_numbers_are_read_from_their_ids(read, count_recordings):
    torch.manual_seed(0)
    net = Padded(READ[read])
    points = [torch.tensor([row]) for row in ([1, 2, 3, 4, 5], [5, 4, 3, 2, 2], [1] * 5)]
    derivatives = Derivatives(net.eval(), points[0], ["mix", "output"], since="embedding")
    for x in points:
        derivatives.at(x, "one")
    assert count_recordings() == (3 if read == "a number" else 1)


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
