"""The command's part of a service, without Ray: what is refused before a start, reloads, and the token."""

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from nic_ray.errors import InputError, RunError
from nic_ray.service import command, running
from nic_ray.service.running import Place, checked
from nic_ray.service.settings import Settings, Version


def never():
    return False


@pytest.mark.parametrize(
    ("place", "settings", "said"),
    [
        (Place("0.0.0.0", 0), {}, "--host 0.0.0.0: other machines could use the service without a token"),
        (Place("", 0), {}, "other machines could use the service without a token"),
        (Place("a" * 300, 0), {"token_sha256": "ab"}, "cannot be listened on"),
        (Place(port=0, replicas=1000), {}, "--replicas 1000: each has a CPU, and there are"),
        (Place(port=0), {"corpus": ("missing.jsonl",)}, "--corpus missing.jsonl: no such file or folder"),
        (Place(port=0), {"log_queries": "/missing/folder/queries.jsonl"}, "--log-queries .*: cannot be written"),
        (Place(port=0), {"log_queries": "/"}, "--log-queries /: cannot be written"),
        (Place(port=0), {}, "or name a base model to serve in its place with --fallback"),
    ],
)
def test_what_cannot_be_served_is_refused_before_ray_is_started(tmp_path, monkeypatch, place, settings, said):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=said):
        checked(tmp_path / "missing", Settings(**settings), place)


@pytest.fixture
def reload_with(monkeypatch, tmp_path):
    """Reload with a service that gives some answers to /version, the last one from then on."""
    monkeypatch.setattr(running, "_version_at", lambda folder, number: Version(bundle=str(folder), reload=number))
    monkeypatch.setattr(running.time, "sleep", lambda _: None)

    def reload_with(answers, given_up=never):
        answers, deployed = list(answers), []

        def served():
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return {"weights_sha256": "ab" * 32, "refused": None} | answer

        reload = running._reloader(Version(bundle="folder"), deployed.append, served)
        said = reload(given_up)
        # a version that was refused is not what replicas load that are started later
        assert [version.reload for version in deployed] == ([1, 0] if said.startswith("not reloaded") else [1])
        return said

    return reload_with


def test_a_reload_waits_until_the_new_version_answers(reload_with):
    assert reload_with([{"reload": 0}, OSError("busy"), ValueError("no JSON"), {"reload": 1}]) == (
        f"reloaded folder: weights {'ab' * 8}"
    )


def test_a_version_that_a_replica_refuses_is_told_at_once_with_the_reason(reload_with):
    refused = {"reload": 0, "refused": {"reload": 1, "reason": "other vectors"}}
    assert reload_with([{"reload": 0}, refused]) == "not reloaded, the version that was served stays: other vectors"


def test_a_service_that_is_to_end_waits_for_no_reload(reload_with):
    asked = []
    assert reload_with([{"reload": 0}], lambda: asked.append(0) or len(asked) > 3) == "folder was being loaded"


def test_a_start_waits_until_the_proxy_knows_of_the_replica(monkeypatch):
    answers = [OSError("404"), OSError("503"), {}]

    def served():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    running._await_answer(served)
    assert answers == []
    monkeypatch.setattr(running, "ROUTED_S", -1.0)
    answers[:] = [OSError("404")]
    with pytest.raises(RunError, match="does not answer: 404"):
        running._await_answer(served)


def test_rays_processes_do_not_inherit_the_token(monkeypatch, tmp_path):
    seen = {}

    @contextlib.contextmanager
    def service(bundle, settings, place, progress):
        seen.update(os.environ)
        assert place.token == "a-secret"
        raise RunError("as far as it goes")
        yield SimpleNamespace()

    monkeypatch.setattr(command, "service", service)
    monkeypatch.setenv("NIC_RAY_SERVE_TOKEN", "a-secret")
    with pytest.raises(RunError, match="as far"):
        command.run(tmp_path, Settings(), host="127.0.0.1", port=8000, replicas="1")
    assert "a-secret" not in seen.values()


@pytest.mark.parametrize(
    ("applications", "proxies", "token", "said"),
    [
        ({"nic_ray": ...}, {"node": ...}, "ab" * 32, "serves a model already"),
        ({"other": ...}, {"node": ...}, None, "whatever --host is; set the environment variable NIC_RAY_SERVE_TOKEN"),
        ({"other": ...}, {"node": ...}, "ab" * 32, None),
        ({}, {}, None, None),
    ],
)
def test_a_cluster_whose_serve_listens_elsewhere_wants_a_token(applications, proxies, token, said):
    status = SimpleNamespace(applications=applications, proxies=proxies)
    with pytest.raises(InputError, match=said) if said else contextlib.nullcontext():
        running._refuse_other_service("nic_ray", status, Settings(token_sha256=token))


def test_what_is_served_stays_as_it_was_verified_whatever_is_exported_to_its_place(tmp_path):
    for name in ("tuned", "tuned-int8"):
        (tmp_path / name / "anomaly").mkdir(parents=True)
        (tmp_path / name / "model.onnx").write_text(name)
    version = Version(bundle=str(tmp_path / "tuned"), weights_sha256="ab", reload=3)
    kept = running._kept(version, tmp_path / "versions")
    (tmp_path / "tuned").rename(tmp_path / "old")
    (tmp_path / "tuned").mkdir()
    assert kept.model_dump() == version.model_dump() | {"bundle": str(tmp_path / "versions" / "3" / "tuned")}
    assert (tmp_path / "versions" / "3" / "tuned" / "model.onnx").read_text() == "tuned"
    assert (tmp_path / "versions" / "3" / "tuned-int8" / "model.onnx").read_text() == "tuned-int8"
    assert running._kept(version, tmp_path / "versions") == kept


def test_a_bundle_that_is_not_sound_is_not_kept(tmp_path):
    version = Version(bundle=str(tmp_path / "missing"))
    assert running._kept(version, tmp_path / "versions") == version


def test_files_on_another_disk_are_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("another device")))
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "a").write_text("content")
    kept = running._kept(Version(bundle=str(tmp_path / "tuned"), weights_sha256="ab"), tmp_path / "versions")
    assert (Path(kept.bundle) / "a").read_text() == "content"
