"""Runs that count all values by random vectors of their own."""

import numpy as np
import pytest

from jvpsvd import survey
from jvpsvd.errors import RunError
from jvpsvd.report import summarize, table


@pytest.mark.parametrize("batch", [1, 2])
def test_counts_without_values_beyond_the_first(surveyed, shard, batch):
    found = surveyed([shard], batch=batch, k=None, density=True, out="density")
    exact = surveyed([shard], batch=1, k=294, out="exact")
    store, dense = found.store, survey.open(exact.store.folder)
    counts = survey.open(store.folder).counts
    for row in store.rows():
        assert (row.status, row.k, len(row.s)) == ("ok", 1, 1)
        assert row.products_forward >= 16 * min(40, row.size)
    assert not survey.verify(store).problems
    made = table(store, summarize(store))
    headings = [column.heading for column in made.columns]
    assert [heading for heading in headings if heading.startswith("σ")] == ["σ1", "σ ≥ 1"]
    assert len(made.rows) == 2
    (note,) = (column.note for column in made.columns if column.heading == "products")
    assert note == (
        "products: 16 random vectors take up to 40 steps of two each, 1 triplet the rest"
    )
    for layer in ("2", "output"):
        threshold = float(np.median(dense.spectra(layer).s))
        mine, truth = counts(layer, threshold), dense.counts(layer, threshold)
        assert (mine.low - 4 * mine.standard_error <= truth.value).all()
        assert (truth.value <= mine.high + 4 * mine.standard_error).all()
        assert (mine.high - mine.low < 0.7 * mine.size).any()


def test_it_is_another_run_than_one_with_values(surveyed, shard):
    surveyed([shard], out="one", k=1)
    with pytest.raises(RunError, match="density = False, now True"):
        surveyed([shard], out="one", k=1, density=True)
