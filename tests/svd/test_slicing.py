"""Parts of a result in brackets, and what Python's other questions to a result are told."""

import numpy as np
import pytest
import torch
from support.svd_problems import line, spectrum, with_values

import jvpsvd
from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError, OperandError

MATRIX = with_values(spectrum("harmonic", 60), 80, 60)


@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
@pytest.mark.parametrize("vectors", [True, False])
def test_the_first_triplets_are_a_result_of_their_own(method, vectors):
    result = svds(MATRIX, 20, method=method, vectors=vectors)
    ten = result[:10]
    assert (ten.k, ten.shape, ten.which) == (10, (80, 60), "largest")
    for whole, part in ((result.s, ten.s), (result.residuals, ten.residuals)):
        assert torch.equal(part, whole[:10])
    assert torch.equal(ten.converged, result.converged[:10])
    if vectors:
        assert torch.equal(ten.U, result.U[:, :10])
        assert torch.equal(ten.Vh, result.Vh[:10])
    else:
        assert ten.U is ten.Vh is None
    assert "10 largest singular" in str(ten)


def test_its_certificate_says_what_holds_for_these_triplets():
    result = svds(MATRIX, 20, method="golub-kahan")
    one, part = result.certificate, result[:3].certificate
    assert part.energy_share == pytest.approx(float((result.s[:3] ** 2).sum()) / one.fro2)
    assert part.guaranteed == 3
    kept = ("fro2", "fro2_error", "complete", "epsilon", "sound", "orthonormality", "defined_to")
    assert [getattr(part, name) for name in kept] == pytest.approx(
        [getattr(one, name) for name in kept]
    )


def test_what_is_not_guaranteed_of_all_is_not_of_a_part():
    result = svds(MATRIX, 20, tol=1e-13, method="randomized", on_unconverged="ignore")
    guaranteed = result.certificate.guaranteed
    for count in (1, 5, 19):
        part = result[:count]
        assert part.certificate.guaranteed == min(guaranteed, count)
        assert torch.equal(part.converged, result.converged[:count])


@pytest.mark.parametrize("key", [slice(4), slice(0, 4), slice(None, -16), slice(0, 4, 1)])
def test_all_ways_to_write_the_first_four(key):
    result = svds(MATRIX, 20)
    assert result[key] == result[: np.int64(4)]
    assert result[:] == result[0:] == result[:500] == result


def test_numbers_of_a_part_hold_the_truth():
    truth = spectrum("harmonic", 60)
    part = svds(MATRIX, 20, method="golub-kahan")[:5]
    count = part.spectrum.count(0.1)
    assert count.low <= int((truth >= 0.1).sum()) <= count.high
    assert part.dimension(0.3) == 3
    assert part.condition_number().low <= 60
    assert (part.upper_bounds() >= truth[:5] - 1e-12).all()


def test_a_part_is_saved_starts_a_solve_and_has_vectors_of_the_inputs_shape(tmp_path):
    J = JacobianOperator(lambda x: torch.tanh(x).sum(0), torch.randn(2, 6))
    part = svds(J)[:3]
    assert part.right(J).shape == (3, 2, 6)
    part.save(tmp_path / "part.safetensors")
    assert jvpsvd.load(tmp_path / "part.safetensors") == part
    assert svds(J, 3, start=part, method="golub-kahan").converged.all()


def test_the_last_of_all_and_of_the_smallest():
    everything, smallest = svds(MATRIX, "all"), svds(MATRIX, 8, which="smallest")
    for last in (everything[-3:], smallest[-3:]):
        assert last.which == "smallest"
        torch.testing.assert_close(last.s, spectrum("harmonic", 60)[-3:])
        assert last.certificate.guaranteed == 3
        assert last.converged.all()
        with pytest.raises(ArgumentError, match="σ1"):
            last.condition_number()
    assert everything[:3].which == "largest"
    assert svds(MATRIX, "all", which="smallest")[:3].which == "largest"


@pytest.mark.parametrize("vectors", [True, False])
def test_a_batch_is_cut_for_each_matrix(vectors):
    result = svds(MatrixOperator(torch.randn(3, 9, 7)), 5, vectors=vectors)
    two = result[..., :2]
    assert (two.k, two.shape, two.s.shape) == (2, (3, 9, 7), (3, 2))
    for index in range(3):
        assert two.of(index) == result.of(index)[:2]
    assert two == result[..., 0:2]
    single = svds(torch.eye(4), 3)
    assert single[..., :2] == single[:2]


REFUSED = {
    "0": (0, r"result\[0\] could mean a triplet or one of U, s and Vh; take result.s\[0\], "),
    "-1": (np.int64(-1), r"take result.s\[-1\], result.U\[:, -1\] and result.Vh\[-1\]"),
    "5:10": (slice(5, 10), r"neither the largest .* take result.s\[5:10\], result.U\[:, 5:10\]"),
    "-5:": (slice(-5, None), r"result\[-5:\] are neither"),
    "::2": (slice(None, None, 2), r"result\[::2\] are neither"),
    "::-1": (slice(None, None, -1), r"result\[::-1\] are neither"),
    ":0": (slice(0), "holds none of the k=20 triplets"),
    "field": ("s", r"result\['s'\] is result.s here"),
    "name": ("values", r"result\['values'\] has no meaning"),
    "mask": (torch.ones(20, dtype=torch.bool), r"take result.s\[i\], result.U\[:, i\]"),
    "list": ([0, 2], r"result\[\[0, 2\]\] has no meaning"),
    "words": (slice("a", "b"), "has no meaning"),
    "step 0": (slice(None, None, 0), "has no meaning"),
    "None": (None, "has no meaning"),
    "True": (True, "has no meaning"),
    "two": ((slice(3), slice(3)), r"result\[:3, :3\] has no meaning"),
    "dots": ((..., 0), r"result\[..., 0\] has no meaning: .* take result.s\[i\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_mean_several_things_is_told_what_to_write(name):
    key, message = REFUSED[name]
    with pytest.raises(OperandError, match=message) as caught:
        svds(MATRIX, 20)[key]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (1, r"take result.of\(1\) for matrix 1, or result.s\[..., 1\], result.U\[..., 1\] and"),
        (slice(2), r"take result.of\(i\) for matrix i, or result\[..., :2\] for triplets of each"),
        ((..., slice(1, 2)), r"take result.s\[..., 1:2\], .* result.Vh\[..., 1:2, :\]"),
        ("rows", r"result\[..., :10\] are the ten first"),
    ],
)
def test_brackets_of_a_batch_are_told_what_to_write(key, message):
    with pytest.raises(OperandError, match=message):
        svds(MatrixOperator(torch.randn(3, 9, 7)), 5)[key]


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_length_could_count_three_things(batch):
    result = svds(MatrixOperator(torch.randn(*batch, 9, 7)), 5)
    with pytest.raises(OperandError, match=r"take result\.k, 5 triplets"):
        len(result)
    assert result
    assert list(result)[1] is result.s
    assert [one is result for one in np.array([result, result], dtype=object)] == [True, True]


def test_what_is_in_a_result_is_asked_of_its_values():
    result = svds(torch.diag(line(3, 1, 3)), 2)
    for value in (3.0, result.s, "s"):
        with pytest.raises(OperandError, match="compare its values"):
            value in result  # noqa: B015


def test_points_of_a_curve_one_by_one():
    curve = svds(MATRIX, 20).spectrum.counts([0.095, 0.3, 0.45])
    assert [one.value for one in curve] == [10, 3, 2]
    assert curve[-1] == curve[2]
    for index in (3, -4, slice(2), "0", 1.0):
        with pytest.raises(ArgumentError, match=r"none of the 3 of the curve; .*value\[:10\]"):
            curve[index]
