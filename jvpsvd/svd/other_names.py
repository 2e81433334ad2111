"""What names of SciPy's, scikit-learn's, NumPy's and torch's SVDs are called here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jvpsvd.arguments import refuse_unknown_names
from jvpsvd.errors import ArgumentError

_SEED = "it is seed here, a whole number, or None for another one each time"
_VECTORS = "it is vectors here: False returns values alone"
_ENDS = (
    "a solve ends when residuals meet tol; memory bounds its bases, and progress can take a "
    "function that stops it"
)
_REDUCED = "U is always (m, k) and Vh (k, n); leave it out"
_PASSES = 'method="randomized" takes a fixed number of passes, the other methods go on until tol'
_BASES = "block_size gives the vectors per step, memory bounds the bases"
_CHOSEN = "the method chooses it; leave it out"
_ANSWERS = {
    # SciPy
    "lapack_driver": _CHOSEN,
    "overwrite_a": "A is never written to; leave it out",
    "check_finite": "products are always checked; leave it out",
    "solver": 'it is method here: "auto", "golub-kahan", "exact" or "randomized"',
    "return_singular_vectors": _VECTORS,
    "maxiter": _ENDS,
    "v0": "it is start here: vectors of the shorter side as columns, or an earlier result",
    "ncv": _BASES,
    "rng": _SEED,
    "random_state": _SEED,
    "options": "the solver needs none; leave it out",
    # scikit-learn
    "n_components": "it is k here",
    "n_iter": _PASSES,
    "n_oversamples": _CHOSEN,
    "power_iteration_normalizer": _CHOSEN,
    "algorithm": 'it is method here: "auto", "golub-kahan", "exact" or "randomized"',
    "svd_flip": "the largest entry of each right vector is always positive; leave it out",
    "flip_sign": "the largest entry of each right vector is always positive; leave it out",
    "transpose": "the shorter side is always found; leave it out",
    "svd_lapack_driver": _CHOSEN,
    # NumPy and torch
    "full_matrices": _REDUCED,
    "some": _REDUCED,
    "compute_uv": _VECTORS,
    "driver": _CHOSEN,
    "hermitian": "it makes no difference here; leave it out",
    "out": "results are new tensors; leave it out",
    # What others call a tolerance, and a bar
    "tolerance": "it is tol here, relative to s[0]",
    "eps": "it is tol here, relative to s[0]",
    "verbose": "it is progress here: True for a bar on stderr",
    "q": "it is k here",
    "niter": _PASSES,
    "M": "subtract it from the operator: svds(A - M)",
    "largest": 'it is which here: "largest" or "smallest"',
    "generator": _SEED,
    "rtol": "it is tol here, relative to s[0]",
    "atol": "it is tol here, relative to s[0]",
    "device": "the solve runs where A lies; move A there",
    "dtype": "the solve runs in the dtype of A; convert A first",
}
RESULT_NAMES = {
    **dict.fromkeys(
        ("S", "sigma", "sigmas", "values", "singular_values", "singular_values_"), "it is s here"
    ),
    "left_vectors": "it is U here; result.left(J) has them in the shape of f(x)",
    "right_vectors": "they are the rows of Vh; result.right(J) has them in the shape of x",
    **dict.fromkeys(("V", "v"), "it is Vh.mT here"),
    **dict.fromkeys(("VT", "Vt", "vt", "VH", "components_"), "it is Vh here"),
    **dict.fromkeys(("error", "errors", "resid"), "it is residuals here"),
    **dict.fromkeys(("cond", "condition"), "it is condition_number() here"),
    "energy": "it is certificate.energy_share here",
    **dict.fromkeys(("dtype", "device"), "its tensors have one, as s does; to(…) changes it"),
    **dict.fromkeys(("cpu", "cuda"), 'write to("cpu") or to("cuda")'),
    **dict.fromkeys(("double", "float"), "write to(torch.float64) or to(torch.float32)"),
    **dict.fromkeys(("detach", "backward", "grad"), "it has no graph; jvpsvd.singular_values has"),
}
"""What attributes of other packages' results are called in an `SVDResult`."""
_WHICH = {
    "LM": "largest", "LA": "largest", "L": "largest",
    "SM": "smallest", "SA": "smallest", "S": "smallest",
}  # fmt: skip


def refuse_other_names(function: Callable[..., Any], names: Mapping[str, object]) -> None:
    """Refuse arguments that a function has not, each with what it is called here.

    Raises:
        UnknownArgumentError: If there is one.

    >>> def svds(A, k=None, *, tol=1e-5): ...
    >>> refuse_other_names(svds, {"n_components": 5})
    Traceback (most recent call last):
    jvpsvd.errors.UnknownArgumentError: svds has no argument n_components; it is k here
    """
    refuse_unknown_names(function, names, _ANSWERS)


def refuse_other_words(which: object) -> None:
    """Refuse SciPy's words for which values.

    Raises:
        ArgumentError: If it is one of them.
    """
    if isinstance(which, str) and which in _WHICH:
        raise ArgumentError(f'which="{which}" is "{_WHICH[which]}" here')
