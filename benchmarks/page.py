"""How large the report's page gets and how long a browser takes to open it.

    python -m benchmarks.page [--photos 10000] [--depths 10] [-k 50] [--rounds 3] [--json FILE]

The run is made up; the page, its making and the browser (headless Chromium, which can reach no
host) are real. Opening ends when all figures are drawn; the clock starts before the browser is told
the file, so parsing is in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chromium import Chromium, found
from benchmarks.made_up_run import made_up
from benchmarks.statistics_of_rounds import Spread
from jvpsvd.report import read_values, write_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--depths", type=int, default=10)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if found() is None:
        print("no Chromium here (apt-get install chromium): the page cannot be opened")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = made_up(folder / "run", asked.photos, asked.depths, asked.k, classes=100)
        began = time.perf_counter()
        page = write_report(read_values(store)).page
        written = time.perf_counter() - began
        if page is None:
            print("no page without jvpsvd[report]", file=sys.stderr)
            return 1
        size = page.stat().st_size
        opened = []
        browser = Chromium(folder / "profile")
        try:
            for _ in range(asked.rounds):
                began = time.perf_counter()
                browser.open(page)
                opened.append(time.perf_counter() - began)
        finally:
            browser.close()
    spread = Spread.of(opened)
    print(
        f"{asked.photos} photos x {asked.depths} depths, k = {asked.k}: the report is written in "
        f"{written:.1f} s, its page has {size / 1e6:.1f} MB and opens in {spread} s"
    )
    if asked.json:
        report = {"seconds": spread.to_json(), "bytes": size, "written_seconds": written}
        asked.json.write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
