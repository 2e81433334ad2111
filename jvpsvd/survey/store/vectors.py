"""Files of singular vectors: those of one row, or small copies of a few, with its names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.store.checksums import checksum_bytes
from jvpsvd.survey.store.files import is_regular, unreadable, write_whole
from jvpsvd.survey.store.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

    from jvpsvd.svd import SVDResult


def write_vectors(file: Path, row: Row, result: SVDResult, identity: Identity) -> str | None:
    """Write the vectors of a row and return their checksum; None where the result has none.

    They are U, s and Vh, or what `small_copies` keeps of them.
    """
    import safetensors.torch  # which imports torch; `are_whole` does without

    from jvpsvd.survey.store.small_vectors import small_copies

    if result.U is None or result.Vh is None:
        return None
    tensors = {
        "U": result.U.cpu().contiguous(),
        "s": result.s.cpu(),
        "Vh": result.Vh.cpu().contiguous(),
    }
    if not identity.vectors:
        tensors = small_copies(tensors["U"], tensors["s"], tensors["Vh"], identity)
    names = {name: str(getattr(row, name)) for name in ("shard", "key", "layer")}
    data = safetensors.torch.save(tensors, metadata=names)
    write_whole(file, lambda aside: aside.write_bytes(data))
    return checksum_bytes(data)


def read_vectors(file: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file and its checksum.

    Raises:
        RunError: If the file cannot be read.
    """
    import safetensors.torch

    try:
        data = file.read_bytes()
        return safetensors.torch.load(data), checksum_bytes(data)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise unreadable(file, error) from error


def are_whole(file: Path) -> bool:
    """Whether the vectors are there and not cut short; they are not read."""
    if not is_regular(file):
        return False
    try:
        with safe_open(file, framework="np"):  # compares its header with its size
            return True
    except (OSError, SafetensorError):
        return False
