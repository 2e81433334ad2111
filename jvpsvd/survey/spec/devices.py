"""Devices that are not at hand: their memory, and how fast they compute in float32."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jvpsvd.errors import ArgumentError
from jvpsvd.machine import parse_memory

_GIB = 1 << 30
# Of the peak, products of large matrices reach about so much: a guess.
EFFICIENCY = 0.5


@dataclass(frozen=True)
class Device:
    """A device, by its published figures."""

    name: str
    memory: int
    """Bytes."""
    flops: float
    """Floating-point operations per second at the peak, in float32 without TF32."""
    bandwidth: float
    """Bytes of memory per second."""


def _of(name: str, gibibytes: float, teraflops: float, gigabytes: float) -> Device:
    return Device(name, int(gibibytes * _GIB), teraflops * 1e12, gigabytes * 1e9)


# Data sheets of the makers, SXM where there are several; GiB are what a program can have.
KNOWN = (
    _of("H200", 140, 67, 4800),
    _of("H100", 79, 67, 3350),
    _of("A100", 79, 19.5, 2039),
    _of("L40S", 44, 91.6, 864),
    _of("A40", 44, 37.4, 696),
    _of("A10", 22, 31.2, 600),
    _of("L4", 22, 30.3, 300),
    _of("V100", 31, 15.7, 900),
    _of("T4", 15, 8.1, 320),
    _of("RTX 4090", 23.5, 82.6, 1008),
    _of("RTX 3090", 23.5, 35.6, 936),
    _of("MI300X", 191, 163.4, 5300),
)
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PATTERN = re.compile(
    rf"(?P<memory>{_NUMBER}\s*[KMGT]i?B)?\s*(?:(?P<flops>{_NUMBER})\s*TFLOPS)?"
    rf"\s*(?:(?P<bandwidth>{_NUMBER})\s*GB/s)?",
    re.IGNORECASE,
)


def device_named(text: str) -> Device:
    """Return a device by its name, as "H100", "A100 40GiB", or by its figures.

    Raises:
        ArgumentError: If it is not known, and its memory or rate is not said.

    >>> device_named("A100 40GiB").memory >> 30, device_named("80GiB 60TFLOPS").flops
    (40, 60000000000000.0)
    """
    name = next((one for one in KNOWN if text.upper().startswith(one.name.upper())), None)
    rest = text[len(name.name) :].strip() if name else text.strip()
    match = _PATTERN.fullmatch(rest)
    if match is None or (name is None and not (match["memory"] and match["flops"])):
        raise ArgumentError(
            f"device {text!r} is not known; write one of {', '.join(d.name for d in KNOWN)}, or "
            "its memory and float32 rate, as '80GiB 60TFLOPS'; for this machine leave it out"
        )
    found = name or Device(text, 0, 0.0, float("inf"))
    device = Device(
        text,
        parse_memory(match["memory"]) if match["memory"] else found.memory,
        float(match["flops"]) * 1e12 if match["flops"] else found.flops,
        float(match["bandwidth"]) * 1e9 if match["bandwidth"] else found.bandwidth,
    )
    if not (device.memory and device.flops and device.bandwidth):
        raise ArgumentError(f"device {text!r} has a figure that is 0; give what the card has")
    return device
