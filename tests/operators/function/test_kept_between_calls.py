"""A function that keeps tensors of its first call has the derivative of one that does not."""

import functools
from collections import defaultdict, deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import jvpsvd
from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError, JvpsvdError

_generator = torch.Generator().manual_seed(0)
A = torch.randn(5, 6, generator=_generator, dtype=torch.float64)
X = torch.randn(2, 6, generator=_generator, dtype=torch.float64)


def of_hidden(h, x):
    return A @ h + 0.1 * A @ x


def pure(x):
    return of_hidden(x.tanh(), x)


def keep_in_dict():
    kept = {}

    def fn(x):
        if "h" not in kept:
            kept["h"] = x.tanh()
        return of_hidden(kept["h"], x)

    return fn, lambda: dict(kept)


def keep_by_shape_and_count():
    kept, seen = defaultdict(dict), SimpleNamespace(filled=0)

    def fn(x):
        if x.shape not in kept["of shape"]:
            kept["of shape"][x.shape] = (x.tanh(), "h")
            seen.filled += 1
        return of_hidden(kept["of shape"][x.shape][0], x)

    return fn, lambda: (dict(kept), seen.filled)


def keep_by_identity():
    kept = {}

    def fn(x):
        if id(x) not in kept:
            kept[id(x)] = x.tanh()
        return of_hidden(kept[id(x)], x)

    return fn, lambda: dict(kept)


def keep_in_list():
    kept = []

    def fn(x):
        if not kept:
            kept.append(x.tanh())
        return of_hidden(kept[0], x)

    return fn, lambda: list(kept)


def keep_in_deque():
    kept = deque(maxlen=1)

    def fn(x):
        if not kept:
            kept.append(x.tanh())
        return of_hidden(kept[0], x)

    return fn, lambda: list(kept)


def keep_in_variable():
    kept = None

    def fn(x):
        nonlocal kept
        if kept is None:
            kept = x.tanh()
        return of_hidden(kept, x)

    return fn, lambda: kept


HIDDEN = None


def keep_in_global():
    def fn(x):
        global HIDDEN
        if HIDDEN is None:
            HIDDEN = x.tanh()
        return of_hidden(HIDDEN, x)

    return fn, lambda: HIDDEN


def keep_in_attribute_of_function():
    def fn(x):
        if not hasattr(fn, "h"):
            fn.h = x.tanh()
        return of_hidden(fn.h, x)

    return fn, lambda: dict(vars(fn))


class Features:
    def __init__(self):
        self.h = None

    def __call__(self, x):
        if self.h is None:
            self.h = x.tanh()
        return of_hidden(self.h, x)


def keep_in_attribute():
    fn = Features()
    return fn, lambda: fn.h


def keep_in_attribute_of_class():
    class OfClass:
        h = None

        def __call__(self, x):
            if OfClass.h is None:
                OfClass.h = x.tanh()
            return of_hidden(OfClass.h, x)

    return OfClass(), lambda: OfClass.h


class Slots:
    __slots__ = ("done", "h")

    def __init__(self):
        self.done = False

    def run(self, x):
        if not self.done:
            self.h, self.done = x.tanh(), True
        return of_hidden(self.h, x)


def keep_in_slot_with_flag():
    fn = Slots()
    return fn.run, lambda: (fn.done, hasattr(fn, "h"))


class OfObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = Features()

    def forward(self, x):
        return self.features(x)


def keep_in_object_of_module():
    net = OfObject().eval()
    return net, lambda: net.features.h


def keep_in_module_of_list():
    nets = [OfObject().eval()]
    return (lambda x: nets[0](x)), lambda: nets[0].features.h


def keep_whole_value():
    kept = {}

    def decorator(inner):
        @functools.wraps(inner)
        def fn(x):
            if "y" not in kept:
                kept["y"] = inner(x)
            return kept["y"]

        return fn

    return decorator(pure), lambda: dict(kept)


def keep_in_partial():
    kept = {}

    def fn(x, kept):
        if "h" not in kept:
            kept["h"] = x.tanh()
        return of_hidden(kept["h"], x)

    return functools.partial(fn, kept=kept), lambda: dict(kept)


KEEPING = [value for name, value in list(globals().items()) if name.startswith("keep_")]


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
@pytest.mark.parametrize("make", KEEPING)
def test_derivative_is_that_of_a_fresh_function(make, derivatives):
    fn, state = make()
    before = state()
    J = JacobianOperator(fn, X[0], derivatives=derivatives)
    assert torch.allclose(J.to_dense(), torch.func.jacrev(pure)(X[0]))
    assert torch.allclose(J.at(X[1]).to_dense(), torch.func.jacrev(pure)(X[1]))
    batch = JacobianOperator(fn, X, batch_dims=1, derivatives=derivatives)
    assert torch.allclose(batch.to_dense(), torch.vmap(torch.func.jacrev(pure))(X))
    assert state() == before


def test_what_was_kept_before_is_a_constant():
    fn = Features()
    fn(X[0])
    h = fn.h
    J = JacobianOperator(fn, X[0])
    assert torch.allclose(J.to_dense(), 0.1 * A)
    assert fn.h is h


def test_further_arguments_are_restored():
    def fn(x, kept):
        if "h" not in kept:
            kept["h"] = x.tanh()
        return of_hidden(kept["h"], x)

    for args, kwargs in ((({},), {}), ((), {"kept": {}})):
        J = JacobianOperator(fn, X[0], args=args, kwargs=kwargs)
        assert torch.allclose(J.to_dense(), torch.func.jacrev(pure)(X[0]))
        assert {} in (*args, *kwargs.values())


def test_singular_values_and_their_gradients():
    x, y = (X[0].clone().requires_grad_() for _ in range(2))
    fn = Features()
    values = jvpsvd.singular_values(fn, x, 3)
    values.sum().backward()
    torch.linalg.svdvals(torch.func.jacrev(pure)(y))[:3].sum().backward()
    assert torch.allclose(x.grad, y.grad)
    assert fn.h is None


STORE = {}


class Net(nn.Module):
    """Keeps a hidden layer in a global."""

    def __init__(self, store):
        super().__init__()
        self.store = store
        self.first, self.tanh = nn.Linear(6, 6), nn.Tanh()
        self.middle, self.last = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        h = self.tanh(self.first(x))
        kept = h
        if self.store == "global":
            kept = STORE.setdefault("h", h)
        if self.store == "attribute":
            self.h = kept = getattr(self, "h", h)
        return self.last(self.middle(h + 2 * kept))


def jacobian(net):
    return JacobianOperator(net, X).to_dense()


def by_parameters(net):
    return JacobianOperator.wrt_parameters(net, X).to_dense()


def by_layers(net):
    fn, z = jvpsvd.layer_map(net, X, since="first", to="middle")
    return JacobianOperator(fn, z).to_dense()


def tangent_kernel(net):
    return jvpsvd.ntk(net, X, k=3).values


def spectra_of_depths(net):
    return jvpsvd.spectra(net, X, layers=["first", "last"], k=3)["last"].s


@pytest.mark.parametrize("store", ["global", "attribute"])
@pytest.mark.parametrize(
    "take", [jacobian, by_parameters, by_layers, tangent_kernel, spectra_of_depths]
)
def test_networks_by_every_entry(take, store):
    torch.manual_seed(0)
    net, plain = Net(store).double().eval(), Net("nowhere").double().eval()
    plain.load_state_dict(net.state_dict())
    found = take(net)
    assert not STORE
    assert not hasattr(net, "h")
    assert torch.allclose(found, take(plain))


def test_tables_counters_and_logs_pass():
    @functools.lru_cache
    def table(n):
        return torch.linspace(1, 2, n, dtype=torch.float64)

    class Masked:
        def __init__(self):
            self.mask, self.calls, self.log = None, 0, []

        def __call__(self, x):
            if self.mask is None:
                self.mask = torch.ones(len(x), dtype=x.dtype)
            return of_hidden(x.tanh() * table(6) * self.mask, x)

    fn = Masked()
    truth = torch.func.jacrev(lambda x: of_hidden(x.tanh() * table(6), x))(X[0])
    assert torch.allclose(JacobianOperator(fn, X[0]).to_dense(), truth)
    assert fn.mask is None
    calls, losses = {"n": 0}, []

    def counting(x):
        calls["n"] += 1
        losses.append(0.5 * calls["n"])
        return pure(x)

    JacobianOperator(counting, X[0])
    assert calls["n"] == len(losses) > 0


def test_activations_that_a_hook_keeps():
    net, kept = nn.Sequential(nn.Linear(6, 6), nn.Tanh()).double().eval(), {}
    net[0].register_forward_hook(lambda module, args, output: kept.update(h=output))

    def fn(x):
        net(x)
        return of_hidden(kept["h"], x)

    J = JacobianOperator(fn, X[0])
    W = net[0].weight.detach()
    assert torch.allclose(J.to_dense(), A @ W + 0.1 * A)
    assert not kept


def test_state_is_restored_where_fn_raises():
    kept = {}

    def fn(x):
        kept["h"] = x.tanh()
        raise ValueError("no value")

    with pytest.raises(JvpsvdError, match="no value"):
        JacobianOperator(fn, X[0])
    assert not kept


@pytest.mark.parametrize("points", [X[0], X])
@pytest.mark.parametrize("kind", ["tensor", "array", "no flag"])
def test_tensor_that_is_written_once_is_refused(kind, points):
    table, flags = torch.zeros(6, dtype=torch.float64), {"done": False}
    table = table.numpy() if kind == "array" else table

    def fn(x):
        done = flags["done"] if kind != "no flag" else bool(table.any())
        if not done:
            table[:] = x.detach().tanh().numpy() if kind == "array" else x.tanh()
            flags["done"] = True
        return of_hidden(torch.as_tensor(table), x)

    with pytest.raises(ArgumentError, match="'table' in its first call and not again"):
        JacobianOperator(fn, points, batch_dims=points.ndim - 1)
    assert not np.asarray(table).any()
    assert flags == {"done": False}


def test_table_of_constants_that_is_written_once_passes():
    table, flags = torch.zeros(6, dtype=torch.float64), {"done": False}

    def fn(x):
        if not flags["done"]:
            table.copy_(torch.linspace(1, 2, 6))
            flags["done"] = True
        return A @ (table * x)

    J = JacobianOperator(fn, X[0])
    assert torch.allclose(J.to_dense(), A * torch.linspace(1, 2, 6).double())


def test_containers_that_calls_make_are_found():
    class Late:
        def __call__(self, x):
            if not hasattr(self, "kept"):
                self.kept = {}
                return pure(x)
            return of_hidden(self.kept.setdefault("h", x.tanh()), x)

    fn = Late()
    J = JacobianOperator(fn, X[0])
    assert torch.allclose(J.to_dense(), torch.func.jacrev(pure)(X[0]))


def test_random_table_of_the_first_call_is_refused_and_stays_if_made_before():
    kept = {}

    def fn(x):
        if "W" not in kept:
            kept["W"] = torch.randn(3, 6, dtype=x.dtype)
        return kept["W"] @ x

    with pytest.raises(ArgumentError, match="what fn keeps of a call that you make before stays"):
        JacobianOperator(fn, X[0])
    assert not kept
    fn(X[0])
    assert torch.allclose(JacobianOperator(fn, X[0]).to_dense(), kept["W"])


def test_namespaces_that_make_attributes_of_any_name_are_passed_over():
    def fn(x):
        return (torch.classes, 2 * x)[1]

    J = JacobianOperator(fn, X[0]).at(X[1])
    assert torch.allclose(J.to_dense(), 2 * torch.eye(6, dtype=torch.float64))
