"""What this machine computes on, and how."""

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout

from nic_ray.errors import InputError

STALE_S = 60.0
"""Age of a file that nobody holds, from which on its process must have ended: it is locked right after it is made."""


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """The device to compute on: "cpu" or "cuda".

    Raises:
        InputError: a CUDA device is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "train.device: cuda is asked for, and PyTorch sees no CUDA device here; use auto, which falls back "
            "to the CPU, or look at `python -c 'import torch; print(torch.cuda.is_available())'`"
        )
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def computes_in_bf16(precision: Literal["auto", "bf16", "fp32"], device: str) -> bool:
    """Whether matrix products run in bfloat16: "auto" where the processor has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_freed_memory() -> None:
    """Ask glibc to keep the memory of freed tensors for the next ones.

    By default it hands every large block back to the system, and each step pays for its pages again:
    zeroed by the kernel, one fault each. Elsewhere than under glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        library.mallopt(m_mmap_max, 0)
        library.mallopt(m_trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def shared_cpus(cpus: int, folder: Path) -> Iterator[Callable[[], int]]:
    """Divide CPUs among the processes of this machine that are within this context at the same time.

    Each holds a lock on a file of its own, which the system takes away when the process ends, however it ends.

    Args:
        cpus: that they have together.
        folder: for the files, on a disk of this machine, the same one for all.

    Yields:
        a function that gives this process's share at the moment, in whole CPUs, 1 at least.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{os.getpid()}-{time.monotonic_ns()}"
    with FileLock(own):
        try:
            yield lambda: max(1, cpus // max(1, sum(map(_is_held, folder.iterdir()))))
        finally:
            own.unlink(missing_ok=True)


def _is_held(file: Path) -> bool:
    """Whether a process holds a lock on a file; one that was left behind is removed."""
    try:
        with FileLock(file, timeout=0):
            if time.time() - file.stat().st_mtime > STALE_S:
                file.unlink(missing_ok=True)
        return False
    except Timeout:
        return True
