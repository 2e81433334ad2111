"""Spectra in a file of their own, in the format of safetensors."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

from jvpsvd.errors import DataError
from jvpsvd.studies.network_spectra import DepthSpectra, NetworkSpectra

KIND = "jvpsvd.spectra"
"""What the file says that it holds."""
_VERSION = "1"
_NAMES = ("s", "residuals", "converged", "certified", "energy_share", "products", "seconds")


def save_spectra(spectra: NetworkSpectra, path: Path) -> None:
    """Write spectra to a file, whole or not at all.

    Raises:
        DataError: If it cannot be written.
    """
    tensors = {
        f"{number}.{name}": getattr(depth, name).contiguous()
        for number, depth in enumerate(spectra.depths)
        for name in _NAMES
    }
    depths = [{"layer": depth.layer, "shape": depth.shape} for depth in spectra.depths]
    about = {"model": spectra.model, "tol": spectra.tol, "depths": depths}
    metadata = {"kind": KIND, "version": _VERSION, "about": json.dumps(about)}
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        safetensors.torch.save_file(tensors, aside, metadata)
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written ({error}); choose another path") from error


def load_spectra(path: Path) -> NetworkSpectra:
    """Read spectra back.

    Raises:
        DataError: If the file is missing, damaged or another one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if (metadata.get("kind"), metadata.get("version")) != (KIND, _VERSION):
                raise DataError(f"{path} holds no spectra of this version; give what .save() wrote")
            about = json.loads(metadata["about"])
            depths = tuple(
                DepthSpectra(
                    str(entry["layer"]),
                    (int(entry["shape"][0]), int(entry["shape"][1])),
                    **{name: file.get_tensor(f"{number}.{name}") for name in _NAMES},
                )
                for number, entry in enumerate(about["depths"])
            )
        return NetworkSpectra(depths, str(about["model"]), float(about["tol"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read ({first}); give what .save() wrote") from error
