"""Attributes that people who come from other packages type: one line says what to write."""

import copy

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import nn

import jvpsvd
from jvpsvd.errors import JvpsvdError, UnknownAttributeError

MATRIX = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
NET = nn.Linear(3, 2).eval()


def result():
    return jvpsvd.svds(MATRIX, 2)


def operator():
    return jvpsvd.JacobianOperator(NET, torch.ones(3))


def kernel():
    return jvpsvd.ntk(NET, torch.eye(3), k=2)


def spectra():
    return jvpsvd.spectra(NET, torch.eye(3), k=2, progress=False)


ASKED = [
    (result, "S", "SVDResult has no attribute S; it is s here"),
    (result, "V", "SVDResult has no attribute V; it is Vh.mT here"),
    (result, "singular_values_", "SVDResult has no attribute singular_values_; it is s here"),
    (result, "components_", "SVDResult has no attribute components_; it is Vh here"),
    (result, "u", "SVDResult has no attribute u; did you mean U?"),
    (result, "residual", "SVDResult has no attribute residual; did you mean residuals?"),
    (result, "dtype", "SVDResult has no attribute dtype; its tensors have one, as s does; "),
    (result, "colour", "SVDResult has no attribute colour"),
    (operator, "dot", "JacobianOperator has no attribute dot; write A @ V"),
    (operator, "vjp", "JacobianOperator has no attribute vjp; write A.T @ U"),
    (operator, "adjoint", "JacobianOperator has no attribute adjoint; it is A.T here"),
    (operator, "todense", "JacobianOperator has no attribute todense; it is to_dense() here"),
    (operator, "svd", "JacobianOperator has no attribute svd; write jvpsvd.svds(A, k)"),
    (lambda: operator().T, "rank", "TransposedOperator has no attribute rank; write jvpsvd.svds(A"),
    (operator, "matmt", "JacobianOperator has no attribute matmt; did you mean matmat?"),
    (kernel, "eigenvalues", "TangentKernel has no attribute eigenvalues; it is values here"),
    (spectra, "s", "NetworkSpectra has no attribute s; each depth has one: write S["),
    (lambda: spectra()["output"], "S", "DepthSpectra has no attribute S; it is s here"),
]


@pytest.mark.parametrize(("make", "name", "said"), ASKED)
def test_a_name_of_another_package_is_answered(make, name, said):
    for kind in (UnknownAttributeError, AttributeError, JvpsvdError):
        with pytest.raises(kind) as caught:
            getattr(make(), name)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_every_name_of_scipy_s_operators_is_ours_or_answered():
    ours = operator()
    theirs = scipy.sparse.linalg.LinearOperator
    for name in (name for name in dir(theirs) if not name.startswith("_")):
        if not hasattr(ours, name):
            with pytest.raises(
                UnknownAttributeError, match=f"no attribute {name}; (write|it|its) "
            ):
                getattr(ours, name)


@pytest.mark.parametrize("others", [np.linalg.svd(np.eye(2)), torch.linalg.svd(torch.eye(2))])
def test_every_field_of_other_svds_is_ours_or_answered(others):
    names = getattr(type(others), "_fields", None) or ("U", "S", "Vh")
    found = result()
    for name in names:
        if not hasattr(found, name):
            with pytest.raises(UnknownAttributeError, match=f"no attribute {name}; it is "):
                getattr(found, name)


def test_an_attribute_that_is_missing_within_a_property_is_the_one_that_is_named():
    class Own(jvpsvd.LinearOperator):
        @property
        def scale(self):
            return self.factor

        def _matmat(self, V):
            return self.scale * V

        _rmatmat = _matmat

    with pytest.raises(AttributeError, match=r"^Own has no attribute factor$"):
        Own((2, 2), torch.float32).matmat(torch.eye(2))


def test_what_looks_for_attributes_still_works():
    found = result()
    assert not hasattr(found, "S")
    assert getattr(found, "S", None) is None
    assert copy.deepcopy(found) == copy.copy(found) == found
