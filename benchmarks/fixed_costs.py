"""What is paid whatever is trained: help, a check, the start of a search, a trial's process, a thousand trivial trials.

    python benchmarks/fixed_costs.py [--rounds 3] [--states before=FOLDER now=.] [--only help check trial] [--json]

Each figure is of whole programs, in seconds of wall time and of processor time of all their processes. Several states
of the code, each a folder that holds `nic_ray` and `benchmarks`, take turns, so that whatever else the machine does
meets all of them.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import second_search
from processes import usage_of
from timing import in_turn, spread

COMMANDS = (
    "sections terms ask tune plan check mine train export verify validate evaluate compare retrieve convert curve "
    "serve anomaly"
).split()
Figures = dict[str, float]


def main() -> None:
    """Measure and print a table, a line for each figure and a column for each state."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--states", nargs="+", default=["now=."], metavar="NAME=FOLDER")
    parser.add_argument("--only", nargs="+", choices=MEASURED, default=list(MEASURED))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    states = {name: Path(folder).resolve() for name, _, folder in (state.partition("=") for state in arguments.states)}
    found: dict[str, dict[str, list[Figures]]] = {}
    for what in arguments.only:
        sides = {name: functools.partial(MEASURED[what], folder) for name, folder in states.items()}
        found[what] = in_turn(sides, arguments.rounds, warm_up=int(what in ("help", "check", "start")))
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{'':44}" + "".join(f"{name:>26}" for name in states))
    for what, by_state in found.items():
        for figure in next(iter(by_state.values()))[-1]:
            cells = (spread([each[figure] for each in by_state[name] if figure in each]) for name in states)
            print(f"{what + ': ' + figure:44}" + "".join(f"{cell:>26}" for cell in cells))


def run(state: Path, *command: str) -> Figures:
    """Seconds of a Python program of a state."""
    used = usage_of(
        [sys.executable, *command], every_s=0.02, cwd=state, env=environment(state), stdout=subprocess.DEVNULL
    )
    return {"wall s": used.wall_s, "processor s": used.cpu_s}


def environment(state: Path) -> Mapping[str, str]:
    """Variables under which Python finds a state."""
    return {**os.environ, "PYTHONPATH": str(state)}


def help_of_all(state: Path, number: int) -> Figures:
    """The slowest `--help` of all commands."""
    return {"slowest, wall s": max(run(state, "-m", f"nic_ray.{name}", "--help")["wall s"] for name in COMMANDS)}


def check(state: Path, number: int) -> Figures:
    """A check of the reference pairs."""
    return run(state, "-m", "nic_ray.check", "data/reference/pairs.jsonl")


def start(state: Path, number: int) -> Figures:
    """From the command of a search, whose activations are kept, to the end of its first training step."""
    runs = Path(tempfile.gettempdir(), f"nic_ray-benchmark-{os.getuid()}-{state.name}")
    marks = second_search.started(state / "tune_configs/cpu.yaml", runs, state, number)
    return {"first step, wall s": marks[f"{second_search.STEP} ended"], "processor s": marks["processor seconds"]}


def trial(state: Path, number: int) -> Figures:
    """What a trial costs beside its training."""
    return orchestration(state, "--trials", "12", "--processes", figures=("wall_per_trial_s", "cpu_per_trial_s"))


def trivial(state: Path, number: int) -> Figures:
    """A thousand trials of a trivial training."""
    return orchestration(state, "--trials", "1000", figures=("wall_s", "driver_cpu_per_trial_s", "driver_peak_gib"))


def orchestration(state: Path, *options: str, figures: tuple[str, ...]) -> Figures:
    """Figures of the benchmark of that name, of a state."""
    done = subprocess.run(
        [sys.executable, "benchmarks/orchestration.py", *options, "--json"],
        cwd=state,
        env=environment(state),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {figure: found[figure] for figure in figures}


MEASURED: dict[str, Callable[[Path, int], Figures]] = {
    "help": help_of_all,
    "check": check,
    "start": start,
    "trial": trial,
    "trivial": trivial,
}

if __name__ == "__main__":
    main()
