"""The real thing: EfficientNet-Lite0 with its ImageNet weights, at an ImageNet photo."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ModelError
from jvpsvd.networks import load_model

pytestmark = pytest.mark.slow


def photo(path, wanted):
    image = Image.open(path).convert("RGB")
    shorter = min(image.size)
    kernel = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    image = image.resize(
        tuple(round(side * wanted.resize / shorter) for side in image.size),
        kernel[wanted.interpolation],
    )
    left, top = ((side - wanted.size) // 2 for side in image.size)
    image = image.crop((left, top, left + wanted.size, top + wanted.size))
    pixels = torch.from_numpy(np.array(image)).float().permute(2, 0, 1) / wanted.scale
    mean, std = torch.tensor(wanted.mean), torch.tensor(wanted.std)
    return ((pixels - mean[:, None, None]) / std[:, None, None])[None]


@pytest.fixture(scope="module")
def logits():
    """The Jacobian of the logits, 1000 x 150528."""
    found = importlib.util.find_spec("foolbox")
    if found is None or not found.submodule_search_locations:
        pytest.skip("foolbox, which has the photos, is not installed (extra: demo)")
    try:
        model = load_model("efficientnet-lite0")
    except ModelError as error:
        pytest.skip(str(error))
    path = sorted((Path(found.submodule_search_locations[0]) / "data").glob("imagenet_*.jpg"))[0]
    J = JacobianOperator(model.module, photo(path, model.photo_input))
    assert int(J.value.argmax()) == int(path.stem.split("_")[-1])
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
