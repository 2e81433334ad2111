"""Runs that were damaged, or in which others put things: named, kept, and computed again."""

import contextlib
import json
import os
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from jvpsvd.cli import main
from jvpsvd.errors import DiskError, RunError, ShardError
from jvpsvd.report import read_values
from jvpsvd.report.analysis import analyse
from jvpsvd.report.tables import write_tables
from jvpsvd.survey import compact, open, open_store, status, verify
from jvpsvd.survey.store.parts import write_part


@pytest.fixture
def store(finished):
    return finished()


@pytest.fixture(autouse=True)
def _no_hang():
    """A pipe that is opened waits for ever."""

    def stop(number, frame):
        pytest.fail("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def rewrite(file, change):
    """Pass the rows of a Parquet file through `change`; it stays a valid file."""
    table = pq.ParquetFile(file).read()
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


def not_utf8(file, name):
    """Give the first cell of a column bytes that are no text."""
    table = pq.ParquetFile(file).read()
    cells = [b"\xff" + (cell or "").encode() for cell in table[name].to_pylist()]
    raw = pa.array(cells, pa.binary())
    text = pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:])
    pq.write_table(table.set_column(table.column_names.index(name), name, text), file)


def values(store):
    return {(row.key, row.layer): row.s for row in store.rows()}


def assert_mended(outcome, before, computed):
    assert outcome.computed == computed
    assert verify(outcome.store).problems == ()
    after = values(outcome.store)
    assert after.keys() == before.keys()
    for key, s in after.items():
        np.testing.assert_allclose(s, before[key], rtol=1e-5)


# --- nothing is deleted


@pytest.mark.parametrize("gone", ["unreadable", "text"])
def test_a_damaged_manifest_and_a_shard_that_is_away_cost_no_row(surveyed, shard, store, gone):
    """The same command, at a moment at which both are damaged, deleted all rows and run.json."""
    before = values(store)
    files = {file: file.read_bytes() for file in store.layout.task_files()}
    record = (store.folder / "run.json").read_bytes()
    manifest = bytearray((store.folder / "manifest.parquet").read_bytes())
    manifest[-6] ^= 1
    (store.folder / "manifest.parquet").write_bytes(manifest)
    data = shard.read_bytes()
    if gone == "unreadable":
        shard.unlink()
        shard.mkdir()
    else:
        shard.write_bytes(b"no tar")
    with pytest.raises((RunError, ShardError)):
        surveyed([shard])
    assert {file: file.read_bytes() for file in store.layout.task_files()} == files
    assert (store.folder / "run.json").read_bytes() == record
    if shard.is_dir():
        shard.rmdir()
    shard.write_bytes(data)
    assert_mended(surveyed([shard]), before, computed=0)
    assert (store.folder / ".manifest.damaged").read_bytes() == manifest


def test_a_run_that_finds_no_samples_removes_only_what_it_made(surveyed, tmp_path):
    (tmp_path / "empty.tar").write_bytes(b"no tar")
    with pytest.raises(ShardError):
        surveyed([tmp_path / "empty.tar"])
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "shards").mkdir(parents=True)
    (tmp_path / "run" / "shards" / "mine.tar").write_bytes(b"mine")
    with pytest.raises(ShardError):
        surveyed([tmp_path / "empty.tar"])
    assert [p.name for p in (tmp_path / "run").rglob("*")] == ["shards", "mine.tar"]


# --- bytes that are no text


@pytest.mark.parametrize("name", ["shard", "key", "layer", "status", "message", "method", "wnid"])
def test_rows_that_are_no_text_are_named_and_computed_again(surveyed, shard, store, capsys, name):
    before, file = values(store), store.layout.task_files()[1]
    not_utf8(file, name)
    assert any(file.name in line for line in verify(store).problems)
    assert any(file.name in line for line in read_values(store).unreadable)
    assert status(store).done == 3
    with pytest.raises(SystemExit):
        main(["run", "--status", str(store.folder)])
    assert capsys.readouterr().out.startswith("3 of 4 photos done")
    with pytest.raises(RunError, match=file.name):
        store.rows()
    assert_mended(surveyed([shard]), before, computed=1)


@pytest.mark.parametrize("name", ["shard", "key", "wnid", "problem", "message"])
def test_a_manifest_that_is_no_text_is_named_and_listed_again(surveyed, shard, store, name):
    before = values(store)
    not_utf8(store.folder / "manifest.parquet", name)
    assert verify(store).problems[0].startswith("no manifest: ")
    assert status(store).photos == 0
    with pytest.raises(RunError, match=r"manifest\.parquet cannot be read"):
        read_values(store)
    assert_mended(surveyed([shard]), before, computed=0)


# --- values that were changed, in files that are valid


def scale(rows):
    for row in rows:
        row["s"] = [1000 * x for x in row["s"]]
        row["residuals"] = [1000 * x for x in row["residuals"]]
        row["fro2"] *= 1e6


def next_number(rows):
    rows[0]["s"][3] = float(np.nextafter(rows[0]["s"][3], 0))


def to(name, value):
    def change(rows):
        rows[0][name] = value

    return change


def without_checksum(rows):
    rows[0]["s"][0] *= 2
    rows[0]["checksum"] = None


CHANGES = {
    "scaled": scale, "last bit": next_number, "label": to("label", 7), "wnid": to("wnid", "n1"),
    "no wnid": to("label", None), "fro2": to("fro2", 1.5), "converged": to("converged", 9),
    "method": to("method", "exact?"), "seconds": to("seconds", 0.0),
    "no checksum": without_checksum, "k": to("k", 9),
    "photo": to("photo_checksum", "0" * 32), "message": to("message", "!"),
}  # fmt: skip


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_values_are_named_and_computed_again(surveyed, shard, store, change, merged):
    before = values(store)
    if merged:
        compact(store, few=0)
    (file, *_) = [*store.layout.task_files(), *store.layout.part_files()]
    whole = pq.ParquetFile(file).read()
    rewrite(file, change)
    if merged:  # the list of the tasks stays, as it does when bytes change
        table = pq.ParquetFile(file).read().replace_schema_metadata(whole.schema.metadata)
        pq.write_table(table, file)
    problems = verify(store).problems
    changed = 8 if merged and change is scale else 2 if change is scale else 1
    assert len([line for line in problems if line.startswith("changed: good-0000.tar")]) == changed
    assert read_values(store).unreadable
    with pytest.raises(RunError, match="is not what was written"):
        open(store.folder).table()
    assert_mended(surveyed([shard]), before, computed=4 if changed == 8 else 1)


@pytest.mark.parametrize("name", ["label", "fro2", "s", "layer", "photo_checksum"])
def test_cells_exchanged_between_rows_are_named(store, name):
    one, two = store.layout.task_files()[:2]
    cells = [pq.ParquetFile(file).read()[name][0].as_py() for file in (one, two)]
    rewrite(one, to(name, cells[1] if name != "layer" else "output"))
    rewrite(two, to(name, cells[0]))
    changed = [line for line in verify(store).problems if line.startswith("changed: ")]
    assert len(changed) == (1 if name == "layer" else 2 if cells[0] != cells[1] else 0)


def test_files_exchanged_between_tasks_and_runs_are_named(surveyed, shard, store):
    before = values(store)
    one, two = store.layout.task_files()[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert len([line for line in verify(store).problems if line.startswith("changed: ")]) == 4
    assert_mended(surveyed([shard]), before, computed=2)
    other = surveyed([shard], "other", model="tiny:other").store
    one.write_bytes(other.layout.task_files()[0].read_bytes())
    assert verify(store).problems
    assert_mended(surveyed([shard]), before, computed=1)
    (store.folder / "manifest.parquet").write_bytes(
        (other.folder / "manifest.parquet").read_bytes()
    )
    assert "of another run" in verify(store).problems[0]
    assert_mended(surveyed([shard]), before, computed=0)


@pytest.mark.parametrize("kind", ["rows", "part", "vectors"])
def test_flipped_bits_change_nothing_without_being_named(finished, kind):
    """Decoded rows are compared, so that a bit which means nothing is no damage."""
    store = finished(vectors=kind == "vectors", limit=2)
    if kind == "part":
        compact(store, few=0)
    folder = store.folder / ("vectors" if kind == "vectors" else "spectra")
    file = min(folder.iterdir())
    data = file.read_bytes()

    def decoded():
        try:
            if kind == "vectors":
                return {name: t.numpy().tobytes() for name, t in load_file(file).items()}
            # A file holds its metadata twice; this reader takes the copy that counts.
            rows = pq.ParquetFile(file).read().to_pylist()
            return repr([{**row, "checksum": ""} for row in rows])
        except Exception:
            return None

    whole = decoded()
    dice = np.random.default_rng(0)
    named = 0
    for _ in range(60):
        flipped = bytearray(data)
        flipped[dice.integers(4, len(data) - 8)] ^= 1 << dice.integers(8)
        file.write_bytes(flipped)
        problems = verify(store).problems
        named += bool(problems)
        assert problems or decoded() == whole
    assert named > 20
    file.write_bytes(data)
    assert verify(store).problems == ()


@pytest.mark.parametrize("change", [lambda t: -t, lambda t: t.flip(0), lambda t: t * 2])
@pytest.mark.parametrize("name", ["U", "Vh"])
def test_changed_vectors_are_named_and_not_returned(surveyed, finished, shard, name, change):
    store = finished(vectors=True, limit=1)
    file = min((store.folder / "vectors").iterdir())
    tensors = load_file(file)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, file)
    (problem,) = verify(store).problems
    assert problem.startswith("vectors that were changed (remove ")
    (row, *_) = store.rows()
    with pytest.raises(RunError, match="was changed after it was written; remove it"):
        open(store.folder).vectors(row.shard, row.key, row.layer)
    file.unlink()
    assert surveyed([shard], vectors=True, limit=1).computed == 1
    assert verify(store).problems == ()


def test_manifest_with_another_label_is_named(surveyed, shard, store):
    before = values(store)
    file = store.folder / "manifest.parquet"
    metadata = pq.read_schema(file).metadata
    rewrite(file, to("label", 9))
    table = pq.ParquetFile(file).read()
    pq.write_table(table.replace_schema_metadata(metadata), file)
    assert "changed after it was written" in verify(store).problems[0]
    assert_mended(surveyed([shard]), before, computed=0)


def test_one_changed_row_of_a_part_costs_one_task(surveyed, shard, store):
    before = values(store)
    compact(store, few=0)
    (part,) = store.layout.part_files()
    table = pq.ParquetFile(part).read()
    rows = table.to_pylist()
    rows[5]["s"][0] *= 2
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
    outcome = surveyed([shard])
    assert_mended(outcome, before, computed=1)
    assert part.with_name(f".{part.stem}.damaged").exists()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", ["wnid", "vectors_checksum", "s", "checksum"])
def test_a_changed_name_of_a_column_is_named(surveyed, shard, store, name, merged):
    """Of a column without values as well: whoever reads the file elsewhere would miss it."""
    before = values(store)
    if merged:
        compact(store, few=0)
    file = min((store.folder / "spectra").iterdir())
    table = pq.ParquetFile(file).read()
    new = [f"{other}x" if other == name else other for other in table.column_names]
    renamed = table.rename_columns(new).replace_schema_metadata(table.schema.metadata)
    pq.write_table(renamed, file)
    assert "unreadable: " in verify(store).problems[0]
    lost = merged and name not in ("wnid", "vectors_checksum")
    assert_mended(surveyed([shard]), before, computed=4 if lost else 1 - merged)


def test_two_parts_of_the_same_task_give_its_rows_once(store):
    files = store.layout.task_files()
    tables = [(file.stem, pq.ParquetFile(file).read()) for file in files]
    write_part(store.folder / "spectra", tables[:3])
    write_part(store.folder / "spectra", tables[1:])
    assert len(store.rows()) == 8
    assert verify(store).problems == ()


# --- runs of before there were checksums


@pytest.fixture
def old(store):
    """The same run as an older jvpsvd wrote it."""
    new = ["photo_checksum", "vectors_checksum", "checksum"]
    for file in store.layout.task_files():
        pq.write_table(pq.ParquetFile(file).read().drop_columns(new), file)
    manifest = store.folder / "manifest.parquet"
    pq.write_table(pq.ParquetFile(manifest).read().replace_schema_metadata(), manifest)
    record = json.loads((store.folder / "run.json").read_text())
    del record["checksum"], record["identity"]["probe"]
    (store.folder / "run.json").write_text(json.dumps(record))
    (store.folder / "shards.json").unlink()
    return open_store(store.folder)


def test_an_old_run_is_read_and_says_that_it_has_no_checksums(surveyed, shard, old, capsys):
    verification = verify(old)
    assert (verification.problems, verification.values, verification.unchecked) == ((), 8, 8)
    with pytest.raises(SystemExit) as end:
        main(["verify", str(old.folder)])
    assert end.value.code == 0
    assert "8 rows without a checksum" in capsys.readouterr().out
    before = values(old)
    old.layout.task_files()[0].unlink()
    assert_mended(surveyed([shard]), before, computed=1)
    assert verify(old).unchecked == 6


@pytest.mark.parametrize("merged", [False, True])
def test_rows_of_an_old_run_are_held_against_its_manifest(old, merged):
    file = old.layout.task_files()[0]
    rewrite(file, to("label", 7))
    if merged:
        compact(old, few=0)
    (problem,) = verify(old).problems
    assert "label 7 and wnid None; the manifest has" in problem


# --- what does not belong to the run


def unexpected_files(store):
    """Files and folders of others, each with an old time."""
    spectra, some = store.folder / "spectra", store.layout.task_files()[0]
    made = [
        spectra / f"._{some.name}", spectra / f"{some.stem} (conflicted copy).parquet",
        spectra / "notes.parquet", spectra / "part-notes.parquet", spectra / "download.part",
        spectra / f"{some.name}.part", store.folder / "thesis.part",
        store.folder / "shards" / "b.tar.part",
    ]  # fmt: skip
    (store.folder / "shards").mkdir()
    for file in made:
        file.write_bytes(b"mine")
    for folder in (spectra / "x.part", store.folder / "y.part"):
        folder.mkdir()
        (folder / "mine.part").write_bytes(b"mine")
        made.append(folder / "mine.part")
    for file in made:
        os.utime(file, (0, 0))
        os.utime(file.parent, (0, 0))
    return made


def test_files_of_others_stop_nothing_and_stay(surveyed, shard, store):
    before = values(store)
    made = unexpected_files(store)
    store.layout.task_files()[0].unlink()
    assert surveyed([shard]).computed == 1
    for key, s in values(store).items():
        np.testing.assert_allclose(s, before[key], rtol=1e-5)
    assert [file.read_bytes() for file in made] == [b"mine"] * len(made)
    assert read_values(store).unreadable == ()
    problems = verify(store).problems
    assert all(line.startswith("unexpected: ") for line in problems)
    for name in ("._", "conflicted copy", "notes.parquet", "part-notes.parquet"):
        assert any(name in line for line in problems)


PATTERNS = ["manifest.parquet", "manifest.lock", "spectra/*.parquet", "vectors/*.safetensors",
          "compaction.lock", "run.json", "shards.json", "report/spectra.csv", "spectra",
          "log"]  # fmt: skip


@pytest.mark.parametrize("kind", ["link", "loop", "pipe", "folder"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_links_pipes_and_folders_are_not_followed(
    surveyed, finished, shard, tmp_path, pattern, kind
):
    wanted = {"vectors": True, "limit": 1, "layers": ["output"]}
    store = finished(**wanted)
    path = next(store.folder.glob(pattern), store.folder / pattern)
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    if path.is_dir():
        path.rename(tmp_path / "away")
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "link":
        path.symlink_to(mine)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    stamp = path.lstat().st_mode
    calls = [
        lambda: verify(open_store(store.folder)),
        lambda: status(open_store(store.folder)).lines(),
        lambda: open(store.folder).table(),
        lambda: write_tables_of(store.folder) if "report" in pattern else None,
        lambda: surveyed([shard], **wanted),
    ]
    for call in calls:
        with contextlib.suppress(RunError, DiskError):
            call()
    assert mine.read_bytes() == b"mine"
    assert path.lstat().st_mode == stamp


def write_tables_of(folder):
    write_tables(analyse(read_values(open_store(folder))), folder / "report")


def test_a_folder_in_the_place_of_rows_is_one_error_before_anything_is_computed(
    surveyed, shard, store
):
    file = store.layout.task_files()[0]
    file.unlink()
    file.mkdir()
    with pytest.raises(RunError, match=r"is a folder where a file of the run belongs; move it"):
        surveyed([shard])


# --- odd values in run.json

ODD = [None, -1, 0, 1.5, True, float("nan"), 10**30, "", "x", [], {}, [None], ["x", "x"], {"a": 1}]
NOT_IN_ROWS = ["per_class", "limit", "classes", "choice", "model", "contents", "shards", "vectors",
               "probe"]  # fmt: skip
FIELDS = [
    ("identity", None), ("depths", None), *(("identity", name) for name in (
        "model", "weights_sha256", "photo_input", "shards", "contents", "layers", "k", "tol",
        "seed", "classes", "per_class", "limit", "choice", "batch", "vectors", "dtype", "numerics",
        "probe",
    )),
]  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("field", "name"), FIELDS)
def test_odd_values_in_run_json_are_one_error_or_a_run(store, field, name, old):
    """An old run has no checksum, so that a value which is possible is taken."""
    file = store.folder / "run.json"
    whole = json.loads(file.read_text())
    for value in ODD:
        record = json.loads(json.dumps(whole))
        if name is None:
            record[field] = value
        else:
            record[field][name] = value
        if old:
            del record["checksum"]
        elif record == whole:
            continue
        file.write_text(json.dumps(record))
        try:
            opened = open_store(store.folder)
        except RunError as error:
            said = str(error)
        else:
            assert old
            said = " ".join(verify(opened).problems)
        assert said or name in NOT_IN_ROWS
        assert "\n" not in said


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[" * 100_000, b'{"identity": 1e999}', b"3"])
def test_bytes_that_are_no_record_are_one_error(store, text):
    (store.folder / "run.json").write_bytes(text)
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        open_store(store.folder)


@pytest.mark.parametrize(
    "line",
    ['{"event": "finished", "samples": "x"}', '{"event": "finished", "samples": [1], "time": 3}',
     '{"event": "finished", "samples": 1e999, "time": "2026-01-01T00:00:00"}', "[" * 100_000],
)  # fmt: skip
def test_odd_lines_in_a_journal_do_not_hide_the_status(store, line):
    (file,) = (store.folder / "log").glob("*.jsonl")
    file.write_text(f"{line}\n{file.read_text()}{line}\n")
    assert status(store).lines()[0].startswith("4 of 4 photos done")


@pytest.mark.parametrize("name", ["run.json", "manifest.parquet"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_stands_in_the_place_of_a_file_is_named_with_the_remedy(store, tmp_path, name, kind):
    file = store.folder / name
    moved = file.rename(tmp_path / "moved")
    if kind == "link":
        file.symlink_to(moved)
    else:
        os.mkfifo(file)
    with pytest.raises(RunError, match=rf"{name} is a {kind}.*; move it away"):
        open_store(store.folder).samples()
