"""One trial under Ray: a TorchTrainer around the training loop, in one process or in several."""

import gc

# Each trial's process imports this module first. Meanwhile Python would look for garbage among objects that imports
# create to stay. Without that, the process needs 3.0 seconds of processor time instead of 3.4, 14 % less in the median
# of 12 pairs on two cores (`python benchmarks/processes.py --pairs 12`). The same holds in the searching process, which
# imports this module too.
_collected = gc.isenabled()
gc.disable()

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from nic_ray import hardware
from nic_ray.config import trial_config
from nic_ray.cpus import usable_cpus
from nic_ray.dataset.pairs import Collection
from nic_ray.errors import RunError
from nic_ray.model.activations import feed
from nic_ray.model.cache import opened
from nic_ray.model.cut import Upper
from nic_ray.model.evaluation import Asked, embed, evaluate, score, texts_to_score
from nic_ray.record import FAILURE_FILE, LOG, TrainingState, logging_to, readable_state, save_state
from nic_ray.remote import Mirror, exists, pull, push
from nic_ray.run_folder import RunFolder
from nic_ray.search.placement import threads_of
from nic_ray.search.ray_private import hand_to_train_workers
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop
from nic_ray.training.background import on_host, one_at_a_time
from nic_ray.training.batches import GeneralTexts, OtherModels
from nic_ray.training.gradients import gather_rows

gc.freeze()
if _collected:
    gc.enable()

log = logging.getLogger("nic_ray.training")

RETRIES = 1
"""Times that a trial resumes from its last checkpoint after it died: a crash, no memory or disk space. A lost node does
not count, unless it is that of one of several workers."""

START_CHECKPOINT = "start"
"""Entry of a sample besides hyperparameters: the folder of the checkpoint that the trial starts from, relative to the
run folder."""

SHARING = Path(tempfile.gettempdir()) / f"nic_ray-{os.getuid()}"
"""Folder in which the training processes of a user on this machine are counted."""

COUNT_INTERVAL_S = 0.5
"""Seconds between two counts of these processes, at least."""

TRIAL_FOLDERS = RunFolder(Path()).trial_folders.name
"""Name of the trials' folder in a run folder, and in its mirror."""

CPUS_OF_A_WORKER = 0.98
"""Just below 1, so that the trial that waits for its workers (0.01 CPU) fits beside them."""


@dataclass(frozen=True)
class BaseInputs:
    """What trials of one base model read, as references to Ray's object store."""

    blocks: int
    """Number of the base model's blocks."""
    inputs: Mapping[int, "ray.ObjectRef[Any]"]
    """frozen_layers -> reference to `Inputs` or `StoredInputs`, without fixed embeddings."""
    fixed: "ray.ObjectRef[NDArray[np.float32] | None]"
    """Embeddings of passages for trials that train queries alone; see `Inputs.fixed`."""
    uppers: Mapping[int, "ray.ObjectRef[Any]"]
    """frozen_layers -> reference to the `Upper` at that depth."""
    general: "ray.ObjectRef[GeneralTexts]"
    """Texts that are held to the base model's embeddings."""


@dataclass(frozen=True)
class TrialInputs:
    """Inputs and settings that all trials of a search share. Large values are references to Ray's object store."""

    base: TrainConfig
    objective: str
    train_rows: NDArray[np.int64]
    validation_rows: NDArray[np.int64]
    collection: "ray.ObjectRef[Collection]"
    bases: Mapping[str, BaseInputs]
    """Base model -> its inputs."""
    others: "ray.ObjectRef[OtherModels]"
    """What a guide and a teacher make of the collection's texts."""
    workers: int
    gpus_per_worker: float
    concurrent: int
    """Number of trials that run at the same time."""
    threads: int
    """Threads of each worker at the start of a trial."""
    run_folder: Path
    """On a disk that all nodes share; with a mirror, on the driver's disk alone."""
    mirror: Mirror | None
    """Mirror of the run folder; None without one."""


@dataclass(frozen=True)
class Assignment:
    """The training that one trial should do."""

    train: TrainConfig
    shared: TrialInputs
    start: str | None
    """Folder of the checkpoint from an earlier search that the trial resumes from, relative to the run folder."""


def run_trial(config: Mapping[str, Any], shared: TrialInputs) -> None:
    """Train one configuration and report each evaluation to Ray Tune: the trainable that Tune runs.

    Args:
        config: sampled hyperparameters, by name.
        shared: inputs that are the same for all trials.
    """
    sample = {name: value for name, value in config.items() if name in TrainConfig.model_fields}
    train = trial_config(shared.base, sample)
    train = train.of_base(train.base_model, shared.bases[train.base_model].blocks)
    assignment = Assignment(train, shared, config.get(START_CHECKPOINT))
    if shared.workers == 1:
        TorchTrainer(
            _train_here,
            train_loop_config={"assignment": assignment},
            scaling_config=ray.train.ScalingConfig(num_workers=0),
        ).fit()
        return
    # The cleaner that frees the workers of a stopped trial asks the cluster for the trial's state. Without
    # the address it gives up where two clusters run on one machine, and the next trial waits forever.
    hand_to_train_workers("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    TorchTrainer(
        _train_with_others,
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(backend=backend(shared.gpus_per_worker)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=shared.workers,
            use_gpu=shared.gpus_per_worker > 0,
            resources_per_worker={"CPU": CPUS_OF_A_WORKER}
            | ({"GPU": shared.gpus_per_worker} if shared.gpus_per_worker else {}),
        ),
        run_config=ray.train.RunConfig(
            name=tune.get_context().get_trial_name(),
            **storage_of(shared.run_folder, shared.mirror, TRIAL_FOLDERS),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=RETRIES),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def storage_of(run_folder: Path, mirror: Mirror | None, *names: str) -> dict[str, Any]:
    """Return where Tune or Train keep their files, as RunConfig arguments: in the run folder, or in its mirror."""
    if mirror is None:
        return {"storage_path": str(run_folder.joinpath(*names))}
    return {"storage_path": "/".join([mirror.path, *names]), "storage_filesystem": mirror.filesystem}


def device_of(shared: TrialInputs) -> str:
    """Return the device that this process trains on.

    Raises:
        RunError: the process has been given a GPU, and PyTorch sees none.
    """
    if not shared.gpus_per_worker:
        return "cpu"
    if missing := hardware.why_no_gpu():
        raise RunError(f"Ray has given this trial a GPU, and {missing}")
    hardware.avoid_cudnn_attention()
    return "cuda"


def backend(gpus_per_worker: float) -> str:
    """Return the backend by which several workers of a trial communicate.

    NCCL refuses two ranks on one device, where Ray places them if each is given a fraction of a GPU. Gloo moves CUDA
    tensors through the host itself, in all three operations that the training needs (all_gather, all_reduce,
    broadcast: ProcessGroupGloo.cpp).
    """
    return "nccl" if gpus_per_worker >= 1 else "gloo"


def _train_here(loop_config: Mapping[str, Assignment]) -> None:
    assignment = loop_config["assignment"]
    checkpoint = tune.get_checkpoint()
    device = device_of(assignment.shared)
    # not to Tune's own folder, which lags behind by some seconds, so that a crash would lose them
    with (
        _trial_folder(assignment.shared, tune.get_context().get_trial_name()) as trial_folder,
        logging_to(trial_folder / LOG),
    ):
        _train(assignment, device, checkpoint, trial_folder, lambda metrics, folder: tune.report(
            metrics, checkpoint=tune.Checkpoint.from_directory(folder)
        ))  # fmt: skip


def _train_with_others(loop_config: Mapping[str, Assignment]) -> None:
    assignment = loop_config["assignment"]
    device = device_of(assignment.shared)
    context = ray.train.get_context()
    checkpoint = ray.train.get_checkpoint()
    first = context.get_world_rank() == 0

    def report(metrics: dict[str, float], folder: Path) -> None:
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder) if first else None)

    with (
        _trial_folder(assignment.shared, context.get_experiment_name()) as trial_folder,
        logging_to(trial_folder / LOG) if first else contextlib.nullcontext(),
    ):
        _train(assignment, device, checkpoint, trial_folder, report)


def _train(
    assignment: Assignment,
    device: str,
    checkpoint: Any,
    trial_folder: Path,
    report: Callable[[dict[str, float], Path], None],
) -> None:
    """Train from the newest state that can be read.

    Args:
        checkpoint: Tune's or Train's checkpoint of this search; None at its beginning.
        trial_folder: the trial's folder, from `_trial_folder`.
        report: receives the metrics of each evaluation, with the folder of its checkpoint.
    """
    shared, config = assignment.shared, assignment.train
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    if (trial_folder / FAILURE_FILE).exists():  # another attempt would fail in the same way
        raise RunError((trial_folder / FAILURE_FILE).read_text(encoding="utf-8"))
    upper, data = what_is_trained(shared, config, shared.train_rows, device)
    state = _state_to_resume_from(shared, checkpoint, assignment.start)
    if state is not None and state["finished"]:
        with tempfile.TemporaryDirectory() as folder:  # Tune has not been told that the trial ended
            if is_first:
                save_state(state, Path(folder))
            report(state["metrics"], Path(folder))
        return
    # several workers report together
    in_thread = device == "cuda" and not dist.is_initialized()
    try:
        with shared_threads(shared) as adapt_threads, one_at_a_time(threaded=in_thread) as hand_over:
            for evaluation in loop.fit(
                config,
                upper,
                data,
                loop.Validation(lambda model: _evaluate_together(model, data, shared), shared.objective),
                state=state,
                before_step=adapt_threads,
            ):
                kept = on_host(evaluation.state) if in_thread else lambda state=evaluation.state: state
                hand_over(partial(_note, shared, trial_folder, evaluation.metrics, kept, report))
    except RunError as error:  # perhaps on this worker alone, for example if its memory is too small
        (trial_folder / FAILURE_FILE).write_text(str(error), encoding="utf-8")
        _copy_to_mirror(shared, trial_folder, FAILURE_FILE)
        raise


def what_is_trained(
    shared: TrialInputs, config: TrainConfig, rows: NDArray[np.int64], device: str
) -> tuple[Upper, loop.TrainingData]:
    """Return the blocks that a configuration trains, on a device, and what they are trained on."""
    hardware.keep_freed_memory()
    collection: Collection = ray.get(shared.collection)
    base = shared.bases[config.base_model]
    upper: Upper = ray.get(base.uppers[config.frozen_layers]).to(device)
    # a fraction of a GPU is shared with other workers
    share = min(1.0, shared.gpus_per_worker)
    inputs = opened(ray.get(base.inputs[config.frozen_layers]))
    if config.trains == "queries":
        inputs = replace(inputs, fixed=ray.get(base.fixed))
    source = feed(inputs, device, share=share)
    # 16-bit inputs need 16-bit products, whatever this worker's processor would have chosen
    bf16 = source.values.dtype == torch.bfloat16 or hardware.computes_in_bf16(config.precision, device)
    return upper, loop.TrainingData(collection, rows, source, bf16, ray.get(base.general), ray.get(shared.others))


def _note(
    shared: TrialInputs,
    trial_folder: Path,
    metrics: dict[str, float],
    state: Callable[[], TrainingState],
    report: Callable[[dict[str, float], Path], None],
) -> None:
    """Write the checkpoint of an evaluation, report both, and copy the log to the mirror.

    Args:
        state: returns the state at the evaluation.
    """
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    with tempfile.TemporaryDirectory() as folder:
        if is_first:
            save_state(state(), Path(folder))
        report(metrics, Path(folder))
    if is_first:
        _copy_to_mirror(shared, trial_folder, LOG)


@contextlib.contextmanager
def shared_threads(shared: TrialInputs) -> Iterator[Callable[[], None]]:
    """Begin with the planned threads; yield a function that adapts them to an even share of the machine's CPUs.

    At the end of a search, or where ASHA has stopped many trials, the last trials would otherwise leave most cores
    idle, and on a node that Ray has packed they would have more threads than it has cores.
    """
    host, cpus = _this_machine()
    workers_here = ray.train.get_context().get_local_world_size() if dist.is_initialized() else 1
    planned = max(1, min(shared.threads, cpus // workers_here))
    torch.set_num_threads(planned)
    with contextlib.ExitStack() as held:
        try:
            share = held.enter_context(hardware.shared_cpus(cpus, SHARING / host))
        except OSError as error:
            log.warning("threads: %d throughout, other trainings cannot be counted: %s", planned, error)
            share = None
        counted = -math.inf

        def adapt() -> None:
            nonlocal counted
            # with one trial at a time, always the same threads, so that the same numbers result again
            if share is None or shared.concurrent == 1 or time.monotonic() - counted < COUNT_INTERVAL_S:
                return
            counted = time.monotonic()
            with contextlib.suppress(OSError):  # removing the folder is no request to end the training
                threads = threads_of(share(), planned)
                if threads != torch.get_num_threads():
                    log.info("threads: %d", threads)
                    torch.set_num_threads(threads)

        yield adapt


def _this_machine() -> tuple[str, int]:
    """Return this machine's name, and the CPUs that Ray may use on it, over all Ray nodes that run on it."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    host = next((str(node["NodeManagerHostname"]) for node in nodes if node["NodeID"] == here), "")
    booked = sum(node["Resources"].get("CPU", 0) for node in nodes if node["NodeManagerHostname"] == host)
    return host, max(1, min(int(booked), usable_cpus()))


@contextlib.contextmanager
def _trial_folder(shared: TrialInputs, trial: str) -> Iterator[Path]:
    """Yield the trial's folder in the run folder; with a mirror, a temporary folder here that holds the same files."""
    if shared.mirror is None:
        folder = RunFolder(shared.run_folder).trial_folders / trial
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / trial
        folder.mkdir()
        for name in (LOG, FAILURE_FILE):
            copy = _in_mirror(shared.mirror, trial, name)
            if exists(copy):
                pull(copy, folder / name)
        yield folder


def _copy_to_mirror(shared: TrialInputs, trial_folder: Path, name: str) -> None:
    if shared.mirror is not None:
        push(trial_folder / name, _in_mirror(shared.mirror, trial_folder.name, name))


def _in_mirror(mirror: Mirror, trial: str, name: str) -> Mirror:
    """Return where the mirror of a run keeps a file of a trial's folder."""
    return mirror / TRIAL_FOLDERS / trial / name


def _state_to_resume_from(shared: TrialInputs, checkpoint: Any, start: str | None) -> TrainingState | None:
    """Return the newest readable state of a trial: of this search, or of one that was cut off; None if there is none.

    Args:
        checkpoint: Tune's (one process) or Train's (several) checkpoint of this search; None at its beginning.
        start: folder of the checkpoint from an earlier search, relative to the run folder.
    """
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            if state := readable_state(Path(folder)):
                return state
    if start is None:
        return None
    if shared.mirror is None:
        return readable_state(shared.run_folder / start)
    with tempfile.TemporaryDirectory() as folder:
        pull(shared.mirror / start, Path(folder))
        return readable_state(Path(folder))


def _evaluate_together(upper: Upper, data: loop.TrainingData, shared: TrialInputs) -> dict[str, float]:
    """Evaluate together: each worker embeds its share of the texts, and all return the same metrics."""
    source, collection, bf16 = data.source, data.collection, data.bf16
    rows, objective = shared.validation_rows.tolist(), shared.objective
    if not dist.is_initialized():
        return evaluate(upper, source, collection, rows, bf16=bf16, objective=objective)
    texts = texts_to_score(collection, rows)
    rank, workers = dist.get_rank(), dist.get_world_size()
    embedded = torch.from_numpy(embed(upper, source, texts[rank::workers], bf16=bf16))
    counts = [len(texts[part::workers]) for part in range(workers)]
    embeddings = np.empty((len(texts), embedded.shape[1]), np.float32)
    for part, received in enumerate(gather_rows(embedded.to(source.device), counts)):
        embeddings[part::workers] = received.cpu().numpy()
    # all workers decide by the first one's numbers: on different processors, rounding could make them differ, and
    # a worker that continues would wait forever for those that have stopped
    metrics = [score(Asked(embeddings, texts, collection, rows), objective)]
    dist.broadcast_object_list(metrics, src=0)
    return metrics[0]
