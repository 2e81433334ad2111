"""What values, residuals and counts of a row must obey, each rule by itself."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from jvpsvd import svds
from jvpsvd.data import Sample
from jvpsvd.errors import RunError
from jvpsvd.survey import Row
from jvpsvd.survey.store.plausibility import find_faults, values_and_residuals
from jvpsvd.survey.store.rows import row_of, to_table
from jvpsvd.survey.store.whole_spectrum import spectrum_columns

K, TOL = 3, 1e-3
COUNTS = {"output": K, "few": 2}
SIZES = {"output": 9, "few": 2}
GOOD = Row(
    "s", "a", 0, None, "output", "ok", "", K, s=[3.0, 2.0, 2.0], residuals=[0.0] * 3, converged=3
)
FAULTS = [
    ({"k": 4}, "k = 4, not 3"),
    ({"status": "error"}, "a failure without a reason"),
    ({"s": [3.0, 2.0]}, "2 values and 3 residuals for k = 3"),
    ({"residuals": []}, "3 values and 0 residuals for k = 3"),
    ({"s": [3.0, 2.0, -1.0]}, "a value or residual that is negative or not finite"),
    ({"residuals": [0.0, float("nan"), 0.0]}, "a value or residual that is negative or not finite"),
    ({"s": [3.0, 2.0, 2.5]}, "values that do not descend"),
    ({"converged": 4}, "4 triplets of 3 are called converged"),
    ({"converged": -1}, "-1 triplets of 3 are called converged"),
    ({"residuals": [0.0, 1.0, 1.0]}, "1 residuals meet the tolerance, the row says 3"),
]
PLAUSIBLE = [
    {},
    {"converged": 0},  # fewer may count than meet the tolerance
    {"residuals": [0.0, 0.0, 1.0]},  # one at the edge
    {"status": "error", "message": "no memory", "s": [], "residuals": [], "converged": 0},
]


def table(*rows):
    return to_table(rows, "task")


@pytest.mark.parametrize(("change", "words"), FAULTS)
def test_each_rule_has_its_words_and_accuses_no_other_row(change, words):
    wrong = dataclasses.replace(GOOD, **change)
    assert find_faults(table(GOOD, wrong, GOOD), COUNTS, SIZES, K, TOL) == ["", words, ""]


@pytest.mark.parametrize("change", PLAUSIBLE)
def test_rows_that_may_be_have_no_fault(change):
    assert find_faults(table(dataclasses.replace(GOOD, **change)), COUNTS, SIZES, K, TOL) == [""]


def test_a_depth_that_has_fewer_values_has_them_all():
    few = dataclasses.replace(
        GOOD, layer="few", k=2, s=[3.0, 1.0], residuals=[0.0] * 2, converged=2
    )
    failed = dataclasses.replace(GOOD, layer="few", status="error", message="no memory")
    wrong = dataclasses.replace(few, k=3, s=GOOD.s, residuals=GOOD.residuals)
    rising = dataclasses.replace(few, s=[1.0, 3.0])
    words = ["", "", "", "k = 3, not 2", "values that do not descend"]
    assert find_faults(table(GOOD, few, failed, wrong, rising), COUNTS, SIZES, K, TOL) == words


def test_no_rows_have_no_faults():
    assert find_faults(table(), COUNTS, SIZES, K, TOL) == []


def test_values_of_several_chunks_are_one_matrix():
    parts = pa.concat_tables([table(GOOD), table(), table(GOOD, GOOD)])
    s, residuals = values_and_residuals(parts, K, Path("run"))
    assert s.tolist() == [GOOD.s] * 3
    assert residuals.shape == (3, K)


@pytest.mark.parametrize("change", [{"s": [1.0]}, {"residuals": [0.0] * 4}])
def test_rows_of_another_k_are_one_error(change):
    with pytest.raises(RunError, match="run holds rows of another k"):
        values_and_residuals(table(GOOD, dataclasses.replace(GOOD, **change)), K, Path("run"))


WHOLE = dataclasses.replace(GOOD, **spectrum_columns(svds(torch.diag(torch.tensor(
    [3.0, 2.0, 2.0, *[0.1] * 6])), 3).spectrum))  # fmt: skip


def bent(name, index, by):
    """A change of one number of a column."""
    numbers = list(getattr(WHOLE, name))
    numbers[index] += by
    return {name: numbers}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 8}, "8 singular values, not 9"),
        ({"counts": WHOLE.counts[:-1]}, "counts that are missing or not finite"),
        ({"counts_low": None}, "counts that are missing or not finite"),
        (bent("counts", 3, float("nan")), "counts that are missing or not finite"),
        (bent("counts_high", 20, 1), "counts that rise with the threshold"),
        (bent("counts", 0, 1), "counts outside of their bounds"),
        ({"counts_low": [n - 4 for n in WHOLE.counts_low]}, "counts outside of 0 to p"),
        ({"counts_high": [n + 1 for n in WHOLE.counts_high]}, "counts outside of 0 to p"),
        (bent("counts_error", 5, -1), "counts with negative errors"),
        (
            {
                name: [n + (0 < n < 2) for n in getattr(WHOLE, name)]
                for name in ("counts", "counts_low", "counts_high")
            },
            "counts that differ from those of the values",
        ),
        (bent("participation", 1, 1), "a dimension outside of its bounds"),
        (bent("entropy", 2, -1), "a dimension outside of its bounds"),
        (bent("nuclear_norm", 3, -1), "a dimension outside of its bounds"),
        ({"nuclear_norm": None}, "a dimension outside of its bounds"),
    ],
)
def test_each_rule_of_whole_spectra_has_its_words(change, words):
    wrong = dataclasses.replace(WHOLE, **change)
    rows = table(GOOD, WHOLE, wrong, WHOLE)
    assert find_faults(rows, COUNTS, SIZES, K, TOL) == ["", "", words, ""]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"method": "golub-kahan"}, {"method": "randomized"}])
def test_what_solves_return_obeys_the_rules(seed, options):
    torch.manual_seed(seed)
    spectra = [
        torch.linspace(0, 2, 200) ** (1 + 2 * seed),
        3 * 0.9 ** torch.arange(200),
        torch.cat([torch.ones(100), torch.zeros(100)]),
        torch.zeros(200),
    ]
    k, U, V = 12, *(torch.linalg.qr(torch.randn(200, 200)).Q for _ in range(2))
    results = [
        svds((U * s) @ V, k, **options, on_unconverged="ignore", vectors=False) for s in spectra
    ]
    rows = [row_of(Sample("s", "a", 0, 1, 0, None), "output", one) for one in results]
    rows = [row for row in rows if row.status == "ok"]
    assert len(rows) >= 3
    assert not any(find_faults(table(*rows), {"output": k}, {"output": 200}, k, 1e-5))
