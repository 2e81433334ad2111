"""The derivative of a small function, written down by one call of torch.func."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import vjp, vmap

from jvpsvd.operators.derivatives.linear_map import LinearMap, disable_grad, make_change_check
from jvpsvd.operators.derivatives.transforms import by_transforms
from jvpsvd.operators.function.evaluate import check_output, prepare
from jvpsvd.operators.function.modules import called_modules
from jvpsvd.operators.function.restoring import restored


def written_down(fn: Callable[[Tensor], Tensor], plain: LinearMap) -> LinearMap:
    """Return a derivative whose entries are computed when it is first multiplied, and kept.

    Args:
        fn: The function.
        plain: Its derivative by torch.func.

    >>> from jvpsvd.operators import by_transforms
    >>> J = written_down(torch.square, by_transforms(torch.square, torch.tensor([1.0, 3.0])))
    >>> J.vjp(torch.eye(2))
    tensor([[2., 0.],
            [0., 6.]])
    """
    return _of_matrix(fn, plain.point, plain.value, partial(_multiply_units, plain))


def _multiply_units(plain: LinearMap) -> Tensor:
    """Return the matrix by the product of all unit vectors of its shorter side."""
    x, value = plain.point, plain.value
    m, n = value.numel(), x.numel()
    units = torch.eye(min(m, n), dtype=x.dtype, device=x.device)
    if m <= n:
        return plain.vjp(units.reshape(m, *value.shape)).reshape(m, n)
    return plain.jvp(units.reshape(n, *x.shape)).reshape(n, m).T


def _written_at(fn: Callable[[Tensor], Tensor], x: Tensor) -> LinearMap:
    """Return the derivative at a further point, of a function that was examined before."""
    prepared = prepare(fn)
    with restored(fn, x.device):
        value, vjp_fn = vjp(lambda z: check_output(prepared(z)), x)[:2]
        if value.numel() > x.numel():
            return written_down(fn, by_transforms(fn, x, check=False))
        units = torch.eye(value.numel(), dtype=x.dtype, device=x.device)
        with torch.no_grad():
            rows = vmap(lambda u: vjp_fn(u)[0])(units.reshape(-1, *value.shape))
    matrix = rows.reshape(value.numel(), x.numel()).detach()
    return _of_matrix(fn, x, value.detach(), lambda: matrix)


def _of_matrix(
    fn: Callable[[Tensor], Tensor], x: Tensor, value: Tensor, write: Callable[[], Tensor]
) -> LinearMap:
    m, n = value.numel(), x.numel()
    networks = called_modules(fn)
    check = make_change_check(
        [tensor for net in networks for tensor in (*net.parameters(), *net.buffers())]
    )
    written: list[Tensor] = []

    def matrix() -> Tensor:
        check()
        if not written:
            written.append(write())
        return written[0]

    def jvp(block: Tensor) -> Tensor:
        return (block.reshape(-1, n) @ matrix().T).reshape(-1, *value.shape)

    def vjp(block: Tensor) -> Tensor:
        return (block.reshape(-1, m) @ matrix()).reshape(-1, *x.shape)

    return LinearMap(x, value, disable_grad(jvp), disable_grad(vjp), at=partial(_written_at, fn))
