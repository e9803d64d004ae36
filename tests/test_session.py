"""What Ray needs is tried before anything is read: real folders, users, sockets and commands."""

import contextlib
import http.server
import logging
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nic_ray.errors import InputError, RunError
from nic_ray.progress import View
from nic_ray.search import session
from nic_ray.search.session import ray_session, refuse_what_ray_cannot_use

ROOT = Path(__file__).parent.parent
NAMES = ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME", "LOGNAME", "USER")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user with a home, and nothing that tells Ray where to go."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def short() -> Iterator[Path]:
    """A new folder with a short path that every user can write."""
    folder = Path(tempfile.mkdtemp(prefix="nr", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_is_refused_when_ray_would_refuse_the_sockets_in_it(monkeypatch, short, name):
    utils = pytest.importorskip("ray._private.utils")
    refused = []
    for length in range(30, 50):
        place = str(short) + "/" + "x" * (length - len(str(short)) - 1)
        monkeypatch.setenv(name, place)
        session = f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
        try:
            utils.validate_socket_filepath(f"{place}/ray/{session}/sockets/plasma_store")
        except OSError:
            with pytest.raises(InputError, match=rf"^{name}={place}: too long for Ray, .* set RAY_TMPDIR to a shorter"):
                refuse_what_ray_cannot_use()
            refused.append(length)
        else:
            refuse_what_ray_cannot_use()
    assert 0 < len(refused) < 20


def test_rays_own_temporary_folder_counts_before_the_systems(monkeypatch, short):
    monkeypatch.setenv("TMPDIR", str(short / ("x" * 100)))
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    refuse_what_ray_cannot_use()


@pytest.mark.parametrize(
    ("place", "fault"),
    [("/proc", "cannot keep its files there"), ("near", "an absolute folder"), ("/tmp/é", "plain ASCII")],
)
def test_a_temporary_folder_that_is_of_no_use_is_refused(monkeypatch, place, fault):
    monkeypatch.setenv("RAY_TMPDIR", place)
    with pytest.raises(InputError, match=rf"RAY_TMPDIR={place}: .*{fault}.*set RAY_TMPDIR to a folder"):
        refuse_what_ray_cannot_use()


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_an_empty_name_of_the_temporary_folder_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "")
    with pytest.raises(InputError, match=rf"^{name} is set and empty: .*unset it, or set RAY_TMPDIR to a folder"):
        refuse_what_ray_cannot_use()


def test_a_full_temporary_folder_is_refused(monkeypatch, short):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(short)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(short))
        with pytest.raises(InputError, match=r"No space left on device.*set RAY_TMPDIR"):
            refuse_what_ray_cannot_use()
    finally:
        subprocess.run(["umount", str(short)], check=True)


@pytest.mark.parametrize("content", [None, "0123"])
def test_a_home_that_has_a_token_or_can_take_one_is_enough(monkeypatch, short, content):
    monkeypatch.setenv("HOME", str(short / "new"))
    if content:
        (short / "new" / ".ray").mkdir(parents=True)
        (short / "new" / ".ray" / "auth_token").write_text(content)
    refuse_what_ray_cannot_use()


def test_a_home_that_can_keep_no_token_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/none")
    with pytest.raises(InputError, match=r"^/proc/none/\.ray/auth_token: cannot be used \(.*; set HOME to a folder"):
        refuse_what_ray_cannot_use()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a secret")  # a home is not asked for any more
    refuse_what_ray_cannot_use()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match=r"^RAY_AUTH_TOKEN_PATH=.*token: cannot be read \(No such file"):
        refuse_what_ray_cannot_use()
    (tmp_path / "token").write_text("a secret")
    refuse_what_ray_cannot_use()


class Web(http.server.BaseHTTPRequestHandler):
    """Knows no page, and says nothing of it."""

    def log_message(self, *_: object) -> None:
        pass


class HangsUp(socketserver.BaseRequestHandler):
    """Says nothing."""


@contextlib.contextmanager
def served(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def listening(*, answers: bool) -> Iterator[str]:
    """An address where connections are taken, or no longer are, and nothing is ever said."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        if answers:
            listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def other_service() -> Iterator[str]:
    """A gRPC server that is not Ray's."""
    grpc = pytest.importorskip("grpc")
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("[::]:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.mark.parametrize("prefix", ["", "ray://"])
@pytest.mark.parametrize(
    "place",
    [
        lambda: listening(answers=False),
        lambda: listening(answers=True),
        lambda: served(Web),
        lambda: served(HangsUp),
        lambda: contextlib.nullcontext("no-such-host.invalid:6379"),
        lambda: contextlib.nullcontext("127.0.0.1:99999"),
        lambda: contextlib.nullcontext("127.0.0.1:port"),
        lambda: contextlib.nullcontext("nonsense"),
    ],
    ids=["no one", "says nothing", "web server", "hangs up", "no such host", "no port", "no number", "no address"],
)  # fmt: skip
def test_where_no_ray_answers_no_cluster_is_joined_and_nobody_waits(monkeypatch, place, prefix):
    with place() as address:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a secret")
        monkeypatch.setenv("RAY_ADDRESS", prefix + address)
        monkeypatch.setattr(session, "ANSWER_S", 2.0)
        since = time.monotonic()
        with pytest.raises(InputError, match=r"^RAY_ADDRESS=.*: no Ray cluster can be joined there \(.+\); unset it"):
            refuse_what_ray_cannot_use()
        assert time.monotonic() - since < 10


@pytest.mark.parametrize("address", [":6379", "ray://:10001"])
def test_an_address_without_a_host_is_refused_and_ray_logs_nothing(monkeypatch, caplog, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with caplog.at_level(logging.ERROR), pytest.raises(InputError, match="it names no host"):
        refuse_what_ray_cannot_use()
    assert not caplog.records


def test_another_service_than_ray_is_refused(monkeypatch):
    with other_service() as address:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a secret")
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match=r"does not answer as Ray does: unimplemented"):
            refuse_what_ray_cannot_use()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:6379", "no such://place"])
def test_a_kind_of_address_that_ray_does_not_know_is_refused(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=r"no Ray cluster can be joined there \(there is no .*want host:port"):
        refuse_what_ray_cannot_use()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://ray.example.org"])
def test_the_address_for_jobs_is_told_from_that_of_a_cluster(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=rf"^RAY_ADDRESS={address}: is where jobs are submitted, .*ray job submit"):
        refuse_what_ray_cannot_use()


def tune(short: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command of a search whose pairs do not exist, so that whatever else it says, it has said before it read."""
    own = {name: value for name, value in os.environ.items() if name not in NAMES}
    places = ["--data", "missing.jsonl", "--out", str(short / "models"), "--run-dir", str(short / "runs")]
    return subprocess.run(
        [sys.executable, "-m", "nic_ray.tune", str(ROOT / "tune_configs" / "smoke.yaml"), *places],
        capture_output=True, text=True, cwd=short, env=own | {"PYTHONPATH": str(ROOT)} | environment, check=False,
        timeout=100,
    )  # fmt: skip


def is_one_line_with(said: "subprocess.CompletedProcess[str]", *words: str) -> bool:
    return said.returncode == 2 and said.stderr.count("\n") == 1 and all(word in said.stderr for word in words)


def test_a_search_says_before_it_reads_that_its_temporary_folder_is_too_long(short):
    said = tune(short, HOME=str(short), TMPDIR=str(short / ("slurm" * 20)))
    assert is_one_line_with(said, "error: TMPDIR=", "set RAY_TMPDIR"), said.stderr


def test_a_search_says_before_it_reads_that_a_cluster_is_gone(short):
    with listening(answers=True) as address:
        said = tune(short, HOME=str(short), RAY_ADDRESS=address, RAY_AUTH_TOKEN="a secret")
    assert is_one_line_with(said, f"error: RAY_ADDRESS={address}: no Ray cluster", "unset it"), said.stderr


TRIES = """
from nic_ray.errors import InputError
from nic_ray.search.session import refuse_what_ray_cannot_use
try:
    refuse_what_ray_cannot_use()
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(bool(os.getuid()) or not shutil.which("setpriv"), reason="needs root, to become somebody else")
@pytest.mark.parametrize(
    ("home", "fault"),
    [({}, "HOME is not set"), ({"HOME": "/"}, "/.ray/auth_token"), ({"HOME": "/nonexistent"}, "/nonexistent/.ray")],
)
def test_a_user_without_an_entry_and_without_a_home_is_told_to_set_one(short, home, fault):
    # who may read the interpreter wherever it lies, and write no more than anybody else
    rights = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    stranger = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *rights, "--"]
    own = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = own | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(short)} | home
    command = [*stranger, sys.executable, "-c", TRIES]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=short, check=True)
    assert said.stdout.startswith(fault)
    assert "set HOME to a folder that can be written" in said.stdout


def test_whatever_else_keeps_ray_from_starting_takes_one_line_and_is_logged(monkeypatch, caplog):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def init(**_: object) -> None:
        raise ValueError("the raylet\n  has died")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)
    with pytest.raises(RunError) as found, ray_session(View()):
        pass
    assert str(found.value).startswith("Ray does not start (ValueError: the raylet has died); search.log")
    assert "Traceback" in caplog.text


def test_a_cluster_of_our_own_counts_the_cpus_that_this_process_may_use(monkeypatch):
    ray = pytest.importorskip("ray")
    asked = []

    def init(**given: object) -> None:
        asked.append(given["num_cpus"])
        raise ValueError("far enough")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr("nic_ray.search.own_cluster.usable_cpus", lambda: 3)
    with pytest.raises(RunError, match="far enough"), ray_session(View()):
        pass
    assert asked == [3]


@pytest.mark.ray
def test_under_taskset_ray_starts_with_one_cpu_and_trials_run_one_at_a_time():
    code = """
from nic_ray.config import Config
from nic_ray.progress import View
from nic_ray.search.session import ray_session
with ray_session(View()):
    from nic_ray.search.cluster import placement_on_cluster
    print(placement_on_cluster(Config()))
"""
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    assert "concurrent=1, threads=1," in done.stdout


def test_a_handler_that_ray_adds_when_it_is_imported_is_taken_away(monkeypatch):
    added = logging.NullHandler()
    monkeypatch.setattr(session, "refuse_unknown_ray", lambda: logging.getLogger("ray").addHandler(added))
    before = logging.getLogger("ray").handlers[:]
    session.import_ray()
    assert logging.getLogger("ray").handlers == before
