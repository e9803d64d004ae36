"""The CPUs of this machine that a process may keep busy."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(*, cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Number of CPUs that this process may keep busy, at least 1.

    These are the CPUs on which it may run, limited by the quotas of its control groups. A fraction of a CPU does not
    count, because a thread that has to wait for it delays the others.

    Args:
        cgroups: where the control groups, of version 1 or 2, are mounted.
        own: file that lists the control groups of this process.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([float(cpus), *_quotas(cgroups, own)])))


def _quotas(cgroups: Path, listing: Path) -> Iterator[float]:
    """Yield the number of CPUs that each control group of this process grants, for groups that set a limit.

    In a container, the path that the kernel reports may be that of the host, of which only the mounted root is visible.
    """
    with contextlib.suppress(OSError):
        for line in listing.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mounts = [cgroups] if not controllers else [cgroups / controllers, cgroups / "cpu"]
            if controllers and "cpu" not in controllers.split(","):
                continue
            for mount in mounts:
                group = mount / path.lstrip("/")
                for folder in (group, *group.parents):
                    if folder.is_relative_to(mount):
                        yield from _quota_of(folder)


def _quota_of(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):  # version 2: "max 100000" where there is no limit
        granted, per = (folder / "cpu.max").read_text().split()
        yield int(granted) / int(per)
    with contextlib.suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        if quota > 0:  # -1: no limit
            yield quota / period
