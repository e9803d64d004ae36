"""A cluster that another process starts ahead: what it is asked for, how it ends, and what happens where it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nic_ray.search import own_cluster
from nic_ray.search.own_cluster import address_ahead, started_ahead

RAY = """
import json, os, pathlib, sys, time, types
def init(**given):
    pathlib.Path(__file__).with_name("given.json").write_text(json.dumps({**given, "pid": os.getpid()}))
    exec(os.environ.get("THEN", ""))
    print("a line of Ray's processes", flush=True)
    return types.SimpleNamespace(address_info={"gcs_address": "127.0.0.1:4321"})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package that stands for Ray, and is found before it."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/__init__.py").write_text(RAY)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "ray"


def given(folder: Path) -> dict[str, object]:
    """What `ray.init` was given."""
    until = time.monotonic() + 30
    while not (file := folder / "given.json").exists() or not file.read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    return dict(json.loads(file.read_text()))


def runs(pid: object) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_its_address_is_waited_for_and_it_ends_with_the_context(folder):
    with started_ahead():
        assert [address_ahead(), address_ahead()] == ["127.0.0.1:4321"] * 2
        asked = given(folder)
        assert runs(asked["pid"])
    assert not runs(asked["pid"])
    assert asked["address"] == "local"
    assert asked["num_cpus"] == own_cluster.usable_cpus()
    assert (asked["dashboard_host"], asked["log_to_driver"]) == ("127.0.0.1", False)
    assert address_ahead() is None


def test_what_ray_sends_to_the_children_of_a_process_that_leaves_does_not_end_it(folder):
    with started_ahead():
        address_ahead()
        pid = given(folder)["pid"]
        os.kill(int(str(pid)), signal.SIGTERM)
        time.sleep(0.3)
        assert runs(pid)


def test_one_that_fails_leaves_the_start_to_this_process_and_the_log_says_why(folder, monkeypatch, caplog):
    monkeypatch.setenv("THEN", "raise ValueError('no room for shared memory')")
    with started_ahead():
        assert address_ahead() is None
    assert caplog.messages == [
        "Ray did not start ahead, it is started again: ValueError: no room for shared memory",
    ]


def test_one_that_dies_without_a_word_does_too(folder, monkeypatch, caplog):
    monkeypatch.setenv("THEN", "os.kill(os.getpid(), 9)")
    with started_ahead():
        assert address_ahead() is None
    assert caplog.messages == ["Ray did not start ahead, it is started again: its process ended with -9"]


def test_one_that_nobody_wants_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setenv("THEN", "time.sleep(600)")
    before = time.monotonic()
    with started_ahead():
        pid = given(folder)["pid"]
    assert not runs(pid)
    assert time.monotonic() - before < own_cluster.CLOSING_S


def test_without_room_for_a_process_there_is_none(monkeypatch, caplog):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with started_ahead():
        assert address_ahead() is None
    assert caplog.messages == ["Ray is not started ahead: no more processes"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_ends_with_the_process_that_began_it_however_that_ends(folder):
    code = (
        "from nic_ray.search.own_cluster import *\nwith started_ahead():\n"
        "    print(address_ahead(), flush=True)\n    input()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "127.0.0.1:4321\n"
    pid = given(folder)["pid"]
    assert runs(pid)
    process.kill()
    process.communicate()
    until = time.monotonic() + 30
    while runs(pid):
        assert time.monotonic() < until
        time.sleep(0.05)
