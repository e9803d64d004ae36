"""`python -m nic_ray.serve` as its users meet it: started, asked by OpenAI's client and curl, reloaded, stopped."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import openai
import psutil
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray.bundle.files import file_sha256, write_bundle

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

TOKEN = "a-secret-of-the-tests"
TEXTS = ["How do I replace the leaking rotor of the pump?", "hot bearing", "Ünknown Wörds, 12.5 %"]
SENT = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class Started:
    process: subprocess.Popen
    url: str
    bundle: Path
    output: Path
    queries: Path

    def version(self):
        return httpx2.get(f"{self.url}/version", headers=SENT, timeout=30).raise_for_status().json()

    def await_(self, condition, seconds=90):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output.read_text()
            with suppress(httpx2.HTTPError):
                if condition():
                    return
            time.sleep(0.1)
        pytest.fail(f"not within {seconds} s: {self.output.read_text()}")


def free_port():
    with closing(socket.socket()) as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


def export(folder, model, pairs, base):
    metadata = {
        "name": "tuned",
        "base_model": str(base),
        "data": {"sha256": file_sha256(pairs)},
        "split": {"protocol": "unseen_passages", "seed": 3, "validation_share": 0.25, "test_share": 0.25},
    }
    write_bundle(folder, SentenceTransformer(str(model), device="cpu"), metadata, training_log="", overwrite=True)


@pytest.fixture(scope="module")
def served(tiny_model, tiny_pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    pairs, bundle, output = folder / "pairs.jsonl", folder / "tuned", folder / "output.txt"
    rows = [{"query": pair.query, "positive": pair.positive, "domain": pair.domain} for pair in tiny_pairs]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    export(bundle, tiny_model(layers=3), pairs, tiny_model())
    url, queries = f"http://127.0.0.1:{(port := free_port())}", folder / "queries.jsonl"
    command = [sys.executable, "-m", "nic_ray.serve", str(bundle), "--corpus", str(pairs), "--port", str(port)]
    command += ["--log-queries", str(queries), "--replicas", "1"]
    environment = os.environ | {"NIC_RAY_SERVE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    environment.pop("RAY_ADDRESS", None)
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    started = Started(process, url, bundle, output, queries)
    try:
        started.await_(lambda: httpx2.get(f"{url}/ready").status_code == 200)
        yield started
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for child in [*children, process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                child.kill()


def vectors(served, texts=TEXTS, **body):
    answer = httpx2.post(f"{served.url}/v1/embeddings", json={"input": texts} | body, headers=SENT, timeout=30)
    return np.array([row["embedding"] for row in answer.raise_for_status().json()["data"]], np.float32)


def expected(bundle, texts=TEXTS):
    return SentenceTransformer(str(bundle), device="cpu").encode_query(texts)


def test_openais_client_gets_the_vectors_of_the_exported_folder(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=TOKEN)
    for encoding in (openai.omit, "float"):
        answer = client.embeddings.create(model="tuned", input=TEXTS, encoding_format=encoding)
        np.testing.assert_allclose([row.embedding for row in answer.data], expected(served.bundle), atol=1e-5)
    assert answer.usage.total_tokens > 0
    assert [model.id for model in client.models.list()] == ["tuned"]
    with pytest.raises(openai.NotFoundError, match="'gpt-4' is not served, tuned is"):
        client.embeddings.create(model="gpt-4", input="oil")
    with pytest.raises(openai.AuthenticationError, match="a token is wanted"):
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong").embeddings.create(model="tuned", input="oil")


def test_the_curl_commands_that_are_printed_work(served):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    printed = re.findall(r"^ +(curl .*)$", served.output.read_text(), flags=re.MULTILINE)
    assert len(printed) == 2
    environment = os.environ | {"NIC_RAY_SERVE_TOKEN": TOKEN}
    answers = [
        json.loads(
            subprocess.run(["bash", "-c", f"{line} -s"], env=environment, capture_output=True, check=True).stdout
        )
        for line in printed
    ]
    assert len(answers[0]["data"][0]["embedding"]) == 32
    assert len(answers[1]["hits"]) == 5
    assert json.loads(served.queries.read_text().splitlines()[-1])["query"] == answers[1]["query"]


def test_prometheus_reads_latencies_and_batches(served):
    before = vectors(served)
    assert len(before) == 3
    text = httpx2.get(f"{served.url}/metrics", headers=SENT).text
    (count,) = re.findall(
        r'^nic_ray_request_seconds_count\{path="/v1/embeddings",status="200"\} (\S+)$', text, flags=re.MULTILINE
    )
    assert float(count) >= 1
    assert re.search(r"^nic_ray_batch_texts_sum [1-9]", text, flags=re.MULTILINE)
    assert re.search(r"^nic_ray_fallback 0", text, flags=re.MULTILINE)


def test_rays_dashboard_shows_the_deployment(served):
    (address,) = re.findall(r"dashboard: (http://127\.0\.0\.1:\d+)", served.output.read_text())
    token = subprocess.run(
        [Path(sys.executable).with_name("ray"), "get-auth-token"], capture_output=True, text=True, check=True
    ).stdout.strip()
    headers = {"authorization": f"Bearer {token}"}
    shown = httpx2.get(f"{address}/api/serve/applications/", headers=headers, timeout=30).raise_for_status().json()
    application = shown["applications"]["nic_ray"]
    assert application["status"] == "RUNNING"
    assert list(application["deployments"]) == ["embeddings"]
    assert TOKEN not in json.dumps(shown)


def test_a_reload_serves_the_new_version_and_loses_no_request(served, tiny_model, tmp_path):
    old = expected(served.bundle)
    export(served.bundle, tiny_model(layers=2), served.bundle.with_name("pairs.jsonl"), tiny_model())
    new, before = expected(served.bundle), served.version()
    assert not np.allclose(old, new, atol=1e-3)
    served.process.send_signal(signal.SIGHUP)
    seen = []

    def reloaded():
        found = vectors(served)
        seen.append(np.allclose(found, new, atol=1e-5))
        assert seen[-1] or np.allclose(found, old, atol=1e-5)
        return served.version()["weights_sha256"] != before["weights_sha256"]

    served.await_(reloaded)
    np.testing.assert_allclose(vectors(served), new, atol=1e-5)
    assert served.version()["pid"] == before["pid"]  # no process was started anew


def test_a_damaged_version_is_not_loaded(served):
    weights = served.bundle / "model.safetensors"
    sound, before = weights.read_bytes(), served.version()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    try:
        served.process.send_signal(signal.SIGHUP)
        served.await_(lambda: "not reloaded, the version that was served stays" in served.output.read_text())
    finally:
        weights.write_bytes(sound)
    assert served.version() == before


def test_what_is_started_says_what_it_serves(served):
    said = served.output.read_text()
    assert re.search(r"^  computed by torch$", said, flags=re.MULTILINE)
    assert re.search(r"^  \d+ passages, ranked by similarity$", said, flags=re.MULTILINE)
    assert "warning: queries are not assessed" in said


def test_a_killed_replica_is_replaced(served):
    before, right = served.version()["pid"], expected(served.bundle)
    os.kill(before, signal.SIGKILL)
    served.await_(lambda: served.version()["pid"] != before)
    np.testing.assert_allclose(vectors(served), right, atol=1e-5)


def test_a_signal_ends_it_and_leaves_no_process(served):
    children = psutil.Process(served.process.pid).children(recursive=True)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(90) == 0, served.output.read_text()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert "Traceback" not in served.output.read_text()
