"""How large the report's page gets and how long a browser takes to open it.

    python -m benchmarks page [--photos 10000] [--depths 10] [-k 50] [--rounds 3]

The run is synthetic; the page, how it is written and the browser (headless Chromium, which can
reach no host) are real. The clock starts before the browser gets the file, so that it includes
parsing, and stops when all figures are drawn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.chromium import Chromium, find_browser
from benchmarks.measure.spread import Spread
from benchmarks.measure.timing import time_once
from benchmarks.problems.synthetic_run import make_run
from jvpsvd.report import read_values, write_report


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--depths", type=int, default=10)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    if find_browser() is None:
        print("no Chromium here (apt-get install chromium): the page cannot be opened")
        return {}
    # A browser that was ended may still write into its profile.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        store = make_run(folder / "run", options.photos, options.depths, options.k, classes=100)
        began = time.perf_counter()
        page = write_report(read_values(store)).page
        written = time.perf_counter() - began
        if page is None:
            sys.exit("no page without jvpsvd[report]")
        size = page.stat().st_size
        browser = Chromium(folder / "profile")
        try:
            opened = Spread.of(
                [time_once(lambda: browser.open(page)) for _ in range(options.rounds)]
            )
        finally:
            browser.close()
    print(
        f"{options.photos} photos x {options.depths} depths, k = {options.k}: the report is "
        f"written in {written:.1f} s, its page has {size / 1e6:.1f} MB and opens in {opened} s"
    )
    return {"seconds": opened.to_json(), "bytes": size, "written_seconds": written}
