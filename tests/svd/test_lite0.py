"""EfficientNet-Lite0 with its ImageNet weights, at an ImageNet photo."""

import pytest
import torch

from jvpsvd import JacobianOperator, svds
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.errors import ModelError, ShardError
from jvpsvd.networks import load_model
from jvpsvd.operators import keep_freed_memory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def logits():
    """The Jacobian of the logits, 1000 x 150528."""
    try:
        model, photo = load_model("efficientnet-lite0"), demo_photos()[0]
    except (ModelError, ShardError) as error:
        pytest.skip(str(error))
    keep_freed_memory()  # halves the time of these tests, for the process that runs them
    x = decode_photo(photo.file.read_bytes(), model.photo_input)
    J = JacobianOperator(model.module, x)
    assert int(J.value.argmax()) == photo.label
    return J


@pytest.fixture(scope="module")
def exact(logits):
    """All 1000 values: every VJP, and a float64 decomposition."""
    rows = torch.cat(
        [
            logits.rmatmat(torch.eye(1000)[:, start : start + 50].contiguous()).T
            for start in range(0, 1000, 50)
        ]
    )
    return torch.linalg.svdvals(torch.linalg.qr(rows.double().T).R)


def test_the_top_500_are_the_exact_ones(logits, exact):
    result = svds(logits, 500, method="golub-kahan")
    print(f"\n{result}\nproducts / 2k: {result.products.total / 1000:.3f}")
    assert (result.s.double() - exact[:500]).abs().max() <= 1e-5 * exact[0]
    assert result.converged.all()
    assert result.certificate.sound
    assert result.certificate.complete


def test_past_the_rank_of_750_no_value_is_returned_that_is_not_there(logits, exact):
    result = svds(logits, 800, method="golub-kahan", on_unconverged="ignore")
    print(f"\n{result}\nproducts / 2k: {result.products.total / 1600:.3f}")
    assert exact[750] < 1e-6 * exact[0]
    assert (result.s.double() - exact[:800]).abs().max() <= 1e-5 * exact[0]
    assert result.converged.all()
    assert result.certificate.sound
