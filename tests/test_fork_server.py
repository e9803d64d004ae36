"""Worker processes as forks: what they are given, how they end, and what happens where they cannot be forked."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nic_ray.search import fork_launch, fork_server
from nic_ray.search.fork_server import forking

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks only where Linux is")

WORKER = """
import json, os, sys, signal
said = {
    "pid": os.getpid(), "parent": os.getppid(), "folder": os.getcwd(), "arguments": sys.argv[1:],
    "environment": dict(os.environ), "main": __name__, "imported": "decimal" in sys.modules,
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "drawn": __import__("numpy").random.random(),
}
print(json.dumps(said), flush=True)
exec(os.environ.get("THEN", ""))
"""
SETUP = "print('Ray has started it by itself', flush=True)"

Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts the launcher as Ray does; a program that says what it is stands for Ray's worker."""
    (tmp_path / "default_worker.py").write_text(WORKER)
    (tmp_path / "setup_worker.py").write_text(SETUP)
    started: list[subprocess.Popen[str]] = []

    def launch(*arguments: str, context: dict[str, object] | None = None, **environment: str) -> subprocess.Popen[str]:
        given = [] if context is None else [f"--serialized-runtime-env-context={json.dumps(context)}"]
        program = [str(tmp_path / "default_worker.py"), *arguments, *given, "--language=PYTHON"]
        process = subprocess.Popen(
            [sys.executable, fork_launch.__file__, *program],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def said(process: "subprocess.Popen[str]") -> dict[str, object]:
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def is_gone(pid: int) -> bool:
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.05)
    return False


def test_a_fork_is_the_process_that_was_asked_for_and_has_what_the_server_imported(launch, tmp_path):
    with forking(["decimal"]):
        process = launch("--node=1", context={"env_vars": {"A": "${B}b${MISSING}"}}, B="a")
        found = said(process)
    assert found["pid"] != process.pid != found["parent"]
    assert found["folder"] == str(tmp_path)
    assert found["arguments"] == ["--node=1"]
    assert found["main"] == "__main__"
    assert found["imported"]
    assert found["blocked"] == []
    assert found["environment"]["A"] == "ab"
    assert process.wait() == 0


def test_forks_share_nothing_that_changes(launch):
    with forking(["decimal"]):
        first, second = said(launch(THEN="import decimal; decimal.MINE = 1")), said(launch(THEN=""))
        third = launch(THEN="import decimal; print(hasattr(decimal, 'MINE'))")
        said(third)
        assert third.stdout.read() == "False\n"
    assert first["drawn"] != second["drawn"]


@pytest.mark.parametrize(
    ("then", "code"),
    [("", 0), ("sys.exit(3)", 3), ("raise ValueError", 1), ("os.kill(os.getpid(), signal.SIGKILL)", 137)],
)
def test_the_launcher_ends_as_the_fork_does(launch, then, code, capfd):
    with forking(["decimal"]):
        assert launch(THEN=then).wait(30) == code


def test_a_fork_whose_launcher_is_killed_ends_and_the_others_do_not(launch):
    waits = "sys.stdin.readline(); __import__('time').sleep(60)"
    with forking(["decimal"]):
        one, other = launch(THEN=waits), launch(THEN="__import__('time').sleep(2)")
        pid, _ = said(one)["pid"], said(other)
        one.kill()
        assert is_gone(pid)
        assert other.wait(30) == 0


def test_forks_outlive_a_server_that_is_killed_and_their_launchers_wait_for_them(launch):
    with forking(["decimal"]):
        process = launch(THEN="__import__('time').sleep(2)")
        found = said(process)
        assert fork_server.why_ended() is None
        os.kill(found["parent"], signal.SIGKILL)
        assert process.poll() is None
        assert not is_gone(found["pid"]) or process.wait(30) == 1
        assert process.wait(30) == 1
        assert launch().communicate()[0] == "Ray has started it by itself\n"
        assert "refused" in fork_server.why_ended()
    assert fork_server.why_ended() is None


def test_a_process_that_has_ended_and_that_nobody_has_asked_about_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert fork_launch._is_alive(process.pid)
    process.stdin.close()
    assert is_gone(process.pid)
    assert not fork_launch._is_alive(process.pid)
    process.wait()
    assert not fork_launch._is_alive(process.pid)


def test_without_a_server_ray_starts_its_processes_by_itself(launch, tmp_path):
    assert launch().communicate()[0] == "Ray has started it by itself\n"
    nowhere = str(tmp_path / "nowhere")
    assert launch(NIC_RAY_FORK_SERVER=nowhere).communicate()[0] == "Ray has started it by itself\n"


def test_a_server_whose_imports_fail_leaves_the_processes_to_ray_and_says_why(launch):
    with forking(["no_such_module"]):
        assert launch().communicate()[0] == "Ray has started it by itself\n"
        time.sleep(0.1)
        assert fork_server.why_ended() == "ModuleNotFoundError: No module named 'no_such_module'"


def test_what_is_no_request_and_a_process_too_many_are_declined_and_the_server_goes_on(launch, monkeypatch, tmp_path):
    (tmp_path / "full.py").write_text(
        "import errno, os\nfork, left = os.fork, [1]\n"
        "def once():\n    if left: left.pop(); raise OSError(errno.EAGAIN, 'no more processes')\n    return fork()\n"
        "os.fork = once\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with forking(["full"]):
        for content in (b"", b"\0\0\0\0", b"\0\0\0\1x"):
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(os.environ[fork_launch.ADDRESS])
                other.sendall(content)
        assert launch().communicate()[0] == "Ray has started it by itself\n"
        assert said(launch())["parent"] != os.getpid()
        assert fork_server.why_ended() is None


def test_a_server_that_another_process_has_left_in_the_environment_is_not_ours(launch, monkeypatch):
    monkeypatch.setenv(fork_launch.ADDRESS, "/tmp/nic_ray-1-abc/forks")
    assert not fork_server.is_forking()
    with forking(["decimal"]):
        assert fork_server.is_forking()
        assert said(launch())["imported"]
        with forking(["no_such_module"]):  # within another one, it does nothing
            assert said(launch())["imported"]
    assert os.environ[fork_launch.ADDRESS] == "/tmp/nic_ray-1-abc/forks"


@pytest.mark.parametrize("place", ["missing", "file", "a" * 100])
def test_a_folder_that_ray_will_refuse_is_no_fault_before(launch, monkeypatch, place, caplog, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / ("a" * 100)).mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / place))
    with forking(["decimal"]):
        assert not fork_server.is_forking()
        assert launch().communicate()[0] == "Ray has started it by itself\n"
    assert not caplog.messages


@pytest.mark.parametrize(
    "context", [{"py_executable": "uv run python"}, {"command_prefix": ["cd", "/"]}, {"java_jars": ["a.jar"]}]
)
def test_an_environment_that_wants_another_program_is_left_to_ray(launch, context):
    with forking(["decimal"]):
        assert launch(context=context).communicate()[0] == "Ray has started it by itself\n"


def test_a_server_ends_with_what_it_was_for_and_leaves_nothing_behind(launch):
    with forking(["decimal"]):
        address = os.environ[fork_launch.ADDRESS]
        found = said(launch())
    assert fork_launch.ADDRESS not in os.environ
    assert is_gone(found["parent"])
    assert not Path(address).parent.exists()


def test_a_socket_whose_path_would_be_too_long_lies_where_ray_keeps_its_own(launch, tmp_path, monkeypatch):
    long = tmp_path / ("a" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with forking(["decimal"]):
        assert launch().wait(30) == 0
        assert fork_launch.ADDRESS in os.environ


def test_other_threads_at_a_fork_are_no_error_where_warnings_are(monkeypatch):
    def fork():
        warnings.warn("This process is multi-threaded, fork() may deadlock", DeprecationWarning, stacklevel=1)
        return 1

    monkeypatch.setattr("os.fork", fork)
    assert fork_server._fork() == 1


def test_a_server_that_still_imports_is_not_waited_for(tmp_path, monkeypatch, caplog):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    killed = []
    kill = subprocess.Popen.kill
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: killed.append(process) or kill(process))
    with forking(["slow"]):
        pass
    assert not killed  # as it would be after CLOSING_S
    assert not caplog.messages


def test_processes_of_other_jobs_and_of_none_are_left_to_ray(launch):
    with forking(["decimal"]):
        assert launch(RAY_JOB_ID="ffffffff").communicate()[0] == "Ray has started it by itself\n"
        for _ in range(2):
            assert said(launch(RAY_JOB_ID="one"))["imported"]
        assert launch(RAY_JOB_ID="two").communicate()[0] == "Ray has started it by itself\n"


def test_ray_is_not_imported_before_a_fork():
    # forks of a process with Ray draw the same random ids, and a trial of several workers then waits for ever
    code = (
        "import importlib, sys; from nic_ray.search.fork_server import MODULES; "
        "[importlib.import_module(module) for module in MODULES]; print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
