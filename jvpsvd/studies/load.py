"""Read back what `save` wrote: the result of a solve, or spectra."""

from __future__ import annotations

import os
from typing import Any

from jvpsvd import svd
from jvpsvd.studies.network_spectra import KIND, load_spectra
from jvpsvd.svd.storage import read_kind


def load(path: str | os.PathLike[str]) -> Any:
    """Return the `SVDResult` or `NetworkSpectra` that its `save` wrote, on the CPU.

    Raises:
        DataError: If there is no such file, it is damaged, or holds something else.
    """
    return load_spectra(path) if read_kind(path) == KIND else svd.load(path)
