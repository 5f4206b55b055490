"""``make bench``: how fast framecache is, as ratios to its peers and to the machine's limits, within one run.

Each section runs in a process of its own. ``make bench ARGS="training reading"`` runs some of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from measure import Row, measure_section
from table import plot_rows, print_rows, write_json

SECTIONS = ("extraction", "deriving", "reading", "training", "sweeping")
_BUILD = Path(__file__).parents[2] / "build"


def main() -> None:
    """Measures, prints, and writes ``build/bench.json`` and ``build/bench.png``."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of: {', '.join(SECTIONS)}; by default all")
    sections = parser.parse_args().sections or SECTIONS
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; expected some of {', '.join(SECTIONS)}")
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    rows: list[Row] = []
    for section in sections:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(measure_section, section).result()
        print_rows(found, section)
        rows += found
    _BUILD.mkdir(exist_ok=True)
    write_json(rows, _BUILD / "bench.json")
    plot_rows(rows, _BUILD / "bench.png")
    print(f"written: {_BUILD / 'bench.json'}, {_BUILD / 'bench.png'}")


if __name__ == "__main__":
    main()
