"""The acceptance test: what is promised of a model is measured through its service, and what is broken is found."""

import contextlib
import json
import shutil
import socket
import sys
import threading
import time
from dataclasses import asdict

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray import validate
from nic_ray.acceptance import flags, starting, trial
from nic_ray.acceptance.latency import Load, measured_latency
from nic_ray.acceptance.starting import serve_command, started_by
from nic_ray.bundle import files as bundles
from nic_ray.bundle import served
from nic_ray.bundle.files import file_sha256, write_bundle
from nic_ray.errors import RunError
from nic_ray.metrics.table import PRIMARY
from nic_ray.report import acceptance as report
from tests.embeddings_server import Refusal, serving

LOADS = (Load("single queries", "query", 1, 1, 4, 1), Load("batches of 4 passages", "document", 4, 2, 3, 1))
PROMPTS = {"query": "pumps radios ", "document": "replace: "}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_pairs):
    """A bundle that finds more than its base model, and the file of its pairs."""
    folder = tmp_path_factory.mktemp("accepted")
    pairs = folder / "pairs.jsonl"
    rows = [{"query": pair.query, "positive": pair.positive, "domain": pair.domain} for pair in tiny_pairs]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    metadata = {
        "name": "m",
        "base_model": str(tiny_model(layers=1)),
        "prompts": {"query": PROMPTS["query"], "passage": PROMPTS["document"]},
        "data": {"sha256": file_sha256(pairs)},
        "split": {"protocol": "unseen_passages", "seed": 3, "validation_share": 0.25, "test_share": 0.25},
    }
    model = SentenceTransformer(str(tiny_model()), device="cpu", prompts=dict(PROMPTS))
    write_bundle(folder / "m", model, metadata, training_log="")
    return folder / "m", pairs


@pytest.fixture(scope="module", autouse=True)
def _small(made):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "BACKOFF_S", 0.01)
        patch.setattr(trial, "DEFAULT_RETENTION_SET", made[1])
        patch.setattr(flags, "PER_KIND", 3)
        for name in served.KEY_NAMES:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def sound(made, _small):
    """What is found of a sound service that flags nothing."""
    return acceptance_of(made, lambda folder, fallback: service(folder, fallback, flagged=lambda query: False))


@contextlib.contextmanager
def service(folder, fallback, *, flagged=None, believes_all=False, vectors=lambda values: values):
    """As the service does: a sound model, or else the fallback, with /version and /search."""
    faults = [] if believes_all else bundles.find_faults(folder)
    if faults:
        assert fallback is not None
    model = SentenceTransformer(fallback if faults else str(folder), device="cpu")
    prompts = {} if faults else PROMPTS

    def embed(body, texts):
        prompt = prompts.get(body.get("input_type", ""), "")
        return vectors(model.encode([prompt + text for text in texts], prompt="", show_progress_bar=False))

    def search(body):
        if not body["query"].strip():
            raise Refusal(422, "query is blank")
        anomaly = None if flagged is None else {"flagged": flagged(body["query"]), "p_value": 0.5}
        return {"query": body["query"], "hits": [], "anomaly": anomaly}

    digest = bundles.read_metadata(folder)["files"]["model.safetensors"]
    version = {"name": "m", "weights_sha256": digest, "format": "torch", "fallback": bool(faults)}
    version["reason"] = "; ".join(faults) or None
    with serving(embed, version=version, search=search) as server:
        yield server.url


def acceptance_of(made, start=service, **given):
    folder, pairs = made
    return trial.validate(folder, pairs, start=start, loads=LOADS, **given)


def checks_of(found):
    return {check.name: check.passed for check in found.checks}


def test_a_sound_service_passes_and_every_part_is_measured(made, sound):
    found = sound
    # weights that were drawn at random may find less than others
    assert checks_of(found) | {"quality": None, "forgetting": None} == {
        "files": True,
        "served as exported": True,
        "hash of /version": True,
        "quality": None,
        "forgetting": None,
        "latency": True,
        "anomaly": True,
        "fallback": True,
    }
    assert [each.requests for each in found.latency] == [4, 3]
    assert found.fallback.faults == []
    assert found.fallback.version["fallback"] is True
    assert found.hashes["model.safetensors"] == file_sha256(made[0] / "model.safetensors")


def test_the_quality_is_that_of_both_models_and_their_difference(made, sound):
    quality = sound.quality
    for domain, change in quality.change[PRIMARY].items():
        tuned, base = quality.tuned[PRIMARY][domain], quality.base[PRIMARY][domain]
        assert change.difference == pytest.approx(tuned.difference - base.difference)
    assert {"recall_at_5", "mrr", "ndcg_at_10"} == set(quality.change)
    from nic_ray.bundle.comparison import compare_with_base

    compared = compare_with_base(str(made[0]), made[1], "test").results
    assert quality.tuned[PRIMARY]["macro"].difference == pytest.approx(compared["model"]["recall_at_5/macro"])
    assert quality.base[PRIMARY]["macro"].difference == pytest.approx(compared["base"]["recall_at_5/macro"])
    assert quality.base["mrr"]["macro"].difference == pytest.approx(compared["base"]["mrr/macro"])


def test_a_service_that_never_falls_back_fails(made):
    def start(folder, fallback):
        return service(folder, fallback, believes_all=True)

    found = acceptance_of(made, start)
    assert checks_of(found)["fallback"] is False
    assert any("its vectors are not those of" in fault for fault in found.fallback.faults)
    assert any("/version does not say that the fallback is served" in fault for fault in found.fallback.faults)
    assert "NOT accepted" in found.verdict


def test_a_service_that_does_not_start_with_a_damaged_model_fails(made):
    @contextlib.contextmanager
    def start(folder, fallback):
        if bundles.find_faults(folder):
            raise RunError("the service ended with code 1; it said: damaged")
        with service(folder, fallback) as url:
            yield url

    found = acceptance_of(made, start)
    assert found.fallback.faults == ["the service did not answer: the service ended with code 1; it said: damaged"]


def test_other_vectors_fail_and_nothing_is_computed_from_them(made):
    def start(folder, fallback):
        return service(folder, fallback, vectors=lambda values: values + 0.3)

    found = acceptance_of(made, start)
    assert checks_of(found)["served as exported"] is False
    assert found.quality is None
    assert "served as exported" in found.verdict


def test_another_recall_than_metadata_states_is_a_fault(made, tmp_path):
    copy = tmp_path / "m"
    shutil.copytree(made[0], copy)
    stored = json.loads((copy / "metadata.json").read_text())
    stated = {"tuned": {"recall_at_5/macro": 2.0}}
    (copy / "metadata.json").write_text(json.dumps(stored | {"results": {"test": stated}}))
    found = trial.validate(copy, made[1], start=service, loads=LOADS)
    assert any("through the endpoint, 2.0000 by metadata.json" in fault for fault in found.served.faults)
    assert checks_of(found)["served as exported"] is False


def test_the_service_itself_is_accepted(made):
    """The application that Ray serves, here without Ray."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("prometheus_client")
    import uvicorn

    from nic_ray.service.app import State, application
    from nic_ray.service.serving import load_serving
    from nic_ray.service.settings import Settings, Version
    from nic_ray.service.telemetry import Instruments

    nothing = Instruments(*[lambda *_: None] * 5, text=lambda: b"")

    @contextlib.contextmanager
    def start(folder, fallback):
        settings = Settings(corpus=(str(made[1]),), fallback=fallback, form="torch")
        serving_now = load_serving(settings, Version(bundle=str(folder)), lambda *_: None)
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            config = uvicorn.Config(application(State(settings, nothing, serving_now)), log_level="error", ws="none")
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join(10)

    found = acceptance_of(made, start)
    passed = checks_of(found)
    assert [name for name in ("files", "served as exported", "hash of /version", "fallback") if not passed[name]] == []
    assert found.served.way.name == "input_type"
    assert any(
        line.startswith("the texts as they are: refused (400: input_type: must be") for line in found.served.findings
    )
    assert found.fallback.version["served"] == bundles.read_metadata(made[0])["base_model"]


def test_a_damaged_bundle_is_not_even_started(made, tmp_path):
    copy = tmp_path / "m"
    shutil.copytree(made[0], copy)
    (copy / "config.json").write_text("{}")

    def start(folder, fallback):
        raise AssertionError("started")

    found = trial.validate(copy, made[1], start=start, loads=LOADS)
    assert [check.name for check in found.failed] == ["files"]


def test_false_alarms_are_counted_on_the_test_queries(made, sound):
    with service(made[0], None, flagged=lambda query: True) as url:
        found = acceptance_of(made, None, endpoint=url)
    for each, passed in ((sound, True), (found, False)):
        assert checks_of(each)["anomaly"] is passed
        assert each.flags.normal.share == float(not passed)
        assert each.flags.normal.queries == each.quality.queries
        kinds = {kind.kind: kind for kind in each.flags.abnormal}
        assert {"injection", "injection_inside", "near_domain", "mashed_keys"} <= set(kinds)
        assert kinds["injection"].share == float(not passed)
        assert all(kind.queries <= 3 for kind in kinds.values())


def test_with_an_endpoint_no_service_is_started_and_no_fallback_tried(made):
    with service(made[0], None) as url:
        found = acceptance_of(made, None, endpoint=url)
    assert checks_of(found)["fallback"] is None
    assert "not tried: " in found.verdict or found.failed
    assert found.url == url


def test_percentiles_are_of_the_measured_requests_alone(monkeypatch):
    clock, asked = iter(np.cumsum([1.0] * 100)), []
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))  # each reading is a second later
    found = measured_latency(Load("x", "query", 2, 1, 5, 3), lambda role, texts: asked.append(texts), ["a", "b", "c"])
    assert asked == [["a", "b"], ["c", "a"], ["b", "c"]] * 2 + [["a", "b"], ["c", "a"]]
    assert found.milliseconds == {"p50": 1000.0, "p95": 1000.0, "p99": 1000.0}
    assert found.texts_per_s == pytest.approx(10 / 11)  # five requests of two readings each, and one before them


SERVICE = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps(sys.argv[2:]).encode())
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_service_is_started_waited_for_and_ended(tmp_path):
    import httpx2

    start = started_by(lambda folder, fallback, port: [sys.executable, "-c", SERVICE, str(port), str(fallback)])
    with start(tmp_path, "base") as url:
        assert httpx2.get(f"{url}/ready", trust_env=False).json() == ["base"]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/ready", trust_env=False)


def test_a_service_that_ends_at_once_is_told_with_its_last_words(tmp_path):
    start = started_by(lambda *_: [sys.executable, "-c", "print('error: no such thing'); raise SystemExit(2)"])
    with pytest.raises(RunError, match=r"(?s)ended with code 2; it said:.*error: no such thing"), start(tmp_path, None):
        pass


def test_a_service_that_is_never_ready_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "READY_S", 0.5)
    start = started_by(lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(RunError, match=r"was not ready in 0\.5 s"), start(tmp_path, None):
        pass


def test_our_own_service_is_started_on_the_loopback_interface_with_corpus_and_fallback(tmp_path):
    command = serve_command(tmp_path / "p.jsonl")(tmp_path / "m", "base", 8123)
    assert command[1:3] == ["-m", "nic_ray.serve"]
    assert command[3:] == [
        *(str(tmp_path / "m"), "--host", "127.0.0.1", "--port", "8123"),
        *("--corpus", str(tmp_path / "p.jsonl"), "--fallback", "base"),
    ]


def test_page_and_json_hold_the_verdict_and_the_figures(sound, tmp_path):
    found = sound
    page_file, record = report.write_acceptance(found, tmp_path / "report")
    page = page_file.read_text(encoding="utf-8")
    stored = json.loads(record.read_text(encoding="utf-8"))
    assert found.verdict in page.replace("&#x27;", "'")
    assert "http://" not in page.replace(found.url, "").replace("http://127.0.0.1", "")
    assert f"{found.quality.tuned[PRIMARY]['macro'].difference:.4f}" in page
    assert f"{found.latency[0].milliseconds['p99']:.1f} ms" in page
    assert stored["verdict"] == found.verdict
    assert stored["latency"] == [asdict(each) for each in found.latency]
    assert report.write_acceptance(found, tmp_path / "one.html") == [tmp_path / "one.html"]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_command_prints_checks_and_verdict_and_fails_with_a_code(made, run_main, monkeypatch, tmp_path):
    monkeypatch.setattr(trial.validate, "__kwdefaults__", trial.validate.__kwdefaults__ | {"loads": LOADS})
    folder, pairs = made
    with service(folder, None, flagged=lambda query: True) as url:
        code, out, err = run_main(
            validate.main, folder, "--pairs", pairs, "--endpoint", url, "--out", tmp_path / "v.html"
        )
    assert (code, err) == (1, "")
    assert "FAILED     anomaly: 100.0% of the test queries are flagged" in out
    assert "NOT accepted" in out
    assert (tmp_path / "v.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "{there}/file.txt"), "is a file that does not end in .html"),
        (("--endpoint", "nowhere"), "--endpoint: must be an address"),
        (("--endpoint", "http://127.0.0.1:1"), "no endpoint answers there"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(made, run_main, tmp_path, arguments, said):
    (tmp_path / "file.txt").touch()
    code, _, err = run_main(validate.main, made[0], *(part.replace("{there}", str(tmp_path)) for part in arguments))
    assert code == 2
    assert said in err
