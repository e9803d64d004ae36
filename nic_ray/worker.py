"""One trial under Ray: a TorchTrainer around the training loop, in one process or in several."""

import contextlib
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from ray import tune
from ray.train.torch import TorchTrainer
from ray.train.v2._internal import constants as train_constants
from ray.tune.integration.ray_train import TuneReportCallback

from nic_ray import hardware, loop
from nic_ray.activations import Feed, Inputs, feed, run_chain
from nic_ray.cache import opened
from nic_ray.config import TrainConfig, trial_config
from nic_ray.encoder import Lower, Upper
from nic_ray.evaluation import embed, evaluate, score, texts_to_score
from nic_ray.pairs import Collection
from nic_ray.record import LOG, load_state, logging_to, save_state

CPUS_OF_A_WORKER = 0.98
"""Just below 1, so that the trial that waits for its workers (0.01) finds room beside them."""


@dataclass(frozen=True)
class Plan:
    """What every trial of a search is given, beside its sample. Large values are Ray references.

    collection: of `Collection`.
    inputs, uppers: by frozen_layers, of `Inputs` (or `StoredInputs`) and `Upper` at that depth.
    """

    base: TrainConfig
    objective: str
    train_rows: NDArray[np.int64]
    validation_rows: NDArray[np.int64]
    collection: "ray.ObjectRef[Collection]"
    inputs: Mapping[int, "ray.ObjectRef[Any]"]
    uppers: Mapping[int, "ray.ObjectRef[Any]"]
    workers: int
    gpus_per_worker: float
    threads: int
    storage: Path


def run_trial(config: dict[str, Any], plan: Plan) -> None:
    """The trainable: train one configuration and report each evaluation to Ray Tune.

    Args:
        config: sampled hyperparameters, by name.
        plan: the same for all trials.
    """
    sample = {name: value for name, value in config.items() if name in TrainConfig.model_fields}
    complete = trial_config(plan.base, sample).model_dump()
    given = {"train": complete, "plan": plan}
    if plan.workers == 1:
        TorchTrainer(_train_here, train_loop_config=given, scaling_config=ray.train.ScalingConfig(num_workers=0)).fit()
        return
    # The cleaner that frees the workers of a stopped trial asks the cluster for the trial's fate. Without the
    # address it gives up where two clusters run on one machine, and the next trial waits for ever.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    train_constants.ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    TorchTrainer(
        _train_with_others,
        train_loop_config=given,
        scaling_config=ray.train.ScalingConfig(
            num_workers=plan.workers,
            use_gpu=plan.gpus_per_worker > 0,
            resources_per_worker={"CPU": CPUS_OF_A_WORKER}
            | ({"GPU": plan.gpus_per_worker} if plan.gpus_per_worker else {}),
        ),
        run_config=ray.train.RunConfig(
            name=tune.get_context().get_trial_name(),
            storage_path=str(plan.storage),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def run_shard(blocks: Sequence[Lower], shard: Inputs, device: str, bf16: bool) -> list[NDArray[Any]]:
    """A Ray task: the values after each of some frozen blocks, for a part of the texts."""
    hardware.keep_freed_memory()
    torch.set_num_threads(1)
    return run_chain(blocks, shard, device=device, bf16=bf16)


def last_state(result: tune.Result, folder: Path) -> dict[str, Any] | None:
    """The state of a trial's last evaluation, which holds the weights of its best; None if it has none.

    Tune keeps the checkpoint of a trial in one process. Train keeps that of a trial in several, which may be
    newer than the last one that Tune was told of: its workers go on until they are killed, perhaps while they
    copy a checkpoint.

    Args:
        folder: where Train keeps the trial's checkpoints, if it does.
    """
    kept = [] if result.checkpoint is None else [Path(result.checkpoint.path)]
    for checkpoint in [*kept, *sorted(folder.glob("checkpoint_*"), reverse=True)]:
        with contextlib.suppress(OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return load_state(checkpoint)
    return None


def _train_here(given: dict[str, Any]) -> None:
    checkpoint = tune.get_checkpoint()
    device = "cuda" if given["plan"].gpus_per_worker and torch.cuda.is_available() else "cpu"
    with logging_to(Path(tune.get_context().get_trial_dir()) / LOG):
        _train(given, device, checkpoint, lambda metrics, folder: tune.report(
            metrics, checkpoint=tune.Checkpoint.from_directory(folder)
        ))  # fmt: skip


def _train_with_others(given: dict[str, Any]) -> None:
    device = ray.train.torch.get_device().type
    context = ray.train.get_context()
    checkpoint = ray.train.get_checkpoint()
    first = context.get_world_rank() == 0

    def report(metrics: dict[str, float], folder: Path) -> None:
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder) if first else None)

    if not first:
        _train(given, device, checkpoint, report)
        return
    with logging_to(given["plan"].storage / context.get_experiment_name() / LOG):
        _train(given, device, checkpoint, report)


def _train(
    given: dict[str, Any],
    device: str,
    checkpoint: Any,
    report: Callable[[dict[str, float], Path], None],
) -> None:
    plan: Plan = given["plan"]
    config = TrainConfig.model_validate(given["train"])
    torch.set_num_threads(plan.threads)
    hardware.keep_freed_memory()
    collection: Collection = ray.get(plan.collection)
    upper: Upper = ray.get(plan.uppers[config.frozen_layers]).to(device)
    source = feed(opened(ray.get(plan.inputs[config.frozen_layers])), device)
    # 16-bit inputs need 16-bit products, whatever this worker's processor would have chosen
    bf16 = source.values.dtype == torch.bfloat16 or hardware.computes_in_bf16(config.precision, device)
    state = None if checkpoint is None else load_state(Path(checkpoint.path))
    if state is not None and state["finished"]:
        return
    for evaluation in loop.fit(
        config,
        collection,
        plan.train_rows.tolist(),
        upper,
        source,
        lambda model: _evaluate_together(model, source, collection, plan.validation_rows, bf16=bf16),
        objective=plan.objective,
        bf16=bf16,
        state=state,
    ):
        with tempfile.TemporaryDirectory() as folder:
            if not dist.is_initialized() or dist.get_rank() == 0:
                save_state(evaluation.state, Path(folder))
            report(evaluation.metrics, Path(folder))


def _evaluate_together(
    upper: Upper, source: Feed, collection: Collection, rows: NDArray[np.int64], *, bf16: bool
) -> dict[str, float]:
    """The same metrics on every worker, each having embedded its share of the texts."""
    if not dist.is_initialized():
        return evaluate(upper, source, collection, rows.tolist(), bf16=bf16)
    texts = texts_to_score(collection, rows.tolist())
    rank, workers = dist.get_rank(), dist.get_world_size()
    own = torch.from_numpy(embed(upper, source, texts[rank::workers], bf16=bf16))
    counts = [len(texts[part::workers]) for part in range(workers)]
    embeddings = np.empty((len(texts), own.shape[1]), np.float32)
    for part, received in enumerate(loop.gather_rows(own.to(source.values.device), counts)):
        embeddings[part::workers] = received.cpu().numpy()
    # all decide by the first one's numbers: on unlike processors a rounding could part them, and the one
    # that goes on would wait for ever for those that have stopped
    metrics = [score(embeddings, texts, collection, rows.tolist())]
    dist.broadcast_object_list(metrics, src=0)
    return metrics[0]
