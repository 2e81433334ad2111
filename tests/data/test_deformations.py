import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jvpsvd.data.deformations import BLUR, DEFORMATIONS, deformation_tangents
from jvpsvd.errors import ArgumentError

SIDE = 28
STEP = 1e-3
# A deformed image takes the value at x from x − ε ξ, here a matrix and a shift in (y, x).
INVERSE = {
    "shift right": (np.eye(2), (0, -1)),
    "shift down": (np.eye(2), (-1, 0)),
    "rotation": (np.array([[0, 1], [-1, 0]]), None),
    "scaling": (np.array([[-1, 0], [0, -1]]), None),
    "stretch": (np.array([[1, 0], [0, -1]]), None),
    "shear": (np.array([[0, -1], [-1, 0]]), None),
}


def blob(seed=0):
    """A smooth image: a sum of wide spots, so that interpolation is exact enough."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for _ in range(4):
        cy, cx = random.uniform(9, 19, 2)
        image += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 12)
    return image


def deformed(image, name, step):
    """The image deformed by a small step, by interpolation."""
    matrix, shift = INVERSE[name]
    middle = (SIDE - 1) / 2
    if shift is not None:
        return ndimage.shift(image, [-step * s for s in shift], order=5)
    A = np.eye(2) + step * matrix
    return ndimage.affine_transform(image, A, offset=middle - A @ [middle, middle], order=5)


@pytest.mark.parametrize("name", INVERSE)
def test_tangents_are_derivatives_of_deformations(name):
    image = blob()
    smooth = ndimage.gaussian_filter(image, BLUR, mode="constant")
    difference = (deformed(smooth, name, STEP) - deformed(smooth, name, -STEP)) / (2 * STEP)
    tangents = deformation_tangents(torch.from_numpy(image)[None])
    ours = tangents[0, DEFORMATIONS.index(name)].reshape(SIDE, SIDE).numpy()
    inside = np.s_[3:-3, 3:-3]  # at the border, interpolation lacks the values outside
    error = np.abs(ours - difference)[inside].max()
    assert error < 0.05 * np.abs(difference[inside]).max()


def test_thickness_is_the_change_under_dilation():
    """The thickness tangent of a wide disc with a soft edge is its growth by ε."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(x, y)

    def disc(size):
        return 1 / (1 + np.exp(2 * (radius - size)))

    grown = (disc(8 + STEP) - disc(8 - STEP)) / (2 * STEP)
    grown = ndimage.gaussian_filter(grown, BLUR, mode="constant")
    ours = deformation_tangents(torch.from_numpy(disc(8))[None])[0, -1].numpy().reshape(SIDE, SIDE)
    assert np.abs(ours - grown).max() < 0.05 * grown.max()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3))
def test_tangents_are_linear_in_the_image_but_for_thickness(seed, a, b):
    first, second = (torch.from_numpy(blob(seed + i))[None] for i in range(2))
    together = deformation_tangents(a * first + b * second)
    parts = a * deformation_tangents(first) + b * deformation_tangents(second)
    assert torch.allclose(together[:, :-1], parts[:, :-1], atol=1e-9)
    assert bool((together[:, -1] >= 0).all())


def test_rows_and_squares_and_dtypes_do():
    images = torch.from_numpy(np.stack([blob(i) for i in range(3)]))
    rows = deformation_tangents(images.reshape(3, -1).float())
    assert rows.shape == (3, len(DEFORMATIONS), SIDE * SIDE)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.double(), deformation_tangents(images), atol=1e-6)


@pytest.mark.parametrize("shape", [(784,), (2, 785), (2, 28, 27), (1, 2, 28, 28)])
def test_images_that_are_not_square_are_refused(shape):
    with pytest.raises(ArgumentError, match="not square"):
        deformation_tangents(torch.zeros(shape))


def test_no_blur_is_refused():
    with pytest.raises(ArgumentError, match="must be positive"):
        deformation_tangents(torch.zeros(1, 784), blur=0)
