"""Damage finished runs in thousands of ways: do verify, status, report and run notice?

    python -m benchmarks damage --seeds 0 4000

A small run is made in each of four forms. Each seed takes a copy of one, damages it once, and calls
everything that reads or continues a run. Three things count as faults: changed data that verify
does not name; an exception that is not jvpsvd's, or a call that takes longer than a minute; and a
file that is gone or changed after the same run was called again, although the run did not write it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import stat
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load
from torch import nn

from benchmarks.problems.damages import DAMAGES, NoPlaceError
from jvpsvd import report, survey
from jvpsvd.errors import JvpsvdError
from jvpsvd.networks import Model, PhotoInput, weights_sha256
from jvpsvd.report.values import read_values

LAYERS, K = ("0", "output"), 3
FORMS = ("single", "vectors", "parts", "parts and single")
_SECONDS = 60


class HungError(Exception):
    """A call does not return."""


# --- runs


def make_shard(file: Path) -> Path:
    """Write a shard of four photos, the last of which cannot be decoded."""
    with tarfile.open(file, "w") as tar:
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            photo = io.BytesIO()
            Image.fromarray(pixels).save(photo, "PNG")
            data = photo.getvalue() if number < 3 else b"no photo"
            for name, content in ((f"p{number}.png", data), (f"p{number}.cls", b"%d" % number)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file


def make_model() -> Model:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 6)).eval()
    net.requires_grad_(False)
    return Model("mine", net, PhotoInput(size=6, resize=6), weights_sha256(net))


def spec_of(folder: Path, model: Model, form: str) -> survey.Spec:
    return survey.Spec(
        shards=[folder / "a.tar"],
        model=model,
        out=folder / "run",
        layers=LAYERS,
        k=K,
        batch=1,
        vectors=form == "vectors",
    )


def make_run(folder: Path, model: Model, form: str) -> None:
    """Make a finished run of a form, with its shard beside it."""
    folder.mkdir()
    make_shard(folder / "a.tar")
    store = survey.run(spec_of(folder, model, form), report=False).store
    if form == "parts":
        survey.compact(store, few=0)
    elif form == "parts and single":
        kept = store.layout.task_files()[0]
        data = kept.read_bytes()
        kept.unlink()
        survey.compact(store, few=0)
        kept.write_bytes(data)


# --- the data of a run


def data_of(run: Path) -> dict[str, object]:
    """Return all data of a run, read without checks, and without checksums."""
    found: dict[str, object] = {"run.json": _json(run / "run.json")}
    found["manifest"] = _rows(run / "manifest.parquet")
    for file in _files(run / "spectra", ".parquet"):
        found[file.name] = _rows(file)
    for file in _files(run / "vectors", ".safetensors"):
        try:
            tensors = load(_regular(file))
            found[file.name] = {k: (v.shape, v.numpy().tobytes()) for k, v in tensors.items()}
        except Exception as error:
            found[file.name] = repr(error)
    return found


def _files(folder: Path, ending: str) -> list[Path]:
    try:
        every = sorted(folder.iterdir())
    except OSError:
        return []
    # Files with other names are no data of the run.
    return [f for f in every if f.suffix == ending and f.name[0] not in "._" and " " not in f.name]


def _json(file: Path) -> object:
    try:
        record = json.loads(_regular(file).decode())
        record.pop("checksum", None)
    except Exception as error:
        return repr(error)[:200]
    return json.dumps(record, sort_keys=True)


def _rows(file: Path) -> object:
    try:
        # A file holds its metadata twice; this reader takes the copy that counts.
        table = pq.ParquetFile(pa.BufferReader(_regular(file))).read()
        tasks = (table.schema.metadata or {}).get(b"jvpsvd.tasks")
        rows = table.drop_columns([n for n in table.column_names if n == "checksum"]).to_pylist()
        # A cell without a value is no data.
        return repr((tasks, [{n: x for n, x in row.items() if x is not None} for row in rows]))
    except Exception as error:
        return repr(error)[:200]


def _regular(file: Path) -> bytes:
    if not stat.S_ISREG(file.lstat().st_mode):
        raise OSError("not a file")
    return file.read_bytes()


def entries(folder: Path) -> dict[Path, str]:
    """Return the kind, and the hash or target, of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[path] = f"link to {path.readlink()}"
        elif stat.S_ISREG(mode):
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[path] = str(stat.S_IFMT(mode))
    return found


# --- trials


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(what: str, work: Callable[[], Any], faults: list[str]) -> tuple[Any, str]:
    """Return the result of `work` and its refusal; an exception that is not ours is a fault."""
    try:
        with limited(_SECONDS):
            return work(), ""
    except JvpsvdError as error:
        if "\n" in str(error):
            faults.append(f"{what}: an error of several lines")
        return None, str(error)
    except HungError:
        faults.append(f"{what}: hangs")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        faults.append(f"{what}: {type(error).__name__}: {str(error)[:90]} ({where.name})")
    return None, "fault"


def try_one(
    seed: int, forms: dict[str, Path], model: Model, scratch: Path, *, again: bool
) -> tuple[str, str, list[str], str]:
    """Damage a copy; return the damage, what verify said, the faults, and what run did."""
    dice = random.Random(seed)  # noqa: S311 -- a damage, no secret
    form = dice.choice(FORMS)
    damage = dice.choice(DAMAGES)
    folder = scratch / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(forms[form], folder)
    for file in folder.rglob("*"):  # a run knows its shard by its time
        shutil.copystat(forms[form] / file.relative_to(folder), file)
    run = folder / "run"
    whole = data_of(run)
    intact = entries(folder)
    try:
        damage(dice, run)
    except NoPlaceError:
        return damage.__name__, "no place", [], ""
    data, before = data_of(run), entries(folder)
    changed = data != whole
    faults: list[str] = []
    verified, refused = call("verify", lambda: survey.verify(survey.open_store(run)), faults)
    named = bool(refused) or bool(verified is not None and verified.problems)
    if changed and not named:
        different = sorted(name for name in {*data, *whole} if data.get(name) != whole.get(name))
        faults.append(f"verify: silent although {', '.join(different)} differ")
    call("status", lambda: survey.status(survey.open_store(run)).lines(), faults)
    call("report", lambda: _report(run, draw=seed % 3 == 0), faults)
    call("read", lambda: _read(run), faults)
    if entries(folder).keys() < before.keys():
        faults.append("reading: a file is gone")
    if not again:
        return damage.__name__, _outcome(changed, named), faults, ""
    away = dice.random() < 0.2
    if away:
        (folder / "a.tar").rename(folder / "away")
        (folder / "a.tar").write_bytes(b"")
    spec = spec_of(folder, model, form)
    _, refused = call("run", lambda: survey.run(spec, report=False), faults)
    if away:
        (folder / "away").replace(folder / "a.tar")
    faults += _lost(folder, before, intact, whole)
    if refused:
        return damage.__name__, _outcome(changed, named), faults, "refused"
    verified, refused = call("verify", lambda: survey.verify(survey.open_store(run)), faults)
    problems = verified.problems if verified else [refused]
    left = [line for line in problems if "unexpected" not in line]
    if not left:
        return damage.__name__, _outcome(changed, named), faults, "whole"
    return damage.__name__, _outcome(changed, named), faults, "still named"


def _outcome(changed: bool, named: bool) -> str:
    return ("changed, " if changed else "same, ") + ("named" if named else "silent")


def _report(run: Path, *, draw: bool) -> None:
    store = survey.open_store(run)
    values = read_values(store)
    report.summaries_of(values)
    if draw and os.path.lexists(run / "report"):  # figures take seconds
        report.write_report(values)


def _read(run: Path) -> None:
    results = survey.open(run)
    for row in results.table().to_pylist():
        if results.store.identity.vectors and row["status"] == "ok":
            results.vectors(row["shard"], row["key"], row["layer"])
    for layer in results.layers:
        results.spectra(layer)


def _lost(
    folder: Path, before: dict[Path, str], intact: dict[Path, str], whole: dict[str, object]
) -> list[str]:
    """Return what calling run destroyed: files of others, or intact rows."""
    after, faults = entries(folder), []
    values = {hash_ for path, hash_ in after.items() if "damaged" in path.name}
    rows = _keys(folder / "run")
    for path, content in before.items():
        ours = intact.get(path) == content
        if not ours and after.get(path) != content and content not in values:
            if _may_be_replaced(path, folder):
                continue
            faults.append(
                f"run: {path.name} was there and is {'other' if path in after else 'gone'}"
            )
        if ours and path.suffix == ".parquet" and path.parent.name == "spectra":
            lost = _keys_of(path.name, whole) - rows
            if lost:
                faults.append(f"run: rows of {path.name} are gone")
        if ours and path.suffix in (".json", ".safetensors", ".jsonl") and path not in after:
            faults.append(f"run: {path.name} is gone")
    return faults


def _may_be_replaced(path: Path, folder: Path) -> bool:
    """Return whether a damaged regular file is one that the same run writes again."""
    if path.is_symlink() or not path.is_file():
        return False
    run = folder / "run"
    named = path.parent in (run / "spectra", run / "vectors") and len(path.stem) in (32, 36)
    return (
        named
        or path in (run / "shards.json", run / "manifest.parquet")
        or (path.parent == run / "report")
    )


def _keys(run: Path) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for file in _files(run / "spectra", ".parquet"):
        with contextlib.suppress(Exception):
            table = pq.read_table(pa.BufferReader(_regular(file)))
            found.update(zip(table["key"].to_pylist(), table["layer"].to_pylist(), strict=True))
    return found


def _keys_of(name: str, whole: dict[str, object]) -> set[tuple[str, str]]:
    text = str(whole.get(name))
    return {(key, layer) for key in ("p0", "p1", "p2", "p3") for layer in LAYERS
            if f"'key': '{key}'" in text and f"'layer': '{layer}'" in text}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks damage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 1000), metavar=("FROM", "TO"))
    parser.add_argument("--run-every", type=int, default=5, help="run again at one seed of so many")
    options = parser.parse_args(arguments)
    logging.lastResort = None  # the journals of the runs still get every line
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        scratch, model = Path(name), make_model()
        forms = {form: scratch / form for form in FORMS}
        for form, folder in forms.items():
            make_run(folder, model, form)
        for seed in range(*options.seeds):
            again = seed % options.run_every == 0
            damage, outcome, faults, ran = try_one(seed, forms, model, scratch, again=again)
            counts[damage].update([outcome, *(["run: " + ran] if ran else [])])
            counts[damage]["faults"] += len(faults)
            for fault in faults:
                found.append(f"seed {seed}, {damage}: {fault}")
                print(found[-1], file=sys.stderr, flush=True)
    print_table(counts)
    return 1 if found else 0


def print_table(counts: dict[str, Counter[str]]) -> None:
    columns = (
        "changed, named", "changed, silent", "same, named", "same, silent", "run: whole",
        "run: still named", "run: refused", "faults",
    )  # fmt: skip
    print("| damage | copies | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    total: Counter[str] = Counter()
    for damage in sorted(counts):
        total.update(counts[damage])
        print(_line(damage.replace("_", " "), counts[damage], columns))
    print(_line("all", total, columns))


def _line(name: str, count: Counter[str], columns: tuple[str, ...]) -> str:
    copies = sum(count[outcome] for outcome in columns[:4])
    return f"| {name} | {copies} | " + " | ".join(str(count[one]) for one in columns) + " |"
