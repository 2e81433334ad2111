import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import holonomy, overlap_decay, random_space, transport

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
DTYPES = (torch.float32, torch.float64)
METHODS = ("polar", "project")
X, Y, Z = torch.eye(3, dtype=torch.float64)


def unit(vector):
    return vector / torch.linalg.vector_norm(vector)


def tangent_space(point, seed=0):
    """A random basis of what is orthogonal to a point of a sphere."""
    n = len(point)
    rest = torch.eye(n, dtype=torch.float64) - torch.outer(point, point)
    return rest @ torch.linalg.svd(rest)[0][:, : n - 1] @ random_space(n - 1, n - 1, seed)


def polygon(corners, steps):
    """Points along great circles from corner to corner and back, the first not repeated."""
    points = []
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        angle = torch.acos((a @ b).clamp(-1, 1))
        along = torch.arange(steps, dtype=torch.float64) / steps * angle
        points.extend(
            a * (angle - t).sin() / angle.sin() + b * t.sin() / angle.sin() for t in along
        )
    return points


def solid_angle(a, b, c):
    """Area of the triangle on the sphere (van Oosterom & Strackee 1983)."""
    volume = abs(float(torch.linalg.det(torch.stack([a, b, c]))))
    return 2 * math.atan2(volume, float(1 + a @ b + b @ c + c @ a))


def tangent_spaces(points, seed=0):
    return [tangent_space(p, seed + i) for i, p in enumerate(points)]


@pytest.mark.parametrize("steps", [2, 3, 40])
def test_an_octant_turns_by_a_right_angle_in_the_sense_of_the_loop(steps):
    loop = tangent_spaces(polygon([X, Y, Z], steps))
    loop[0] = torch.stack([Y, Z], dim=1)
    right_angle = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(holonomy(loop).matrix, right_angle)
    backwards = [loop[0], *loop[:0:-1]]
    torch.testing.assert_close(holonomy(backwards).matrix, right_angle.mT)
    found = holonomy(loop)
    assert found.angles.tolist() == pytest.approx([math.pi / 2] * 2)
    assert not found.reverses
    assert found.least_cosine == pytest.approx(math.cos(math.pi / 2 / steps))


@QUICK
@given(st.integers(0, 9999), st.integers(4, 9))
def test_any_triangle_turns_by_its_solid_angle(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    corners = [unit(c) for c in torch.randn(3, 3, dtype=torch.float64, generator=generator)]
    omega = solid_angle(*corners)
    found = holonomy(tangent_spaces(polygon(corners, steps), seed))
    assert found.angles.tolist() == pytest.approx([min(omega, 2 * math.pi - omega)] * 2, abs=1e-9)
    assert float(torch.linalg.det(found.matrix)) == pytest.approx(1)


def test_on_a_larger_sphere_only_the_plane_of_the_triangle_turns():
    turn = random_space(5, 3, 4)
    found = holonomy(tangent_spaces(polygon([turn @ c for c in (X, Y, Z)], 3)))
    assert found.angles.tolist() == pytest.approx([math.pi / 2] * 2 + [0, 0], abs=1e-7)


def latitude(colatitude, points):
    turns = torch.arange(points, dtype=torch.float64) * 2 * math.pi / points
    height, radius = math.cos(colatitude), math.sin(colatitude)
    return [X * radius * t.cos() + Y * radius * t.sin() + Z * height for t in turns]


def test_a_circle_of_latitude_turns_by_the_polygon_inside_it():
    points = latitude(0.6, 30)
    area = 30 * solid_angle(Z, points[0], points[1])
    found = holonomy(tangent_spaces(points))
    assert found.angles.tolist() == pytest.approx([area] * 2)


@pytest.mark.parametrize("method", METHODS)
def test_both_ways_tend_to_the_cap(method):
    cap = 2 * math.pi * (1 - math.cos(0.6))
    errors = []
    for count in (100, 200, 400):
        spaces = tangent_spaces(latitude(0.6, count))
        errors.append(abs(float(holonomy(spaces, method=method).angles[0]) - cap))
    assert errors[2] < 0.02
    order = 1 if method == "project" else 2
    for coarse, fine in itertools.pairwise(errors):
        assert fine < coarse / 1.9**order


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_plane_has_no_holonomy_whatever_its_bases(dtype, method):
    plane = random_space(7, 3)
    spaces = [(plane @ random_space(3, 3, seed) * (seed + 1)).to(dtype) for seed in range(9)]
    found = holonomy(spaces, method=method)
    tolerance = 100 * torch.finfo(dtype).eps
    assert (found.matrix - torch.eye(3)).abs().max() <= tolerance
    assert max(float(found.angles.max()), 1 - found.least_cosine) <= tolerance


def test_a_cylinder_is_flat():
    found = holonomy(tangent_spaces(latitude(math.pi / 2, 12)))
    assert (found.matrix - torch.eye(2)).abs().max() <= 1e-14


def test_a_line_that_makes_half_a_turn_comes_back_reversed():
    """The core of a Möbius band."""
    half = torch.linspace(0, math.pi, 13, dtype=torch.float64)[:-1]
    lines = [torch.stack([t.cos(), t.sin()])[:, None] for t in half]
    found = holonomy(lines)
    assert found.reverses
    assert found.matrix.tolist() == [[pytest.approx(-1)]]
    assert float(found.angles) == pytest.approx(math.pi)
    twice = holonomy(lines + lines)
    assert not twice.reverses
    assert float(twice.angles) == pytest.approx(0, abs=1e-12)


def wandering(seed, d=2, n=6, count=6):
    """Spaces along a path without any symmetry."""
    path = [random_space(n, n, seed)[:, :d]]
    for i in range(1, count):
        path.append(path[-1] + 0.4 * random_space(n, d, seed + i))
    return path


@QUICK
@given(st.integers(0, 9999), st.integers(1, 3), st.integers(1, 5))
def test_holonomy_depends_on_the_spaces_alone(seed, d, shift):
    loop = wandering(seed, d)
    expected = holonomy(loop)
    turn = random_space(6, 6, seed + 50)
    others = [
        [basis @ random_space(d, d, seed + i) * 3 for i, basis in enumerate(loop)],
        [turn @ basis for basis in loop],
        loop[shift:] + loop[:shift],
        [loop[0], *loop[:0:-1]],
    ]
    for other in others:
        found = holonomy(other)
        # The cosine of the angle is exact to rounding, where angles near 0 and π are not.
        assert found.angles.cos().tolist() == pytest.approx(expected.angles.cos().tolist())
        assert found.reverses == expected.reverses
        assert found.least_cosine == pytest.approx(expected.least_cosine)


@QUICK
@given(st.integers(0, 9999), st.integers(1, 3))
def test_polar_is_undone_by_the_reversed_path(seed, d):
    path = wandering(seed, d)
    carried = transport(path + path[-2::-1])
    torch.testing.assert_close(carried.end, carried.start)
    assert transport(path).start_cosines[-1].min() < 1 - 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_along_the_equator_the_pole_stays(dtype, method):
    path = torch.stack(tangent_spaces(latitude(math.pi / 2, 20)[:6])).to(dtype)
    frame = torch.stack([Z, Y], dim=1).to(dtype)
    tolerance = 20 * torch.finfo(dtype).eps
    carried = transport(path, frame, method=method)
    assert (carried.end - torch.stack([Z, -X], dim=1)).abs().max() <= tolerance
    assert (carried.start - frame).abs().max() <= tolerance
    assert (carried.start_cosines[:, 0] - 1).abs().max() <= tolerance
    turned = (torch.arange(6, dtype=torch.float64) * math.pi / 10).cos()
    assert (carried.start_cosines[:, 1] - turned).abs().max() <= tolerance
    assert (carried.step_cosines[0] - 1).abs().max() <= tolerance
    assert (carried.step_cosines[1:, 1] - math.cos(math.pi / 10)).abs().max() <= tolerance
    assert carried.end.dtype == torch.float64


@pytest.mark.parametrize("method", METHODS)
def test_frames_stay_orthonormal_and_inside(method):
    path = wandering(3, 3)
    frame = transport(path, path[0][:, :2], method=method).end
    torch.testing.assert_close(frame.mT @ frame, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(path[-1] @ torch.linalg.lstsq(path[-1], frame)[0], frame)


def test_project_keeps_the_first_vector_as_well_as_it_can():
    path = wandering(1, 2)
    end = transport(path, method="project").end
    expected = unit(path[0][:, 0])
    for basis in path[1:]:
        Q = torch.linalg.qr(basis)[0]
        expected = unit(Q @ (Q.mT @ expected))
    torch.testing.assert_close(end[:, 0], expected)
    assert float(transport(path).end[:, 0] @ expected) < 1 - 1e-6


def test_the_polar_frame_turns_with_the_frame():
    path = wandering(2, 3)
    turn = random_space(3, 3, 8)
    torch.testing.assert_close(transport(path, path[0] @ turn).end, transport(path).end @ turn)


def test_a_frame_outside_the_first_space_is_projected_onto_it():
    tilted = X * math.cos(0.3) + Z * math.sin(0.3)
    carried = transport([torch.stack([X, Y], dim=1)], tilted[:, None])
    torch.testing.assert_close(carried.start, X[:, None])
    assert float(carried.step_cosines) == pytest.approx(math.cos(0.3))


def test_overlap_decays_with_the_angle():
    turns = torch.linspace(0, math.pi, 7, dtype=torch.float64)
    lines = torch.stack([turns.cos(), turns.sin()], dim=1)[:, :, None]
    torch.testing.assert_close(overlap_decay(lines), turns.cos() ** 2)


FLAT, LINE = torch.eye(4)[:, :2], torch.eye(4)[:, 2:3]
REFUSED = {
    "orthogonal to space 1": lambda: transport([FLAT, torch.eye(4)[:, 1:3]]),
    "orthogonal to space 0": lambda: transport([FLAT], LINE),
    "does not fit into space 1": lambda: holonomy([FLAT, FLAT[:, :1]]),
    "does not fit into space 0": lambda: transport([LINE], FLAT),
    "space 1 lives in R\\^5": lambda: transport([FLAT, torch.eye(5)[:, :2]]),
    "frame lives in R\\^5": lambda: transport([FLAT], torch.eye(5)[:, :2]),
    "space 2 are linearly dependent": lambda: overlap_decay([FLAT, FLAT, torch.ones(4, 2)]),
    "columns of frame are linearly": lambda: transport([FLAT], torch.ones(4, 2)),
    "method='polr'": lambda: holonomy([FLAT], method="polr"),
    "no spaces": lambda: holonomy([]),
    "\\(P, n, d\\)": lambda: overlap_decay(FLAT),
    "finite": lambda: transport([FLAT, FLAT / 0]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_carried_is_refused(message):
    with pytest.raises(ArgumentError, match=message):
        REFUSED[message]()
