"""Seconds and peak memory of reading PDFs, and what they come to for 1,000 pages.

    python benchmarks/pdf_speed.py MANUAL.pdf [...] [--json]

Every file is read by a process of its own, one after the other. Memory is the largest resident set of that process,
Python and the libraries included.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from nic_ray.manuals.pdf import read_pdf


def main() -> None:
    """Read each file in turn and print a table, or read one and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manuals", type=Path, nargs="+")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.manuals[0])))
        return
    rows = []
    for path in arguments.manuals:
        command = [sys.executable, __file__, "--one", str(path)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    if arguments.json:
        print(json.dumps(rows))
        return
    print("| manual | pages | blocks | seconds | seconds for 1,000 pages | peak MiB |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        thousand = 1000 * row["seconds"] / row["pages"]
        print(
            "| {name} | {pages} | {blocks} | {seconds:.1f} | {thousand:.0f} | {mib} |".format(thousand=thousand, **row)
        )


def measure(path: Path) -> dict[str, str | int | float]:
    """One row of the table."""
    start = time.perf_counter()
    document = read_pdf(path)
    seconds = time.perf_counter() - start
    return {
        "name": path.name,
        "pages": document.pages or 0,
        "blocks": len(document.blocks),
        "seconds": seconds,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
