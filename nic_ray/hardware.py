"""What this machine computes on, and how."""

import contextlib
import ctypes
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from filelock import BaseFileLock, FileLock, Timeout

from nic_ray.errors import InputError


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

    Each holds the lock of one file, which the system takes away when the process ends, however it ends. Files stay, and
    are taken again. Two that count at the same moment may take each other for one more, until they count again.

    Args:
        cpus: that they have together.
        folder: for the files, on a disk of this machine, the same one for all.

    Yields:
        a function that gives this process's share at the moment, in whole CPUs, 1 at least.

    Raises:
        OSError: the folder, or a file in it, cannot be made or read; the function, too.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = next(lock for number in itertools.count() if (lock := _taken(folder / f"{number}.lock")) is not None)
    try:
        yield lambda: max(1, cpus // max(1, sum(_is_held(file) for file in folder.iterdir() if file.suffix == ".lock")))
    finally:
        own.release()


def _taken(file: Path) -> BaseFileLock | None:
    """The lock of a file, held; None if another process holds it."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _is_held(file: Path) -> bool:
    lock = _taken(file)
    if lock is None:
        return True
    lock.release()
    return False
