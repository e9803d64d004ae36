"""Searches where a cluster is not made by the search itself: a submitted job, nodes that die, storage by URI."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nic_ray.bundle.files import find_faults, read_metadata
from nic_ray.record import read_ended
from tests.searches import settings

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def free_ports(count: int) -> list[int]:
    # below the range from which Ray gives its workers theirs
    found: list[int] = []
    for port in range(7100, 9900):
        with socket.socket() as tried:
            if len(found) < count and tried.connect_ex(("127.0.0.1", port)):
                found.append(port)
    return found


def processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def head() -> Iterator[str]:
    """The address of the dashboard of a local cluster of two CPUs."""
    folder = tempfile.mkdtemp(prefix="nr")  # a short path: Ray puts sockets into it
    gcs, dashboard, agent, grpc, metrics, client = free_ports(6)
    subprocess.run(
        [*RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2",
         "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
         f"--dashboard-agent-grpc-port={grpc}", f"--metrics-export-port={metrics}",
         f"--ray-client-server-port={client}", "--disable-usage-stats", f"--temp-dir={folder}"],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_TRAIN_ENABLE_STATE_TRACKING": "1"},
        check=True, capture_output=True,
    )  # fmt: skip
    yield f"http://127.0.0.1:{dashboard}"
    for kind, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        for pid in processes_with(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, kind)
        deadline = time.monotonic() + patience
        while processes_with(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_job_trains_with_two_workers_and_keeps_what_it_found(tiny_model, tiny_pairs_file, tmp_path, head):
    job = tmp_path / "job"
    job.mkdir()
    (job / "config.yaml").write_text(
        json.dumps(settings(tiny_model(layers=3), tiny_pairs_file, trials=1, resources={"workers": 2}))
    )

    def submit(*options: object) -> subprocess.CompletedProcess[str]:
        entry = [sys.executable, "-m", "nic_ray.tune", "config.yaml", "--export-anyway", "--name", "tiny", *options]
        return subprocess.run(
            [*RAY, "job", "submit", "--address", head, "--working-dir", str(job), "--", *map(str, entry)],
            capture_output=True, text=True, env=os.environ | {"RAY_AUTH_MODE": "token"}, check=False,
        )  # fmt: skip

    refused = submit()
    assert refused.returncode != 0
    assert "the working folder of a Ray job is deleted after it" in refused.stdout + refused.stderr

    done = submit("--storage", tmp_path / "shared")
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = tmp_path / "shared" / "models" / "tiny"
    assert find_faults(bundle) == []
    assert read_metadata(bundle)["results"]["test"]
    (run,) = (path for path in (tmp_path / "shared" / "runs").iterdir() if not path.name.startswith("."))
    assert {row["error"] for row in read_ended(run).values()} == {""}
    assert "with 2 worker(s)" in done.stdout


ON_TWO_NODES = """
import json, os, sys
from pathlib import Path
from nic_ray.config import Config
from nic_ray.progress import Lines
from nic_ray.search.session import RAY_SWITCHES
from nic_ray.search.search import run_search
for name, value in RAY_SWITCHES.items():
    os.environ.setdefault(name, value)
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors
cluster = None
nodes = []
lost = []
def say(line):
    print(line, flush=True)
    if line.startswith("trial-001: epoch 2.00") and not lost:
        lost.append(line)
        actors = list_actors(ray.get_runtime_context().gcs_address, detail=True)
        its = next(each.node_id for each in actors if each.repr_name == "trial-001")
        cluster.remove_node(next(node for node in nodes if node.node_id == its), allow_graceful=False)
def main(place, port):
    global cluster
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes.extend(cluster.add_node(num_cpus=1) for _ in range(2))
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        run_search(Config.model_validate(json.loads((place / "config.json").read_text())), out=place / "models",
                   name="tiny", run_root=place / "runs", overwrite=False, export_anyway=True, view=Lines(say))
        ray.shutdown()
    finally:
        cluster.shutdown()
    assert lost
if __name__ == "__main__":
    import on_two_nodes
    on_two_nodes.main(Path(sys.argv[1]), int(sys.argv[2]))
"""


def test_a_lost_node_loses_no_trial(tiny_model, tiny_pairs_file, tmp_path):
    sections = settings(
        tiny_model(layers=3),
        tiny_pairs_file,
        trials=3,
        train={"epochs": 30},  # long enough to lose its node in the middle
        search={"grace_period": 30},
    )
    (tmp_path / "config.json").write_text(json.dumps(sections))
    (tmp_path / "on_two_nodes.py").write_text(ON_TWO_NODES)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-m", "on_two_nodes", str(tmp_path), *map(str, free_ports(1))],
        capture_output=True, text=True, env=environment, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (run,) = (path for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))
    assert [row["status"] for row in read_ended(run).values()] == ["finished"] * 3
    assert "it goes on from its last checkpoint" in done.stdout


def test_a_trial_that_loses_its_node_twice_is_not_lost_and_trials_are_spread_over_the_nodes():
    # the short form of what benchmarks/cluster_nodes.py does with ten nodes and 200 trials
    program, nodes, trials = ROOT / "benchmarks" / "cluster_nodes.py", 4, 12
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, program, "--nodes", str(nodes), "--cpus", "1", "--trials", str(trials), "--json"],
        capture_output=True, text=True, env=environment | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["finished"], found["lost"], found["errors"]) == (trials, 0, [])
    assert (found["killed"], found["started again"]) == (2, 2)  # more often than a trial that dies may try again
    assert found["reasons"] == ["its node does not answer any more"]
    assert len(found["per node"]) == nodes - 2
    assert min(found["per node"]) >= trials // nodes - 1


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URI in an S3 that runs in this process."""
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    yield f"s3://bucket/nic_ray?{options}"
    server.stop()


def test_a_search_whose_driver_is_lost_with_its_disk_goes_on_from_s3(tiny_model, tiny_pairs_file, tmp_path, bucket):
    sections = settings(
        tiny_model(layers=3), tiny_pairs_file, trials=3, train={"epochs": 8}, search={"grace_period": 8}
    )
    (tmp_path / "config.yaml").write_text(json.dumps(sections))

    def start(place: Path, *options: object) -> subprocess.Popen[str]:
        place.mkdir()
        with (place / "log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "nic_ray.tune", *map(str, options), "--export-anyway"],
                stdout=log, stderr=subprocess.STDOUT, text=True, cwd=place,
            )  # fmt: skip

    first = start(tmp_path / "first", tmp_path / "config.yaml", "--storage", bucket, "--name", "tiny")
    log = tmp_path / "first" / "log"
    deadline = time.monotonic() + 240
    while " finished (1 of" not in log.read_text():
        assert first.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    time.sleep(2)
    first.kill()
    first.wait()
    (run,) = (path for path in (tmp_path / "first" / "runs").iterdir() if not path.name.startswith("."))
    before = read_ended(run)
    shutil.rmtree(tmp_path / "first" / "runs")
    address, _, options = bucket.partition("?")

    second = start(tmp_path / "second", "--resume", f"{address}/runs/{run.name}?{options}")
    assert second.wait() == 0, (tmp_path / "second" / "log").read_text()
    again = read_ended(tmp_path / "second" / "runs" / run.name)
    assert {name: again[name] for name in before} == before
    assert len(again) == 3
    assert re.search(r"[12] of 3 trials are done", (tmp_path / "second" / "log").read_text())
    from nic_ray.remote import mirror_at, pull

    pull(mirror_at(bucket) / "models" / "tiny", tmp_path / "from-s3")
    assert find_faults(tmp_path / "from-s3") == []
