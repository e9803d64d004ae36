"""What the search itself costs: a thousand trials of a trivial training through our searcher, scheduler and callbacks.

    python benchmarks/orchestration.py --trials 1000 [--json]

Each trial reports three evaluations and does nothing else. The study, ASHA, the ledger and the lines are those of a
real search; the actors are kept between trials, so that what is measured is not the start of processes. Afterwards the
driver's own part of a resume is timed: opening the study, refilling the rungs, reading the ledger.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from nic_ray.config import Config
from nic_ray.progress import Lines, View
from nic_ray.record import STUDY_FILE, read_ended
from nic_ray.search import RAY_SWITCHES, ray_session

os.environ.update(RAY_SWITCHES)  # Ray reads them when it is imported

from ray import tune

from nic_ray import tuning

SPACE = {
    "learning_rate": {"log_uniform": [1e-5, 1e-3]},
    "scale": {"log_uniform": [10, 100]},
    "batch_size": {"choice": [32, 64, 128]},
    "schedule": {"choice": ["cosine", "linear", "constant", "cosine_restarts"]},
}


def main() -> None:
    """Run them and print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = Config.model_validate({"space": SPACE, "search": {"trials": arguments.trials}})
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, ray_session(View()):
        run = Path(folder)
        before, started = used(), time.monotonic()
        tune.Tuner(
            tuning.named_trainable(trivial),
            tune_config=tune.TuneConfig(
                num_samples=arguments.trials,
                max_concurrent_trials=2,
                reuse_actors=True,
                search_alg=tuning.searcher(config, run / STUDY_FILE, {}),
                scheduler=tuning.scheduler(config.search, config.train.epochs, None),
                trial_name_creator=tuning.trial_name,
                trial_dirname_creator=tuning.trial_name,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=folder,
                verbose=0,
                callbacks=[tuning.Ledger(run), tuning.Told(Lines(lines.append))],
            ),
        ).fit()
        wall, cpu = time.monotonic() - started, used()[0] - before[0]
        started = time.monotonic()
        study = tuning.open_study(run / STUDY_FILE)
        tuning.scheduler(config.search, config.train.epochs, study)
        ended = read_ended(run)
        resumed = time.monotonic() - started
    found = {
        "trials": len(ended),
        "wall_s": wall,
        "wall_per_trial_s": wall / len(ended),
        "driver_cpu_per_trial_s": cpu / len(ended),
        "driver_peak_gib": used()[1] / 2**20,
        "driver_before_gib": before[1] / 2**20,
        "resume_s": resumed,
    }
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"  {name:24} {value:10.3f}")


def trivial(config: dict[str, Any]) -> None:
    """Three evaluations of a number that a formula gives."""
    for epoch in (1, 2, 3):
        value = epoch / 3 - abs(config["learning_rate"] - 3e-4)
        shown = {"recall_at_5/macro": value, "mrr/macro": value, "loss": 0.0}
        tune.report(
            {"epoch": float(epoch), "objective": value, "evaluation": epoch, "finished": float(epoch == 3), **shown}
        )


def used() -> tuple[float, int]:
    """CPU-seconds and peak resident KiB of this process."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime, own.ru_maxrss


if __name__ == "__main__":
    main()
