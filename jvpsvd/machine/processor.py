"""Who made the processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def processor_maker(listing: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the maker's name as the processor tells it, such as "GenuineIntel".

    None where Linux lists none: on processors of ARM, and on other systems.

    Args:
        listing: Where Linux lists the processors.

    >>> print(processor_maker(Path("nowhere")))
    None
    """
    try:
        text = listing.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == "vendor_id"), None)
