"""The rows of a run as Arrow tables and arrays, finished or not."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.shards import encoded, sample_members, write_tar

from jvpsvd import survey
from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.survey import SCHEMA, compact
from jvpsvd.survey.store.rows import from_table


@pytest.fixture
def mixed(tmp_path):
    """Two shards, of which the later name comes first, with a bad photo among good ones."""
    (tmp_path / "x").mkdir()
    first = [*sample_members("a", 1, 7), ("bad.jpg", encoded(2)[:99]), *sample_members("c", 3, 5)]
    second = [
        *sample_members("z", 4, 7),
        ("b.jpg", encoded(5)),
        ("b.json", b'{"wnid":"n01440764"}'),
    ]
    return [write_tar(tmp_path / "t.tar", first), write_tar(tmp_path / "s.tar", second)]


KEYS = ["a", "bad", "c", "z", "b"]
GOOD = ["a", "c", "z", "b"]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("merged", [False, True])
def test_table_holds_every_row_in_the_order_of_the_manifest(surveyed, mixed, batch, merged):
    store = surveyed(mixed, batch=batch).store
    if merged:
        compact(store, few=0)
    results = survey.open(store.folder)
    table = results.table()
    assert table.schema.equals(SCHEMA)
    wanted = [(key, layer) for key in KEYS for layer in ("2", "output")]
    keys = zip(table["key"].to_pylist(), table["layer"].to_pylist(), strict=True)
    assert list(keys) == wanted
    assert from_table(table) == store.rows()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("layer", "m"), [("2", 294), ("output", 30)])
def test_spectra_are_the_rows_with_values_as_arrays(surveyed, mixed, batch, layer, m):
    results = surveyed(mixed, batch=batch).results
    spectra = results.spectra(layer)
    rows = [r for r in results.store.rows() if (r.layer, r.status) == (layer, "ok")]
    assert spectra.samples["key"].to_pylist() == GOOD
    assert (spectra.layer, spectra.shape) == (layer, (m, 768))
    assert (spectra.s.shape, spectra.s.dtype) == ((4, 10), np.float64)
    np.testing.assert_array_equal(spectra.s, [row.s for row in rows])
    np.testing.assert_array_equal(spectra.residuals, [row.residuals for row in rows])
    np.testing.assert_array_equal(spectra.fro2, [row.fro2 for row in rows])
    assert spectra.labels == [7, 5, 7, None]
    assert spectra.samples["wnid"].to_pylist() == [None, None, None, "n01440764"]
    assert set(spectra.samples.column_names) == set(SCHEMA.names) - {"s", "residuals"}


@pytest.mark.parametrize("batch", [1, 3])
def test_vectors_are_those_of_the_photo_that_is_named(surveyed, mixed, batch):
    results = surveyed(mixed, batch=batch, vectors=True).results
    for row in results.store.rows():
        if row.status != "ok":
            continue
        found = results.vectors(row.shard, row.key, row.layer)
        m = {"2": 294, "output": 30}[row.layer]
        assert {name: tuple(t.shape) for name, t in found.items()} == {
            "U": (m, 10),
            "s": (10,),
            "Vh": (10, 768),
        }
        np.testing.assert_allclose(found["s"].double(), row.s, rtol=1e-6)


@pytest.mark.parametrize(
    "names",
    [("t.tar", "bad", "2"), ("t.tar", "z", "2"), ("none.tar", "a", "2")],
)
def test_vectors_that_are_not_there_are_one_error(surveyed, mixed, names):
    results = surveyed(mixed, vectors=True).results
    with pytest.raises(ArgumentError, match="no vectors of"):
        results.vectors(*names)


def test_run_without_vectors_says_so(surveyed, mixed):
    results = surveyed(mixed).results
    with pytest.raises(ArgumentError, match="stored no vectors; run again with --vectors"):
        results.vectors("t.tar", "a", "2")


def test_unknown_layer_is_one_error_that_names_the_known(finished):
    results = survey.open(finished().folder)
    assert results.layers == ("2", "output")
    for layer in ("8", "", "3"):
        with pytest.raises(ArgumentError, match=r"no depth '.?' in this run; it has 2, output"):
            results.spectra(layer)


@pytest.mark.parametrize("method", ["spectra", "counts", "vectors", "small_vectors"])
def test_a_depth_is_named_by_a_string(finished, method):
    results = survey.open(finished(vectors=method == "vectors" or 2).folder)
    photo = ("t.tar", "a") if "vectors" in method else ()
    for layer, said in ((2, ": '2'"), (8, "; it has 2, output")):
        with pytest.raises(
            ArgumentError, match=f"^a depth is named by a string, got {layer}{said}$"
        ):
            getattr(results, method)(*photo, layer)
    with pytest.raises(ArgumentError, match="no depth '8' in this run"):
        getattr(results, method)(*photo, "8")


def test_unfinished_run_gives_the_rows_there_are(surveyed, shard):
    def stop(progress):
        if progress.photos_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed([shard], report=stop)
    results = survey.open(shard.parent / "run")
    assert results.table()["key"].to_pylist() == ["photo0", "photo0", "photo1", "photo1"]
    assert results.spectra("2").s.shape == (2, 10)
    surveyed([shard])
    assert results.spectra("2").s.shape == (4, 10)  # read anew at every call


def test_run_without_any_values_gives_empty_arrays(surveyed, shard):
    results = surveyed([shard], model="tiny:poisoned").results
    spectra = results.spectra("output")
    assert (spectra.s.shape, spectra.residuals.shape) == ((0, 10), (0, 10))
    assert (spectra.fro2.shape, spectra.labels) == ((0,), [])
    assert results.spectra("2").s.shape == (4, 10)


def test_run_without_rows_gives_an_empty_table(finished):
    results = survey.open(finished().folder)
    for file in results.store.layout.task_files():
        file.unlink()
    assert results.table().equals(pa.table(SCHEMA.empty_table()))
    assert results.spectra("2").s.shape == (0, 10)


def test_folder_that_is_no_run_is_one_error(tmp_path):
    for folder in (tmp_path, str(tmp_path), tmp_path / "nowhere"):
        with pytest.raises(RunError, match="is not a run"):
            survey.open(folder)


def test_file_that_cannot_be_read_is_named(finished):
    results = survey.open(finished().folder)
    file = results.store.layout.task_files()[1]
    file.write_bytes(b"damaged")
    with pytest.raises(RunError, match=file.name):
        results.table()


def test_damage_outside_the_status_is_mended_by_the_same_run(surveyed, finished, shard):
    """What the error promises ("the same run again mends it") holds for damaged pages too."""
    results = survey.open(finished().folder)
    values = [row.s for row in results.store.rows()]
    file = results.store.layout.task_files()[1]
    data = bytearray(file.read_bytes())
    pages = pages_of(file, "s")
    data[pages] = bytes(pages.stop - pages.start)
    file.write_bytes(data)
    with pytest.raises(RunError, match=file.name):
        results.table()
    assert surveyed([shard]).computed == 1
    np.testing.assert_allclose([row.s for row in results.store.rows()], values, rtol=1e-5)


def pages_of(file, name):
    """Where the values of a column lie in a Parquet file."""
    group = pq.ParquetFile(file).metadata.row_group(0)
    columns = (group.column(i) for i in range(group.num_columns))
    column = next(c for c in columns if c.path_in_schema.split(".")[0] == name)
    start = column.dictionary_page_offset or column.data_page_offset
    return slice(start, start + column.total_compressed_size)
