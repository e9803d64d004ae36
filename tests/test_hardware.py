"""Which device and precision are picked on a machine that has, or lacks, what is asked for; how its CPUs are shared."""

import contextlib
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nic_ray.errors import InputError
from nic_ray.hardware import (
    computes_in_bf16,
    keep_freed_memory,
    keep_to_usable_cpus,
    pick_device,
    shared_cpus,
    usable_cpus,
)


@pytest.mark.parametrize(
    ("wanted", "there", "picked"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_a_gpu_is_picked_when_it_is_there_and_wanted(monkeypatch, wanted, there, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device(wanted) == picked


@pytest.mark.parametrize(
    ("built_for", "way_out"),
    [(None, "it is built without CUDA; install a build"), ("12.8", "nvidia-smi .* a driver for CUDA 12.8")],
)
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, built_for, way_out):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(
        InputError, match=rf"--device: cuda is asked for, and PyTorch \S+ sees no .*{way_out}.* use auto"
    ):
        pick_device("cuda", "--device")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_precision_that_is_asked_for_is_used(device):
    assert computes_in_bf16("bf16", device)
    assert not computes_in_bf16("fp32", device)


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_processor_computes_in_bf16_when_it_has_instructions_for_it(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert computes_in_bf16("auto", "cpu") == expected


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_only_emulates_bf16_does_not_count(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert computes_in_bf16("auto", "cuda") == native


def test_the_real_machine_has_an_answer():
    assert computes_in_bf16("auto", pick_device("auto")) in (True, False)


def test_keeping_freed_memory_is_harmless():
    keep_freed_memory()
    assert torch.ones(2_000_000).sum() == 2_000_000


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_no_c_library_is_touched_elsewhere_than_on_linux(monkeypatch, platform):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("looked for a C library"))
    keep_freed_memory()


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()


def test_cpus_are_divided_among_those_that_are_there(tmp_path):
    with shared_cpus(5, tmp_path / "new") as share:
        assert share() == 5
        with contextlib.ExitStack() as others:
            for count, each in enumerate([2, 1, 1, 1, 1], 2):
                others.enter_context(shared_cpus(5, tmp_path / "new"))
                assert share() == each, count
        assert share() == 5


def test_a_process_that_was_killed_leaves_its_cpus_to_the_others(tmp_path):
    waits = f"""
from pathlib import Path
from nic_ray.hardware import shared_cpus
with shared_cpus(2, Path({str(tmp_path)!r})):
    print("in", flush=True)
    input()
"""
    with (
        shared_cpus(2, tmp_path) as share,
        subprocess.Popen(
            [sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
    ):
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        assert share() == 1
        other.kill()
        other.wait()
        assert share() == 2
        with shared_cpus(2, tmp_path):  # takes the file that was left
            assert share() == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_what_else_lies_beside_the_locks_is_left_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with shared_cpus(2, tmp_path) as share:
        assert share() == 2
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(OSError, match="file"), shared_cpus(2, tmp_path / "file"):
        pass


def groups(folder: Path, own: str, files: dict[str, str]) -> dict[str, Path]:
    """A tree of control groups: what /proc says of this process, and files by their path in the mount."""
    (folder / "own").write_text(own)
    for name, content in files.items():
        (folder / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mount" / name).write_text(content)
    return {"cgroups": folder / "mount", "own": folder / "own"}


V1 = "5:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n1:cpuset:/other\n"
V1_GROUP = "cpu,cpuacct/docker/abc"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n"}, 2),  # of a group above it
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "700000 100000\n"}, 4),
        ("0::/kubepods/pod/x\n", {"cpu.max": "500000 100000\n"}, 5),  # the path is the host's, the mount the pod's
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),  # half a CPU
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),  # more than there are
        (V1, {f"{V1_GROUP}/cpu.cfs_quota_us": "150000", f"{V1_GROUP}/cpu.cfs_period_us": "50000"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "700000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 7),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        (V1, {"memory/cpu.max": "100000 100000"}, 16),
        ("0::/\n", {"cpu.max": "nonsense"}, 16),
        ("", {}, 16),
    ],
)  # fmt: skip
def test_the_lowest_quota_of_its_control_groups_limits_a_process(monkeypatch, tmp_path, own, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert usable_cpus(**groups(tmp_path, own, files)) == expected


def test_a_process_counts_no_cpus_that_it_may_not_run_on(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus(**groups(tmp_path, "0::/\n", {"cpu.max": "300000 100000"})) == 2
    assert usable_cpus(own=tmp_path / "none") == 2


def test_where_a_system_knows_no_affinity_all_cpus_count(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cpus(own=tmp_path / "none") == 6


def test_under_taskset_one_cpu_is_counted():
    code = "from nic_ray.cpus import usable_cpus; print(usable_cpus())"
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def test_pytorch_keeps_to_the_quota(monkeypatch):
    monkeypatch.setattr("nic_ray.hardware.usable_cpus", lambda: 3)
    before = torch.get_num_threads()
    try:
        for threads, kept in ((8, 3), (2, 2)):
            torch.set_num_threads(threads)
            keep_to_usable_cpus()
            assert torch.get_num_threads() == kept
    finally:
        torch.set_num_threads(before)
