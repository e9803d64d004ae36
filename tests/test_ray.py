"""Searches on a local cluster with a tiny model: trials in one process and in several, stops, failures."""

import gc
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
import ray
from ray.util.state import list_actors, list_placement_groups
from ray.util.state.common import ActorState
from sentence_transformers import SentenceTransformer

from nic_ray.activations import Inputs
from nic_ray.bundle import read_metadata
from nic_ray.config import Config
from nic_ray.errors import InputError
from nic_ray.search import Outcome, ray_session, run_search

pytestmark = [
    pytest.mark.ray,
    # Ray leaves sockets and log files of its own to the garbage collector, and warns of its own future
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

said: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_session(say, num_cpus=2):
        yield
    gc.collect()  # here, where what Ray leaves open is no error, and not when the session ends


def say(line: str) -> None:
    said.append(line)


def search(
    model: Path, pairs: Path, folder: Path, *, trials: int = 2, name: str = "tiny", **changes: dict[str, object]
) -> Outcome:
    sections: dict[str, dict[str, object]] = {
        "data": {"pairs": str(pairs), "validation_share": 0.25, "test_share": 0.25},
        "train": {
            "base_model": str(model),
            "epochs": 2,
            "evaluations_per_epoch": 2,
            "frozen_layers": 1,
            "batch_size": 8,
            "learning_rate": 1e-3,
        },
        "space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}, "frozen_layers": {"choice": [0, 1, 2]}},
        "search": {"trials": trials, "reduction_factor": 2},
    }
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values}
    said.clear()
    config = Config.model_validate(sections)
    return run_search(config, out=folder / "models", name=name, run_root=folder / "runs", overwrite=False, say=say)


def actor_names() -> set[str]:
    return {actor.repr_name for actor in actors() if actor.repr_name}


def actors() -> list[ActorState]:
    # by address: another cluster may run on this machine
    return list_actors(ray.get_runtime_context().gcs_address, limit=1000, detail=True)


def running(trial: str) -> int:
    # earlier searches on this cluster had trials of the same names
    return next(actor.pid for actor in actors() if actor.repr_name == trial and actor.state == "ALIVE")


def test_a_search_exports_a_winner_that_gives_its_numbers_again(tiny_model, tiny_pairs_file, tmp_path):
    outcome = search(tiny_model(layers=3), tiny_pairs_file, tmp_path, trials=4)
    assert len(outcome.trials) == 4
    # the first trial is the configuration under `train`
    assert outcome.trials[0]["learning_rate"] == 1e-3
    assert outcome.trials[0]["frozen_layers"] == 1
    best = max(row["recall_at_5/macro"] for row in outcome.trials)
    # the mean of the best trials' weights wins only where it is better than the best of them
    found = outcome.winner.metrics["recall_at_5/macro"]
    assert found >= best if outcome.winner.members else found == best
    assert outcome.results["validation"]["tuned"]["recall_at_5/macro"] == pytest.approx(found)
    metadata = read_metadata(outcome.folder)
    assert metadata["trial"] == outcome.winner.name
    assert metadata["results"] == outcome.results
    log = (outcome.folder / "training.log").read_text()
    for word in ("epoch", "step", "loss", "lr", "grad_norm", "remaining", "recall_at_5/pumps", "mrr/macro"):
        assert word in log
    embedded = SentenceTransformer(str(outcome.folder), device="cpu").encode(["my impeller is stuck"])
    assert np.isfinite(embedded).all()
    assert {path.name for path in outcome.run_folder.iterdir()} >= {
        "config.yaml", "trials.csv", "result.json", "study.db", "ray"
    }  # fmt: skip
    assert json.loads((outcome.run_folder / "result.json").read_text())["winner"]["trial"] == outcome.winner.name
    assert {f"trial-{number:03d}" for number in range(4)} <= actor_names()


def test_optuna_hears_of_every_trial_how_it_ended(tiny_model, tiny_pairs_file, tmp_path):
    outcome = search(tiny_model(layers=3), tiny_pairs_file, tmp_path, trials=6)
    study = optuna.load_study(study_name="nic_ray", storage=f"sqlite:///{outcome.run_folder / 'study.db'}")
    found = {f"trial-{trial.number:03d}": trial for trial in study.trials}
    states = {"finished": optuna.trial.TrialState.COMPLETE, "stopped": optuna.trial.TrialState.PRUNED}
    for row in outcome.trials:
        assert found[row["trial"]].state == states[row["status"]]
        assert found[row["trial"]].value == pytest.approx(row["recall_at_5/macro"])
    for trial in study.trials:
        # Optuna sees the best so far: it never falls
        values = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
        assert values == sorted(values)


def test_trials_of_two_workers_stop_early_and_free_what_they_held(tiny_model, tiny_pairs_file, tmp_path):
    # one trial fits at a time: if a stopped one kept its workers, the next would wait for ever
    started = time.monotonic()
    outcome = search(
        tiny_model(layers=3),
        tiny_pairs_file,
        tmp_path,
        trials=3,
        resources={"workers": 2},
        train={"epochs": 4},
        # all but the first hardly move: they are behind it at the first rung
        space={"learning_rate": {"choice": [1e-3, 1e-7, 1e-8, 1e-9]}, "frozen_layers": {"choice": [1]}},
        search={"objective": "mrr/macro"},
    )
    assert [row["error"] for row in outcome.trials] == ["", "", ""]
    assert any(row["status"] == "stopped" for row in outcome.trials)
    assert time.monotonic() - started < 240
    assert {"trial-000", "trial-001", "trial-002"} <= actor_names()
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray.available_resources()["CPU"] == 2
    groups = list_placement_groups(ray.get_runtime_context().gcs_address)
    assert {group.state for group in groups} <= {"REMOVED"}
    assert "grad_norm" in (outcome.folder / "training.log").read_text()


def test_two_workers_find_what_one_finds(tiny_model, tiny_pairs_file, tmp_path):
    still = {"attention_dropout": 0.0, "hidden_dropout": 0.0, "epochs": 1}
    model = tiny_model(layers=3)
    one = search(model, tiny_pairs_file, tmp_path / "one", trials=1, train=still)
    two = search(model, tiny_pairs_file, tmp_path / "two", trials=1, train=still, resources={"workers": 2})
    assert one.winner.metrics["loss"] == pytest.approx(two.winner.metrics["loss"], abs=1e-4)
    for key, value in one.winner.metrics.items():
        assert two.winner.metrics[key] == pytest.approx(value, abs=1e-3), key


def test_a_killed_trial_does_not_end_the_search(tiny_model, tiny_pairs_file, tmp_path, monkeypatch):
    def kill(line: str) -> None:
        said.append(line)
        if line.startswith("trial-001: epoch 1.00"):
            os.kill(running("trial-001"), signal.SIGKILL)

    monkeypatch.setattr(sys.modules[__name__], "say", kill)
    outcome = search(
        tiny_model(layers=3),
        tiny_pairs_file,
        tmp_path,
        trials=2,
        train={"epochs": 60},  # long enough to be killed in the middle
        search={"grace_period": 60},
    )
    assert [row["status"] for row in outcome.trials] == ["finished", "failed"]
    assert outcome.trials[1]["error"]
    assert any(line.startswith("trial-001: failed: ") for line in said)


def test_a_diverging_trial_fails_with_its_reason_and_the_search_goes_on(tiny_model, tiny_pairs_file, tmp_path):
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    # so large that the variance in the normalisation behind it overflows once the weights before it have grown
    model[0].auto_model.encoder.layer[2].output.dense.weight.data.mul_(5e18)
    model.save(str(tmp_path / "model"), create_model_card=False)
    outcome = search(
        tmp_path / "model",
        tiny_pairs_file,
        tmp_path,
        trials=3,
        space={"learning_rate": {"choice": [1e-3, 1.0, 0.9, 0.8]}, "frozen_layers": {"choice": [1]}},
    )
    assert outcome.trials[0]["status"] == "finished"
    failed = [row for row in outcome.trials if row["status"] == "failed"]
    assert failed
    for row in failed:
        assert re.match(r"(loss or gradient|embeddings) not finite at step \d+ \(learning rate 0\.\d+\)", row["error"])
        assert row["error"].endswith("lower train.learning_rate or train.scale")
    assert not {outcome.winner.name, *outcome.winner.members} & {row["trial"] for row in failed}


def test_a_base_model_of_broken_weights_is_refused(tiny_model, tiny_pairs_file, tmp_path):
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    layer = model[0].auto_model.encoder.layer[2]
    layer.output.dense.weight.data[:] = 1e30  # finite, until it is multiplied
    layer.output.LayerNorm.weight.data[:] = 1e30
    model.save(str(tmp_path / "model"), create_model_card=False)
    with pytest.raises(InputError, match=r"gives embeddings that are not finite, so there is nothing to tune"):
        search(tmp_path / "model", tiny_pairs_file, tmp_path, trials=2)


def test_gpus_that_are_not_there_are_not_waited_for(tiny_model, tiny_pairs_file, tmp_path):
    outcome = search(tiny_model(layers=3), tiny_pairs_file, tmp_path, trials=1, resources={"gpus_per_worker": 1})
    assert outcome.trials[0]["status"] == "finished"
    assert any("so trials train on CPUs" in line for line in said)


def test_a_trial_reads_the_activations_where_they_lie():
    def private_growth(given):  # inside, so that Ray sends it along: workers cannot import this file
        from pathlib import Path

        import ray

        from nic_ray.activations import feed

        def own_bytes():  # its resident size would count shared pages too
            return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

        before = own_bytes()
        source = feed(ray.get(given[0]), "cpu")
        highest = float(source.values.max())  # reads all of it
        return own_bytes() - before, highest, source.values.untyped_storage().nbytes()

    values = np.ones((2**18, 100), np.float32)  # 100 MiB
    inputs = ray.put(Inputs(values, np.arange(0, 2**18 + 1, 2**10)))
    grown, highest, held = ray.get(ray.remote(private_growth).remote([inputs]))
    assert (highest, held) == (1.0, values.nbytes)
    assert grown < values.nbytes / 4


def test_an_existing_bundle_is_refused_before_the_search(tiny_model, tiny_pairs_file, tmp_path):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    with pytest.raises(InputError, match=r"exists already; .*--overwrite"):
        search(tiny_model(layers=3), tiny_pairs_file, tmp_path)
    assert not (tmp_path / "runs").exists()
