"""Synthetic runs to report on: a store filled with random rows, of any size."""

import hashlib

import numpy as np
import pyarrow as pa

from jvpsvd.data import Sample
from jvpsvd.data.wordnet import ilsvrc_hierarchy
from jvpsvd.networks import Depth, PhotoInput
from jvpsvd.report import read_values, write_report
from jvpsvd.survey import SCHEMA, Identity
from jvpsvd.survey.store.files import write_table
from jvpsvd.survey.store.rows import with_checksums
from jvpsvd.survey.store.store import create_or_continue
from jvpsvd.survey.store.whole_spectrum import COUNT_COLUMNS, THRESHOLDS


def make_run(
    folder, photos=24, depths=3, k=12, classes=6, *, named=True, model="made up", units=900,
    whole=False,
):  # fmt: skip
    """Make a store of photos x depths rows; classes differ by the decay of their spectra.

    With `whole`, rows keep whole spectra: counts that are known to 10 % beyond the k values.
    """
    layers = (*(f"block.{number}" for number in range(depths - 1)), "output")
    contents = (Depth(name, "Block", (1, units)) for name in layers)
    identity = Identity(
        model, "0" * 64, PhotoInput(size=16, resize=18), ("a.tar",), ("x",), layers, k, 1e-4
    )
    store = create_or_continue(folder, identity, list(contents))
    wnids = ilsvrc_hierarchy().classes
    samples = [
        Sample("a.tar", f"photo{i:05d}", 0, 10, i % classes, wnids[i % classes] if named else None)
        for i in range(photos)
    ]
    store.write_manifest(samples)
    generator = np.random.default_rng(0)
    decay = 0.05 + 0.1 * generator.random(classes)[np.arange(photos) % classes]
    for number, layer in enumerate(layers):
        logs = 2 - number / depths - decay[:, None] * np.arange(k)
        s = np.sort(np.exp(logs + generator.normal(0, 0.1, (photos, k))), axis=1)[:, ::-1]
        residuals = 1e-5 * s[:, :1] * generator.random((photos, k))
        columns = whole_spectra(logs[:, :1], decay, s, store.sizes[layer]) if whole else {}
        write_rows(store, layer, samples, s, residuals, **columns)
    return store


def whole_spectra(top, decay, s, size):
    """Return columns of rows whose values go on as exp(top − decay · i), up to `size` of them."""
    beyond = (top - np.log(THRESHOLDS)) / decay[:, None]
    value = np.clip(beyond, s.shape[1], size)
    known = (s[:, None] >= THRESHOLDS[:, None]).sum(axis=2)
    decided = s[:, -1:] * (1 + 1e-4) < THRESHOLDS
    numbers = (value, 0.9 * value, np.minimum(1.1 * value, size), 0.02 * value)
    held = (np.where(decided, known if i < 3 else 0, one) for i, one in enumerate(numbers))
    held = [np.maximum(one, s.shape[1] * ~decided) if i < 3 else one for i, one in enumerate(held)]
    share = s**2 / (s**2).sum(axis=1, keepdims=True)
    sums = {
        "participation": 1 / (share**2).sum(axis=1),
        "entropy": -(share * np.log(share)).sum(axis=1),
        "nuclear_norm": s.sum(axis=1),
    }
    return {
        "size": [size] * len(s),
        **{name: one.tolist() for name, one in zip(COUNT_COLUMNS, held, strict=True)},
        **{
            name: np.stack([one, 0.98 * one, 1.02 * one, 0.01 * one], axis=1).tolist()
            for name, one in sums.items()
        },
    }


def write_rows(store, layer, samples, s, residuals, converged=None, **more):
    """Write the rows of a depth; `more` are further columns, or others than the usual ones."""
    photos, k = s.shape
    ends = pa.array(np.arange(0, photos * k + 1, k, dtype=np.int32))
    columns = {
        "shard": [sample.shard for sample in samples],
        "key": [sample.key for sample in samples],
        "label": [sample.label for sample in samples],
        "wnid": [sample.wnid for sample in samples],
        "layer": [layer] * photos,
        "status": ["ok"] * photos,
        "message": [""] * photos,
        "s": pa.ListArray.from_arrays(ends, pa.array(np.ascontiguousarray(s).ravel())),
        "residuals": pa.ListArray.from_arrays(ends, pa.array(residuals.ravel())),
        "converged": [k] * photos if converged is None else converged,
        "k": [k] * photos,
        "method": ["golub-kahan"] * photos,
        "products_forward": [k] * photos,
        "products_reverse": [k] * photos,
        "fro2": 1.25 * np.square(s).sum(axis=1),
        "seconds": [0.5] * photos,
        "defined_to": [1e-6] * photos,
        **more,
    }
    absent = {
        name: pa.nulls(photos, kind) for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)
    }
    table = pa.table({**absent, **columns}, schema=SCHEMA)
    task = task_of(layer)
    table = with_checksums(table, [task] * photos)
    write_table(store.folder / "spectra" / f"{task}.parquet", table)


def task_of(layer):
    """Return the name of the file that holds the rows of a depth."""
    return hashlib.sha256(layer.encode()).hexdigest()[:32]


def page_of(store, shards=()):
    return write_report(read_values(store), shards).page.read_text(encoding="utf-8")
