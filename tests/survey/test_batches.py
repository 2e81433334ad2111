"""Photos that are solved together have the rows that each has alone."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from support.shards import encoded, sample_members, write_tar

from jvpsvd import survey
from jvpsvd.survey import verify
from jvpsvd.survey.spec.tasks import make_tasks

FRAGILE = '''

class Fragile(nn.Module):
    """NaN at dark photos, and nowhere else."""

    def __init__(self):
        super().__init__()
        self.inner = net()[0]

    def forward(self, x):
        return self.inner(x) * (x.mean((1, 2, 3)) + 1.5).sqrt()[:, None]


def fragile():
    return Fragile().eval(), SIZE
'''
SAME = ("shard", "key", "label", "wnid", "layer", "status", "k", "converged")


@pytest.fixture
def shards(tmp_path):
    """Nine photos in two shards; neither number divides by a batch."""
    names = {"a": range(5), "b": range(5, 9)}
    return [
        write_tar(tmp_path / f"{s}.tar", [m for i in of for m in sample_members(f"p{i}", i, i % 2)])
        for s, of in names.items()
    ]


@pytest.fixture
def fragile(tiny, tmp_path):
    """The name of a network, and a shard with a photo at which it gives NaN."""
    with (tiny / "tiny.py").open("a") as file:
        file.write(FRAGILE)
    dark = io.BytesIO()
    Image.new("RGB", (24, 20)).save(dark, "PNG")
    members = [m for i in range(2) for m in sample_members(f"p{i}", i, 0)]
    members += [("dark.png", dark.getvalue()), *sample_members("p3", 3, 0)]
    return "tiny:fragile", write_tar(tmp_path / "dark.tar", members)


@pytest.fixture(scope="module")
def known():
    """Rows of photos that were solved one by one, by the name of the test."""
    return {}


@pytest.fixture
def rows_alone(surveyed, known, request):
    """A function that returns them; the cases of a test share what it computes."""

    def find(shards, **wanted):
        name = request.node.originalname
        if name not in known:
            known[name] = surveyed(shards, "alone", **wanted).store.rows()
        return known[name]

    return find


def assert_same(together, alone):
    """Equal in all but timings, products and roundings."""
    for one, two in zip(together, alone, strict=True):
        assert [getattr(one, name) for name in SAME] == [getattr(two, name) for name in SAME]
        top = two.s[0] if two.s else 1
        np.testing.assert_allclose(one.s, two.s, rtol=0, atol=1e-5 * top)
        if two.fro2 is not None:
            assert one.fro2 == pytest.approx(two.fro2, rel=0.5)


@pytest.mark.parametrize("batch", [2, 5, 32])
def test_batches_give_the_rows_of_single_photos(surveyed, rows_alone, shards, batch):
    alone = rows_alone(shards)
    store = surveyed(shards, "together", batch=batch).store
    assert len(alone) == 18
    assert_same(store.rows(), alone)
    assert verify(store).problems == ()


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 9), (2, [2, 2, 1, 2, 2]), (32, [5, 4])])
def test_tasks_do_not_cross_shards(surveyed, shards, batch, sizes):
    store = surveyed(shards, batch=batch, layers=["output"]).store
    every = make_tasks(store.identity, store.samples())
    assert [len(task.samples) for task in every] == sizes
    assert all(len({sample.shard for sample in task.samples}) == 1 for task in every)
    assert len(store.layout.task_files()) == len(sizes)


def test_small_jacobians_are_solved_together_by_default(surveyed, shards):
    assert surveyed(shards, batch=None, layers=["output"]).store.identity.batch == 32
    assert surveyed(shards, "alone", layers=["output"]).store.identity.batch == 1


@pytest.mark.parametrize("batch", [2, 5])
def test_bad_photo_fails_alone(surveyed, rows_alone, tmp_path, batch):
    members = [
        *sample_members("p0", 0, 0),
        ("half.jpg", encoded(1)[:150]),
        ("none.cls", b"3"),
        *sample_members("p2", 2, 0),
        ("text.jpg", b"hello"),
    ]
    shard = write_tar(tmp_path / "s.tar", members)
    alone = rows_alone([shard])
    together = surveyed([shard], "together", batch=batch).store.rows()
    assert_same(together, alone)
    assert Counter(row.status for row in together) == {"ok": 4, "bad-photo": 4, "no-photo": 2}


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_photo_with_nan_fails_alone(surveyed, rows_alone, fragile, batch):
    model, shard = fragile
    wanted = {"model": model, "layers": ["inner.2", "output"], "k": 5}
    alone = rows_alone([shard], **wanted)
    together = surveyed([shard], "together", batch=batch, **wanted).store.rows()
    status = {(row.key, row.layer): row.status for row in together}
    assert status.pop(("dark", "output")) == "non-finite"
    assert set(status.values()) == {"ok"}
    assert_same(together, alone)


def test_network_that_cannot_be_recorded_is_solved_one_by_one(surveyed, shards):
    wanted = {"model": "tiny:looking", "layers": ["output"]}
    alone = surveyed(shards, "alone", **wanted).store.rows()
    together = surveyed(shards, "together", batch=4, **wanted)
    assert together.failures == 0
    assert_same(together.store.rows(), alone)


def test_network_with_nan_everywhere_fails_photo_by_photo(surveyed, shards):
    rows = surveyed(shards, model="tiny:poisoned", batch=4).store.rows()
    assert Counter((row.layer, row.status) for row in rows) == {
        ("2", "ok"): 9,
        ("output", "non-finite"): 9,
    }


def test_interrupted_batches_are_continued(surveyed, shards):
    whole = surveyed(shards, "whole", batch=2).store.rows()

    def stop(progress):
        if progress.photos_done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed(shards, batch=2, report=stop)
    outcome = surveyed(shards, batch=2)
    assert (outcome.computed, outcome.skipped) == (5, 4)
    assert_same(outcome.store.rows(), whole)
    max(outcome.store.layout.task_files()).unlink()
    assert surveyed(shards, batch=2).computed in (1, 2)
    assert_same(outcome.store.rows(), whole)


def test_shares_of_batches_are_together_everything(surveyed, shards):
    done = [surveyed(shards, batch=2, share=(i, 3)) for i in range(3)]
    assert sum(outcome.computed for outcome in done) == 9
    assert verify(done[-1].store).problems == ()


def test_progress_counts_photos_not_batches(surveyed, shards):
    reported = []
    surveyed(shards, batch=4, report=reported.append)
    assert [progress.photos_done for progress in reported if progress.rows] == [4, 5, 9]
    assert all(progress.photos in (0, 9) for progress in reported)
    assert all(0 <= progress.photos_done + progress.share_of_photo <= 9 for progress in reported)


def test_vectors_of_a_batch_are_those_of_each_photo(surveyed, shards):
    alone = surveyed(shards, "alone", vectors=True)
    together = surveyed(shards, "together", vectors=True, batch=4)
    assert_same(together.store.rows(), alone.store.rows())
    for row in together.store.rows():
        A, B = (
            (found["U"] * found["s"]) @ found["Vh"]
            for found in (
                outcome.results.vectors(row.shard, row.key, row.layer)
                for outcome in (alone, together)
            )
        )
        # The leading 10 of J are nearly one matrix whichever way they were found.
        np.testing.assert_allclose(A, B, atol=2e-3 * row.s[0])


def test_vectors_of_a_batch_say_whose_they_are(surveyed, shards):
    store = surveyed(shards, vectors=True, batch=4).store
    values = {(r.shard, r.key, r.layer): r.s for r in store.rows()}
    said = Counter()
    for file in (store.folder / "vectors").iterdir():
        with safe_open(file, "pt") as stored:
            key = tuple(stored.metadata()[name] for name in ("shard", "key", "layer"))
            np.testing.assert_allclose(stored.get_tensor("s").double(), values[key], rtol=1e-6)
        said[key] += 1
    assert said == Counter(values.keys())


def test_products_and_seconds_of_a_batch_are_divided(surveyed, shards):
    store = surveyed(shards[:1], batch=5).store
    for layer in ("2", "output"):
        rows = [row for row in store.rows() if row.layer == layer]
        assert len({(r.products_forward, r.products_reverse, r.seconds) for r in rows}) == 1
    alone = surveyed(shards[:1], "alone").store.rows()
    for one, two in zip(store.rows(), alone, strict=True):
        counts = [row.products_forward + row.products_reverse for row in (one, two)]
        assert 0 < counts[0] <= 2 * counts[1]
        assert one.seconds > 0


def test_results_of_batches_are_arrays_in_order(surveyed, shards):
    store = surveyed(shards, batch=4).store
    spectra = survey.open(store.folder).spectra("output")
    assert spectra.samples["key"].to_pylist() == [f"p{i}" for i in range(9)]
    np.testing.assert_array_equal(spectra.s, [r.s for r in store.rows() if r.layer == "output"])
