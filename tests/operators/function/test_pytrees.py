"""Dicts, tuples and lists of tensors as points and values: one vector, in the order they stand."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
EVERY_WAY = pytest.mark.parametrize("derivatives", ["trace", "transforms"])
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def of_dict(x):
    return {"z": x["b"] * x["a"].sin(), "a": x["a"].sum(1)}


def of_tuple(x):
    a, b = x
    return [(a @ b.T).tanh(), b**2]


def of_list(x):
    return (x[0] * x[2], x[1].exp().sum())


def of_nested(x):
    weights = x["pair"][1][0].softmax(-1)
    return {"outer": (weights * x["pair"][0],), "inner": [{"c": x["c"].cumsum(0)}, weights.sum(0)]}


def with_fixed(x):
    assert x["missing"] is None
    assert x["flag"] is True
    picked = x["a"][x["ids"]] * x["scale"]
    return (picked.sin() if x["which"] == "sine" else picked,)


def tree_to_tensor(x):
    return x["a"] * x["b"]


def tensor_to_tree(x):
    return {"square": x**2, "sum": x.sum()}


def with_constant(x):
    return (torch.ones(2, dtype=x[0].dtype), x[0] * 2)


A, B = (2, 3), (1, 3)
CASES = {
    "dict": (of_dict, lambda r: {"b": r(*A), "a": r(*A)}),
    "tuple": (of_tuple, lambda r: (r(*A), r(4, 3))),
    "list": (of_list, lambda r: [r(2), r(5), r(2)]),
    "nested": (of_nested, lambda r: {"c": r(3), "pair": (r(*A), [r(*B)])}),
    "fixed leaves": (
        with_fixed,
        lambda r: {
            "ids": torch.tensor([2, 0, 2]),
            "a": r(3, 2),
            "missing": None,
            "which": "sine",
            "flag": True,
            "scale": 1.5,
        },
    ),
    "tree to tensor": (tree_to_tensor, lambda r: {"a": r(3, 2), "b": r(2)}),
    "tensor to tree": (tensor_to_tree, lambda r: r(2, 3)),
    "value in part constant": (with_constant, lambda r: (r(3), r(2))),
    "no dimension": (lambda x: (x[0] * x[1], x[0]), lambda r: (r(), r())),
    "no tree": (lambda x: x.sum() ** 2, lambda r: r(2, 3)),
    "no tree and no dimension": (lambda x: x**2, lambda r: r()),
}


def is_floating(leaf):
    return torch.is_tensor(leaf) and leaf.is_floating_point()


def flat(tree):
    return torch.cat([leaf.reshape(-1) for leaf in tree_leaves(tree) if is_floating(leaf)])


def filled(tree, vector):
    """The tree with its floating tensors cut from a vector, one after the other."""
    leaves, spec = tree_flatten(tree)
    start, out = 0, []
    for leaf in leaves:
        if is_floating(leaf):
            stop = start + leaf.numel()
            out.append(vector[start:stop].reshape(leaf.shape))
            start = stop
        else:
            out.append(leaf)
    return tree_unflatten(out, spec)


def truth(fn, x):
    return torch.func.jacrev(lambda v: flat(fn(filled(x, v))))(flat(x)).detach()


def point(make, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return make(lambda *shape: torch.randn(shape, generator=generator, dtype=dtype))


@EVERY_WAY
@EVERY_DTYPE
@pytest.mark.parametrize("name", CASES)
def test_products_equal_the_dense_jacobian_of_the_flattened_function(name, dtype, derivatives, eye):
    fn, make = CASES[name]
    x = point(make, dtype)
    expected = truth(fn, x)
    J = JacobianOperator(fn, x, derivatives=derivatives)

    m, n = J.shape
    assert (m, n) == tuple(expected.shape)
    assert J.dtype == dtype
    scale = TOLERANCE[dtype] * expected.abs().max()
    assert (J @ eye(n, dtype) - expected).abs().max() < scale
    assert (J.T @ eye(m, dtype) - expected.T).abs().max() < scale


@pytest.mark.parametrize("name", CASES)
def test_vectors_and_blocks_take_the_shape_of_x_and_of_the_value(name):
    fn, make = CASES[name]
    x = point(make, torch.float64)
    J = JacobianOperator(fn, x)
    m, n = J.shape
    sides = ((J.as_input, x, n), (J.as_output, fn(x), m))
    for shaped, like, size in sides:
        vector, block = torch.arange(size).double(), torch.randn(size, 4).double()
        assert same(shaped(vector), filled(like, vector))
        leaves, spec = tree_flatten(shaped(block))
        assert spec == tree_flatten(like)[1]
        for i in range(4):
            picked = [leaf[i] if is_floating(leaf) else leaf for leaf in leaves]
            assert same(picked, tree_leaves(filled(like, block[:, i])))
    assert same(J.as_output(J.value.reshape(-1)), fn(x))


def same(ours, theirs):
    (a, spec), (b, other) = tree_flatten(ours), tree_flatten(theirs)
    return spec == other and all(
        p.shape == q.shape and torch.equal(p, q) if torch.is_tensor(p) else p == q
        for p, q in zip(a, b, strict=True)
    )


def test_the_point_is_a_copy_of_the_tree():
    x = {"a": torch.ones(2), "b": torch.full((2,), 3.0)}
    J = JacobianOperator(tree_to_tensor, x)
    x["a"].mul_(100)
    assert J.as_input(J.T @ torch.ones(2))["b"].tolist() == [1.0, 1.0]
    assert J.as_input(J.point)["a"].tolist() == [1.0, 1.0]


class Language(nn.Module):
    """In the style of transformers: token ids, or their embeddings."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, inputs_embeds=None, token_ids=None, *, mask=None, shift=0.0):
        embedded = self.embed(token_ids)
        if inputs_embeds is not None:
            embedded = embedded + inputs_embeds
        return self.layer(embedded, src_key_padding_mask=mask) + shift


@EVERY_WAY
@EVERY_DTYPE
def test_args_and_kwargs_are_held_fixed(derivatives, dtype, dense, eye):
    torch.manual_seed(0)
    net = Language().to(dtype).eval().requires_grad_(False)
    ids, mask = torch.tensor([[1, 5, 2]]), torch.tensor([[False, False, True]])
    x = torch.randn(1, 3, 4, dtype=dtype)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no vmap, which jacrev needs
        expected = dense(lambda z: net(z, ids, mask=mask, shift=2.0), x)
    J = JacobianOperator(
        net, x, args=(ids,), kwargs={"mask": mask, "shift": 2.0}, derivatives=derivatives
    )
    scale = TOLERANCE[dtype] * expected.abs().max()
    torch.testing.assert_close(J.value, net(x, ids, mask=mask, shift=2.0))
    assert (J @ eye(12, dtype) - expected).abs().max() < scale
    assert (J.T @ eye(12, dtype) - expected.T).abs().max() < scale


@EVERY_WAY
def test_a_padding_mask_by_name_for_a_layer_of_torch(derivatives, dense, eye):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double().eval()
    x, mask = torch.randn(1, 3, 4).double(), torch.tensor([[False, True, False]])
    layer.requires_grad_(False)
    with sdpa_kernel(SDPBackend.MATH):
        expected = dense(lambda z: layer(z, src_key_padding_mask=mask), x)
    named = {"src_key_padding_mask": mask}
    J = JacobianOperator(layer, x, kwargs=named, derivatives=derivatives)
    torch.testing.assert_close(J @ eye(12, x.dtype), expected)
    torch.testing.assert_close(J.T @ eye(12, x.dtype), expected.T)
    # The padded token reaches no other one.
    padded = torch.zeros(1, 3, 4).double()
    padded[:, 1] = 1
    image = J.as_output(J @ padded.flatten())
    assert image[:, [0, 2]].abs().max() == 0


@EVERY_WAY
@EVERY_DTYPE
@pytest.mark.parametrize("name", ["dict", "tuple", "list", "nested"])
def test_a_batch_of_trees_is_the_jacobian_at_each_point(name, dtype, derivatives, eye):
    fn, make = CASES[name]
    points = [point(make, dtype, seed) for seed in range(3)]
    leaves = [torch.stack(parts) for parts in zip(*map(tree_leaves, points), strict=True)]
    X = tree_unflatten(leaves, tree_flatten(points[0])[1])
    J = JacobianOperator(fn, X, batch_dims=1, derivatives=derivatives)
    expected = torch.stack([truth(fn, x) for x in points])
    _, m, n = J.shape
    assert J.shape == tuple(expected.shape)
    scale = TOLERANCE[dtype] * expected.abs().max()
    forward, reverse = J @ eye(n, dtype).expand(3, n, n), J.T @ eye(m, dtype).expand(3, m, m)
    assert (forward - expected).abs().max() < scale
    assert (reverse - expected.mT).abs().max() < scale

    V = torch.randn(3, n, 2, dtype=dtype)
    for leaf, like in zip(tree_leaves(J.as_input(V)), leaves, strict=True):
        assert leaf.shape == (3, 2, *like.shape[1:])
    for i, x in enumerate(points):
        single = tree_leaves(filled(x, V[i, :, 1]))
        for leaf, like in zip(tree_leaves(J.as_input(V)), single, strict=True):
            assert torch.equal(leaf[i, 1], like)


def test_a_batch_of_trees_keeps_leaves_that_are_no_tensors():
    X = {"a": torch.ones(3, 2), "which": "sine", "none": None}
    J = JacobianOperator(lambda x: (x["a"] * 2,), X, batch_dims=1)
    assert J.as_input(torch.ones(3, 2))["which"] == "sine"
    assert (J @ torch.ones(3, 2, 1)).eq(2).all()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ((torch.ones(3, 2), torch.ones(2, 2)), r"\(3, 2\) and \(2, 2\).*batch_dims=1"),
        ((torch.ones(3, 2), torch.ones(())), r"\(3, 2\) and \(\).*batch_dims=1"),
        ((torch.ones(3, 2), torch.arange(3)), "not floating.*args or kwargs"),
        ((torch.ones(3, 2), torch.ones(3).bool()), "not floating.*args or kwargs"),
    ],
    ids=["another number", "no dimension", "integers", "booleans"],
)
def test_batches_of_trees_that_do_not_fit_together(X, message):
    with pytest.raises(ArgumentError, match=message):
        JacobianOperator(lambda x: x[0], X, batch_dims=1)


@pytest.mark.parametrize(
    ("fn", "x", "message"),
    [
        (sum, (torch.ones(2), torch.ones(2).double()), "float32 on cpu and one in torch.float64"),
        (sum, (torch.ones(2), torch.ones(2, device="meta")), "one in torch.float32 on meta"),
        (sum, (torch.ones(0), torch.ones(0)), "non-empty"),
        (sum, {"ids": torch.arange(3)}, "no tensor of a floating dtype"),
        (lambda x: (x, x.argmax()), torch.ones(2), "tuple that holds a leaf torch.int64"),
        (lambda x: {"y": x, "n": None}, torch.ones(2), "dict that holds a leaf NoneType"),
        (lambda x: (x, x.double()), torch.ones(2), r"in torch.float32 and torch.float64.*y\.to\("),
        (lambda x: (x.double(),), torch.ones(2), "float32 to torch.float64"),
        (lambda x: {}, torch.ones(2), "empty dict"),
    ],
    ids=[
        *("dtypes", "devices", "empty", "integers", "index", "None", "two dtypes"),
        *("wider value", "empty value"),
    ],
)
def test_trees_without_a_jacobian(fn, x, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        JacobianOperator(fn, x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_value_in_two_dtypes_is_refused_and_one_that_is_cast_is_not(batch_dims):
    narrow = torch.float32
    x = torch.linspace(0.1, 1, 3).double().expand(*[2] * batch_dims, 3)
    with pytest.raises(ArgumentError, match=rf"in {narrow} and torch\.float64.*y\.to\(x\.dtype\)"):
        JacobianOperator(lambda x: {"a": x.to(narrow), "b": x**2}, x, batch_dims=batch_dims)
    J = JacobianOperator(
        lambda x: {"a": x.to(narrow).to(x.dtype), "b": x**2}, x, batch_dims=batch_dims
    )
    assert J.precision == narrow
    expected = torch.cat([torch.eye(3).double(), torch.diag(2 * x.reshape(-1, 3)[0])])
    torch.testing.assert_close(J.to_dense().reshape(-1, 6, 3)[0], expected)
