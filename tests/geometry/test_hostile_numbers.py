"""What geometry cannot work with is refused in one line, whatever holds it."""

import numpy as np
import pytest
import torch

from jvpsvd import geometry, svds
from jvpsvd.errors import ArgumentError, ModelError, NonFiniteError

NET = torch.nn.Sequential(
    torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 3)
).eval()
TAKERS = [
    geometry.orthonormal_basis,
    geometry.pca_basis,
    geometry.participation_ratio,
    geometry.log_spectra,
    geometry.row_distances,
    geometry.average_tree,
    geometry.spread_trend,
    lambda matrix: geometry.principal_angles(torch.eye(3), matrix),
    lambda matrix: geometry.spatial_spread(matrix, (3, 1, 1)),
    lambda matrix: geometry.holonomy([matrix, matrix]),
    lambda matrix: geometry.class_contrast(matrix, "aab"),
    lambda matrix: geometry.average_space([matrix], [torch.ones(3)]),
    lambda matrix: geometry.perturbation_response(torch.sin, torch.ones(3), matrix, [1.0]),
]


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (torch.eye(3).to_sparse(), "give a dense one"),
        (torch.empty(3, 3, device="meta"), "holds no numbers"),
        (torch.eye(3).to(torch.float8_e4m3fn), "give real numbers"),
    ],
)
def test_tensors_without_usable_numbers(taker, matrix, said):
    with pytest.raises(ArgumentError, match=said) as caught:
        taker(matrix)
    assert "\n" not in str(caught.value)


def test_masked_entries_are_not_numbers():
    masked = np.ma.masked_array([3.0, 2.0, 1.0], mask=[True, False, False])
    with pytest.raises(ArgumentError, match="masked entries"):
        geometry.stable_rank(masked)


@pytest.mark.parametrize("values", [None, 1.0, "abc", np.ones(3), torch.tensor(1.0)])
def test_a_trend_of_no_rows(values):
    with pytest.raises(ArgumentError, match="values"):
        geometry.spread_trend(values)


def test_bounds_that_are_no_numbers():
    x, up = torch.zeros(2), torch.tensor([1.0, 0.0])
    with pytest.raises(ArgumentError, match="lower is 'a'; give a number or a tensor"):
        geometry.perturbation_response(torch.sin, x, up, [1.0], lower="a")


def test_bounds_that_are_numbers_keep_the_digits_of_x():
    x = torch.tensor([0.7, 0.3], dtype=torch.float64)
    for upper in (0.7, [0.7, 0.7]):
        found = geometry.perturbation_response(
            lambda z: z**2, x, torch.eye(2).double(), [0.1], lower=0.3, upper=upper, clip=True
        )
        assert found.distances.tolist() == [0.1]


@pytest.mark.filterwarnings("error")
def test_trends_of_photos_of_unlike_size():
    found = geometry.spread_trend([[1e-320, 5e-324], [1e300, 1e308]])
    assert found.correlations.tolist() == pytest.approx([-1.0, 1.0])


def test_vectors_that_are_no_singular_vectors():
    with pytest.raises(ArgumentError, match="of norm 1"):
        geometry.average_space(
            [torch.full((2, 2), 1.7e308, dtype=torch.float64)], [torch.tensor([3.0, 1.0])]
        )


@pytest.mark.filterwarnings("error")
def test_bounds_with_gradients():
    x, up = torch.zeros(2), torch.tensor([1.0, 0.0])
    bound = torch.full((2,), 0.5, requires_grad=True)
    found = geometry.perturbation_response(torch.sin, x, up, [1.0], upper=bound, clip=True)
    assert found.moved.item() == 0.5


@pytest.mark.parametrize("distance", [1e-60, 1e60])
def test_distances_outside_of_the_dtype(distance):
    x, up = torch.zeros(2), torch.tensor([1.0, 0.0])
    with pytest.raises(ArgumentError, match=r"is outside of torch\.float32"):
        geometry.perturbation_response(torch.tanh, x, up, [distance])


def test_points_and_predictions_that_overflow():
    x, up = torch.full((2,), 2e38), torch.tensor([1.0, 0.0])
    with pytest.raises(NonFiniteError, match=r"x \+ δ holds"):
        geometry.perturbation_response(torch.tanh, x, up, [3e38])
    with pytest.raises(NonFiniteError, match=r"Jδ holds"):
        geometry.perturbation_response(lambda x: torch.tanh(1e20 * x), torch.zeros(2), up, [1e30])


@pytest.mark.parametrize("c", [1e-42, 1e-44, 1e-56])
def test_the_adversarial_direction_of_a_vanishing_network(c):
    W = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    first, second = c**0.5, c**0.5
    x = torch.ones(5) / 3

    def network(x):
        return second * (first * torch.tanh(W @ x))

    found = geometry.adversarial_direction(network, x)
    expected = geometry.adversarial_direction(
        lambda x: torch.tanh(W.double() @ x) * c, x.double(), label=0
    )
    again = geometry.adversarial_direction(network, x, label=0)
    assert (found.norm() - 1).abs() < 1e-6
    assert torch.allclose(again.double(), expected, atol=1e-5)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("nothing", [None, object(), {"s": 1}])
def test_what_holds_no_numbers(taker, nothing):
    with pytest.raises(ArgumentError, match=r"give (numbers|a list)") as caught:
        taker(nothing)
    assert "only supported types" not in str(caught.value)


def test_results_where_one_is_wanted():
    results = [svds(torch.eye(3), 2)] * 3
    with pytest.raises(ArgumentError, match=r"^the first basis is 3 results; give one of them$"):
        geometry.principal_angles(results, torch.eye(3))


DRAWERS = [
    lambda seed: geometry.random_space(4, 2, seed),
    lambda seed: geometry.random_directions(4, 2, seed=seed),
    lambda seed: geometry.tangent_directions(torch.eye(4)[:, :2], 1, seed=seed),
    lambda seed: geometry.normal_directions(torch.eye(4)[:, :2], 1, seed=seed),
    lambda seed: geometry.class_contrast(torch.eye(4), "aabb", seed=seed),
    lambda seed: geometry.compare_spaces([torch.eye(4)[:, :2]] * 4, "aabb", seed=seed),
    lambda seed: geometry.variance_ratio(torch.arange(8.0).reshape(4, 2), "aabb", seed=seed),
    lambda seed: geometry.nearest_class(torch.arange(8.0).reshape(4, 2), "aabb", seed=seed),
    lambda seed: geometry.mantel(DISTANCES, DISTANCES**2, seed=seed),
    lambda seed: geometry.bootstrap_interval(DISTANCES, DISTANCES**2, seed=seed),
]
DISTANCES = (torch.arange(5.0)[:, None] - torch.arange(5.0)).abs()


@pytest.mark.parametrize("drawer", DRAWERS)
@pytest.mark.parametrize("seed", [None, "1", 1.5, -1, 1 << 63])
def test_seeds(drawer, seed):
    with pytest.raises(ArgumentError, match=r"^seed=.* must be a whole number from 0 to"):
        drawer(seed)


@pytest.mark.parametrize("spaces", [None, 3, torch.eye(3).numpy()])
def test_what_holds_no_spaces(spaces):
    with pytest.raises(ArgumentError, match=r"^spaces .*; give "):
        geometry.pairwise_overlaps(spaces)


@pytest.mark.parametrize("labels", [None, 3])
def test_labels_that_are_none(labels):
    with pytest.raises(ArgumentError, match=r"; give a list, one for each photo$"):
        geometry.class_means(torch.ones(2, 3), labels)


IMAGE = torch.rand(3, 4, 4)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda: geometry.tangent_alignment(IMAGE, torch.eye(48)[:, :2]), r"t\.flatten\(\)"),
        (lambda: geometry.pca_basis(torch.rand(5, 3, 4, 4)), r"X\.flatten\(1\)"),
        (
            lambda: geometry.perturbation_response(NET, IMAGE, torch.eye(48)[:, :2], [0.1]),
            r"fn takes a batch: give x\[None\]",
        ),
        (
            lambda: geometry.adversarial_direction(NET, IMAGE),
            r"fn takes a batch: give x\[None\]",
        ),
    ],
)
def test_images_where_vectors_or_batches_are_wanted(mistake, said):
    with pytest.raises((ArgumentError, ModelError), match=said):
        mistake()
