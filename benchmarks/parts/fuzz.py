"""Give malformed files to the readers: every failure must be an error of jvpsvd.

    python -m benchmarks fuzz [KIND ...] [--seed N] [--count N] [--seconds S] [--keep FOLDER]

Input n of a kind follows from the seed, the kind and n alone (except the order of tensors in old
torch files): `KIND --seed N --first n --count 1` makes it again, and --keep stores the inputs that
failed. One input in ten is noise. A row of the table counts the inputs that were read, those that
raised an error of jvpsvd, and all other failures, among them inputs that take longer than a minute;
the first failure in each line of code is printed below. The slowest input is given in seconds of
the processor. The exit code is 1 if there is a failure that is not jvpsvd's error.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import torch

from benchmarks.measure.memory import peak_bytes
from benchmarks.problems import fuzzed_files as files
from benchmarks.problems import fuzzed_weights as weights
from jvpsvd.data import decode_photo, find_shards, fingerprint, read_photos, walk
from jvpsvd.data.mnist import mnist
from jvpsvd.errors import JvpsvdError, PhotoError
from jvpsvd.networks import PhotoInput, load_weights
from jvpsvd.networks.dbn import load_network

Reader = Callable[[bytes, Path], None]

_SECONDS = 60
_PHOTO = PhotoInput(size=16, resize=18)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is made, and how it is read."""

    make: files.Maker
    read: Reader


@dataclass
class Counts:
    """How many inputs of a kind were read, refused or failed."""

    read: int = 0
    ours: int = 0
    others: int = 0
    slowest: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)
    """The first failing input for each line of code, and its error."""

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return self.read + self.ours + self.others


def _read_shard(data: bytes, folder: Path) -> None:
    file = folder / "s.tar"
    file.write_bytes(data)
    (shard,) = find_shards(str(file))
    fingerprint(shard)
    samples = walk(shard)
    keys = [sample.key for sample in samples]
    if not samples or len(set(keys)) < len(keys):
        raise RuntimeError(f"no sample, or keys twice: {keys}")
    good = [sample for sample in samples if not sample.problem]
    for sample in samples:
        if not (sample.key + sample.message).isprintable() or bool(sample.problem) != bool(
            sample.message
        ):
            raise RuntimeError(f"not printable, or a problem without words: {sample}")
    for _, photo in read_photos(shard, good):
        if photo is None:
            raise RuntimeError("a photo that was listed is not there")
    file.write_bytes(data[: len(data) // 2])  # a shard may change after it was listed
    if len(list(read_photos(shard, good))) != len(good):
        raise RuntimeError("samples are lost")


def _read_photo(data: bytes, folder: Path) -> None:
    x = decode_photo(data, _PHOTO)
    if x.shape != _PHOTO.shape or not torch.isfinite(x).all():
        raise RuntimeError("no input of a network")


def _read_weights(name: str, data: bytes, folder: Path) -> None:
    (folder / name).write_bytes(data)
    load_weights(weights.network(), folder / name)


def _read_network(data: bytes, folder: Path) -> None:
    (folder / "net.safetensors").write_bytes(data)
    net = load_network(folder / "net.safetensors")
    if net(torch.zeros(1, net[0].in_features)).shape[0] != 1:
        raise RuntimeError("no network")


def _read_idx(name: str, data: bytes, folder: Path) -> None:
    for old in folder.glob("t10k-*"):
        old.unlink()
    (folder / name).write_bytes(data)
    mnist("test", folder)


_LABELS = "t10k-images-idx3-ubyte"  # the file that is read first
KINDS = {
    "shards": Kind(files.shard, _read_shard),
    "photos": Kind(files.photo, _read_photo),
    "torch-zip": Kind(weights.torch_zip, partial(_read_weights, "w.pth")),
    "torch-legacy": Kind(weights.torch_legacy, partial(_read_weights, "w.pth")),
    "pickle": Kind(weights.plain_pickle, partial(_read_weights, "w.pth")),
    "safetensors": Kind(weights.safetensors, partial(_read_weights, "w.safetensors")),
    "caffemodel": Kind(weights.caffemodel, partial(_read_weights, "w.caffemodel")),
    "network": Kind(weights.gained_network, _read_network),
    "idx": Kind(files.idx, partial(_read_idx, _LABELS)),
    "idx.gz": Kind(files.idx_gz, partial(_read_idx, f"{_LABELS}.gz")),
}


def make_input(kind: str, seed: int, number: int) -> bytes:
    """Return input `number` of a kind."""
    random = Random(f"{seed}/{kind}/{number}")  # noqa: S311 -- to be made again
    return files.noise(random) if random.random() < 0.1 else KINDS[kind].make(random)


def fuzz(
    kind: str,
    seed: int,
    numbers: range,
    seconds: float,
    folder: Path,
    keep: Path | None = None,
) -> Counts:
    """Read inputs of a kind until all are read or the time is up; keep those that failed."""
    counts, deadline = Counts(), time.monotonic() + seconds
    for number in numbers:
        began = time.monotonic()
        if began > deadline:
            break
        data, work = make_input(kind, seed, number), time.process_time()
        failed = counts.others
        signal.alarm(_SECONDS)
        try:
            KINDS[kind].read(data, folder)
            counts.read += 1
        except JvpsvdError as error:
            if _is_one_line(error):
                counts.ours += 1
            else:
                _count_other(counts, number, error)
        except Exception as error:
            _count_other(counts, number, error)
        finally:
            signal.alarm(0)
        if keep and counts.others > failed:
            (keep / f"{kind}-{seed}-{number}").write_bytes(data)
        counts.slowest = max(counts.slowest, time.process_time() - work)
    return counts


def _is_one_line(error: JvpsvdError) -> bool:
    text = str(error)
    # A photo's error names no file: the row of the survey does.
    return (
        text.isprintable()
        and 0 < len(text) < 1000
        and (isinstance(error, PhotoError) or "fuzz" in text)
    )


def _count_other(counts: Counts, number: int, error: Exception) -> None:
    counts.others += 1
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "jvpsvd" in f.filename] or frames
    line = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {type(error).__name__}"
    counts.examples.setdefault(line, f"input {number}: {line}: {str(error)[:200]!a}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings, logs and messages of libtiff from the terminal; stop inputs that hang."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"longer than {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    logging.disable(logging.CRITICAL)
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():  # noqa: PTH123
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGALRM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} [all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input [0]")
    parser.add_argument("--count", type=int, help="inputs of each kind [2000, or until --seconds]")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="all kinds together")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="inputs that failed go there")
    options = parser.parse_args(arguments)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    unknown = [name for name in options.kinds if name not in KINDS]
    if unknown:
        parser.error(f"no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    kinds = options.kinds or list(KINDS)
    limited = options.seconds < float("inf")
    count = options.count or (1 << 40 if limited else 2000)
    found: dict[str, Counts] = {}
    print(f"seed {options.seed}\n{'kind':14}  inputs    read    ours  others   slowest  peak MiB")
    for name in kinds:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, _quiet():
            share = options.seconds / len(kinds)
            numbers = range(options.first, options.first + count)
            counts = fuzz(name, options.seed, numbers, share, Path(folder), options.keep)
        found[name] = counts
        print(
            f"{name:14}  {counts.inputs:6}  {counts.read:6}  {counts.ours:6}  "
            f"{counts.others:6}  {counts.slowest:6.2f} s  {peak_bytes() >> 20:8}",
            flush=True,
        )
    for name, counts in found.items():
        for example in counts.examples.values():
            print(f"{name}: {example}")
    total = sum(counts.inputs for counts in found.values())
    others = sum(counts.others for counts in found.values())
    print(f"{total} inputs, {others} failures that are not ours")
    return int(others > 0)
