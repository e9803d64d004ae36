"""The service under load: a killed replica, reloads and requests that are none, as `benchmarks/service_faults.py` does.

Each answer is held against the vector that Sentence Transformers computes from the exported folder.
"""

import asyncio
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from sentence_transformers import SentenceTransformer

from nic_ray.bundle.files import write_bundle

pytest.importorskip("aiohttp")
pytest.importorskip("fastapi")
pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(300)]

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CLIENTS = 6


@pytest.fixture(scope="module")
def faults():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("service_faults")


@pytest.fixture(scope="module")
def served(faults, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    write_bundle(folder / "tuned", model, {"name": "tuned", "base_model": "base"}, training_log="")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("NIC_RAY_SERVE_TOKEN", raising=False)
        with faults.serving(faults.OURS, folder / "tuned", folder / "log", "--replicas 1") as server:
            yield server, folder / "tuned"


def run(case, served, tiny_pairs, **arguments):
    texts = sorted({pair.query for pair in tiny_pairs})[:40]
    return asyncio.run(case(*served, texts, SimpleNamespace(clients=CLIENTS, seed=1, **arguments)))


def test_malformed_requests_are_refused_without_a_traceback_and_harm_no_other(faults, served, tiny_pairs):
    found = run(faults.bad_requests, served, tiny_pairs, requests=60)
    assert found["not_refused"] == []
    assert found["tracebacks"] == {}
    assert set(found["requests"]) == {"right"}


def test_reloads_under_load_lose_nothing_and_each_answer_tells_its_version(faults, served, tiny_pairs):
    found = run(faults.reloads, served, tiny_pairs, times=2)
    assert set(found["requests"]) == {"right"}, found["told"]
    # the old version answers until the new one is ready: no request waits for the whole of it
    marks = {version: mark for version, mark, _ in found["versions"]}
    assert len(marks) == len(found["versions"]) == len(set(marks.values())) == 2


def test_a_replica_that_is_killed_under_load_takes_only_its_own_requests_with_it(faults, served, tiny_pairs):
    found = run(faults.kills, served, tiny_pairs, times=1)
    (row,) = found["rows"]
    assert set(found["requests"]) <= {"right", "lost"}, found["told"]
    assert found["requests"].get("lost", 0) == row["lost_of_these"].get("lost", 0) <= row["in_flight"]
    assert set(row["begun_later"]) == {"right"}


def test_an_answer_of_other_weights_is_wrong(faults, served, tiny_pairs, tmp_path):
    server, bundle = served
    faults.write_other_version(bundle, tmp_path / "other")
    known = faults.known_of(sorted({pair.query for pair in tiny_pairs})[:40], [tmp_path / "other"], server)

    async def outcomes():
        async with faults.under_load(server, known, CLIENTS) as load:
            await asyncio.sleep(0.5)
        return {outcome.kind for outcome in load.outcomes}

    assert asyncio.run(outcomes()) == {"wrong"}
