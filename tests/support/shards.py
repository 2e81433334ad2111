"""Small photos and tars that tests write."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(seed: int, form: str = "JPEG", size: tuple[int, int] = (24, 20)) -> bytes:
    """A small random photo, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of these members, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample_members(key: str, seed: int, label: int) -> list[tuple[str, bytes]]:
    """The members of one good sample."""
    return [(f"{key}.jpg", encoded(seed)), (f"{key}.cls", str(label).encode())]
