"""Is everything right on a card? Products, values and triplets against float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.problems import networks
from benchmarks.problems.spectra import SPECTRA, choose_shape, spectral
from jvpsvd import MatrixOperator, svds

_CHECK_K = 10


def run_checks(device: str) -> Iterator[dict[str, Any]]:
    """Compare products, values and triplets on the card with the CPU's in float64."""
    spectra = ("1/i", "repeated", "flat")
    for name, find_error in (
        ("products of a perceptron", lambda: _products_error(device)),
        ("values of a perceptron", lambda: _values_error(device)),
        ("values of a batch", lambda: _batch_error(device)),
        *((f"values, {s}", lambda s=s: _spectrum_error(s, device)) for s in spectra),
    ):
        try:
            error: float | None = find_error()
            note = ""
        except Exception as failure:
            error, note = None, f"{type(failure).__name__}: {failure}"
        right = error is not None and error <= 1e-5
        print(f"check {name:28} {'right' if right else 'WRONG'} {error} {note}", flush=True)
        yield {"kind": "check", "name": name, "right": right, "error": error, "note": note}


def _products_error(device: str) -> float:
    here, there = networks.perceptron(), networks.perceptron(device)
    dense = here.double().dense()
    J = there.operator()
    V = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    U = torch.randn(120, 8, generator=torch.Generator().manual_seed(1))
    images, adjoint_products = J.matmat(V.to(device)).cpu(), J.rmatmat(U.to(device)).cpu()
    forward = (images.double() - dense @ V.double()).norm() / dense.norm()
    reverse = (adjoint_products.double() - dense.T @ U.double()).norm() / dense.norm()
    return float(torch.maximum(forward, reverse))


def _values_error(device: str) -> float:
    truth = torch.linalg.svdvals(networks.perceptron().double().dense())[:_CHECK_K]
    J = networks.perceptron(device).operator()
    found = [svds(J, _CHECK_K, tol=1e-5, method=m).s for m in ("exact", "golub-kahan")]
    return max(float((s.double().cpu() - truth).abs().max() / truth[0]) for s in found)


def _batch_error(device: str) -> float:
    """Return the error of values of matrices that end at different times, in two parts."""
    spectra = [torch.linspace(2, 1, 400), 1 / torch.arange(1, 401), torch.logspace(0, -9, 400)]
    turned = [torch.linalg.qr(torch.randn(600, 400, generator=torch.Generator().manual_seed(i)))[0]
              for i in range(3)]  # fmt: skip
    batch = torch.stack([Q * s for Q, s in zip(turned, spectra, strict=True)])
    truth = torch.linalg.svdvals(batch.double())[:, :_CHECK_K]
    A = MatrixOperator(batch.to(device))
    found = svds(A, _CHECK_K, tol=1e-5, method="golub-kahan", memory=3 << 20)
    error = (found.s.cpu().double() - truth).abs().amax(-1) / truth[:, 0]
    return float(error.max())


def _spectrum_error(name: str, device: str) -> float:
    truth = SPECTRA[name].values(_CHECK_K, min(choose_shape(10**4)))
    result = svds(spectral(name, 10**4, device=device), _CHECK_K, tol=1e-5)
    return float((result.s.double().cpu() - truth).abs().max() / truth[0])
