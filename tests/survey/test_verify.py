import dataclasses

import pytest
from safetensors.torch import load_file, save_file

from jvpsvd.survey import verify


@pytest.fixture
def store(finished):
    return finished()


def rewrite(store, change):
    """Pass the rows of the first task through `change` and store them again."""
    rows = [row for row in store.rows() if row.key == "photo0"]
    name = next(t for t in _tasks(store) if _key(store, t) == "photo0")
    store.commit(name, change(rows))


def _tasks(store):
    return [file.stem for file in store.layout.task_files()]


def _key(store, task):
    import pyarrow.parquet as pq

    return pq.read_table(store.folder / "spectra" / f"{task}.parquet")["key"][0].as_py()


def test_whole_run_has_no_problems(store):
    verification = verify(store)
    assert (verification.values, verification.failures, verification.problems) == (8, 0, ())


def test_each_missing_row_is_named(store):
    (store.folder / "spectra" / f"{min(_tasks(store))}.parquet").unlink()
    missing = verify(store).problems
    assert len(missing) == 2
    assert all(line.startswith("missing: good-0000.tar photo") for line in missing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:1], "missing: good-0000.tar photo0 output"),
        (lambda rows: [*rows, rows[0]], "twice: good-0000.tar photo0 2"),
        (
            lambda rows: [dataclasses.replace(rows[0], layer="7"), *rows],
            "not in the manifest: good-0000.tar photo0 7",
        ),
        (lambda rows: [dataclasses.replace(r, s=r.s[::-1]) for r in rows], "do not descend"),
        (lambda rows: [dataclasses.replace(r, s=r.s[:-1]) for r in rows], "9 values"),
        (
            lambda rows: [dataclasses.replace(r, residuals=[float("nan")] * 10) for r in rows],
            "not finite",
        ),
        (
            lambda rows: [dataclasses.replace(r, counts=[n + 1 for n in r.counts]) for r in rows],
            "wrong: good-0000.tar photo0 2: counts outside of their bounds",
        ),
        (
            lambda rows: [dataclasses.replace(r, size=r.size - 1) for r in rows],
            "wrong: good-0000.tar photo0 output: 29 singular values, not 30",
        ),
        (
            lambda rows: [dataclasses.replace(r, residuals=[1.0] * 10) for r in rows],
            "0 residuals meet the tolerance, the row says 10",
        ),
        (
            lambda rows: [dataclasses.replace(r, status="error", message="") for r in rows],
            "a failure without a reason",
        ),
    ],
)
def test_what_is_wrong_is_said(store, change, message):
    rewrite(store, change)
    assert any(message in line for line in verify(store).problems)


def test_unreadable_rows_are_named_and_their_samples_missing(store):
    file = store.folder / "spectra" / f"{min(_tasks(store))}.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    first, *missing = verify(store).problems
    assert first.startswith("unreadable:")
    assert file.name in first
    assert len(missing) == 2


def test_missing_manifest_is_a_problem(store):
    (store.folder / "manifest.parquet").unlink()
    assert verify(store).problems[0].startswith("no manifest:")


def test_converged_may_count_fewer_than_met_the_tolerance(store):
    rewrite(store, lambda rows: [dataclasses.replace(r, converged=3) for r in rows])
    assert verify(store).problems == ()


def _other_shape(found):
    return {**found, "U": found["U"][:-1].contiguous()}


def _not_finite(found):
    return {**found, "Vh": found["Vh"] * float("nan")}


def _other_values(found):
    return {**found, "s": found["s"] * 2}


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (None, "unreadable vectors"),
        (_other_shape, "vectors of another shape"),
        (_not_finite, "vectors that are not finite"),
        (_other_values, "vectors of other values"),
    ],
)
def test_vectors_are_read_back(finished, harm, fault):
    store = finished(vectors=True, limit=2)
    assert verify(store).problems == ()
    file = min((store.folder / "vectors").iterdir())
    if harm is None:
        file.write_bytes(file.read_bytes()[:-100])
    else:
        save_file(harm(load_file(file)), file)
    (problem,) = verify(store).problems
    assert problem.startswith(f"{fault}: good-0000.tar photo")
