"""How well `python -m nic_ray.plan` predicts: its figures beside those of the search that it predicts.

    python benchmarks/plan_accuracy.py [--config tune_configs/cpu.yaml] [--trials N] [--run RUN_DIR] [--json]

The prediction is made first, then the search is run and measured; with --run an earlier search of the same settings on
this machine is taken instead, whose memory nobody has measured. A search of few trials may train more or fewer epochs
than ASHA is expected to allow, so the seconds of an epoch are compared as well. Exit code 1: the whole is further than
30 % from what was predicted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from processes import usage_of

from nic_ray.config_file import load_config
from nic_ray.run_folder import RunFolder

BOUND = 0.3


def main() -> None:
    """Predict, measure, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tune_configs/cpu.yaml")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    more = [] if arguments.trials is None else ["--trials", str(arguments.trials)]
    planned = subprocess.run(
        [sys.executable, "-m", "nic_ray.plan", arguments.config, *more, "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    predicted = json.loads(planned.stdout)
    epochs = load_config(Path(arguments.config)).train.epochs
    if arguments.run:
        measured = figures(arguments.run)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measured = searched(Path(folder), [arguments.config, *more])
    rows = {
        "whole search, s": (predicted["total_s"], measured["total_s"]),
        "an epoch of the first trial, s": (predicted["first_trial_s"] / epochs, measured["first_epoch_s"]),
        "an epoch of a trial on average, s": (predicted["mean_trial_s"] / epochs, measured["mean_epoch_s"]),
        "epochs of all trials": (predicted["epochs"], measured["epochs"]),
        "activations, GiB": (predicted["activations"] / 2**30, measured["activations"] / 2**30),
        "disk, GiB": (predicted["disk"] / 2**30, measured["disk"] / 2**30),
    }
    if "memory" in measured:
        rows["memory, GiB"] = (predicted["memory"] / 2**30, measured["memory"] / 2**30)
    found = {name: {"predicted": p, "measured": m, "ratio": m / p} for name, (p, m) in rows.items()}
    if arguments.json:
        print(json.dumps(found))
    else:
        print(f"{'':36} predicted   measured   measured / predicted")
        for name, each in found.items():
            print(f"{name:36} {each['predicted']:9.2f}  {each['measured']:9.2f}  {each['ratio']:9.2f}")
    sys.exit(abs(found["whole search, s"]["ratio"] - 1) > BOUND)


def searched(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Run the search in a folder of its own, and measure it."""
    command = [sys.executable, "-m", "nic_ray.tune", *arguments, "--export-anyway"]
    folders = ["--out", str(folder / "models"), "--run-dir", str(folder / "runs")]
    usage = usage_of([*command, *folders], every_s=1, stdout=subprocess.DEVNULL)
    if usage.code:
        raise SystemExit(usage.code)
    (run,) = (path for path in (folder / "runs").iterdir() if not path.name.startswith("."))
    return figures(run) | {"total_s": usage.wall_s, "memory": usage.peak_pss}


def figures(run: Path) -> dict[str, Any]:
    """What a finished search has taken. Seconds and bytes."""
    result = run / "result.json"
    trials = json.loads(result.read_text(encoding="utf-8"))["trials"]
    own = [row for row in trials if row.get("epochs") and "-seed-" not in row["trial"]]
    began = datetime.strptime(run.name.rpartition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    first = next(row for row in own if row["trial"] == "trial-000")
    activations = sum(path.stat().st_size for path in (run.parent / ".activations").glob("*.npy"))
    left_out = RunFolder(run).trial_folders.name
    states = sum(path.stat().st_size for path in run.rglob("*") if path.is_file() and left_out not in path.parts)
    return {
        "total_s": result.stat().st_mtime - began.timestamp(),
        "first_epoch_s": first["seconds"] / first["epochs"],
        "mean_epoch_s": sum(row["seconds"] for row in own) / sum(row["epochs"] for row in own),
        "epochs": sum(row["epochs"] for row in own),
        "activations": activations,
        "disk": activations + states,
    }


if __name__ == "__main__":
    main()
