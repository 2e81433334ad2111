"""Ways to damage the folder of a run: its bytes, its values, links, and foreign files.

A damage takes a random number generator and the folder. It raises `NoPlaceError` if the folder has
nothing that it could harm.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load, save

Damage = Callable[[random.Random, Path], None]


class NoPlaceError(Exception):
    """The run has nothing that this damage could harm."""


# --- damage to bytes


def _some_file(dice: random.Random, run: Path) -> Path:
    files = [f for f in run.rglob("*") if f.is_file() and f.stat().st_size and f.suffix != ".lock"]
    data = [f for f in files if f.suffix in (".parquet", ".safetensors") or f.name == "run.json"]
    return dice.choice(sorted(data if dice.random() < 0.9 else files))


def flip_a_bit(dice: random.Random, run: Path) -> None:
    file = _some_file(dice, run)
    data = bytearray(file.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    file.write_bytes(data)


def flip_a_bit_of_values(dice: random.Random, run: Path) -> None:
    """Flip a bit in the pages of a Parquet file or in the tensors of a file of vectors."""
    file = dice.choice(
        sorted(f for f in run.rglob("*") if f.suffix in (".parquet", ".safetensors"))
    )
    data = bytearray(file.read_bytes())
    if file.suffix == ".safetensors":
        start, end = 8 + int.from_bytes(data[:8], "little"), len(data)
    else:
        start, end = 4, len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[dice.randrange(start, end)] ^= 1 << dice.randrange(8)
    file.write_bytes(data)


def overwrite_bytes(dice: random.Random, run: Path) -> None:
    file = _some_file(dice, run)
    data = bytearray(file.read_bytes())
    start = dice.randrange(len(data))
    count = dice.randrange(1, 200)
    kind = dice.choice(["zeros", "ones", "noise"])
    new = {"zeros": bytes(count), "ones": b"\xff" * count, "noise": dice.randbytes(count)}[kind]
    data[start : start + count] = new[: len(data) - start]
    file.write_bytes(data)


def cut_or_add_bytes(dice: random.Random, run: Path) -> None:
    file = _some_file(dice, run)
    data = file.read_bytes()
    offset = dice.randrange(len(data))
    what = dice.choice(["end", "all", "middle", "more"])
    kept = {"end": data[:offset], "all": b"", "more": data + dice.randbytes(9)}
    file.write_bytes(kept.get(what, data[:offset] + data[offset + dice.randrange(1, 50) :]))


def delete_a_file(dice: random.Random, run: Path) -> None:
    _some_file(dice, run).unlink()


def exchange_files(dice: random.Random, run: Path) -> None:
    one = _some_file(dice, run)
    others = sorted(f for f in run.rglob(f"*{one.suffix}") if f != one and f.is_file())
    if not others:
        raise NoPlaceError
    other = dice.choice(others)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    if dice.random() < 0.6:
        other.write_bytes(first)


def rename_a_file(dice: random.Random, run: Path) -> None:
    file = _some_file(dice, run)
    names = [f"._{file.name}", f"{file.stem} (conflicted copy){file.suffix}", f"{file.name}.part"]
    names += [f"{dice.randbytes(16).hex()}{file.suffix}", f"part-{dice.randbytes(8).hex()}.parquet"]
    file.rename(file.with_name(dice.choice(names)))


# --- damage to values, in files that stay valid


def _rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.ParquetFile(file).read()
    changed = change(table)
    if keeps_metadata(changed):
        changed = changed.replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, file)


def keeps_metadata(table: pa.Table) -> bool:
    return table.num_rows % 5 != 4


def _alter(dice: random.Random, value: Any) -> Any:
    if isinstance(value, list):
        altered = list(value)
        what = dice.randrange(5)
        if what == 0:
            return [1000 * x for x in altered]
        if what == 1 and altered:
            at = dice.randrange(len(altered))
            altered[at] = float(np.nextafter(altered[at], 9))
            return altered
        if what == 2:
            return altered[:-1]
        return [dice.choice([float("nan"), -1.0, float("inf"), 1e300]) for _ in altered]
    if isinstance(value, str):
        return dice.choice([value + "x", "", "ok", "error", "p0", "p1", "output", "0", None])
    if isinstance(value, int):
        return dice.choice([value + 1, -1, 0, 1 << 62, None])
    if isinstance(value, float):
        return dice.choice([value * 2, float("nan"), -value, 0.0, None])
    return dice.choice(["n01440764", 7, 1.5])


def change_a_cell(dice: random.Random, run: Path) -> None:
    file = dice.choice(sorted((run / "spectra").glob("*.parquet")))

    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        row, name = dice.choice(rows), dice.choice(table.column_names)
        row[name] = _alter(dice, row[name])
        try:
            return pa.Table.from_pylist(rows, schema=table.schema)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise NoPlaceError from error

    _rewrite(file, change)


def change_a_column(dice: random.Random, run: Path) -> None:
    file = dice.choice(sorted((run / "spectra").glob("*.parquet")))

    def change(table: pa.Table) -> pa.Table:
        name = dice.choice(table.column_names)
        at = table.column_names.index(name)
        what = dice.randrange(5)
        if what == 0:
            return table.drop_columns([name])
        if what == 1:
            return table.rename_columns([n + "x" if n == name else n for n in table.column_names])
        if what == 2:
            return table.set_column(at, name, pa.nulls(len(table), table.schema.field(name).type))
        if what == 3:
            return table.set_column(at, name, pa.array(["text"] * len(table)))
        kinds = [pa.list_(pa.float32()), pa.int32(), pa.float32(), pa.large_string(), pa.binary()]
        try:
            return table.set_column(at, name, table[name].cast(dice.choice(kinds)))
        except pa.ArrowException as error:
            raise NoPlaceError from error

    _rewrite(file, change)


def exchange_rows_or_columns(dice: random.Random, run: Path) -> None:
    """Scale all s; exchange labels, fro2 or s of photos; lose, double or reorder rows."""
    files = sorted((run / "spectra").glob("*.parquet"))
    tables = {file: pq.ParquetFile(file).read() for file in files}
    rows = {file: table.to_pylist() for file, table in tables.items()}
    every = [row for of_file in rows.values() for row in of_file]
    what = dice.choice(
        ["scale", "s", "label", "fro2", "layer", "residuals", "lose", "double", "order"]
    )
    if what == "scale":
        for row in every:
            row["s"] = [1000 * x for x in row["s"]]
    elif what in ("s", "label", "fro2", "layer", "residuals"):
        one, two = dice.sample(every, 2)
        one[what], two[what] = two[what], one[what]
    else:
        of_file = dice.choice(list(rows.values()))
        if what == "lose":
            of_file.pop()
        elif what == "double":
            of_file.append(dice.choice(of_file))
        else:
            of_file.reverse()
    for file, table in tables.items():
        new = pa.Table.from_pylist(rows[file], schema=table.schema)
        pq.write_table(new, file)


def change_the_manifest(dice: random.Random, run: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        row, name = dice.choice(rows), dice.choice(table.column_names)
        what = dice.randrange(4)
        if what == 0:
            rows.pop()
        elif what == 1:
            rows.append(dict(row))
        else:
            row[name] = _alter(dice, row[name])
        try:
            return pa.Table.from_pylist(rows, schema=table.schema)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise NoPlaceError from error

    _rewrite(run / "manifest.parquet", change)


def text_that_is_no_utf8(dice: random.Random, run: Path) -> None:
    file = dice.choice([run / "manifest.parquet", *sorted((run / "spectra").glob("*.parquet"))])

    def change(table: pa.Table) -> pa.Table:
        names = [n for n in table.column_names if pa.types.is_string(table.schema.field(n).type)]
        name = dice.choice(names)
        cells = [(x or "").encode() for x in table[name].to_pylist()]
        at = dice.randrange(len(cells))
        cells[at] = b"\xff\xfe" + cells[at]
        raw = pa.array(cells, pa.binary())
        text = pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2])
        return table.set_column(table.column_names.index(name), name, text)

    _rewrite(file, change)


def change_vectors(dice: random.Random, run: Path) -> None:
    files = sorted((run / "vectors").glob("*.safetensors"))
    if not files:
        raise NoPlaceError
    file = dice.choice(files)
    tensors = load(file.read_bytes())
    name = dice.choice(sorted(tensors))
    new = [-tensors[name], tensors[name].flip(0), tensors[name] * 2, tensors[name][:-1]]
    tensors[name] = dice.choice(new).contiguous()
    if dice.random() < 0.2:
        tensors = {n: t for n, t in tensors.items() if n != name}
    file.write_bytes(save(tensors))


ODD = [
    None, -1, 0, 1, True, 1.5, float("nan"), float("inf"), 10**30, 1 << 62, "", "x", "\ud800",
    [], {}, [[]], [None], ["x", "x"], {"a": 1}, [1] * 9, "a" * 9999,
]  # fmt: skip


def _odd_json(dice: random.Random, file: Path) -> None:
    if not file.is_file():
        raise NoPlaceError
    record = json.loads(file.read_text())
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(record)
    node, key = dice.choice(places)
    what = dice.random()
    if what < 0.15:
        del node[key]
    elif what < 0.2 and isinstance(node, dict):
        node["more"] = dice.choice(ODD)
    else:
        node[key] = dice.choice(ODD)
    if dice.random() < 0.5:
        record.pop("checksum", None)  # as if the run were an old one
    text = json.dumps(dice.choice(ODD) if dice.random() < 0.03 else record)
    if dice.random() < 0.03:
        text = "[" * 100_000
    file.write_bytes(text.encode("utf-8", "surrogatepass"))


def odd_values_in_run_json(dice: random.Random, run: Path) -> None:
    _odd_json(dice, run / "run.json")


def odd_values_in_the_other_json(dice: random.Random, run: Path) -> None:
    if dice.random() < 0.4:
        _odd_json(dice, run / "shards.json")
        return
    file = dice.choice(sorted((run / "log").glob("*.jsonl")))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    line = dice.choice(lines)
    line[dice.choice(sorted(line))] = dice.choice(ODD)
    file.write_text("\n".join(json.dumps(one) for one in lines))


# --- foreign files


def foreign_files(dice: random.Random, run: Path) -> None:
    folder = dice.choice([run, run / "spectra", run / "log", run / "report", run / "vectors"])
    folder.mkdir(exist_ok=True)
    some = dice.choice(sorted((run / "spectra").glob("*.parquet")))
    hexes = dice.randbytes(16).hex()
    name = dice.choice([
        f"._{some.name}", f"{some.stem} (conflicted copy 2026-11-28).parquet", "x.parquet",
        f"{hexes}.parquet", f"{some.stem}.parquet.part", "old.part", f".{some.name}.part",
        f"part-{hexes[:16]}.parquet", "part-notes.parquet", f"{hexes}-000.safetensors", "notes.txt",
        "a.safetensors", "x.jsonl", "index.html", ".DS_Store",
    ])  # fmt: skip
    file = folder / name
    if file.exists():
        raise NoPlaceError
    what = dice.randrange(4)
    if what == 0:
        file.mkdir()
        (file / "mine.part").write_bytes(b"mine")
    else:
        file.write_bytes([b"mine", b"", some.read_bytes()][what - 1])
    os.utime(file, (0, 0))


def _pick_path(dice: random.Random, run: Path) -> Path:
    names = ["run.json", "manifest.parquet", "manifest.lock", "compaction.lock", "shards.json"]
    paths = [run / name for name in [*names, "spectra", "log", "report", "vectors"]]
    paths += [f for f in run.rglob("*") if f.suffix in (".parquet", ".safetensors", ".jsonl")]
    paths += [run / "report" / name for name in ("spectra.csv", "index.html", "spectra.png")]
    return dice.choice(sorted(paths))


def _take_away(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)


def links(dice: random.Random, run: Path) -> None:
    path = _pick_path(dice, run)
    outside = run.parent / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    target = outside / "copy"
    if path.is_file():
        shutil.copy(path, target)
    elif path.is_dir():
        shutil.copytree(path, target)
    _take_away(path)
    where = [target, outside / "mine", outside / "nowhere", outside, path, Path("/dev/zero")]
    path.symlink_to(dice.choice(where))


def pipes_and_folders(dice: random.Random, run: Path) -> None:
    path = _pick_path(dice, run)
    _take_away(path)
    if dice.random() < 0.6:
        os.mkfifo(path)
    elif path.suffix:
        path.mkdir()
        (path / "mine").write_bytes(b"mine")
    else:
        path.write_bytes(b"mine")


DAMAGES: tuple[Damage, ...] = (
    flip_a_bit, flip_a_bit, flip_a_bit_of_values, flip_a_bit_of_values, overwrite_bytes,
    cut_or_add_bytes, delete_a_file, exchange_files, rename_a_file, change_a_cell, change_a_cell,
    change_a_column, exchange_rows_or_columns, change_the_manifest, text_that_is_no_utf8,
    change_vectors, odd_values_in_run_json, odd_values_in_run_json, odd_values_in_the_other_json,
    foreign_files, links, pipes_and_folders,
)  # fmt: skip
