"""What the search itself costs: a thousand trials of a trivial training through our searcher, scheduler and callbacks.

    python benchmarks/orchestration.py --trials 1000 [--json]
    python benchmarks/orchestration.py --trials 12 --processes [--json]

Each trial reports three evaluations and does nothing else. The study, ASHA, the ledger and the lines are those of a
real search; the actors are kept between trials, so that what is measured is not the start of processes. Afterwards the
driver's own part of a resume is timed: opening the study, refilling the rungs, reading the ledger.

With `--processes` each trial has a process of its own, as in a search, and is run by `worker.run_trial` with the
packaged model: it imports, is handed its blocks and activations, and goes through TorchTrainer; its one evaluation is
made up. Then the processor time of all processes, the driver's and Ray's included, is what a trial costs beside its
training.
"""

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from search import cpu_seconds, family

from nic_ray.config import Config
from nic_ray.progress import Lines, View
from nic_ray.record import STUDY_FILE, read_ended
from nic_ray.session import RAY_SWITCHES, ray_session

os.environ.update(RAY_SWITCHES)  # Ray reads them when it is imported

import ray
from ray import tune

from nic_ray import encoder as encoders
from nic_ray import loop, tuning, worker
from nic_ray.activations import Inputs, token_inputs
from nic_ray.pairs import index_pairs, read_pairs

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
    parser.add_argument("--processes", action="store_true", help="a process for each trial, as in a search")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.processes:
        show(in_processes(arguments.trials), as_json=arguments.json)
        return
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
    show(found, as_json=arguments.json)


def show(found: dict[str, float], *, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"  {name:24} {value:10.3f}")


def in_processes(trials: int) -> dict[str, float]:
    """Trials that do everything but train, two at a time: seconds and processor time of each."""
    config = Config()
    encoder, depth = encoders.load(config.train.base_model), config.train.frozen_layers
    collection = index_pairs(read_pairs(config.data.pairs))
    tokens = token_inputs(encoder, collection.texts, config.train.max_tokens, collection.is_query)
    rows = np.arange(len(collection.query))
    with tempfile.TemporaryDirectory() as folder, ray_session(View()):
        plan = worker.Plan(
            base=config.train,
            objective=config.search.objective,
            train_rows=rows,
            validation_rows=rows,
            collection=ray.put(collection),
            inputs={depth: ray.put(Inputs(np.zeros((len(tokens.values), 384), np.float32), tokens.offsets))},
            uppers={depth: ray.put(encoders.upper(encoder, depth))},
            workers=1,
            gpus_per_worker=0.0,
            concurrent=2,
            threads=1,
            run_folder=Path(folder),
            mirror=None,
        )
        spent: dict[int, float] = {}
        over, watching_s = threading.Event(), 0.0

        def watch() -> None:
            nonlocal watching_s
            while not over.wait(0.1):  # the last tenth of a second of a process goes unseen
                spent.update({pid: seconds for pid in family(os.getpid()) if (seconds := cpu_seconds(pid))})
                watching_s = time.thread_time()

        watching = threading.Thread(target=watch)
        watching.start()
        time.sleep(1)
        before, started = sum(spent.values()) - watching_s, time.monotonic()
        tune.Tuner(
            tune.with_resources(
                tuning.named_trainable(tune.with_parameters(all_but_training, plan=plan)), {"CPU": 1.0}
            ),
            tune_config=tune.TuneConfig(
                max_concurrent_trials=2,
                num_samples=trials,
                search_alg=tuning.Listed([{tuning.NAME: f"trial-{number:03d}"} for number in range(trials)]),
                trial_name_creator=tuning.trial_name,
                trial_dirname_creator=tuning.trial_name,
            ),
            run_config=tune.RunConfig(name="ray", storage_path=folder, verbose=0),
        ).fit()
        wall = time.monotonic() - started
        over.set()
        watching.join()
    return {
        "trials": float(trials),
        "wall_per_trial_s": wall / trials,
        "cpu_per_trial_s": (sum(spent.values()) - watching_s - before) / trials,
    }


def all_but_training(config: dict[str, Any], plan: worker.Plan) -> None:
    """A trial whose one evaluation is made up."""

    def fit(*_: Any, **__: Any) -> Any:
        metrics = {"epoch": 1.0, "objective": 0.5, "evaluation": 1.0, "finished": 1.0}
        yield loop.Evaluation(metrics, True, {"metrics": metrics, "finished": True})

    loop.fit = fit  # in this process, which is the trial's own
    worker.run_trial(config, plan)


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
