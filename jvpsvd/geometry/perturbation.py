"""How f changes when its point moves along tangent, normal, random or other directions.

Mototake & Ikegami (section 7) move photos inside and out of the tangent space, and the output
changes differently. For small steps this is so by construction: right singular vectors are the
directions in which f changes most. With the top k values s of J, random unit directions v have the
mean square

    E ‖Jv‖² = Σ_k s² / k  inside their space,   (‖J‖²_F − Σ_k s²) / (n − k)  orthogonal to it,

and ‖J‖²_F / n in the whole space. So measurements are needed only where f is no longer linear: how
far linearity holds (`linearity_range`), whether directions keep their order beyond that, and where
the class changes.

In floating point, f(x + δ) − f(x) cannot be smaller than the rounding of x + δ and of f, which is
about 1e-6 ‖f‖ for a network in float32, whatever δ is. Changes near `Response.floor` are rounding.
Deviations from linearity are rounding there too, and grow as distances shrink. Use float64 or
longer distances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, vmap

from jvpsvd.arguments import positive_number, shown, whole_number
from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.geometry.dimension import real_tensor
from jvpsvd.geometry.directions import Function, check_point, named_outputs
from jvpsvd.geometry.given_jacobians import Matrix, check_jacobian
from jvpsvd.geometry.results import Array, Vectors, right_vectors
from jvpsvd.operators import (
    check_function,
    failures_named,
    full_precision,
    restored,
    transformed,
)
from jvpsvd.operators.function.evaluate import close, evaluate_at, prepare, refuse_nondeterministic
from jvpsvd.operators.function.failures import remedy_at
from jvpsvd.operators.function.lower_precision import eps_of_tests
from jvpsvd.operators.function.pytrees import OfVector
from jvpsvd.records import ComparedByFields
from jvpsvd.scaling import row_norms

Bound = float | Tensor | None

# Differences below this many times the measured floor are rounding.
_ROUNDING = 4.0
# A normalised photo may exceed its bounds by this many eps of the largest bound.
_SLACK = 8.0
# Distances that rounding to the dtype of x moves by more are outside of it.
_DISTANCE_OFF = 0.01


@dataclass(frozen=True, eq=False)
class Response(ComparedByFields):
    """Changes of D outputs along K directions at T distances; float64, on the CPU."""

    depths: tuple[str, ...]
    """Names of the outputs; a single one is called "output"."""
    distances: Tensor
    """(T,) distances in the input, in L2."""
    size: Tensor
    """(D,) ‖f(x)‖."""
    change: Tensor
    """(D, K, T) ‖f(x+δ) − f(x)‖."""
    linear: Tensor
    """(D, K, T) ‖Jδ‖: the change that the derivative predicts."""
    nonlinear: Tensor
    """(D, K, T) ‖f(x+δ) − f(x) − Jδ‖."""
    floor: Tensor
    """(D, T) change of f when every entry of x + δ changes by about eps of itself, measured along
    the first direction; at least eps ‖f‖. Smaller changes and nonlinear parts are rounding."""
    flipped: Tensor
    """(K, T) bool: the last output has another largest entry than at x."""
    outside: Tensor | None
    """(K, T) share of the entries of x + δ, before any clipping, that are out of bounds; None
    without bounds."""
    moved: Tensor
    """(K, T) ‖δ‖: the distance, or less where clipping shortened it."""

    @property
    def relative(self) -> Tensor:
        """(D, K, T) change over ‖f(x)‖; infinite or NaN where that is 0."""
        return self.change / self.size[:, None, None]

    @property
    def deviation(self) -> Tensor:
        """(D, K, T) nonlinear over linear; infinite or NaN where that is 0."""
        return self.nonlinear / self.linear

    @property
    def flip_distance(self) -> Tensor:
        """(K,) the first distance at which the class is another one; infinite if none."""
        return torch.where(self.flipped, self.distances, torch.inf).amin(-1)


def perturbation_response(
    fn: Function,
    x: Tensor,
    directions: Vectors,
    distances: Array | Sequence[float],
    *,
    jacobian: Matrix | Mapping[str, Matrix] | None = None,
    lower: Bound = None,
    upper: Bound = None,
    clip: bool = False,
    batch: int = 16,
) -> Response:
    """Move x by each distance t along each direction v, and measure f at all depths at once.

    δ = t v, or, with `clip`, the δ that remains within the bounds. Jδ uses the same δ.

    Args:
        fn: x → a tensor, a dict of tensors by depth, or a tuple (as `layer_maps` returns), named by
            index. From the largest entry of the last one, a network's logits, classes are told.
        x: One input of fn, of any shape.
        directions: One (n,), or K as columns (n, K), or a result, whose right vectors are taken.
            They must not be 0, and are normalised.
        distances: T ascending positive numbers.
        jacobian: J of fn at x, such as an existing `JacobianOperator`, whose point and value are
            compared with x and f(x); for several depths a dict of them by name. None: fn is
            differentiated in forward mode, or in reverse mode if it has no forward mode.
        lower: Smallest allowed value of each entry, a number or a tensor that broadcasts to x.
        upper: Largest allowed value, likewise.
        clip: Keep x + δ within the bounds.
        batch: Number of points that vmap evaluates together; 1 for a fn whose control flow depends
            on values.

    Raises:
        ArgumentError: If an argument has the wrong shape, is 0 or not finite; if fn is random, or
            cannot be differentiated or evaluated together; if x itself is out of bounds; if the
            Jacobian is that of another point or function, as far as it knows its own.
        ModelError: If fn is a module in training mode.
        NonFiniteError: If f has NaN or infinity at x or at x + δ.

    >>> square = lambda x: x**2
    >>> r = perturbation_response(square, torch.tensor([1.0, 0.0]).double(), torch.eye(2), [0.5, 1])
    >>> r.change[0].tolist(), r.linear[0].tolist(), r.deviation[0, 0].tolist()
    ([[1.25, 3.0], [0.25, 1.0]], [[1.0, 2.0], [0.0, 0.0]], [0.25, 0.5])
    >>> r.flipped.tolist()
    [[False, False], [False, False]]
    """
    batch = whole_number("batch", batch, 1)
    check_point(x)
    x = x.detach()
    unit = _unit_rows(directions, x)
    far = _distances(distances, x.dtype)
    bounds = _bounds(lower, upper, clip, x)
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)).to(x) * 2 - 1
    with full_precision():
        f = _measure(fn, x)
        eps = torch.finfo(f.precision).eps
        jvp = _jvp(f, jacobian)
        D, K, T = len(f.names), len(unit), len(far)
        change, linear, nonlinear = torch.zeros(3, D, K, T, dtype=torch.float64)
        floor = torch.zeros(D, T, dtype=torch.float64)
        flipped = torch.zeros(K, T, dtype=torch.bool)
        outside = torch.zeros(K, T, dtype=torch.float64)
        moved = far.repeat(K, 1)
        best = f.largest(f.value)
        every = torch.cartesian_prod(torch.arange(K), torch.arange(T))
        for pairs in torch.split(every, batch):
            which, t = pairs.unbind(-1)
            steps = far[t].to(x).reshape(-1, *[1] * x.ndim)
            points = x + steps * unit[which]
            if bounds is not None:
                outside[which, t] = _out_of(bounds, points)
            if clip and bounds is not None:
                points = points.clamp(*bounds)
            _refuse_infinite(points, "x + δ", which, far[t])
            if clip and bounds is not None:
                taken = points - x
                moved[which, t] = _norm(taken.flatten(1))
                images = jvp(taken)
            else:
                used, inverse = torch.unique(which, return_inverse=True)
                images = jvp(unit[used])[inverse] * steps.reshape(-1, 1)
            rows = _values(f, points, which, far[t])
            difference = rows - f.value
            change[:, which, t] = f.norms(difference)
            linear[:, which, t] = f.norms(images)
            nonlinear[:, which, t] = f.norms(difference - images)
            _refuse_infinite((difference - images), "f(x + δ) − f(x) − Jδ", which, far[t])
            flipped[which, t] = f.largest(rows) != best
            if (first := which == 0).any():
                rounded = points[first] * (1 + eps * signs)
                rounding = f.norms(_values(f, rounded, which[first], far[t[first]]) - rows[first])
                floor[:, t[first]] = torch.maximum(rounding, eps * f.norms(rows[first]))
    return Response(
        depths=f.names,
        distances=far,
        size=f.norms(f.value),
        change=change,
        linear=linear,
        nonlinear=nonlinear,
        floor=floor,
        flipped=flipped,
        outside=None if bounds is None else outside,
        moved=moved,
    )


def linearity_range(response: Response, tolerance: float = 0.1) -> Tensor:
    """Return (D, K) the distance up to which the deviation from linearity stays ≤ tolerance.

    The deviation is interpolated linearly between the last distance within the tolerance and the
    first beyond it; later distances do not count. The result is 0 if the first distance is already
    beyond the tolerance, and infinite if none is. Distances then only bound the range, so take
    medians over directions, not means. A nonlinear part that is rounding counts as 0.

    Raises:
        ArgumentError: If the tolerance is not positive.

    >>> x, up = torch.ones(1).double(), torch.ones(1)
    >>> linearity_range(perturbation_response(lambda x: x**2, x, up, [0.1, 0.3, 0.5]), 0.2)
    tensor([[0.4000]], dtype=torch.float64)
    """
    tolerance = positive_number("tolerance", tolerance)
    rounding = response.nonlinear <= _ROUNDING * response.floor[:, None]
    deviation = response.deviation.masked_fill(rounding, 0.0)
    beyond = deviation > tolerance
    first = beyond.int().argmax(-1, keepdim=True)
    last = (first - 1).clamp_min(0)
    far = response.distances.expand(deviation.shape)
    (low, high), (inside, outside) = (
        [values.gather(-1, i).squeeze(-1) for i in (last, first)] for values in (deviation, far)
    )
    between = inside + (outside - inside) * (tolerance - low) / (high - low)
    found = torch.where(first.squeeze(-1) == 0, 0.0, between)
    return torch.where(beyond.any(-1), found, torch.inf)


@dataclass(frozen=True)
class _Measured:
    """A function at a point, with all outputs concatenated into one vector."""

    run: Callable[[Tensor], Tensor]
    point: Tensor
    value: Tensor
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    precision: torch.dtype
    """The lowest one that the function computes in."""

    def norms(self, rows: Tensor) -> Tensor:
        """Return the norm of each output, (D,) or (D, b), on the CPU."""
        return torch.stack([_norm(part) for part in torch.split(rows, list(self.sizes), dim=-1)])

    def largest(self, rows: Tensor) -> Tensor:
        last: Tensor = rows[..., -self.sizes[-1] :]
        best: Tensor = last.argmax(-1)
        return best.cpu()


def _measure(fn: Function, x: Tensor) -> _Measured:
    check_function(fn)
    with restored(fn, x.device), failures_named("fn", partial(remedy_at, fn, x)):
        return _evaluate(fn, x)


def _evaluate(fn: Function, x: Tensor) -> _Measured:
    with torch.no_grad():
        outputs = named_outputs(prepare(fn)(x))

    def run(z: Tensor) -> Tensor:
        return torch.cat([output.flatten() for output in named_outputs(fn(z)).values()])

    of_vector = OfVector(run, None)
    seen = evaluate_at(fn, of_vector, x, 0)
    value, lower = seen.value, seen.lower_precision
    with torch.no_grad():
        deterministic = close(prepare(run)(x), value, eps=eps_of_tests(lower, x.dtype))
    if not deterministic:
        refuse_nondeterministic(fn, of_vector, x)
    sizes = tuple(output.numel() for output in outputs.values())
    return _Measured(run, x, value, tuple(outputs), sizes, lower.dtype if lower else x.dtype)


def _values(f: _Measured, points: Tensor, which: Tensor, far: Tensor) -> Tensor:
    """Return the outputs (b, M) at b points."""
    run = prepare(f.run)
    try:
        with torch.no_grad():
            rows: Tensor = run(points[0])[None] if len(points) == 1 else vmap(run)(points)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ArgumentError(
            f"fn cannot be evaluated at {len(points)} points together ({reason}); give a smaller "
            "batch, batch=1 to do without vmap"
        ) from error
    _refuse_infinite(rows, "f", which, far)
    return rows


def _refuse_infinite(rows: Tensor, what: str, which: Tensor, far: Tensor) -> None:
    """Refuse rows, one for each direction and distance, that are not finite."""
    bad = (~rows.flatten(1).isfinite().all(-1)).nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        raise NonFiniteError(
            f"{what} holds NaN or infinity at distance {float(far[i]):g} along direction "
            f"{int(which[i])}; give shorter distances, or bounds and clip=True"
        )


def _jvp(
    f: _Measured, jacobian: Matrix | Mapping[str, Matrix] | None
) -> Callable[[Tensor], Tensor]:
    """Return the function from displacements (b, *x.shape) to derivatives (b, M) of all outputs."""
    if jacobian is None:
        return transformed(f.run, f.point).jvp
    given = jacobian if isinstance(jacobian, Mapping) else {f.names[0]: jacobian}
    if set(given) != set(f.names):
        raise ArgumentError(
            f"jacobian is given for {sorted(given)}, fn has outputs {sorted(f.names)}; match them"
        )
    for name, value in zip(f.names, torch.split(f.value, list(f.sizes)), strict=True):
        check_jacobian(name, given[name], f.point, value)

    def jvp(displacements: Tensor) -> Tensor:
        block = displacements.flatten(1).mT
        images: Tensor = torch.cat([(given[name] @ block).detach() for name in f.names])
        return images.mT

    return jvp


def _unit_rows(directions: Vectors, x: Tensor) -> Tensor:
    """Return directions (K, *x.shape) of norm 1."""
    wide = real_tensor("directions", right_vectors(directions)).double()
    if wide.ndim not in (1, 2) or len(wide) != x.numel():
        raise ArgumentError(
            f"directions have shape {tuple(wide.shape)}; for x of shape {tuple(x.shape)} give one "
            f"({x.numel()},) or several as columns ({x.numel()}, K)"
        )
    rows = wide.reshape(x.numel(), -1).mT
    largest = rows.abs().amax(1, keepdim=True)
    if (largest == 0).any():
        raise ArgumentError(f"direction {int((largest == 0).nonzero()[0, 0])} is 0; leave it out")
    rows = rows / largest
    unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return unit.to(x).reshape(-1, *x.shape)


def _distances(distances: Array | Sequence[float], dtype: torch.dtype) -> Tensor:
    far = real_tensor("distances", distances).double().cpu()
    if far.ndim != 1 or (far <= 0).any() or (far.diff() <= 0).any():
        raise ArgumentError(
            f"distances of shape {tuple(far.shape)} must be positive numbers (T,) that ascend; "
            "turn a direction round to move the other way"
        )
    outside = far[(far.to(dtype).double() / far - 1).abs() > _DISTANCE_OFF]
    if len(outside):
        raise ArgumentError(
            f"a distance of {float(outside[0]):.1e} is outside of {dtype}, that of x; give others, "
            "or x in float64"
        )
    return far


def _bounds(lower: Bound, upper: Bound, clip: bool, x: Tensor) -> tuple[Tensor, Tensor] | None:
    if lower is None and upper is None:
        if clip:
            raise ArgumentError("clip=True needs lower or upper bounds to clip to")
        return None
    found = []
    for name, bound, none in (("lower", lower, -torch.inf), ("upper", upper, torch.inf)):
        try:
            if not isinstance(bound, Tensor):  # a number of Python keeps the digits of x
                bound = torch.as_tensor(none if bound is None else bound, dtype=x.dtype)
            given = bound.detach().to(x)
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentError(f"{name} is {shown(bound)}; give a number or a tensor") from None
        try:
            found.append(given.broadcast_to(x.shape))
        except RuntimeError:
            raise ArgumentError(
                f"{name} of shape {tuple(given.shape)} does not broadcast to x, {tuple(x.shape)}"
            ) from None
    if not (found[0] < found[1]).all():
        raise ArgumentError("lower must be less than upper everywhere")
    if bool(_out_of((found[0], found[1]), x[None]) > 0):
        raise ArgumentError("x itself is out of bounds; give the bounds of x as fn takes it")
    return found[0], found[1]


def _out_of(bounds: tuple[Tensor, Tensor], points: Tensor) -> Tensor:
    """Return the share of entries of each point that are out of bounds by more than rounding."""
    lower, upper = bounds
    largest = max(float(b.abs().masked_fill(b.isinf(), 0).max()) for b in bounds)
    slack = _SLACK * torch.finfo(points.dtype).eps * largest
    out = (points < lower - slack) | (points > upper + slack)
    return out.flatten(1).double().mean(1).cpu()


def _norm(rows: Tensor) -> Tensor:
    return row_norms(rows).cpu()
