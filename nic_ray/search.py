"""The search: Ray Tune runs the trials, Optuna proposes them, ASHA stops the weak ones."""

import contextlib
import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nic_ray import hardware
from nic_ray.bundle import refuse_existing
from nic_ray.cache import Chain, budget, inputs_by_depth, opened
from nic_ray.config import Config, dump_config, trial_config
from nic_ray.errors import InputError, RunError
from nic_ray.outcome import Candidate, averaged, best_of, export, new_run_folder, score_parts
from nic_ray.preparation import Prepared, depths, describe_data, describe_run, prepare
from nic_ray.record import LOG

RAY_SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0, Tune then prints nothing of its own
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for this poll; the default is 2 s
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process a trial, of use on spot nodes only
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # lists distributed trials on the dashboard's Train page
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "2",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with it, Ctrl-C would end fit() as if the search were done
}


EXPERIMENT, TRAIN_RUNS = "ray", "train"  # folders of a run: Tune's, and Train's of trials in several processes


@dataclass(frozen=True)
class Outcome:
    """What a search found."""

    folder: Path
    run_folder: Path
    results: dict[str, dict[str, dict[str, float]]]
    """part ("validation", "test") -> model ("base", "first trial", "tuned") -> flat metrics."""
    winner: Candidate
    first: Candidate | None
    """The first trial; None if it failed."""
    trials: list[dict[str, Any]]


@dataclass(frozen=True)
class Placement:
    """How trials are laid out on the cluster."""

    workers: int
    gpus_per_worker: float
    concurrent: int
    """Trials that run at the same time."""
    threads: int
    """Threads of each worker process."""
    note: str | None
    """What was asked for and is not there, for the user."""


def run_search(
    config: Config, *, out: Path, name: str, run_root: Path, overwrite: bool, say: Callable[[str], None]
) -> Outcome:
    """Search, pick the winner, export it.

    Args:
        out: folder that receives `name`/, the bundle.
        run_root: folder that receives the run folder, `name`-<UTC time>.
        overwrite: whether a bundle that is there already may be replaced, at the very end.
        say: is handed what goes on, a line at a time.

    Raises:
        InputError: before anything is trained: unusable config, pairs, model, device or output folder.
        RunError: no trial produced a model, or the exported folder does not give the winner's numbers.
    """
    folder = out / name
    refuse_existing(folder, overwrite)
    if not config.space:
        raise InputError(
            "space: names nothing to search; add a hyperparameter, or train one configuration with "
            "python -m nic_ray.train"
        )
    if config.train.device == "cuda" and not config.resources.gpus_per_worker:
        raise InputError(
            "train.device: cuda is asked for, and resources.gpus_per_worker is 0; give each worker a GPU, or a "
            "fraction of one, as tune_configs/gpu.yaml does"
        )
    prepared = prepare(config, on_gpu=config.resources.gpus_per_worker > 0)
    run_folder = new_run_folder(run_root, name)
    (run_folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    for line in describe_run(prepared):
        say(line)
    say(f"run folder: {run_folder}")
    hardware.keep_freed_memory()
    with ray_session(say):
        inputs = inputs_by_depth(
            prepared.encoder,
            prepared.tokens,
            depths(config),
            budget(config.activations, run_root),
            bf16=prepared.bf16,
            chain=_chain_on_cluster(prepared),
            say=say,
        )
        base = score_parts(prepared, opened(inputs[max(inputs)]), max(inputs), None)
        say(f"base model {prepared.encoder.name}: {_headline(base['validation'], config)} on validation")
        results = _run_trials(prepared, inputs, run_folder, say)
        first, best, trials = _pick(results, prepared, run_folder / TRAIN_RUNS)
    _write_trials(run_folder / "trials.csv", trials)
    winner = averaged(prepared, {depth: opened(each) for depth, each in inputs.items()}, best, config.search.objective)
    if winner.members:
        say(f"the mean of {winner.name}: {_headline(winner.metrics, config)}, {best[0].name}: "
            f"{_headline(best[0].metrics, config)} on validation")  # fmt: skip
    scores = {"base": base}
    for label, candidate in (("first trial", first), ("tuned", winner)):
        if candidate is None:  # it failed
            continue
        depth = candidate.config.frozen_layers
        scores[label] = score_parts(prepared, opened(inputs[depth]), depth, candidate.weights)
    by_part = {part: {label: scores[label][part] for label in scores} for part in ("validation", "test")}
    outcome = Outcome(folder, run_folder, by_part, winner, first, trials)
    _write_result(outcome, prepared)
    say(f"exporting {winner.name} to {folder}")
    export(
        prepared,
        winner,
        by_part,
        folder,
        objective=config.search.objective,
        training_log="".join(_training_log(run_folder, trial) for trial in winner.members or (winner.name,)),
        overwrite=overwrite,
    )
    return outcome


@contextlib.contextmanager
def ray_session(say: Callable[[str], None], num_cpus: int | None = None) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS, or stay in a session that runs.

    Args:
        say: is handed the dashboard's address.
        num_cpus: logical CPUs of a cluster that is started here; None takes the machine's.
    """
    joins = bool(os.environ.get("RAY_ADDRESS"))
    for switch, value in RAY_SWITCHES.items():
        if not (joins and switch == "RAY_AUTH_MODE"):  # another cluster has settled that for itself
            os.environ.setdefault(switch, value)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    started_here = not ray.is_initialized()
    if started_here:
        local = {} if joins else {"num_cpus": num_cpus, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
        # a cluster of our own inherits the switches; workers of another one are handed them
        given = {switch: os.environ[switch] for switch in RAY_SWITCHES if switch in os.environ}
        handed = {"runtime_env": {"env_vars": given}} if joins else {}
        try:
            context = ray.init(**local, **quiet, **handed)
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            raise InputError(
                f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}: no Ray cluster can be joined there "
                f"({' '.join(str(error).split())[:200]}); unset it to search on this machine"
            ) from None
        if context.dashboard_url:
            token = f"{Path(sys.executable).with_name('ray')} get-auth-token"
            say(f"dashboard: http://{context.dashboard_url} (its token: {token})")
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def place(config: Config, cpus: float, gpus_of_nodes: Sequence[float]) -> Placement:
    """Lay out trials so that nothing waits for a resource that is not there.

    The batch is global, so a trial of fewer workers, or on CPUs, still means the same.

    Args:
        cpus: logical CPUs of the cluster.
        gpus_of_nodes: GPUs of each node.
    """
    wanted, gpus = config.resources.workers, config.resources.gpus_per_worker
    if config.train.device == "cpu":
        gpus = 0.0
    notes = []
    # a fraction is of one device: two of 0.4 fit on each, and the rest of it stays free
    sharers = math.floor(1 / gpus + 1e-9) if 0 < gpus <= 1 else 1
    slots = sum(math.floor(node / max(1.0, gpus)) * sharers for node in gpus_of_nodes) if gpus else 0
    if slots < 1 and config.train.device == "cuda":
        raise InputError(
            f"train.device: cuda is asked for, and no node has the {gpus:g} GPUs of resources.gpus_per_worker "
            f"(found {max(gpus_of_nodes, default=0):g}); use auto, which falls back to CPUs"
        )
    if gpus and slots < 1:
        notes.append(
            f"gpus_per_worker {gpus:g}: no node has as many (found {max(gpus_of_nodes, default=0):g}), "
            "so trials train on CPUs"
        )
        gpus = 0.0
    room = min(slots, max(1, math.floor(cpus))) if gpus else max(1, math.floor(cpus))
    workers = min(wanted, room)
    if workers < wanted:
        notes.append(f"workers {wanted}: the cluster has room for {room}, so trials have {workers}")
    concurrent = min(max(1, room // workers), config.search.trials)
    threads = max(1, math.floor(cpus / (concurrent * workers)))
    return Placement(workers, gpus, concurrent, threads, "; ".join(notes) or None)


def _chain_on_cluster(prepared: Prepared) -> Chain:
    """Frozen blocks as Ray tasks, a shard each, on whatever the trials will train on."""

    def chain(blocks: Sequence[Any], shards: Sequence[Any]) -> Iterator[list[Any]]:
        import ray

        from nic_ray.worker import run_shard

        gpus = float(prepared.device == "cuda" and ray.cluster_resources().get("GPU", 0) >= 1)
        task = ray.remote(num_cpus=1, num_gpus=gpus)(run_shard)
        given = ray.put(list(blocks))
        # no more in flight than are worked on and waiting: their outputs would fill the object store
        most = 1 + max(1, int(ray.cluster_resources().get("CPU", 1)))
        pending: list[Any] = []
        for shard in shards:
            pending.append(task.remote(given, shard, prepared.device if gpus else "cpu", prepared.bf16))
            if len(pending) == most:
                yield ray.get(pending.pop(0))
        while pending:
            yield ray.get(pending.pop(0))

    return chain


def _run_trials(prepared: Prepared, inputs: Mapping[int, Any], run_folder: Path, say: Callable[[str], None]) -> Any:
    import ray
    from ray import tune

    from nic_ray import tuning, worker
    from nic_ray.encoder import upper

    config = prepared.config
    placement = place(
        config,
        ray.cluster_resources().get("CPU", 1),
        [node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]],
    )
    if placement.note:
        say(placement.note)
    plan = worker.Plan(
        base=config.train,
        objective=config.search.objective,
        train_rows=prepared.rows("train"),
        validation_rows=prepared.rows("validation"),
        collection=ray.put(prepared.collection),
        inputs={depth: ray.put(each) for depth, each in inputs.items()},
        uppers={
            depth: ray.put(upper(prepared.encoder, depth, from_ids=opened(each).are_ids))
            for depth, each in inputs.items()
        },
        workers=placement.workers,
        gpus_per_worker=placement.gpus_per_worker,
        threads=placement.threads,
        storage=run_folder / TRAIN_RUNS,
    )
    trainable = tuning.named_trainable(tune.with_parameters(worker.run_trial, plan=plan))
    tuner = tune.Tuner(
        tune.with_resources(trainable, _trial_resources(placement)),
        tune_config=tune.TuneConfig(
            num_samples=config.search.trials,
            max_concurrent_trials=placement.concurrent,
            search_alg=tuning.searcher(config, run_folder / "study.db"),
            scheduler=tuning.scheduler(config.search, config.train.epochs),
            trial_name_creator=tuning.trial_name,
            trial_dirname_creator=tuning.trial_name,
        ),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(run_folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            callbacks=[tuning.Lines(say, config.search.trials)],
        ),
    )
    say(
        f"{config.search.trials} trials, {placement.concurrent} at a time, each with {placement.workers} worker(s) "
        f"of {placement.threads} thread(s)"
        f"{f' and {placement.gpus_per_worker:g} GPU' if placement.gpus_per_worker else ''}"
    )
    return tuner.fit()


def _trial_resources(placement: Placement) -> dict[str, float]:
    """What Tune books for a trial. Workers of a distributed trial book for themselves, beside it."""
    if placement.workers > 1:
        return {"CPU": 0.01}
    gpu = {"GPU": placement.gpus_per_worker} if placement.gpus_per_worker else {}
    return {"CPU": 1.0, **gpu}


def _pick(
    results: Any, prepared: Prepared, train_runs: Path
) -> tuple[Candidate | None, list[Candidate], list[dict[str, Any]]]:
    """First trial, the best trials (the best first), and a row for each trial."""
    from nic_ray import tuning, worker

    config, objective = prepared.config, prepared.config.search.objective
    first: Candidate | None = None
    best: list[Candidate] = []
    trials = []
    for result in sorted(results, key=lambda each: each.config[tuning.NUMBER]):
        number = result.config[tuning.NUMBER]
        sample = {name: value for name, value in result.config.items() if name != tuning.NUMBER}
        name = tuning.numbered(number)
        state = worker.last_state(result, train_runs / name)
        row = {"trial": name, "status": _status(result), **sample}
        if state is not None:
            found = best_of(name, trial_config(config.train, sample), state)
            first = found if number == 0 else first
            # no more sets of weights are kept than can be used
            best = best_first([*best, found], objective)[: config.search.averaged_trials]
            row |= {
                objective: found.metrics[objective],
                "mrr/macro": found.metrics["mrr/macro"],
                "best_epoch": found.metrics["epoch"],
                "seconds": round((result.metrics or {}).get("time_total_s", 0.0), 1),
            }
        row["error"] = "" if result.error is None else tuning.reason_in(str(result.error))
        trials.append(row)
    if not best:
        reasons = sorted({row["error"] for row in trials})
        raise RunError("no trial produced a model:\n  " + "\n  ".join(reasons))
    return first, best, trials


def best_first(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Candidates by objective, then mrr/macro, then the earlier epoch."""

    def order(candidate: Candidate) -> tuple[float, float, float]:
        metrics = candidate.metrics
        return metrics[objective], metrics["mrr/macro"], -metrics["epoch"]

    return sorted(candidates, key=order, reverse=True)


def _status(result: Any) -> str:
    if result.error is not None:
        return "failed"
    return "finished" if (result.metrics or {}).get("finished") else "stopped"


def _write_trials(path: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in trials for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(trials)


def _training_log(run_folder: Path, trial: str) -> str:
    for path in (run_folder / EXPERIMENT / trial / LOG, run_folder / TRAIN_RUNS / trial / LOG):
        if path.exists():
            return f"{trial}\n{path.read_text(encoding='utf-8')}"
    return ""


def _write_result(outcome: Outcome, prepared: Prepared) -> None:
    content = {
        "bundle": str(outcome.folder),
        "objective": prepared.config.search.objective,
        "winner": {
            "trial": outcome.winner.name,
            "averaged": list(outcome.winner.members),
            "config": outcome.winner.config.model_dump(mode="json"),
            "metrics": dict(outcome.winner.metrics),
        },
        "results": outcome.results,
        "trials": outcome.trials,
        **describe_data(prepared),
    }
    path = outcome.run_folder / "result.json"
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _headline(metrics: Mapping[str, float], config: Config) -> str:
    return f"{config.search.objective} {metrics[config.search.objective]:.4f}"
