"""Every function that takes vectors or spectra takes results of svds in their place."""

import inspect

import pytest
import torch

from jvpsvd import MatrixOperator, geometry, svds
from jvpsvd.errors import ArgumentError

P, M, N, K = 6, 12, 9, 3
MATRICES = torch.randn(P, M, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
RESULTS = [svds(matrix, K) for matrix in MATRICES]
BATCH = svds(MatrixOperator(MATRICES), K)
FIRST, SECOND = RESULTS[:2]
V = [result.Vh.T for result in RESULTS]
S = torch.stack([result.s for result in RESULTS])
LABELS = "aabbcc"
X = torch.randn(N, dtype=torch.float64)
SHAPE = (1, 3, 3)

# Of each function: a call with results, and the same with their vectors or values.
SPECTRA = {
    name: (lambda f: f(FIRST), lambda f: f(S[0]))
    for name in (
        "count_above", "dimensions", "entropy_dimension", "participation_ratio", "stable_rank",
        "largest_gap",
    )
}  # fmt: skip
ROWS = {
    "log_spectra": lambda f, rows: f(rows),
    "class_means": lambda f, rows: f(rows, LABELS),
    "row_distances": lambda f, rows: f(rows),
    "variance_ratio": lambda f, rows: f(rows, LABELS, permutations=9),
    "nearest_class": lambda f, rows: f(rows, LABELS, permutations=9),
    "count_above": lambda f, rows: f(rows),
    "participation_ratio": lambda f, rows: f(rows),
}
VECTORS = {
    "orthonormal_basis": lambda f, v: f(v),
    "energy_shares": lambda f, v: f(X, v),
    "tangent_alignment": lambda f, v: f(X, v, against=v),
    "tangent_directions": lambda f, v: f(v, 2),
    "normal_directions": lambda f, v: f(v, 2),
    "spatial_spread": lambda f, v: f(v, SHAPE),
    "pixel_energy": lambda f, v: f(v, SHAPE),
    "principal_angles": lambda f, v: f(v, V[1]),
    "mean_overlap": lambda f, v: f(v, V[1]),
    "perturbation_response": lambda f, v: f(torch.tanh, X, v, [0.1, 0.2]),
    "transport": lambda f, v: f(V, v),
}
SPACES = {
    "pairwise_overlaps": lambda f, spaces: f(spaces),
    "pairwise_angles": lambda f, spaces: f(spaces),
    "compare_spaces": lambda f, spaces: f(spaces, LABELS, permutations=9),
    "space_distances": lambda f, spaces: f(spaces),
    "transport": lambda f, spaces: f(spaces),
    "holonomy": lambda f, spaces: f(spaces),
    "overlap_decay": lambda f, spaces: f(spaces),
}
# These take points, tangents, matrices over classes, or numbers, which no result is.
OTHERS = {
    "whole_dimensions",  # takes one result, or its spectrum
    "adversarial_direction", "average_tree", "bootstrap_interval", "chordal_distance",
    "class_contrast", "family_tangent", "geodesic_distance", "linearity_range", "mantel",
    "matrix_correlation", "pca_basis", "random_directions", "random_overlap", "random_shares",
    "random_space", "random_spread", "singular_space", "spread_trend",
}  # fmt: skip


def same(a, b):
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    if isinstance(a, torch.Tensor):
        return torch.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)
    return a == b or repr(a) == repr(b) or a == pytest.approx(b)


def test_no_function_is_left_out():
    functions = {name for name in geometry.__all__ if inspect.isfunction(getattr(geometry, name))}
    taken = {*SPECTRA, *ROWS, *VECTORS, *SPACES, "average_space"}
    assert functions == taken | OTHERS
    assert not taken & OTHERS


@pytest.mark.parametrize("name", SPECTRA)
def test_a_result_is_its_spectrum(name):
    with_result, with_values = SPECTRA[name]
    function = getattr(geometry, name)
    assert same(with_result(function), with_values(function))


@pytest.mark.parametrize("name", ROWS)
def test_results_are_the_spectra_of_photos(name):
    function = getattr(geometry, name)
    expected = ROWS[name](function, S)
    assert same(ROWS[name](function, RESULTS), expected)
    assert same(ROWS[name](function, BATCH), expected)


@pytest.mark.parametrize("name", VECTORS)
def test_a_result_is_its_right_vectors(name):
    function = getattr(geometry, name)
    assert same(VECTORS[name](function, FIRST), VECTORS[name](function, V[0]))
    with pytest.raises(ArgumentError, match=r"take result.of\(i\)"):
        VECTORS[name](function, BATCH)
    with pytest.raises(ArgumentError, match="no vectors; solve with vectors=True"):
        VECTORS[name](function, svds(MATRICES[0], K, vectors=False))


@pytest.mark.parametrize("name", SPACES)
def test_results_are_the_spaces_of_their_right_vectors(name):
    function = getattr(geometry, name)
    expected = SPACES[name](function, V)
    assert same(SPACES[name](function, RESULTS), expected)
    by_batch = SPACES[name](function, BATCH)
    assert isinstance(by_batch, type(expected))
    with pytest.raises(ArgumentError, match="one result is one space"):
        SPACES[name](function, FIRST)
    with pytest.raises(ArgumentError, match="no spaces were given"):
        SPACES[name](function, [])


def test_the_second_basis_and_the_tangents_may_be_results_too():
    assert same(geometry.principal_angles(FIRST, SECOND), geometry.principal_angles(V[0], V[1]))
    assert same(geometry.mean_overlap(FIRST, SECOND), geometry.mean_overlap(V[0], V[1]))
    assert same(geometry.energy_shares(SECOND, FIRST), geometry.energy_shares(V[1], V[0]))
    assert same(geometry.tangent_alignment(SECOND, FIRST), geometry.tangent_alignment(V[1], V[0]))


def test_the_average_space_of_results():
    expected = geometry.average_space(V, list(S), 2)
    for bases in (RESULTS, BATCH):
        found = geometry.average_space(bases, d=2)
        assert torch.allclose(found.weights, expected.weights)
        assert float(geometry.mean_overlap(found.basis, expected.basis)) == pytest.approx(1)
    for arguments in ((RESULTS, 2), (V,), (V, None, 2)):
        with pytest.raises(ArgumentError, match="give the values of each basis, and d by name"):
            geometry.average_space(*arguments)


def test_results_of_different_k_have_no_common_rows():
    with pytest.raises(ArgumentError, match=r"results have k of \[2, 3\]"):
        geometry.log_spectra([FIRST, svds(MATRICES[1], 2)])


def test_the_smallest_values_are_no_spectrum():
    smallest = svds(MATRICES[0], K, which="smallest")
    for s in (smallest, [smallest, smallest]):
        with pytest.raises(ArgumentError, match='solve with which="largest"'):
            geometry.participation_ratio(s)
    assert geometry.orthonormal_basis(smallest).shape == (N, K)
