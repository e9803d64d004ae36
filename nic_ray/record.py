"""The files that a training writes while it runs: its checkpoint, its log and the record of ended trials."""

import errno
import functools
import io
import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.run_folder import RunFolder

CHECKPOINT = "state.pt"
LOG = "training.log"
FAILURE_FILE = "failed.txt"
"""File in a trial's folder that says why the trial cannot be trained, so that it is not tried again."""


class EndedTrial(TypedDict):
    """How a trial ended, as ended.jsonl in the run folder records it, one line per trial."""

    status: str
    """"finished", "stopped" (early), "repeated" (trained again for as long as another trial) or "failed"."""
    error: str
    """Why it failed; empty if it did not."""
    sample: JsonObject
    """Its hyperparameters."""
    seconds: float
    """Its duration in seconds."""
    epoch: NotRequired[float]
    """Epoch of its last evaluation; if it had no evaluation, this key and the next two are missing."""
    evaluation: NotRequired[int]
    """The number of its last evaluation, counted from 1."""
    objective: NotRequired[float]
    """The best value of the objective that it reached, negative for an objective of which less is better."""


class BestState(TypedDict):
    """The best evaluation of a training so far."""

    metrics: dict[str, float]
    """The metrics of the evaluation, with its "loss", "epoch" and "step"."""
    upper: dict[str, Tensor]
    """The trained parameters at that evaluation, by name."""


class TrainingState(TypedDict):
    """The state from which a training resumes: `loop.fit` writes and reads it, and a checkpoint holds it."""

    upper: dict[str, Tensor]
    """The trained parameters, by name."""
    optimizer: dict[str, Any]
    """The optimizer's `state_dict`."""
    random: Tensor
    """State of the random generator that dropout draws from: that of the device, in the first worker."""
    random_of: NotRequired[str]
    """Kind of that device; missing in checkpoints of early versions."""
    micro_batch_tokens: NotRequired[int]
    """The configured value, or a lower one that fits into memory; missing in checkpoints of early versions."""
    step: int
    """Number of steps taken."""
    stale: int
    """Number of evaluations since the best one."""
    best: BestState
    metrics: dict[str, float]
    """The metrics of the last evaluation."""
    finished: bool
    """Whether that evaluation was the last one of the training."""


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Lock a run folder for this process; two processes that resume the same run would train its trials twice.

    Raises:
        InputError: another process holds it.
    """
    lock = FileLock(RunFolder(run_folder).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{run_folder}: another process is working on this run; wait until it has ended, or end it"
        ) from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks
    try:
        yield
    finally:
        lock.release()


def save_state(state: TrainingState, folder: Path) -> None:
    """Write the state of a training into a folder, completely or not at all.

    Raises:
        OSError: the disk is full, or the state cannot be written for another reason.
    """
    _write(folder, functools.partial(torch.save, dict(state)))


def packed_state(state: TrainingState) -> bytes:
    """Return the state of a training as the bytes that `save_state` writes, for another machine to keep."""
    packed = io.BytesIO()
    torch.save(dict(state), packed)
    return packed.getvalue()


def keep_packed_state(packed: bytes, folder: Path) -> None:
    """Write what `packed_state` has returned as `save_state` does."""
    _write(folder, lambda path: path.write_bytes(packed))


def _write(folder: Path, write: Callable[[Path], object]) -> None:
    temporary = folder / f"{CHECKPOINT}.tmp"
    try:
        write(temporary)
        temporary.replace(folder / CHECKPOINT)
    except RuntimeError as error:  # PyTorch does not say whether the disk is full
        if is_full(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_full(folder: Path) -> bool:
    """Whether the disk that holds a folder is practically full: less than 1 MiB is free."""
    return shutil.disk_usage(folder).free < 2**20


def load_state(folder: Path) -> TrainingState:
    """Read back the state that `save_state` wrote, with its tensors on the CPU.

    Only tensors and plain values are read; no code from the file is run.

    Raises:
        ValueError: the file holds something other than the state of a training.
        OSError, RuntimeError, EOFError, pickle.UnpicklingError: it is missing, or damaged.
    """
    state: Any = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not state.keys() >= TrainingState.__required_keys__:
        raise ValueError(f"{folder / CHECKPOINT}: holds no state of a training")
    return cast(TrainingState, state)


def last_state(run_folder: Path, trial: str) -> TrainingState | None:
    """The state of a trial's last evaluation; None if the trial has no readable checkpoint.

    Ray Tune keeps the checkpoint of a trial that runs in one process, Ray Train that of a trial in several processes.
    A checkpoint whose writing was interrupted is skipped.
    """
    return next(filter(None, map(readable_state, checkpoints(run_folder, trial))), None)


def readable_state(folder: Path) -> TrainingState | None:
    """Like `load_state`, but returns None if the state cannot be read."""
    with suppress(OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        return load_state(folder)
    return None


def checkpoints(run_folder: Path, trial: str) -> list[Path]:
    """The folders that hold checkpoints of a trial, the newest first."""
    files = run_folder.glob(f"*/{trial}/checkpoint_*/{CHECKPOINT}")
    return [path.parent for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)]


def training_log(run_folder: Path, trial: str) -> str:
    """Everything that a trial has logged, below a line with its name; empty if it has no log."""
    logs = sorted(run_folder.glob(f"*/{trial}/{LOG}"), key=lambda path: path.stat().st_mtime)
    logged = [path.read_text(encoding="utf-8", errors="replace") for path in logs]
    return "".join([f"{trial}\n", *logged]) if logged else ""


def study_url(study_file: Path) -> str:
    """The URL of a study, for Optuna. In a URL, some characters of a path have another meaning: %, ?, #, {."""
    from sqlalchemy.engine import URL  # a search needs SQLAlchemy, a single training does not

    return URL.create("sqlite", database=str(study_file.absolute())).render_as_string()


def add_ended(run_folder: Path, trial: str, row: EndedTrial) -> None:
    """Record durably how a trial ended."""
    add_line(RunFolder(run_folder).ended, {"trial": trial, **row})


def read_ended(run_folder: Path) -> dict[str, EndedTrial]:
    """How trials ended, by name. A last line that was cut off is ignored."""
    ended = {}
    for row in read_lines(RunFolder(run_folder).ended):
        if isinstance(row.get("trial"), str) and isinstance(row.get("status"), str):
            known = EndedTrial(status=row["status"], error="", sample={}, seconds=0.0)
            ended[row["trial"]] = cast(EndedTrial, {**known, **row})
    return ended


def add_line(path: Path, row: Mapping[str, object]) -> None:
    """Append an object to a file of JSON lines, and flush it to disk."""
    with path.open("ab+") as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a crash or a full disk has cut off the last line
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[JsonObject]:
    """The objects in a file of JSON lines; empty if there is no file. Damaged and truncated lines are skipped."""
    rows = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            with suppress(json.JSONDecodeError, UnicodeDecodeError):
                rows.append(json.loads(line.decode("utf-8")))
    return [row for row in rows if isinstance(row, dict)]


class _Log(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line: on a full disk, the standard handler would print a traceback for every line."""

    def close(self) -> None:
        """Close the file, ignoring errors from lines that could not be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Log the warnings of Python, as "py.warnings", instead of printing them."""
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)


@contextmanager
def logging_to(path: Path, loggers: Sequence[str] = ("nic_ray.training",)) -> Iterator[None]:
    """Write the messages of loggers to the end of a file and nowhere else, line by line, so that it can be followed.

    Args:
        loggers: names of the loggers; by default that of the training loop.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    logs = [logging.getLogger(name) for name in loggers]
    before = [(log.handlers, log.level, log.propagate) for log in logs]
    for log in logs:
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for log, (handlers, level, propagate) in zip(logs, before, strict=True):
            log.handlers, log.propagate = handlers, propagate
            log.setLevel(level)
        handler.close()
