"""The start of a search whose activations are kept from an earlier one: from the command to the first training step.

    python benchmarks/second_search.py [tune_configs/cpu.yaml] [--rounds 3] [--states before=FOLDER now=.] [--json]

Runs `nic_ray.tune` in a process of its own until its first trial has made a step, and says when each part of that began
and ended, in seconds after the command, and what processor time all processes had taken by then. A first run, which
does not count, fills the folder of activations. Several states of the code, each a folder that holds `nic_ray` and
`benchmarks`, take turns.
"""

import argparse
import contextlib
import functools
import importlib.abc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import cpu_seconds, family
from timing import in_turn, spread

MARKS = "NIC_RAY_BENCHMARK_MARKS"
"""Environment variable that names the file into which processes write what began and ended when."""
PARTS = {
    "nic_ray.search.search": ("prepare_bases", "import_ray"),
    "nic_ray.search.trained": ("_stored_inputs",),
    "nic_ray.selection.bases": ("Base.untuned",),
    "nic_ray.search.rounds": ("trial_inputs", "run_round"),
    "ray": ("init",),
}
"""Module -> functions whose beginning and end are noted; those that a state of the code lacks are left out."""
STEP = "first training step"
LONGEST_S = 600.0


def main() -> None:
    """Time the start of searches in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", default=Path("tune_configs/cpu.yaml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--states", nargs="+", default=["now=."], metavar="NAME=FOLDER")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        search(arguments.config, Path(arguments.child))
        return
    states = dict(state.split("=", 1) for state in arguments.states)
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            name: functools.partial(started, arguments.config.resolve(), Path(folder, name), Path(state).resolve())
            for name, state in states.items()
        }
        found = in_turn(sides, arguments.rounds)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, rounds in found.items():
        print(name)
        for part in rounds[-1]:
            print(f"  {part:42} {spread([each[part] for each in rounds if part in each])}")


def started(config: Path, runs: Path, state: Path, number: int) -> dict[str, float]:
    """Start a search, end it after its first step, and return when what began and ended, with the processor time."""
    runs.mkdir(parents=True, exist_ok=True)
    marks = runs / f"marks-{number}.jsonl"
    path = os.pathsep.join([str(state), str(state / "benchmarks")])
    environment = {**os.environ, MARKS: str(marks), "PYTHONPATH": path}
    command = [sys.executable, str(Path(__file__).resolve()), str(config), "--child", str(runs)]
    begun, cpu = time.time(), dict[int, float]()
    process = subprocess.Popen(command, env=environment, cwd=state, stdout=subprocess.DEVNULL)
    while not (marks.exists() and f'"{STEP} ended"' in marks.read_text()):
        if process.poll() is not None or time.time() - begun > LONGEST_S:
            raise SystemExit(f"the search ended with {process.poll()} before its first step")
        members = family(process.pid)
        cpu |= {pid: seconds for pid in members if (seconds := cpu_seconds(pid))}
        time.sleep(0.1)
    end(process)
    times: dict[str, float] = {}
    for line in marks.read_text().splitlines():
        what, at = json.loads(line)
        times.setdefault(what, at - begun)
    return {**dict(sorted(times.items(), key=lambda item: item[1])), "processor seconds": sum(cpu.values())}


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a search and wait for all of its processes."""
    members = family(process.pid)
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while (left := [pid for pid in members if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def search(config: Path, runs: Path) -> None:
    """Run `nic_ray.tune`, with its parts noted."""
    mark("the command's imports began")
    from nic_ray import console, tune

    sys.meta_path.insert(0, Noting())
    sys.argv = ["tune", str(config), "--run-dir", str(runs), "--out", str(runs), "--overwrite"]
    console.run(tune.main)


class Noting(importlib.abc.MetaPathFinder):
    """Wraps the functions of `PARTS` when their modules are imported, and no sooner."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Find a module of `PARTS` as it would be found otherwise, with a loader that wraps its functions."""
        if name not in PARTS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            for part in PARTS[name]:
                *owners, function = part.split(".")
                owner = functools.reduce(getattr, owners, module)
                if hasattr(owner, function):
                    setattr(owner, function, noted(part, getattr(owner, function)))
            if name == "nic_ray.search.rounds":
                module.worker.run_trial = first_step

        spec.loader.exec_module = exec_module
        return spec


def first_step(config: dict[str, Any], shared: Any) -> None:
    """A trial that notes its first step."""
    import psutil

    from nic_ray.search import worker
    from nic_ray.training import loop

    mark("a trial's process began", psutil.Process().create_time())
    mark("a trial's function began")
    loop.train_step = noted(STEP, loop.train_step)
    worker.run_trial(config, shared)


def noted(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose beginning and end are noted."""

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        mark(f"{what} began")
        result = function(*given, **named)
        mark(f"{what} ended")
        return result

    return run


def mark(what: str, at: float | None = None) -> None:
    """Note that something happens now."""
    with Path(os.environ[MARKS]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([what, time.time() if at is None else at]) + "\n")


if __name__ == "__main__":
    main()
