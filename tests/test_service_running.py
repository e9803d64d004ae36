"""The command's part of a service, without Ray: what is refused before a start, reloads, and the token."""

import contextlib
import os
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
        assert [version.reload for version in deployed] == [1]
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
