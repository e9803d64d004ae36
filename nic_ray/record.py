"""What a training leaves on disk while it runs: its checkpoint and its log."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

CHECKPOINT = "state.pt"
LOG = "training.log"


def save_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write the state of a training into a folder, whole or not at all.

    Args:
        state: tensors and plain values.
    """
    temporary = folder / f"{CHECKPOINT}.tmp"
    torch.save(dict(state), temporary)
    temporary.replace(folder / CHECKPOINT)


def load_state(folder: Path) -> dict[str, Any]:
    """Read back what `save_state` wrote, on the CPU. Tensors and plain values only: no code is run."""
    state: dict[str, Any] = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    return state


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what the training loop says to a file, a line at a time, so that it can be followed."""
    log = logging.getLogger("nic_ray.training")
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
