"""The hardware of this machine as PyTorch uses it: device, number format, threads and memory."""

import contextlib
import ctypes
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from filelock import BaseFileLock, FileLock, Timeout

from nic_ray.cpus import usable_cpus
from nic_ray.errors import InputError


def pick_device(wanted: Literal["auto", "cpu", "cuda"], asked_by: str = "train.device") -> str:
    """The device to compute on: "cpu" or "cuda".

    Args:
        asked_by: name of the setting or option that requests the device, for the error message.

    Raises:
        InputError: a CUDA device is requested and there is none.
    """
    missing = "" if wanted == "cpu" else why_no_gpu()
    if wanted == "cuda" and missing:
        raise InputError(f"{asked_by}: cuda is asked for, and {missing}; or use auto, which falls back to the CPU")
    if wanted == "cpu" or missing:
        return "cpu"
    avoid_cudnn_attention()
    return "cuda"


def why_no_gpu() -> str:
    """Why PyTorch sees no CUDA device here, and what to do about it; empty if it sees one."""
    if torch.cuda.is_available():
        return ""
    seen = f"PyTorch {torch.__version__} sees no CUDA device"
    if torch.version.cuda is None:
        return f"{seen}: it is built without CUDA; install a build with it"
    return f"{seen}; see with nvidia-smi whether there is one, and a driver for CUDA {torch.version.cuda}"


def computes_in_bf16(precision: Literal["auto", "bf16", "fp32"], device: str) -> bool:
    """Whether matrix products run in bfloat16: "auto" where the processor has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def attends_packed(device: str) -> bool:
    """Whether PyTorch's attention kernel for packed texts runs on a device: a GPU with 16-bit products of its own."""
    return (
        device == "cuda"
        and torch.backends.cuda.is_flash_attention_available()
        and bool(torch.cuda.is_bf16_supported(including_emulation=False))
    )


def avoid_cudnn_attention() -> None:
    """Keep attention over padded texts from cuDNN's kernels, which are planned anew, in 55 to 400 ms, for each shape.

    A training meets dozens of shapes, and the other fused kernels need no plan.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def keep_to_usable_cpus() -> None:
    """Limit PyTorch to at most `usable_cpus` threads, since its default does not take quotas into account."""
    if torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())


def keep_freed_memory() -> None:
    """Ask glibc to keep the memory of freed tensors for the next ones.

    By default it returns every large block to the system, and each training step pays for the pages again: the kernel
    zeroes each of them, at the cost of one page fault per page. On systems without glibc this does nothing.
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
    """Divide CPUs among the processes of this machine that are inside this context at the same time.

    Each process holds the lock of one file, which the system releases when the process ends, for whatever reason. The
    files stay and are reused. Two processes that count at the same moment may each count one process too many, until
    they count again.

    Args:
        cpus: number of CPUs that the processes share.
        folder: folder of the lock files, on a disk of this machine and the same for all processes.

    Yields:
        a function that returns this process's current share, in whole CPUs, at least 1.

    Raises:
        OSError: the folder, or a file in it, cannot be created or read; the yielded function raises it too.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    own_lock = next(lock for number in itertools.count() if (lock := _taken(folder / f"{number}.lock")) is not None)
    try:
        yield lambda: max(1, cpus // max(1, sum(_is_held(file) for file in folder.iterdir() if file.suffix == ".lock")))
    finally:
        own_lock.release()


def _taken(file: Path) -> BaseFileLock | None:
    """Acquire and return the lock of a file; None if another process holds it."""
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
