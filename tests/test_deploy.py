"""The files in deploy/: accepted by what reads them, and with commands that exist."""

import importlib
import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml

from nic_ray.config_file import load_config
from nic_ray.errors import InputError
from nic_ray.service.settings import Described, Version

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


def serve_configurations():
    own = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text(encoding="utf-8"))
    service = yaml.safe_load((ROOT / "deploy" / "rayservice.yaml").read_text(encoding="utf-8"))
    return [own, yaml.safe_load(service["spec"]["serveConfigV2"])]


@pytest.mark.parametrize("number", [0, 1])
def test_a_serve_configuration_starts_our_service_with_settings_that_exist(number):
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(serve_configurations()[number]).applications
    module, _, name = application.import_path.partition(":")
    assert (module, name) == ("nic_ray.service.deployment", "application_of")
    assert callable(getattr(importlib.import_module(module), name))
    Described.model_validate(application.args)
    (deployment,) = application.deployments
    assert deployment.name == "embeddings"
    assert Version.model_validate(deployment.user_config).bundle.endswith("/models/nic-embeddings-v1.0")


def test_a_serve_configuration_without_a_token_is_refused(monkeypatch):
    from nic_ray.service.deployment import application_of

    monkeypatch.delenv("NIC_RAY_SERVE_TOKEN_SHA256", raising=False)
    with pytest.raises(InputError, match="NIC_RAY_SERVE_TOKEN_SHA256"):
        application_of({"threads": 2})
    for wrong in (f"{'ab' * 32}  -", "the-token-itself"):  # the first as sha256sum prints it
        monkeypatch.setenv("NIC_RAY_SERVE_TOKEN_SHA256", wrong)
        with pytest.raises(InputError, match="holds no SHA-256") as told:
            application_of({})
        assert wrong not in str(told.value)
    with pytest.raises(InputError, match=r"args: .*threads"):
        application_of({"threads": 0})
    monkeypatch.setenv("NIC_RAY_SERVE_TOKEN_SHA256", "ab" * 32)
    assert application_of({"threads": 2, "corpus": ["pairs.jsonl"]})


def test_the_service_has_a_cluster_of_our_ray_with_tokens():
    service = yaml.safe_load((ROOT / "deploy" / "rayservice.yaml").read_text(encoding="utf-8"))
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert cluster["authOptions"] == {"mode": "token"}
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:  # the application is built on any of them
        (container,) = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "<SECRET>"}}]
    (deployment,) = serve_configurations()[1]["applications"][0]["deployments"]
    workers = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert deployment["ray_actor_options"]["num_cpus"] < int(
        workers["resources"]["limits"]["cpu"]
    )  # a proxy runs beside each replica
