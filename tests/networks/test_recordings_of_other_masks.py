"""One recording serves inputs with other masks, unless the network reads numbers from them."""

import itertools

import pytest
import torch
from torch import nn

from jvpsvd import spectra
from jvpsvd.networks import Derivatives, layer_maps

LENGTH, WIDTH = 5, 4


class Masked(nn.Module):
    """Mixes tokens and goes by a mask in the way that it is given."""

    def __init__(self, use):
        super().__init__()
        self.start, self.mix = nn.Linear(WIDTH, WIDTH), nn.Linear(LENGTH, LENGTH)
        self.head, self.use = nn.Linear(WIDTH, 3), use
        self.register_buffer("whole", torch.ones(1, LENGTH))

    def forward(self, x, mask):
        h = self.mix(self.start(x).mT).mT
        return self.head(self.use(self, h, mask).tanh())


class ReadsInBackward(torch.autograd.Function):
    """The identity, whose reverse pass multiplies one small part by a number of the mask."""

    @staticmethod
    def forward(x, mask):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx, grad):
        part = torch.full_like(grad, 1e9)
        part[..., 0] = ctx.saved_tensors[0].sum().item()
        return grad * part, None

    @staticmethod
    def jvp(ctx, tangent, _):
        part = torch.full_like(tangent, 1e9)
        part[..., 0] = ctx.saved_tensors[0].sum().item()
        return tangent * part


def attend(net, h, mask):
    return nn.functional.scaled_dot_product_attention(h, h, h, attn_mask=mask[:, None].bool()) + h


def pool(net, h, mask):
    return h + h[mask.bool()].mean(0)


def kept(net, h, mask):
    if getattr(net, "last", None) is not mask:
        object.__setattr__(net, "last", mask)
        object.__setattr__(net, "scale", 1 + mask.cumsum(-1)[..., None])
    return h * net.scale


MULTIPLIED = lambda net, h, mask: h * mask[..., None]  # noqa: E731
SHARED = {
    "multiplied": MULTIPLIED,
    "divided by its sum": lambda net, h, mask: h / mask.sum(1, keepdim=True)[..., None],
    "filled": lambda net, h, mask: h.masked_fill(mask[..., None] == 0, -3.0),
    "attention": attend,
    "also its own": lambda net, h, mask: h * mask[..., None] + h * net.whole[..., None],
    "kept": kept,
    "one branch": lambda net, h, mask: h * mask[..., None] if not mask.all() else h,
}
NUMBERS = {
    "item": lambda net, h, mask: h * mask.sum().item(),
    "tolist": lambda net, h, mask: h * sum(mask.tolist()[0]),
    "branch": lambda net, h, mask: h.sin() if mask.sum() > 2 else h,
    "loop": lambda net, h, mask: sum((h * i for i in range(1, int(mask.sum()))), h),
    "slice": lambda net, h, mask: torch.cat([h[:, : int(mask.sum())].sin(), h], 1)[:, :LENGTH],
    "backward": lambda net, h, mask: ReadsInBackward.apply(h, mask),
    "pooled": pool,
}
SUMS = (2, 3, 1, 4, 2)
DEPTHS = ["mix", "output"]


def masks(dtype=torch.float64):
    return [(torch.arange(LENGTH) < count)[None].to(dtype) for count in SUMS]


def build(use):
    torch.manual_seed(0)
    return Masked(use).double().eval()


def points_with(some):
    generator = torch.Generator().manual_seed(1)
    return [
        {"x": torch.randn(1, LENGTH, WIDTH, generator=generator).double(), "mask": mask}
        for mask in some
    ]


def expected(net, x, depth, **start):
    maps = layer_maps(net, x, DEPTHS, **start)
    z = maps.start(x)
    return torch.func.jacrev(lambda z: maps(z)[depth])(z).detach().reshape(-1, z.numel())


def compare(J, matrix, tolerance=1e-12):
    scale = matrix.abs().max()
    for product, here, there, of in (
        (J.jvp, J.point, J.value, matrix.T),
        (J.vjp, J.value, J.point, matrix),
    ):
        eye = torch.eye(here.numel(), dtype=here.dtype).reshape(-1, *here.shape)
        rows = product(eye).reshape(-1, there.numel())
        torch.testing.assert_close(rows, of, rtol=1e-9, atol=float(tolerance * scale))


STARTS = [{"wrt": "x"}, {"since": "start"}]


def solve_all(net, points, start, tolerance=1e-12):
    derivatives = Derivatives(net, points[0], DEPTHS, **start)
    for x in points:
        for depth, J in enumerate(derivatives.at(x, "one")):
            compare(J, expected(net, x, depth, **start), tolerance)


@pytest.mark.parametrize("start", STARTS, ids=str)
@pytest.mark.parametrize("use", SHARED.values(), ids=SHARED)
def test_masks_share_a_recording(use, start, count_recordings):
    solve_all(build(use), points_with(masks()), start)
    assert count_recordings() == 1


@pytest.mark.parametrize("start", STARTS, ids=str)
@pytest.mark.parametrize("use", NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_a_mask_ask_for_another_recording(use, start, count_recordings):
    tolerance = 1e-19 if use is NUMBERS["backward"] else 1e-12  # of its largest entries
    solve_all(build(use), points_with(masks()), start, tolerance)
    assert count_recordings() >= 2


def test_masks_that_take_turns_have_a_recording_each(count_recordings):
    some = masks()
    net = build(SHARED["one branch"])
    solve_all(net, points_with([some[0], net.whole, some[1], net.whole, some[2]]), {"wrt": "x"})
    assert count_recordings() == 2


def test_masks_of_another_length_or_dtype_are_recorded_anew(count_recordings):
    def use(net, h, mask):
        return h * mask.double().sum(-1)[..., None, None]

    some = [*masks(), *masks(torch.int64), *(mask[:, :3] for mask in masks()), None]
    net = build(lambda net, h, mask: h if mask is None else use(net, h, mask))
    solve_all(net, points_with(some), {"wrt": "x"})
    assert count_recordings() == 4


def test_one_tensor_in_two_places_is_another_function():
    class Twice(Masked):
        def forward(self, x, mask, other):
            return super().forward(x, mask + 1 if other is mask else mask * other.cumsum(1))

    torch.manual_seed(0)
    net, points = Twice(MULTIPLIED).double().eval(), points_with(masks())
    for index, x in enumerate(points):
        x["other"] = x["mask"] if index % 2 else x["mask"].clone()
    solve_all(net, points, {"wrt": "x"})


def test_a_mask_of_the_network_itself_is_not_exchanged():
    net = build(SHARED["also its own"])
    solve_all(net, points_with([net.whole, *masks(), net.whole]), {"wrt": "x"})


def test_a_mask_that_is_changed_in_place_is_another_one():
    net, (x, *_) = build(MULTIPLIED), points_with(masks())
    derivatives = Derivatives(net, x, DEPTHS, wrt="x")
    before, matrix = derivatives.at(x, "one")[1], expected(net, x, 1, wrt="x")
    x["mask"].mul_(0.5)
    compare(derivatives.at(x, "two")[1], expected(net, x, 1, wrt="x"))
    compare(before, matrix)


def test_weights_that_change_with_the_mask_are_those_of_the_network():
    net, points = build(MULTIPLIED), points_with(masks())
    derivatives = Derivatives(net, points[0], DEPTHS, wrt="x")
    for x in points:
        net.head.weight.data.mul_(0.5)
        compare(derivatives.at(x, "one")[1], expected(net, x, 1, wrt="x"))


def test_weights_in_another_dtype(count_recordings):
    net, points = build(SHARED["attention"]).float(), points_with(masks())
    low = [{name: value.float() for name, value in x.items()} for x in points]
    derivatives = Derivatives(net, low[0], DEPTHS, wrt="x", dtype=torch.float64)
    found = [derivatives.at(x, "one")[1] for x in low]
    wide = net.double()
    for J, x in zip(found, low, strict=True):
        x = {name: value.double() for name, value in x.items()}
        compare(J, expected(wide, x, 1, wrt="x"), 1e-6)
    assert count_recordings() == 1


def test_experts_that_take_tokens_by_value_and_mask(count_recordings):
    def choose(net, h, mask):
        out = torch.zeros_like(h[0])
        for sign in (1, -1):
            (rows,) = torch.where(sign * h[0, :, 0] > 0)
            out = out.index_add(0, rows, (sign * h[0, rows]).tanh() * mask[0, rows, None])
        return h + out

    some = itertools.islice(itertools.cycle(masks()), 20)
    solve_all(build(choose), points_with(some), {"wrt": "x"})
    assert count_recordings() <= 2


def test_a_part_that_only_a_later_mask_shows_is_told(caplog):
    def hide(net, h, mask):
        return h + h.detach() * mask[..., None]

    points = points_with([torch.zeros(1, LENGTH).double(), *masks()])
    derivatives = Derivatives(build(hide), points[0], DEPTHS, wrt="x")
    derivatives.at(points[0], "one")
    assert "missing" not in caplog.text
    derivatives.at(points[1], "two")
    assert "missing" in caplog.text


def test_spectra_of_inputs_with_other_masks(count_recordings):
    net, points = build(SHARED["attention"]), points_with(masks())
    X = {name: torch.cat([x[name] for x in points]) for name in points[0]}
    S = spectra(net, X, DEPTHS, k=3, wrt="x", tol=1e-10, progress=False)
    for index, x in enumerate(points):
        for depth, name in enumerate(DEPTHS):
            values = torch.linalg.svdvals(expected(net, x, depth, wrt="x"))[:3]
            torch.testing.assert_close(S[name].s[index], values, rtol=1e-9, atol=1e-12)
    assert count_recordings() == 1


class Holder:
    """An object of the user's that holds a mask."""

    def __init__(self, mask):
        self.mask = mask


def exact_values(net, x, mask):
    jacobian = torch.func.jacrev(lambda x: net(x, mask))(x).detach()
    return torch.linalg.svdvals(jacobian.reshape(-1, x.numel()))[:3]


def test_an_object_that_changes_between_inputs_is_recorded_anew():
    """The change is so small that a comparison of values would not see it."""
    torch.manual_seed(0)
    net = Masked(lambda net, h, holder: h * holder.mask[..., None]).double().eval()
    xs = torch.randn(4, LENGTH, WIDTH, dtype=torch.float64)
    masks = [1 + 1e-8 * torch.randn(1, LENGTH, dtype=torch.float64) for _ in xs]

    def inputs():
        holder = Holder(None)
        for x, mask in zip(xs, masks, strict=True):
            holder.mask = mask
            yield {"x": x, "mask": holder}

    found = spectra(net, inputs(), k=3, tol=1e-12, wrt="x", progress=False)["output"].s
    for x, mask, s in zip(xs, masks, found, strict=True):
        assert torch.allclose(s, exact_values(net, x[None], Holder(mask)), rtol=1e-12)


@pytest.mark.parametrize("start", [{"wrt": "x"}, {"since": "start"}])
def test_masks_that_differ_in_the_sign_of_zero_are_two(start):
    torch.manual_seed(0)

    def use(net, h, mask):
        return torch.where(torch.signbit(mask)[..., None], h * (1 + 1e-8), h)

    net = Masked(use).double().eval()
    x, zero = torch.randn(LENGTH, WIDTH, dtype=torch.float64), torch.zeros(LENGTH).double()
    inputs = [{"x": x, "mask": mask} for mask in (zero, -zero, zero, -zero)]
    s = spectra(net, inputs, k=3, tol=1e-12, progress=False, **start)["output"].s
    assert torch.equal(s[0], s[2])
    assert torch.equal(s[1], s[3])
    assert (s[0] - s[1]).abs().max() > 1e-10
