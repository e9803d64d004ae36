"""Which device and precision are picked on a machine that has, or lacks, what is asked for; how its CPUs are shared."""

import contextlib
import ctypes
import subprocess
import sys

import pytest
import torch

from nic_ray.errors import InputError
from nic_ray.hardware import computes_in_bf16, keep_freed_memory, pick_device, shared_cpus


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


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"train\.device: cuda is asked for, and PyTorch sees no .*; use auto"):
        pick_device("cuda")


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
