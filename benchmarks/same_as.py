"""Whether this state of the code finds what another one found: the same trials, numbers and weights, bit for bit.

    python benchmarks/same_as.py REV [--keep FOLDER]

searches twice on a sample of the reference set, one trial at a time, so that nothing depends on the order in which
trials end: with the code of a git revision, checked out beside this one, and with the working tree as it is. Then it
trains one configuration with each. It compares every trial's settings and figures, the figures of all parts and
domains, the points between base and tuned model, and the exported weights, and exits with 1 if any of them differ.
What a revision lacks, such as a column that came later, is named and not compared. Takes a few minutes.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SETTINGS = """\
data: {pairs: data/reference/pairs.jsonl, sample_share: 0.2, seed: 7}
train: {epochs: 2, batch_size: 32, learning_rate: 1.0e-4, max_tokens: 64, evaluations_per_epoch: 2, precision: fp32}
space:
  learning_rate: {log_uniform: [3.0e-5, 5.0e-4]}
  frozen_layers: {choice: [0, 3, 4, 5]}
  batch_size: {choice: [16, 32]}
  queries_per_passage: {choice: [1, 4]}
search: {trials: 5, startup_trials: 2, grace_period: 1, reduction_factor: 2, seed: 7}
resources: {concurrent_trials: 1}
"""
TIMED = ("seconds",)
"""Columns that differ from run to run."""


def main() -> int:
    """Run both, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="commit, tag or branch to compare with")
    parser.add_argument("--keep", type=Path, help="folder that receives what both leave; a temporary one otherwise")
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as temporary:
        place = (arguments.keep or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        before = Path(temporary, "before")
        git = ["git", "-C", str(here), "worktree"]
        subprocess.run([*git, "add", "--detach", str(before), arguments.revision], check=True, capture_output=True)
        try:
            then, now = left_by(before, place / "then"), left_by(here, place / "now")
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)
    differences = list(compared(then, now))
    for line in differences:
        print(line)
    print(f"{'DIFFERENT from' if differences else 'the same as'} {arguments.revision}: {len(now)} facts compared")
    return 1 if differences else 0


def left_by(tree: Path, place: Path) -> dict[str, Any]:
    """Search and train with the code of a working tree; every fact that must not change, by name."""
    place.mkdir(parents=True)
    config = place / "config.yaml"
    config.write_text(SETTINGS, encoding="utf-8")
    where = ["--out", str(place), "--name", "searched", "--run-dir", str(place / "runs")]
    _call(tree, place, ["nic_ray.tune", str(config), *where, "--export-anyway"])
    _call(tree, place, ["nic_ray.train", str(config), "--out", str(place / "trained")])
    (run,), (trained,) = (place / "runs").glob("searched-*"), (place / "trained").glob("train-*")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    facts: dict[str, Any] = {
        "results": result["results"],
        "winner": {name: value for name, value in result["winner"].items() if name != "config"},
        **{f"winner, {name}": value for name, value in result["winner"].get("config", {}).items()},
        "front": result["front"],
        "confirmed": result["confirmed"],
        "weights of the search": _sha256(place / "searched" / "model.safetensors"),
        "weights of the training": _sha256(trained / "model" / "model.safetensors"),
        "results of the training": json.loads((trained / "model" / "metadata.json").read_bytes())["results"],
    }
    with (run / "trials.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            facts |= {f"{row['trial']}, {name}": value for name, value in row.items() if name not in TIMED}
    return facts


def compared(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs, a line for each fact."""
    for name in now.keys() | then.keys():
        if name not in then or name not in now:
            print(f"not compared: {name}, which only {'this' if name in now else 'the other'} state has")
        elif then[name] != now[name]:
            yield f"{name}: was {str(then[name])[:300]}, is {str(now[name])[:300]}"


def _call(tree: Path, place: Path, command: Sequence[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(tree)}
    with (place / "output.txt").open("a", encoding="utf-8") as output:
        ended = subprocess.run(
            [sys.executable, "-m", *command], cwd=tree, env=environment, stdout=output, stderr=output, check=False
        )
    if ended.returncode:
        said = (place / "output.txt").read_text(encoding="utf-8")
        raise SystemExit(f"{' '.join(command)} in {tree} ended with {ended.returncode}:\n{said[-3000:]}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
