"""Memory and processor time of a process and of its descendants, for the benchmarks that measure whole programs.

    python benchmarks/processes.py [--pairs 10] [--json]

measures by them what each trial pays before it trains: the processor time in which a new process imports
`nic_ray.search.worker`, with Python looking for garbage meanwhile and without, in turn.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from timing import in_turn, ratios, spread

T = TypeVar("T")
IMPORTS = {"with": "gc.disable = gc.freeze = lambda: None", "without": "gc.disable()"}
"""How a process is prepared in which Python looks for garbage while it imports, and one in which it does not."""


@dataclass(frozen=True)
class Usage:
    """What a program has taken, its descendants included."""

    code: int
    """That it ended with."""
    wall_s: float
    cpu_s: float
    peak_pss: int
    """Bytes: the largest sum of the proportional set sizes of all of its processes."""


def usage_of(command: Sequence[str], *, every_s: float, **options: Any) -> Usage:
    """Run a program to its end and look at its processes meanwhile; `options` are Popen's."""
    started, cpu = time.monotonic(), dict[int, float]()
    process = subprocess.Popen(command, **options)

    def look() -> int:
        members = family(process.pid)
        cpu.update({member: seconds for member in members if (seconds := cpu_seconds(member))})
        return sum(map(pss, members))

    with watching(look, every_s) as seen:
        code = process.wait()
        wall = time.monotonic() - started
    return Usage(code, wall, sum(cpu.values()), max(seen, default=0))


def result_of(*case: str) -> Any:
    """What this program prints as JSON, in its last line, where it is started again with further arguments."""
    done = subprocess.run([sys.executable, *sys.argv, *case], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(case)}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def watching(look: Callable[[], T], every_s: float) -> Iterator[list[T]]:
    """What a function gives again and again, in a thread of its own, until the end of the block."""
    seen, over = list[T](), threading.Event()

    def watch() -> None:
        seen.append(look())
        while not over.wait(every_s):
            seen.append(look())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def family(pid: int) -> set[int]:
    """A process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    members = {pid}
    while grown := {child for child, parent in parents.items() if parent in members} - members:
        members |= grown
    return members


def pss(pid: int) -> int:
    """Bytes of a process, shared pages in proportion; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def own_gib() -> float:
    """GiB that this process has for itself: its anonymous pages."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 2**20


def cpu_seconds(pid: int | None = None) -> float:
    """Processor time of a process so far, user and system; of this one if none is named; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid or os.getpid()}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the processor time of an import both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def seconds(prepared: str, _: int) -> float:
        code = f"import gc, time; {prepared}; import nic_ray.search.worker; print(time.process_time())"
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)

    found = in_turn({name: functools.partial(seconds, how) for name, how in IMPORTS.items()}, arguments.pairs)
    saved = [1 - ratio for ratio in ratios(found["without"], found["with"])]
    if arguments.json:
        print(json.dumps({"cpu_s": found, "saved": saved}))
        return
    for name, own in found.items():
        print(f"import {name:7} a search for garbage: {spread(own)} CPU-s")
    print(f"saved: {statistics.median(saved):.1%} ({min(saved):.1%} to {max(saved):.1%})")


if __name__ == "__main__":
    main()
