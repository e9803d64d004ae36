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
import time
from pathlib import Path
from typing import Any

import numpy as np
from processes import cpu_seconds, family, watching

from nic_ray.config import Config
from nic_ray.progress import Lines, View
from nic_ray.record import read_ended
from nic_ray.run_folder import RunFolder
from nic_ray.search.session import RAY_SWITCHES, ray_session, workers_forked
from nic_ray.study import open_study

os.environ.update(RAY_SWITCHES)  # Ray reads them when it is imported

import ray
from ray import tune

from nic_ray.dataset.pairs import index_pairs, read_pairs
from nic_ray.model.activations import Inputs, token_inputs
from nic_ray.model.base import load
from nic_ray.model.encoder import upper
from nic_ray.search import ray_hooks, worker
from nic_ray.training import loop
from nic_ray.training.batches import NO_OTHERS, NOTHING_HELD

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
    found = in_processes(arguments.trials) if arguments.processes else in_the_driver(arguments.trials)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"  {name:24} {value:10.3f}")


def in_the_driver(trials: int) -> dict[str, float]:
    """Trials that train nothing: seconds of each, processor time and memory of the driver, and a resume."""
    config = Config.model_validate({"space": SPACE, "search": {"trials": trials}})
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, ray_session(View()):
        run = Path(folder)
        before, cpu = peak_gib(), cpu_seconds()
        wall = run_trials(
            ray_hooks.trial_class(trivial, {"CPU": 1.0}),
            run,
            [ray_hooks.Ledger(run), ray_hooks.ProgressCallback(Lines(lines.append))],
            num_samples=trials,
            reuse_actors=True,
            search_alg=ray_hooks.study_search(config, RunFolder(run).study, {}),
            scheduler=ray_hooks.asha(config.search, config.train.epochs, None),
        )
        cpu, started = cpu_seconds() - cpu, time.monotonic()
        study = open_study(RunFolder(run).study)
        ray_hooks.asha(config.search, config.train.epochs, study)
        ended = read_ended(run)
        resumed = time.monotonic() - started
    return {
        "trials": len(ended),
        "wall_s": wall,
        "wall_per_trial_s": wall / len(ended),
        "driver_cpu_per_trial_s": cpu / len(ended),
        "driver_peak_gib": peak_gib(),
        "driver_before_gib": before,
        "resume_s": resumed,
    }


def in_processes(trials: int) -> dict[str, float]:
    """Trials that do everything but train, two at a time: seconds and processor time of each."""
    config = Config()
    encoder, depth = load(config.train.base_model), config.train.frozen_layers
    collection = index_pairs(read_pairs(config.data.pairs))
    tokens = token_inputs(encoder, collection.texts, config.train.max_tokens, collection.is_query)
    rows = np.arange(len(collection.query))
    spent: dict[int, float] = {}

    def look() -> float:
        """Read all clocks; the processor time that has gone into that."""
        spent.update({pid: seconds for pid in family(os.getpid()) if (seconds := cpu_seconds(pid))})
        return time.thread_time()

    with tempfile.TemporaryDirectory() as folder, workers_forked(), ray_session(View()):
        base = worker.BaseInputs(
            blocks=encoder.blocks,
            inputs={depth: ray.put(Inputs(np.zeros((len(tokens.values), 384), np.float32), tokens.offsets, depth))},
            fixed=ray.put(None),
            uppers={depth: ray.put(upper(encoder, depth))},
            general=ray.put(NOTHING_HELD),
        )
        shared = worker.TrialInputs(
            base=config.train,
            objective=config.search.objective,
            train_rows=rows,
            validation_rows=rows,
            collection=ray.put(collection),
            bases={config.train.base_model: base},
            others=ray.put(NO_OTHERS),
            workers=1,
            gpus_per_worker=0.0,
            concurrent=2,
            threads=1,
            run_folder=Path(folder),
            mirror=None,
        )
        trial = ray_hooks.trial_class(tune.with_parameters(all_but_training, shared=shared), {"CPU": 1.0})
        samples = ray_hooks.FixedSearch([{ray_hooks.TRIAL_NAME: f"trial-{number:03d}"} for number in range(trials)])
        with watching(look, every_s=0.1) as looked:  # the last tenth of a second of a process goes unseen
            time.sleep(1)
            before = sum(spent.values()) - looked[-1]
            wall = run_trials(trial, Path(folder), num_samples=trials, search_alg=samples)
    cpu = sum(spent.values()) - looked[-1] - before
    return {"trials": float(trials), "wall_per_trial_s": wall / trials, "cpu_per_trial_s": cpu / trials}


def run_trials(trainable: Any, folder: Path, callbacks: list[Any] | None = None, **how: Any) -> float:
    """Seconds that Tune takes for some trials, two at a time."""
    started = time.monotonic()
    names = {"trial_name_creator": ray_hooks.name_of, "trial_dirname_creator": ray_hooks.name_of}
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(max_concurrent_trials=2, **names, **how),
        run_config=tune.RunConfig(name="ray", storage_path=str(folder), verbose=0, callbacks=callbacks),
    ).fit()
    return time.monotonic() - started


def all_but_training(config: dict[str, Any], shared: worker.TrialInputs) -> None:
    """A trial whose one evaluation is made up."""

    def fit(*_: Any, **__: Any) -> Any:
        metrics = {"epoch": 1.0, "objective": 0.5, "evaluation": 1.0, "finished": 1.0}
        yield loop.Evaluation(metrics, True, {"metrics": metrics, "finished": True})

    loop.fit = fit  # in this process, which is the trial's own
    worker.run_trial(config, shared)


def trivial(config: dict[str, Any]) -> None:
    """Three evaluations of a number that a formula gives."""
    for epoch in (1, 2, 3):
        value = epoch / 3 - abs(config["learning_rate"] - 3e-4)
        shown = {"recall_at_5/macro": value, "mrr/macro": value, "loss": 0.0}
        tune.report(
            {"epoch": float(epoch), "objective": value, "evaluation": epoch, "finished": float(epoch == 3), **shown}
        )


def peak_gib() -> float:
    """GiB that this process has had at most, shared pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
