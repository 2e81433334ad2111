"""Products over those of blocks of one vector."""

import time

import pytest
import torch
from support.shards import sample_members, write_tar
from support.svd_problems import Diagonal, line, spectrum

from benchmarks.parts import starts
from jvpsvd import LinearOperator, svds
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.ritz import ritz_triplets

K, TOL = 10, 1e-4


def row(photo, depth, products, bound, same=False):
    return {
        "photo": photo,
        "same_class": same,
        "depth": depth,
        "k": K,
        "block": 2,
        "bound": bound,
        "products": products,
        "seconds": dict.fromkeys(products, 1.0),
    }


@pytest.mark.parametrize("name", ["harmonic", "geometric"])
def test_the_bound_is_the_first_column_with_small_residuals(name):
    A = Diagonal(spectrum(name, 400))
    found = starts.bound(A, K, TOL, 100)
    columns = (found - 8) // 2 - 8
    bases = GolubKahanFactorization(A, block_size=1, seed=0, capacity=100)
    bases.initialize()
    reached = []
    while bases.expanded < columns:
        bases.expand()
        if bases.size >= K:
            ritz = ritz_triplets(bases, K)
            reached.append(bool(ritz.estimates.max() <= 0.7 * TOL * ritz.s[0]))
    assert reached[-1]
    assert not any(reached[:-1])


def test_a_solve_takes_more_than_the_bound():
    A = Diagonal(spectrum("harmonic", 400))
    found = svds(A, K, tol=TOL, method="golub-kahan", block_size=4)
    assert found.products.total > starts.bound(A, K, TOL, found.products.forward)


def test_too_few_columns_have_no_bound():
    assert starts.bound(Diagonal(line(1, 0.9, 400)), K, TOL, 12) is None


def test_the_image_of_right_vectors_is_in_the_shorter_side():
    A = starts.JacobianOperator(lambda x: x[:5] ** 2, torch.arange(1.0, 9.0))
    result = svds(A, 3)
    assert starts._image(A, result, 2).shape == (5, 2)
    assert starts._image(A.T, svds(A.T, 3), 2).shape == (5, 2)


class SlowAtFirst(LinearOperator):
    """diag(d) beside zeros, whose first product takes most of all the time."""

    def __init__(self, d):
        super().__init__((len(d), 2 * len(d)), d.dtype)
        self.d, self.took = d, 0.0

    def _matmat(self, V):
        began = time.process_time()
        while not self.took and time.process_time() - began < 0.3:
            pass
        self.took = self.took or time.process_time() - began
        return self.d[:, None] * V[: len(self.d)]

    def _rmatmat(self, U):
        return torch.cat([self.d[:, None] * U, torch.zeros_like(U)])


def test_the_seconds_from_the_depth_before_are_those_of_its_image_as_well():
    d = spectrum("geometric", 50)
    before = svds(torch.cat([torch.diag(d), torch.zeros(50, 50)], dim=1), 3)
    A = SlowAtFirst(d)
    products, seconds = starts._solve_after(A, before, 2, 3, TOL)
    assert seconds >= A.took >= 0.3
    assert products == A.products.total


def test_means_are_of_one_depth_and_way(capsys):
    rows = [
        row(0, "a", {"random": 40}, 20),
        row(1, "a", {"random": 60, "the previous photo": 30}, 30, same=True),
        row(2, "a", {"random": 50, "the previous photo": 50}, None),
        row(0, "b", {"random": 80, "the depth before": 60}, 80),
    ]
    found = {(one["depth"], one["start"]): one for one in starts.summarize(rows)}
    assert found["a", "random"]["multiple"] == pytest.approx(2.5)
    assert found["a", "random"]["over_bound"] == pytest.approx(2.0)
    assert found["a", "the previous photo"]["over_random"] == pytest.approx(1.0)
    assert found["a", "the previous photo"]["over_bound"] is None
    assert found["a", "the previous photo, of the same class"]["over_random"] == pytest.approx(0.5)
    assert found["b", "the depth before"]["over_random"] == pytest.approx(0.75)
    assert ("b", "the previous photo") not in found
    starts.print_table(list(found.values()), K)
    assert "| `b` | the depth before | 1 | 2 | 3.00 | 0.75 | 0.75 | 1.0 s |" in (
        capsys.readouterr().out
    )


def test_photos_of_a_collection_come_class_by_class(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "PER_CLASS", 2)
    labels = [4, 7, 4, 4, 7, 1]
    members = [sample_members(f"p{i}", i, label) for i, label in enumerate(labels)]
    write_tar(tmp_path / "s-0.tar", [one for sample in members for one in sample])
    chosen = starts.choose_photos(4, str(tmp_path))
    assert [photo.label for photo in chosen] == [4, 4, 7, 7]
