"""Which of some tensors a value depends on: none is overlooked, whatever way it takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jvpsvd.operators.function.dependence import depends_on

weight = torch.arange(1.0, 5.0)


def written_in_place(mask):
    kept = weight.clone()
    kept.mul_(mask)
    return kept


def written_through_a_view(mask):
    kept = torch.zeros(2, 4)
    kept[1].copy_(mask)
    return kept[0] + kept.sum()


def written_to_out(mask):
    kept = torch.empty(4)
    torch.mul(weight, mask, out=kept)
    return kept


def kept_by_a_module(mask):
    module = nn.Identity()
    module.mask = mask.bool()
    return weight.masked_fill(module.mask, 0.0)


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone() / 2

    @staticmethod
    def backward(ctx, g):
        return g / 2


READ = {
    "a product": lambda mask: weight * mask,
    "a part of several results": lambda mask: (weight, [{"b": mask + 1}])[1],
    "detached": lambda mask: weight * mask.detach(),
    "data": lambda mask: weight * mask.data,
    "a number": lambda mask: weight * mask.sum().item(),
    "a list": lambda mask: weight * sum(mask.tolist()),
    "numpy": lambda mask: weight * float(mask.numpy().sum()),
    "an array of it": lambda mask: torch.from_numpy(mask.numpy().copy()) * weight,
    "a branch": lambda mask: weight if mask.all() else 2 * weight,
    "a branch that leaves it out": lambda mask: weight if torch.equal(mask, mask) else mask,
    "a length": lambda mask: weight[: mask.nonzero().shape[0]],
    "a selection": lambda mask: weight[mask.bool()].numel() * weight,
    "an index": lambda mask: weight[mask.long()],
    "repeats": lambda mask: len(torch.repeat_interleave(mask.long())) * weight,
    "distinct values": lambda mask: len(mask.unique()) * weight,
    "in place": written_in_place,
    "through a view": written_through_a_view,
    "out=": written_to_out,
    "of a module": kept_by_a_module,
    "a custom function": lambda mask: Halved.apply(mask) * weight,
    "within a transform": lambda mask: torch.func.jvp(lambda w: w * mask, (weight,), (weight,)),
    "within vmap": lambda mask: torch.vmap(lambda m: m * weight)(mask[None]),
    "gradient": lambda mask: torch.func.grad(lambda w: (w * mask).sum())(weight),
    "multiplied by zero": lambda mask: weight + 0 * mask,
    "where": lambda mask: torch.where(mask > 0, weight, 0.0),
    "attention": lambda mask: nn.functional.scaled_dot_product_attention(
        torch.ones(1, 4, 4), torch.ones(1, 4, 4), weight * torch.ones(1, 4, 4), mask[None, None]
    ),
    "sparse": lambda mask: torch.mv(torch.diag(mask).to_sparse(), weight),
    "fails": lambda mask: mask.no_such_method(),
}  # fmt: skip


@pytest.mark.parametrize("run", READ.values(), ids=READ)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_read_is_named(run, dtype):
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=dtype)
    assert depends_on(lambda: run(mask), [mask]) == [True]


UNREAD = {
    "unused": lambda ids: weight,
    "dropped": lambda ids: (weight[ids], weight.sum())[1],
    "an embedding that is replaced": lambda ids: (
        nn.functional.embedding(ids, torch.eye(4)), weight
    )[1],
    "its shape": lambda ids: weight * ids.shape[0] * len(ids),
    "like it": lambda ids: weight + torch.zeros_like(ids) * 2,
    "positions": lambda ids: weight[torch.arange(ids.shape[0])],
}  # fmt: skip


@pytest.mark.parametrize("run", UNREAD.values(), ids=UNREAD)
def test_what_is_not_read_is_not_named(run):
    ids, mask = torch.tensor([0, 3, 1, 2]), torch.ones(4)
    assert depends_on(lambda: run(ids) * mask, [ids, mask])[1]
    if run is not UNREAD["like it"]:  # an operation on it counts, though it reads no entry
        assert not depends_on(lambda: run(ids), [ids])[0]


def test_of_nothing_nothing_is_evaluated():
    assert depends_on(lambda: 1 / 0, []) == []


def test_nested_tensors_of_an_encoder_show_the_mask():
    layer = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True).eval()
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    ids, padding = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[0, 0, 1], [0, 0, 0]]).bool()
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    run = lambda: encoder(x, src_key_padding_mask=padding)  # noqa: E731
    assert depends_on(run, [ids, padding]) == [False, True]


STEPS = [
    lambda a, b: a + b,
    lambda a, b: a * b.abs().sum(),
    lambda a, b: a.clone().add_(b),
    lambda a, b: a if b.sum() > 0 else -a,
    lambda a, b: a * int(b.bool().sum()),
    lambda a, b: a[b.long().remainder(3)],
    lambda a, b: a.masked_fill(b > 0, 1.0),
    lambda a, b: a + len(b.nonzero()),
    lambda a, b: a.view(3, 1).expand(3, 3).diagonal() + 1,
    lambda a, b: (a + b, a)[1],
]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(0, 9), st.integers(0, 9)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 2**31),
)
def test_other_entries_of_what_is_not_named_change_nothing(program, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randint(-2, 3, (3,), generator=generator).float() for _ in range(3)]

    def run():
        values = list(tensors)
        for step, i, j in program:
            values.append(step(values[i % len(values)], values[j % len(values)]).float())
        return values[-1]

    found, before = depends_on(run, tensors), run().clone()
    for index, depends in enumerate(found):
        if not depends:
            tensors[index] = torch.randint(-2, 3, (3,), generator=generator).float()
    assert torch.equal(run(), before)
