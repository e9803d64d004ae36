"""Seconds until a model of a given quality is in hand: this project's default search against `hyperparameter_search`.

    python benchmarks/time_to_quality.py [--levels 0.68 0.70 0.72 0.74] [--limit-s 7200] [--rounds 1]
        [--sides ours theirs theirs-tuned] [--attention sdpa|eager] [--json]

Each side searches in a process of its own with all cores, in turn; its clock starts with the process. Ours is
tune_configs/cpu.yaml as it is shipped; the other side has the same rows, number of trials, epochs, evaluations, sampler
and metric (see search_speed.py, whose sides these are) and the depths and ranges of that file. A level is reached at
the first evaluation of any trial whose macro Recall@5 on the validation rows is as high; ours has then written the
weights to its disk, the other side has them in memory. A side ends when it has reached the highest level, when its
search ends, or at the limit. The ratio counts a level that the other side has not reached by what it took in all, as
a lower bound. Needs the extra `bench`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CONFIG = Path("tune_configs/cpu.yaml")
SIDES = ("ours", "theirs", "theirs-tuned")


def main() -> None:
    """Run the sides in turn and print a table, or be one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.68, 0.70, 0.72, 0.74])
    parser.add_argument("--limit-s", type=float, default=7200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="of `theirs-tuned`")
    parser.add_argument("--sample-share", type=float, default=1.0, help="share of the passages, to try this out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        (our_side if arguments.side == "ours" else their_side)(arguments)
        return
    rounds = [{side: course_of(side, arguments) for side in arguments.sides} for _ in range(arguments.rounds)]
    if arguments.json:
        print(json.dumps(rounds))
        return
    for number, sides in enumerate(rounds, 1):
        print(f"\nround {number}, seconds until macro Recall@5 on validation is reached:")
        print("  level   " + "".join(f"{side:>16}" for side in sides))
        for level in arguments.levels:
            cells = (reached(course, level) for course in sides.values())
            print(f"  {level:.2f}    " + "".join(f"{'-' if at is None else format(at, '.0f'):>16}" for at in cells))
        print("  best    " + "".join(f"{best(course):>16.4f}" for course in sides.values()))
        for other in (side for side in sides if side != "ours" and "ours" in sides):
            for level in arguments.levels:
                if told := ratio(sides["ours"], sides[other], level):
                    print(f"  {level:.2f}: ours sooner than {other} by {told}")


def reached(course: Sequence[Sequence[float]], level: float) -> float | None:
    """The first time at which a side had a model of that level; None if it never had."""
    return next((at for at, value in course if value >= level), None)


def best(course: Sequence[Sequence[float]]) -> float:
    """The highest level that a side has reached."""
    return max((value for _, value in course), default=0.0)


def ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], level: float) -> str | None:
    """How many times sooner ours has reached a level, as text; None if it never has."""
    own, other = reached(ours, level), reached(theirs, level)
    if own is None or not theirs:
        return None
    return f"{other / own:.1f} times" if other is not None else f"more than {theirs[-1][0] / own:.1f} times"


def course_of(side: str, arguments: argparse.Namespace) -> list[list[float]]:
    """Run a side; the time and the value of each of its evaluations."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        notes, began = Path(folder) / "notes", time.time()
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--notes", str(notes)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        course: list[list[float]] = []
        while process.poll() is None and time.time() - began < arguments.limit_s:
            time.sleep(0.5)
            course = list(read_notes(notes, began))
            if best(course) >= max(arguments.levels):
                break
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        elif process.returncode:
            log.seek(0)
            raise SystemExit(f"{side} failed:\n{log.read()[-4000:]}")
        return list(read_notes(notes, began))


def read_notes(path: Path, began: float) -> Iterator[list[float]]:
    """The evaluations that a side has noted: seconds since its start, and value."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            at, value = map(float, line.split())
            yield [at - began, value]


def note(path: Path, value: float) -> None:
    """Note an evaluation that has just been made."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{time.time()} {value}\n")


def our_side(arguments: argparse.Namespace) -> None:
    """The default search, as it is shipped."""
    from nic_ray.config_file import load_config
    from nic_ray.progress import View
    from nic_ray.search.search import run_search

    class Noting(View):
        def evaluated(self, trial: str, metrics: Any) -> None:
            note(arguments.notes, metrics["recall_at_5/macro"])

    with tempfile.TemporaryDirectory() as folder:
        run_search(
            load_config(CONFIG, {"data.sample_share": arguments.sample_share}),
            out=Path(folder),
            name="winner",
            run_root=Path(folder) / "runs",
            overwrite=False,
            export_anyway=True,
            view=Noting(),
        )


def their_side(arguments: argparse.Namespace) -> None:
    """`hyperparameter_search` with the shipped file's number of trials, epochs and depths."""
    from search_speed import their_search

    from nic_ray.config_file import load_config

    config = load_config(CONFIG)
    depths = list(config.space["frozen_layers"].ends()) if "frozen_layers" in config.space else []
    their_search(
        argparse.Namespace(
            side=arguments.side,
            pairs=config.data.pairs,
            trials=config.search.trials,
            epochs=config.train.epochs,
            frozen_layers=depths or [config.train.frozen_layers],
            pruning=True,
            attention=arguments.attention,
            backend="optuna",
            seed=config.search.seed,
            sample_share=arguments.sample_share,
        ),
        noted=lambda value: note(arguments.notes, value),
    )


if __name__ == "__main__":
    main()
