"""Sounds as network inputs: the samples of a .wav file, and their rate."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import InputError


def decode_sound(data: bytes, rate: int | None = None) -> Tensor:
    """Return the samples of a .wav file as float32, (channels, samples); integers in [-1, 1).

    Args:
        data: Its bytes: one channel or several, of 8 to 64 bits or floating.
        rate: Samples per second that it must have; None for any.

    Raises:
        InputError: If it has another rate, or no samples.
        ValueError: If it is no whole .wav file.

    >>> from scipy.io import wavfile
    >>> file = io.BytesIO()
    >>> wavfile.write(file, 8000, np.array([0, 16384, -32768], np.int16))
    >>> decode_sound(file.getvalue(), 8000)
    tensor([[ 0.0000,  0.5000, -1.0000]])
    """
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # parts that are no samples
        warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
        try:
            found, samples = wavfile.read(io.BytesIO(data))
        except wavfile.WavFileWarning as error:
            raise ValueError("it ends before its samples do") from error
    if rate is not None and found != rate:
        raise InputError(
            f"it has {found} samples a second, and the network's Inputs rate={rate}; resample it"
        )
    if samples.size == 0:
        raise InputError("it has no samples; replace the file")
    return torch.from_numpy(_in_unit_range(samples).reshape(len(samples), -1).T.copy())


def _in_unit_range(samples: np.ndarray) -> np.ndarray:
    """Return float32 samples; those of 8 bits are not signed, and 24 bits come as 32."""
    if samples.dtype.kind == "f":
        return np.asarray(samples, np.float32)
    bits = 8 * samples.dtype.itemsize
    middle = 128 if samples.dtype.kind == "u" else 0
    scaled = (samples.astype(np.float64) - middle) / 2 ** (bits - 1)
    return np.asarray(scaled, np.float32)
