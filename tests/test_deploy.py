"""The files in deploy/: accepted by what reads them, and with commands that exist."""

import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml

from nic_ray.config_file import load_config

ROOT = Path(__file__).parent.parent


@pytest.fixture
def job():
    return yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))


def test_the_cluster_is_one_that_the_launcher_takes():
    cluster = yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text(encoding="utf-8"))
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    for command in (line for line in starts if "ray start" in line):
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][1]


def test_the_job_runs_a_search_that_exists(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "nic_ray.tune"]
    load_config(ROOT / words[3])
    assert words[words.index("--storage") + 1].startswith("s3://")


def test_the_job_has_a_cluster_of_our_ray_with_tokens(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert set(container) >= {"name", "image", "resources"}
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["working_dir"]
