"""What a training leaves on disk while it runs: its checkpoint and its log."""

import errno
import json
import logging
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
"""In a trial's folder: why it cannot be trained, so that it is not tried again."""


TrialRow = dict[str, str | float | None]
"""A row of trials.csv: name, how the trial ended, hyperparameters, its best evaluation."""


class EndedTrial(TypedDict):
    """How a trial ended, as the ledger of a run holds it, a line for each."""

    status: str
    """"finished", "stopped" early, "repeated" for as long as another one, or "failed"."""
    error: str
    """Why it failed; empty if it did not."""
    sample: JsonObject
    """Its hyperparameters."""
    seconds: float
    """That it took."""
    epoch: NotRequired[float]
    """At its last evaluation; without one, this and the next two are missing."""
    evaluation: NotRequired[int]
    """The number of its last evaluation, 1 for the first."""
    objective: NotRequired[float]
    """Its best value so far."""


class BestState(TypedDict):
    """The best evaluation of a training so far."""

    metrics: dict[str, float]
    """What it found, with its "loss", "epoch" and "step"."""
    upper: dict[str, Tensor]
    """The parameters that train, as they were then, by name."""


class TrainingState(TypedDict):
    """What a training goes on from: `loop.fit` writes and reads it, and a checkpoint holds it."""

    upper: dict[str, Tensor]
    """The parameters that train, by name."""
    optimizer: dict[str, Any]
    """Its `state_dict`."""
    random: Tensor
    """State of the generator that dropout draws from: that of the device, in the first worker."""
    random_of: NotRequired[str]
    """Kind of that device; checkpoints of early versions do not say it."""
    micro_batch_tokens: NotRequired[int]
    """The configuration's, or what memory has left of it; likewise."""
    step: int
    """Steps that have been taken."""
    stale: int
    """Evaluations since the best one."""
    best: BestState
    metrics: dict[str, float]
    """Those of the last evaluation."""
    finished: bool
    """Whether it was the last of all."""


@contextmanager
def held(run_folder: Path) -> Iterator[None]:
    """Keep a run folder for this process; two that go on with one run would train its trials twice.

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
    """Write the state of a training into a folder, whole or not at all.

    Raises:
        OSError: there is no room for it, or another reason not to write it.
    """
    temporary = folder / f"{CHECKPOINT}.tmp"
    try:
        torch.save(dict(state), temporary)
        temporary.replace(folder / CHECKPOINT)
    except RuntimeError as error:  # PyTorch does not say what has gone wrong
        if is_full(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_full(folder: Path) -> bool:
    """Whether next to nothing, less than 1 MiB, fits on the disk of a folder."""
    return shutil.disk_usage(folder).free < 2**20


def load_state(folder: Path) -> TrainingState:
    """Read back what `save_state` wrote, on the CPU. Tensors and plain values only: no code is run.

    Raises:
        ValueError: the file holds something else than the state of a training.
        OSError, RuntimeError, EOFError, pickle.UnpicklingError: it is missing, or damaged.
    """
    state: Any = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not state.keys() >= TrainingState.__required_keys__:
        raise ValueError(f"{folder / CHECKPOINT}: holds no state of a training")
    return cast(TrainingState, state)


def last_state(run_folder: Path, trial: str) -> TrainingState | None:
    """The state of a trial's last evaluation; None if it has none that can be read.

    Tune keeps the checkpoint of a trial in one process, Train that of a trial in several. One that was cut off while
    it was written is passed over.
    """
    return next(filter(None, map(readable_state, checkpoints(run_folder, trial))), None)


def readable_state(folder: Path) -> TrainingState | None:
    """As `load_state`; None if it cannot be read."""
    with suppress(OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        return load_state(folder)
    return None


def checkpoints(run_folder: Path, trial: str) -> list[Path]:
    """Folders with a state of a trial, the newest first."""
    found = run_folder.glob(f"*/{trial}/checkpoint_*/{CHECKPOINT}")
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def training_log(run_folder: Path, trial: str) -> str:
    """All that a trial has logged, under its name; empty if nothing was."""
    found = sorted(run_folder.glob(f"*/{trial}/{LOG}"), key=lambda path: path.stat().st_mtime)
    logged = [path.read_text(encoding="utf-8", errors="replace") for path in found]
    return "".join([f"{trial}\n", *logged]) if logged else ""


def study_url(study_file: Path) -> str:
    """The address of a study, for Optuna. A path has characters that mean something else in it: %, ?, #, {."""
    from sqlalchemy.engine import URL  # a search needs it, a training does not

    return URL.create("sqlite", database=str(study_file.absolute())).render_as_string()


def add_ended(run_folder: Path, trial: str, row: EndedTrial) -> None:
    """Note for good how a trial ended."""
    add_line(RunFolder(run_folder).ended, {"trial": trial, **row})


def read_ended(run_folder: Path) -> dict[str, EndedTrial]:
    """How trials ended, by name. A last line that was cut off is no trial."""
    ended = {}
    for row in read_lines(RunFolder(run_folder).ended):
        if isinstance(row.get("trial"), str) and isinstance(row.get("status"), str):
            known = EndedTrial(status=row["status"], error="", sample={}, seconds=0.0)
            ended[row["trial"]] = cast(EndedTrial, {**known, **row})
    return ended


def add_line(path: Path, row: Mapping[str, object]) -> None:
    """Add an object to a file of JSON lines, for good."""
    with path.open("ab+") as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a crash, or a full disk, has cut the last line off
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[JsonObject]:
    """The objects of a file of JSON lines; none if there is no file. A line that was cut off, or damaged, is none."""
    found = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            with suppress(json.JSONDecodeError, UnicodeDecodeError):
                found.append(json.loads(line.decode("utf-8")))
    return [row for row in found if isinstance(row, dict)]


class _Log(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line: on a full disk the standard handler would print a traceback for each."""

    def close(self) -> None:
        """Close it, with what could be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(path: Path, loggers: Sequence[str] = ("nic_ray.training",)) -> Iterator[None]:
    """Append what loggers are told to a file, and nowhere else, a line at a time, so that it can be followed.

    Args:
        loggers: their names; those of the training loop by default.
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
