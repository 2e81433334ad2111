import dataclasses
import itertools
import math

import pytest
import torch

from jvpsvd.data.manifolds import (
    GLYPHS,
    Glyph,
    LinearSubspace,
    Sphere,
    SwissRoll,
    Torus,
    sample_classes,
)
from jvpsvd.errors import ArgumentError

KINDS = {
    "subspace": LinearSubspace(dimension=3, ambient=20),
    "circle": Torus(radii=(2.0,), ambient=11),
    "torus": Torus(radii=(1.0, 2.0, 0.5), ambient=20),
    "sphere": Sphere(dimension=3, radius=1.5, ambient=20),
    "roll": SwissRoll(ambient=20),
    "turning": Glyph(shape="F", size=14, angle=math.pi),
    "shifted": Glyph(shape="G", size=14, shift=(0.2, 0.1)),
    "moving": Glyph(shape="J", size=14, angle=0.5, shift=(0.2, 0.2), scale=0.2, width=0.2),
    "hidden": Glyph(shape="L", size=10, angle=1.0, ambient=150, seed=3),
}
DIMENSIONS = {
    "subspace": 3, "circle": 1, "torus": 3, "sphere": 3, "roll": 2, "turning": 1, "shifted": 2,
    "moving": 4, "hidden": 1,
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(kind, count=30, **options):
    return KINDS[kind].sample(count, seeded(), **{"dtype": torch.float64, **options})


@every_kind
def test_shapes_and_dimensions(kind):
    manifold, some = KINDS[kind], draw(kind)
    assert manifold.dimension == DIMENSIONS[kind]
    assert some.points.shape == some.clean.shape == (30, manifold.ambient)
    assert some.tangents.shape == (30, manifold.ambient, manifold.dimension)
    assert len(some.parameters) == len(some.labels) == 30
    assert torch.equal(some.points, some.clean)
    assert torch.equal(some.clean, manifold.embed(some.parameters))


@every_kind
def test_tangents_are_orthonormal(kind):
    some = draw(kind)
    gram = some.tangents.mT @ some.tangents
    torch.testing.assert_close(gram, torch.eye(DIMENSIONS[kind]).double().expand_as(gram))


@every_kind
def test_tangents_span_the_finite_differences(kind):
    manifold, some = KINDS[kind], draw(kind)
    step = 1e-5
    for axis in torch.eye(some.parameters.shape[1], dtype=torch.float64):
        after, before = (manifold.embed(some.parameters + s * step * axis) for s in (1, -1))
        difference = (after - before)[..., None] / (2 * step)
        inside = some.tangents @ (some.tangents.mT @ difference)
        scale = difference.norm(dim=1).clamp_min(1.0)
        assert float(((difference - inside).norm(dim=1) / scale).max()) < 1e-8


@every_kind
def test_frame_keeps_norms_and_depends_on_the_seed_alone(kind):
    manifold = KINDS[kind]
    Q = manifold.frame()
    torch.testing.assert_close(Q.T @ Q, torch.eye(Q.shape[1]).double())
    plain, other = (dataclasses.replace(manifold, seed=seed) for seed in (None, 7))
    parameters = draw(kind).parameters
    distances = torch.cdist(plain.embed(parameters), plain.embed(parameters))
    turned = torch.cdist(other.embed(parameters), other.embed(parameters))
    torch.testing.assert_close(turned, distances, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(plain.embed(parameters), other.embed(parameters))
    assert float(plain.embed(parameters)[:, Q.shape[1] :].abs().sum()) == 0


@every_kind
def test_rank_of_local_pca_is_the_dimension(kind):
    manifold, some = KINDS[kind], draw(kind, 1)
    middle = some.parameters
    if kind == "sphere":
        drawn = middle + 1e-3 * torch.randn(400, middle.shape[1], generator=seeded()).double()
    else:
        drawn = middle + 1e-3 * (torch.rand(400, middle.shape[1], generator=seeded()) - 0.5)
    cloud = manifold.embed(drawn.double())
    _, s, Vh = torch.linalg.svd(cloud - cloud.mean(0), full_matrices=False)
    d = manifold.dimension
    # Beyond d there is only curvature, of second order in the size of the patch.
    assert float(s[d] / s[d - 1]) < 0.02
    overlap = torch.linalg.svdvals(Vh[:d] @ some.tangents[0])
    assert float(overlap.min()) > 1 - 1e-3


@every_kind
def test_same_seed_gives_the_same_points_and_another_seed_others(kind):
    first, second = draw(kind, noise=0.1), draw(kind, noise=0.1)
    for field in dataclasses.fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name))
    other = KINDS[kind].sample(30, seeded(1), noise=0.1, dtype=torch.float64)
    assert not torch.allclose(first.points, other.points)


@every_kind
def test_float32_is_float64_rounded(kind):
    single, double = draw(kind, dtype=torch.float32, noise=0.1), draw(kind, noise=0.1)
    for name in ("points", "clean", "parameters", "tangents"):
        assert getattr(single, name).dtype == torch.float32
        assert torch.equal(getattr(single, name), getattr(double, name).float())


def test_noise_is_isotropic_of_the_given_variance_and_leaves_the_clean_points():
    manifold = KINDS["torus"]
    quiet = manifold.sample(20_000, seeded(), dtype=torch.float64)
    noisy = manifold.sample(20_000, seeded(), noise=0.3, dtype=torch.float64)
    assert torch.equal(quiet.clean, noisy.clean)
    errors = noisy.points - noisy.clean
    covariance = errors.T @ errors / len(errors)
    expected = 0.09 * torch.eye(20).double()
    # Six standard errors: 0.09 √(2/20000) on the diagonal.
    torch.testing.assert_close(covariance, expected, atol=6 * 0.09 * 0.01, rtol=0)


def test_sphere_points_have_its_radius_and_tangents_are_orthogonal_to_them():
    some = draw("sphere")
    torch.testing.assert_close(some.clean.norm(dim=1), torch.full((30,), 1.5).double())
    assert float((some.tangents.mT @ some.clean[..., None]).abs().max()) < 1e-14


def test_circles_of_a_torus_have_their_curvature_and_the_torus_is_flat():
    manifold = Torus(radii=(1.0, 2.0, 0.5), ambient=9)
    t = manifold.sample(5, seeded(), dtype=torch.float64).parameters
    step = 1e-4
    for radius, axis in zip(manifold.radii, torch.eye(3).double(), strict=True):
        after, here, before = (manifold.embed(t + s * step * axis) for s in (1, 0, -1))
        # dT/ds with ds = r dt: the acceleration over r².
        curvature = ((after - 2 * here + before) / step**2).norm(dim=1) / radius**2
        torch.testing.assert_close(curvature, torch.full((5,), 1 / radius).double(), rtol=1e-5,
                                   atol=0)  # fmt: skip
    # The metric ∂φ'∂φ = diag(r²) is the same everywhere: no intrinsic curvature.
    axes = 1e-5 * torch.eye(3).double()
    ways = [(manifold.embed(t + axis) - manifold.embed(t - axis)) / 2e-5 for axis in axes]
    jacobian = torch.stack(ways, dim=-1)
    metric = jacobian.mT @ jacobian
    expected = torch.tensor([1.0, 4.0, 0.25]).double().diag().expand_as(metric)
    torch.testing.assert_close(metric, expected, atol=1e-9, rtol=1e-9)


def test_swiss_roll_is_flat_and_turns_one_and_a_half_times():
    manifold = SwissRoll(radius=2.0, height=3.0, ambient=3, seed=None)
    some = manifold.sample(4000, seeded(), dtype=torch.float64)
    x, y, h = some.clean.T
    radius = torch.hypot(x, y)
    assert float(radius.max()) == pytest.approx(2.0, abs=0.01)
    assert float(radius.min()) == pytest.approx(2 / 3, abs=0.02)
    assert float(h.abs().max()) == pytest.approx(1.5, abs=0.01)
    assert float(some.parameters[:, 0].max() - some.parameters[:, 0].min()) == pytest.approx(
        3 * math.pi, abs=0.05
    )
    # The height is one of the tangents everywhere.
    up = torch.tensor([0.0, 0.0, 1.0]).double()
    torch.testing.assert_close((some.tangents.mT @ up).norm(dim=1), torch.ones(4000).double())


def test_subspace_is_its_own_tangent_space():
    some = draw("subspace")
    inside = some.tangents @ (some.tangents.mT @ some.clean[..., None])
    torch.testing.assert_close(inside[..., 0], some.clean)


def test_sphere_and_subspace_are_drawn_uniformly():
    sphere = Sphere(dimension=2, ambient=3, seed=None).sample(20_000, seeded())
    torch.testing.assert_close(sphere.clean.T @ sphere.clean / 20_000, torch.eye(3) / 3, atol=0.02,
                               rtol=0)  # fmt: skip
    flat = LinearSubspace(dimension=2, ambient=2).sample(20_000, seeded()).clean
    torch.testing.assert_close(flat.T @ flat / 20_000, torch.eye(2), atol=0.06, rtol=0)
    assert float((flat**4).mean()) == pytest.approx(3.0, abs=0.2)


def test_a_glyph_is_drawn_upright_with_strokes_of_about_one():
    image = Glyph(shape="L", size=41, shift=(0.1, 0.1)).embed(torch.zeros(1, 2)).reshape(41, 41)
    row, column = (round(20 * (1 + v)) for v in (0.6, -0.3))  # the corner of the L, below left
    assert float(image[20, column]) == pytest.approx(1.0, abs=0.1)
    assert float(image[row, 22]) == pytest.approx(1.0, abs=0.1)
    assert float(image[20, 35]) < 1e-3
    assert float(image.min()) >= 0


def test_shift_and_turn_move_the_picture_as_they_say():
    glyph = Glyph(shape="F", size=41, angle=math.pi, shift=(0.3, 0.3))
    plain, right, up, turned = glyph.embed(
        torch.tensor([[0, 0, 0], [0, 0.25, 0], [0, 0, 0.25], [math.pi / 2, 0, 0]])
    ).reshape(4, 41, 41)
    torch.testing.assert_close(right[:, 5:], plain[:, :-5], atol=1e-6, rtol=0)
    torch.testing.assert_close(up[:-5], plain[5:], atol=1e-6, rtol=0)
    torch.testing.assert_close(turned, torch.rot90(plain), atol=1e-6, rtol=0)


def test_a_whole_turn_is_closed_and_no_glyph_has_symmetry():
    for shape in GLYPHS:
        glyph = Glyph(shape=shape, size=20, angle=math.pi)
        turns = torch.linspace(-math.pi, math.pi, 25, dtype=torch.float64)[:, None]
        images = glyph.embed(turns)
        torch.testing.assert_close(images[0], images[-1])
        distances = torch.cdist(images[:-1], images[:-1]) + 1e9 * torch.eye(24)
        assert float(distances.min()) > 0.1 * float(images[0].norm())


def classes(count=60, **options):
    some = [Torus(ambient=12, seed=seed) for seed in range(3)]
    return some, sample_classes(some, count, seeded(), dtype=torch.float64, **options)


def test_classes_are_labelled_apart_and_keep_their_own_tangents():
    manifolds, some = classes(separation=5.0)
    assert some.labels.unique().tolist() == [0, 1, 2]
    for label, manifold in enumerate(manifolds):
        own = some.labels == label
        embedded = manifold.embed(some.parameters[own])
        centres = some.clean[own] - embedded
        torch.testing.assert_close(centres, centres[:1].expand_as(centres))
        assert float(centres[0].norm()) == pytest.approx(5.0)
        assert torch.equal(some.tangents[own], manifold.tangents(some.parameters[own]))
    distances = torch.cdist(some.clean, some.clean)
    apart = some.labels[:, None] != some.labels
    # Centres are 5√2 apart and each torus has radius √2.
    assert float(distances[apart].min()) > 5 * math.sqrt(2) - 2 * math.sqrt(2)
    assert float(distances[~apart].max()) <= 2 * math.sqrt(2) + 1e-9


def test_classes_without_separation_share_the_origin_and_noise_changes_nothing_else():
    manifolds, quiet = classes()
    _, noisy = classes(noise=0.2)
    assert torch.equal(quiet.clean, noisy.clean)
    assert torch.equal(quiet.labels, noisy.labels)
    assert float((noisy.points - noisy.clean).std()) == pytest.approx(0.2, rel=0.1)
    first = quiet.labels == 0
    torch.testing.assert_close(quiet.clean[first], manifolds[0].embed(quiet.parameters[first]))


def test_one_class_may_get_no_point():
    _, some = classes(count=1, separation=1.0)
    assert some.points.shape == (1, 12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Torus(radii=(), ambient=4), "dimension=0"),
        (lambda: Torus(radii=(1.0, -1.0), ambient=4), "radii=-1.0"),
        (lambda: Torus(ambient=3), "ambient=3 must be a whole number at least 4"),
        (lambda: Torus(ambient=4, seed=-1), "seed=-1"),
        (lambda: Sphere(dimension=0, ambient=4), "dimension=0"),
        (lambda: Sphere(dimension=2, ambient=4, radius=math.nan), "radius=nan"),
        (lambda: SwissRoll(ambient=4, height=0.0), "height=0.0"),
        (lambda: LinearSubspace(dimension=True, ambient=4), "dimension=True"),
        (lambda: Glyph(shape="X", angle=1.0), "one of F, G, J, L"),
        (lambda: Glyph(), "does not move"),
        (lambda: Glyph(angle=4.0), "more than once"),
        (lambda: Glyph(angle=1.0, size=1), "size=1"),
        (lambda: Glyph(angle=1.0, shift=(math.inf, 0.0)), "shift=inf"),
        (lambda: Glyph(angle=1.0, ambient=255), "ambient=255"),
        (lambda: Torus(ambient=4).sample(0, seeded()), "count=0"),
        (lambda: Torus(ambient=4).sample(2, seeded(), noise=-0.1), "noise=-0.1"),
        (lambda: Torus(ambient=4).sample(2, 0), "generator"),
        (lambda: Torus(ambient=4).sample(2, seeded(), dtype=torch.float16), "dtype=torch.float16"),
        (lambda: Torus(ambient=4).embed(torch.zeros(3)), r"\(N, 2\)"),
        (lambda: Torus(ambient=4).tangents(torch.zeros(3, 1)), r"\(N, 2\)"),
        (lambda: Sphere(dimension=1, ambient=4).tangents(torch.zeros(1, 2)), "rank"),
        (lambda: sample_classes([], 3, seeded()), "got \\[\\]"),
        (
            lambda: sample_classes([Torus(ambient=5), SwissRoll(ambient=6)], 3, seeded()),
            "equal dimension",
        ),
        (
            lambda: sample_classes([Torus(ambient=5)], 3, seeded(), separation=-1.0),
            "separation=-1.0",
        ),
        (lambda: sample_classes([Torus(ambient=5)], 0, seeded()), "count=0"),
    ],
)
def test_bad_arguments_are_one_line(make, words):
    with pytest.raises(ArgumentError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_manifolds_are_compared_by_what_they_are():
    assert Torus(ambient=5) == Torus(ambient=5)
    assert all(a != b for a, b in itertools.combinations(KINDS.values(), 2))


@pytest.mark.parametrize(
    "manifold",
    [
        Sphere(dimension=2, ambient=4, radius=1e60),
        Sphere(dimension=2, ambient=4, radius=1e-60),
        Torus(radii=(1e60, 1e60), ambient=4),
    ],
)
def test_points_that_the_dtype_cannot_hold_are_refused(manifold):
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ArgumentError, match=r"torch\.float32 cannot hold .*dtype=torch\.float64"):
        manifold.sample(3, generator)
    assert manifold.sample(3, generator, dtype=torch.float64).points.isfinite().all()


def test_noise_and_separation_that_the_dtype_cannot_hold_are_refused():
    sphere, generator = Sphere(dimension=1, ambient=3), torch.Generator().manual_seed(0)
    with pytest.raises(ArgumentError, match="cannot hold points"):
        sphere.sample(3, generator, noise=1e60)
    with pytest.raises(ArgumentError, match="cannot hold centres"):
        sample_classes([sphere, sphere], 4, generator, separation=1e60)


def test_parameters_without_a_point_are_refused():
    sphere = Sphere(dimension=1, ambient=3)
    for wrong in (torch.zeros(1, 2), torch.full((1, 2), torch.nan)):
        with pytest.raises(ArgumentError, match="have no finite point"):
            sphere.embed(wrong)
    with pytest.raises(ArgumentError, match=r"parameters is .*give a tensor"):
        sphere.embed([[1.0, 0.0]])


def test_parameters_may_be_an_array():
    sphere, parameters = Sphere(dimension=1, ambient=3), torch.tensor([[3.0, 4.0]])
    for method in (sphere.embed, sphere.tangents):
        assert torch.equal(method(parameters.numpy()), method(parameters))


@pytest.mark.parametrize("width", [1e-200, 1e-9, 1e200])
def test_strokes_of_no_use_are_refused(width):
    with pytest.raises(ArgumentError, match="strokes are about 1 long"):
        Glyph(angle=1.0, width=width)
