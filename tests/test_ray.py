"""Searches on a local cluster with a tiny model: trials in one process and in several, stops, failures."""

import contextlib
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import ray
import torch
from ray.util.state import list_actors, list_placement_groups
from ray.util.state.common import ActorState
from sentence_transformers import SentenceTransformer

from nic_ray.bundle.files import read_metadata
from nic_ray.config import Config
from nic_ray.errors import InputError
from nic_ray.model.activations import Inputs
from nic_ray.progress import Lines
from nic_ray.record import read_ended, training_log
from nic_ray.search.search import resume_search, run_search
from nic_ray.search.session import ray_session
from nic_ray.selection.selection import SearchResult

pytestmark = [
    pytest.mark.ray,
    # Ray leaves sockets and log files of its own to the garbage collector, and warns of its own future
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

ROOT = Path(__file__).parent.parent

said: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_session(Lines(say), num_cpus=2):
        yield
    gc.collect()  # here, where what Ray leaves open is no error, and not when the session ends


def say(line: str) -> None:
    said.append(line)


def settings(model: Path, pairs: Path, trials: int = 2, **changes: dict[str, object]) -> dict[str, dict[str, object]]:
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
        "confirm": {"seeds": 0},
        "guard": {"retention_set": None},
    }
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values}
    return sections


def search(
    model: Path,
    pairs: Path,
    folder: Path,
    *,
    trials: int = 2,
    name: str = "tiny",
    export_anyway: bool = True,  # rows so few convince no guard
    **changes: dict[str, object],
) -> SearchResult:
    sections = settings(model, pairs, trials, **changes)
    said.clear()
    config = Config.model_validate(sections)
    return run_search(
        config,
        out=folder / "models",
        name=name,
        run_root=folder / "runs",
        overwrite=False,
        export_anyway=export_anyway,
        view=Lines(say),
    )


def tune_command(folder: Path, sections: dict[str, dict[str, object]], runs: Path | None = None) -> list[str]:
    """The command of a search, whose settings are written into a folder, as its runs are unless another is named."""
    (folder / "config.yaml").write_text(json.dumps(sections))
    places = ["--out", folder / "models", "--run-dir", runs or folder / "runs", "--name", "tiny", "--export-anyway"]
    return [sys.executable, "-m", "nic_ray.tune", str(folder / "config.yaml"), *map(str, places)]


def actor_names() -> set[str]:
    return {actor.repr_name for actor in actors() if actor.repr_name}


def actors() -> list[ActorState]:
    # by address: another cluster may run on this machine
    return list_actors(ray.get_runtime_context().gcs_address, limit=1000, detail=True)


def running(trial: str) -> int:
    # earlier searches on this cluster had trials of the same names
    return next(actor.pid for actor in actors() if actor.repr_name == trial and actor.state == "ALIVE")


def test_a_search_exports_a_winner_that_gives_its_numbers_again_from_a_folder_of_any_name(
    tiny_model, tiny_pairs_file, tmp_path
):
    folder = tmp_path / "a b%25#?é'[1]{x}$$"
    model = shutil.copytree(tiny_model(layers=3), folder / "model")
    outcome = search(model, shutil.copy(tiny_pairs_file, folder), folder, trials=4)
    assert outcome.folder == folder / "models" / "tiny"
    assert len(outcome.trials) == 4
    # the first trial is the configuration under `train`
    assert outcome.trials[0]["learning_rate"] == 1e-3
    assert outcome.trials[0]["frozen_layers"] == 1
    best = max(row["recall_at_5/macro"] for row in outcome.trials)
    # the mean of the best trials' weights wins only where it is better than the best of them
    judgement = outcome.judgement
    found = judgement.winner.metrics["recall_at_5/macro"]
    assert found >= best if judgement.winner.members else found == best
    assert judgement.results["validation"]["tuned"] == {
        name: value for name, value in judgement.tuned.metrics.items() if "/" in name
    }
    assert set(judgement.results) >= {"validation", "test", "test in domain"}
    metadata = read_metadata(outcome.folder)
    assert metadata["trial"] == judgement.winner.name
    assert metadata["results"] == judgement.results
    assert metadata["guard"] == judgement.evidence["guard"]
    assert metadata["guard"]["overridden"]
    log = (outcome.folder / "training.log").read_text()
    for word in ("epoch", "step", "loss", "lr", "grad_norm", "remaining", "recall_at_5/pumps", "mrr/macro"):
        assert word in log
    embedded = SentenceTransformer(str(outcome.folder), device="cpu").encode(["my impeller is stuck"])
    assert np.isfinite(embedded).all()
    assert {path.name for path in outcome.run_folder.iterdir()} >= {
        "config.yaml", "trials.csv", "domains.csv", "result.json", "study.db", "ray", "report.html", "queries.json",
        "search.log",
    }  # fmt: skip
    assert [row["micro_batch_tokens"] for row in outcome.trials] == [32768] * len(outcome.trials)  # memory held out
    (events,) = (outcome.run_folder / "ray" / "trial-000").glob("events.out.tfevents.*")
    assert b"ray/tune/recall_at_5/macro" in events.read_bytes()
    noted = (outcome.run_folder / "search.log").read_text()
    assert all(line in noted for line in said if line.startswith("trial-00"))
    assert json.loads((outcome.run_folder / "result.json").read_text())["winner"]["trial"] == judgement.winner.name
    assert {f"trial-{number:03d}" for number in range(4)} <= actor_names()


def test_the_best_are_tried_again_with_other_seeds_as_long_as_they_were(tiny_model, tiny_pairs_file, tmp_path):
    outcome = search(
        tiny_model(layers=3),
        tiny_pairs_file,
        tmp_path,
        trials=3,
        confirm={"trials": 2, "seeds": 2},
        export_anyway=False,
        trackers={"mlflow": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "manuals"},
    )
    searched, again = outcome.trials[:3], outcome.trials[3:]
    confirmed = outcome.judgement.evidence["confirmed"]
    ranked = sorted(searched, key=lambda row: (-row["recall_at_5/macro"], -row["mrr/macro"], row["best_epoch"]))
    assert {each["trial"] for each in confirmed} == {row["trial"] for row in ranked[:2]}
    assert {row["trial"] for row in again} == {
        f"{each['trial']}-seed-{seed}" for each in confirmed for seed in (43, 44)
    }
    by_name = {row["trial"]: row for row in outcome.trials}
    for each in confirmed:
        runs = [each["trial"], *(f"{each['trial']}-seed-{seed}" for seed in (43, 44))]
        assert list(each["by_seed"].values()) == [by_name[run]["recall_at_5/macro"] for run in runs]
        for run in runs[1:]:
            assert by_name[run]["status"] in ("finished", "repeated")
            for setting in ("learning_rate", "frozen_layers", "epochs"):
                assert by_name[run][setting] == by_name[runs[0]][setting]
    assert confirmed[0]["mean"] >= confirmed[1]["mean"]
    # the guard: nothing is exported, the test rows stay unread, and the run is kept
    assert outcome.folder is None
    assert not (tmp_path / "models").exists()
    assert set(outcome.judgement.results) == {"validation"}
    stored = json.loads((outcome.run_folder / "result.json").read_text())
    assert stored["bundle"] is None
    assert stored["guard"]["objections"]
    assert len(searched) == 3
    # every trial of both runs is in the tracker, as it ended
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("manuals")
    recorded = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert recorded.keys() == by_name.keys()
    for name, run in recorded.items():
        assert run.info.status == "FINISHED"
        assert run.data.tags["run"] == outcome.run_folder.name
        assert float(run.data.params["learning_rate"]) == by_name[name]["learning_rate"]
        assert run.data.metrics["objective"] == pytest.approx(by_name[name]["recall_at_5/macro"])


GOOD = [1e-3 * place for place in range(1, 9)]
"""Learning rates at which the tiny model learns."""


def without(file: Path, trial: str) -> list[str]:
    return [line for line in file.read_text().splitlines() if json.loads(line)["trial"] != trial]


def test_a_confirmation_that_was_cut_off_exports_the_best_and_goes_on_when_resumed(
    tiny_model, tiny_pairs_file, tmp_path
):
    changes = {"train": {"learning_rate": 1e-9, "epochs": 4}, "confirm": {"trials": 2, "seeds": 1}}
    changes["search"] = {"objective": "mrr/macro", "grace_period": 4}
    changes["space"] = {"learning_rate": {"choice": [1e-9, *GOOD]}, "frozen_layers": {"choice": [1]}}
    outcome = search(tiny_model(layers=3), tiny_pairs_file, tmp_path, trials=2, **changes)
    value = {row["trial"]: row["mrr/macro"] for row in outcome.trials}
    assert value["trial-001"] > value["trial-000"]
    run_folder, cut_off = outcome.run_folder, "trial-001-seed-43"
    rest = without(run_folder / "ended.jsonl", cut_off)
    whole = read_ended(run_folder)[cut_off]
    ended_early = whole | {"trial": cut_off, "status": "stopped", "epoch": 0.5, "evaluation": 1, "objective": 0.0}
    # as an interrupt leaves it, and as the end of a time budget does
    for lines in (rest, [*rest, json.dumps(ended_early)]):
        (run_folder / "ended.jsonl").write_text("\n".join(lines) + "\n")
        found = resume_search(str(run_folder), runs_trials=False, overwrite=True, export_anyway=True, view=Lines(say))
        assert read_metadata(found.folder)["trial"].startswith("trial-001")
        best, default = found.judgement.evidence["confirmed"]
        assert (best["trial"], best["seeds"], best["mean"]) == ("trial-001", 1, value["trial-001"])
        assert (default["trial"], default["seeds"]) == ("trial-000", 2)
        assert cut_off in {row["trial"] for row in found.trials}
    again = resume_search(str(run_folder), runs_trials=True, overwrite=True, export_anyway=True, view=Lines(say))
    assert [each["seeds"] for each in again.judgement.evidence["confirmed"]] == [2, 2]
    assert [row["status"] for row in again.trials] == ["finished"] * 4


def test_every_trial_of_search_and_confirmation_may_join_the_mean_and_the_default_is_trained_to_its_end(
    tiny_model, tiny_pairs_file, tmp_path, monkeypatch
):
    better = iter(np.linspace(0.9, 1.0, 20))

    class Better:
        def __init__(self, *_: object) -> None: ...

        def metrics(self, *_: object) -> dict[str, float]:
            value = float(next(better))
            return {"recall_at_5/macro": value, "mrr/macro": value, "recall_at_5/worst": value}

    monkeypatch.setattr("nic_ray.selection.averaging.Scorer", Better)
    outcome = search(
        tiny_model(layers=3),
        tiny_pairs_file,
        tmp_path,
        trials=4,
        train={"learning_rate": 1e-9, "epochs": 3},
        space={"learning_rate": {"choice": [1e-9, *GOOD]}, "frozen_layers": {"choice": [0, 1, 2]}},
        confirm={"trials": 2, "seeds": 1},
        export_anyway=False,
    )
    by_name = {row["trial"]: row for row in outcome.trials}
    assert len(by_name) == 6
    assert {member.name for member in outcome.judgement.winner.members} == set(by_name)
    # the worst of all at every rung, and trained as long as any
    first = by_name["trial-000"]
    assert (first["status"], first["epochs"]) == ("finished", 3.0)
    assert first["recall_at_5/macro"] == min(row["recall_at_5/macro"] for row in outcome.trials)
    assert not any(name.startswith("trial-000-") for name in by_name)
    assert outcome.judgement.evidence["trained"]["first trial"][0]["epochs"] == 3.0
    assert set(json.loads((outcome.run_folder / "result.json").read_text())["winner"]["averaged"]) == set(by_name)


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
    assert {"trial-000", "trial-001", "trial-002"} <= actor_names()
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray.available_resources()["CPU"] == 2
    groups = list_placement_groups(ray.get_runtime_context().gcs_address)
    assert {group.state for group in groups} <= {"REMOVED"}
    assert "grad_norm" in (outcome.folder / "training.log").read_text()


def test_trainings_share_the_cores_of_their_machine(monkeypatch, tmp_path, caplog):
    from nic_ray import hardware
    from nic_ray.search import placement, worker

    host, cpus = worker._this_machine()
    assert cpus == 2
    before = torch.get_num_threads()
    monkeypatch.setattr(worker, "SHARING", tmp_path)
    monkeypatch.setattr(worker, "COUNT_INTERVAL_S", 0.0)
    beside = hardware.shared_cpus(2, tmp_path / host)
    two = SimpleNamespace(concurrent=2, threads=1)
    try:
        with worker._shared_threads(two) as take:
            assert torch.get_num_threads() == 1  # as many as planned, until it has looked
            take()
            assert torch.get_num_threads() == 2
            with beside as share:
                assert share() == 1
                take()
                assert torch.get_num_threads() == 1
            monkeypatch.setattr(placement, "MOST_THREADS", 1)
            take()
            assert torch.get_num_threads() == 1
        # one trial at a time always has the same threads, whatever else runs here, and is counted all the same
        with (
            worker._shared_threads(SimpleNamespace(concurrent=1, threads=8)) as take,
            hardware.shared_cpus(2, tmp_path / host) as share,
        ):
            take()
            assert (torch.get_num_threads(), share()) == (2, 1)
        # nothing that befalls the locks ends a training
        with worker._shared_threads(two) as take:
            shutil.rmtree(tmp_path)
            take()
        tmp_path.write_text("no folder")
        with worker._shared_threads(two) as take:
            take()
            assert torch.get_num_threads() == 1
        assert "threads: 1 throughout, other trainings cannot be counted: " in caplog.text
    finally:
        torch.set_num_threads(before)


def test_two_workers_find_what_one_finds(tiny_model, tiny_pairs_file, tmp_path):
    # in fp32 on any processor: in bf16 the two round differently, by what lies beside each other in a chunk
    still = {"attention_dropout": 0.0, "hidden_dropout": 0.0, "epochs": 1, "precision": "fp32"}
    model = tiny_model(layers=3)
    one = search(model, tiny_pairs_file, tmp_path / "one", trials=1, train=still)
    two = search(model, tiny_pairs_file, tmp_path / "two", trials=1, train=still, resources={"workers": 2})
    metrics, others = one.judgement.winner.metrics, two.judgement.winner.metrics
    assert metrics["loss"] == pytest.approx(others["loss"], abs=1e-4)
    for key, value in metrics.items():
        assert others[key] == pytest.approx(value, abs=1e-3), key


@pytest.mark.parametrize("kills", [1, 2])
def test_a_killed_trial_goes_on_from_its_checkpoint_once(tiny_model, tiny_pairs_file, tmp_path, monkeypatch, kills):
    killed: list[int] = []

    def kill(line: str) -> None:
        said.append(line)
        epoch = re.match(r"trial-001: epoch (\d+)\.00", line)
        if epoch and int(epoch[1]) == 1 + 2 * len(killed) and len(killed) < kills:
            pid = running("trial-001")
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(sys.modules[__name__], "say", kill)
    outcome = search(
        tiny_model(layers=3),
        tiny_pairs_file,
        tmp_path,
        trials=2,
        train={"epochs": 60},  # long enough to be killed in the middle
        search={"grace_period": 60},
    )
    first, second = outcome.trials
    assert first["status"] == "finished"
    assert second["status"] == ("finished" if kills == 1 else "failed")
    assert any(
        line.startswith("trial-001: ") and line.endswith("; it goes on from its last checkpoint") for line in said
    )
    assert len(set(killed)) == kills
    if kills == 1:
        # it did not begin again: no epoch but the one in which it died was done twice
        evaluated = re.findall(r"evaluation .*  epoch ([0-9.]+)", training_log(outcome.run_folder, "trial-001"))
        assert len(set(evaluated)) == 120
        assert len(evaluated) <= 122
    else:
        assert second["error"]
        assert any(line.startswith("trial-001: failed: ") for line in said)


def test_a_trial_whose_gradient_overflows_fails_with_its_reason_and_the_search_goes_on(
    tiny_model, tiny_pairs_file, tmp_path
):
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    first, second, _ = model[0].auto_model.encoder.layer
    # what the first block makes tiny, the second makes large again: the gradient that passes both, and only
    # that one, is 1e25 times too large
    first.output.LayerNorm.weight.data[:] = 1e-25
    first.output.LayerNorm.bias.data.zero_()
    second.attention.self.value.weight.data.mul_(1e25)
    model.save(str(tmp_path / "model"), create_model_card=False)
    outcome = search(
        tmp_path / "model", tiny_pairs_file, tmp_path, trials=3, space={"frozen_layers": {"choice": [0, 1]}}
    )
    failed = [row for row in outcome.trials if row["status"] == "failed"]
    assert {row["frozen_layers"] for row in failed} == {0}
    assert {row["frozen_layers"] for row in outcome.trials if row["status"] == "finished"} == {1}
    for row in failed:
        assert re.match(r"loss or gradient not finite at step 1 \(learning rate 0\.\d+\)", row["error"])
        assert row["error"].endswith("lower train.learning_rate or train.scale")
    winner = outcome.judgement.winner
    assert not {each.name for each in (winner, *winner.members)} & {row["trial"] for row in failed}


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

        from nic_ray.model.activations import feed

        def own_bytes():  # its resident size would count shared pages too
            return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

        before = own_bytes()
        source = feed(ray.get(given[0]), "cpu")
        highest = float(source.values.max())  # reads all of it
        return own_bytes() - before, highest, source.values.untyped_storage().nbytes()

    values = np.ones((2**18, 100), np.float32)  # 100 MiB
    inputs = ray.put(Inputs(values, np.arange(0, 2**18 + 1, 2**10), depth=1))
    grown, highest, held = ray.get(ray.remote(private_growth).remote([inputs]))
    assert (highest, held) == (1.0, values.nbytes)
    assert grown < values.nbytes / 4


def test_an_existing_bundle_is_refused_before_the_search(tiny_model, tiny_pairs_file, tmp_path):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    with pytest.raises(InputError, match=r"exists already; .*--overwrite"):
        search(tiny_model(layers=3), tiny_pairs_file, tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_search_whose_driver_is_killed_goes_on_and_loses_nothing(tiny_model, tiny_pairs_file, tmp_path, monkeypatch):
    sections = settings(
        tiny_model(layers=3), tiny_pairs_file, trials=5, train={"epochs": 16}, search={"grace_period": 16}
    )
    command = tune_command(tmp_path, sections)
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        # two have ended, and a third one has come to its second epoch
        reached = re.compile(r"trial-00[2-4]: epoch [2-9]")
        deadline = time.monotonic() + 240
        while not (ended := (tmp_path / "log").read_text().count(" finished (")) >= 2 or not reached.search(
            (tmp_path / "log").read_text().rpartition(" finished (")[2]
        ):
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        driver.kill()
        driver.wait()
    assert ended >= 2
    (run_folder,) = (path for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))
    before = read_ended(run_folder)
    said.clear()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the activations lie on disk, and are read")

    monkeypatch.setattr("nic_ray.search.cluster.run_shard", refuse)
    outcome = resume_search(str(run_folder), runs_trials=False, overwrite=False, export_anyway=False, view=Lines(say))
    assert outcome.folder == tmp_path / "models" / "tiny"
    assert [row["command"] for row in outcome.judgement.evidence["readings"]] == ["export"]
    so_far = {row["trial"]: row for row in outcome.trials}
    assert {name for name, row in so_far.items() if row["status"] == "finished"} == set(before)
    assert any(row["status"] == "cut off" for row in outcome.trials)

    outcome = resume_search(str(run_folder), runs_trials=True, overwrite=True, export_anyway=False, view=Lines(say))
    assert [row["trial"] for row in outcome.trials] == [f"trial-{number:03d}" for number in range(5)]
    assert {row["status"] for row in outcome.trials} == {"finished"}
    # the test rows were read by the first export; so this was no untouched reading, and it is said wherever it counts
    readings = read_metadata(outcome.folder)["readings"]
    assert [row["command"] for row in readings] == ["export", "tune --resume"]
    assert json.loads((run_folder / "result.json").read_text())["readings"] == readings
    assert "test rows had been read once before" in (outcome.folder / "README.md").read_text()
    assert "test rows had been read once before" in (run_folder / "report.html").read_text()
    for name in before:
        row = next(row for row in outcome.trials if row["trial"] == name)
        assert row == so_far[name]
    study = optuna.load_study(study_name="nic_ray", storage=f"sqlite:///{run_folder / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    # what was cut off went on where it was: each of its epochs was evaluated, and hardly any twice
    for name, row in so_far.items():
        if row["status"] == "cut off":
            evaluated = re.findall(r"evaluation .*  epoch ([0-9.]+)", training_log(run_folder, name))
            assert len(set(evaluated)) == 32
            assert len(evaluated) <= 34
    # while a trial started, or the last one ran, another one was alone
    assert any("threads: 2" in training_log(run_folder, name) for name in so_far)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_search_whose_disk_is_full_says_so_and_goes_on_with_room(tiny_model, tiny_pairs_file, tmp_path, small_disk):
    sections = settings(
        tiny_model(layers=3), tiny_pairs_file, trials=3, train={"epochs": 16}, search={"grace_period": 16}
    )
    command = tune_command(tmp_path, sections, small_disk / "runs")
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        deadline = time.monotonic() + 240
        # one has ended, and another one has begun
        while not re.search(r"finished \(1 of.*: epoch [1-9]", text := (tmp_path / "log").read_text(), re.DOTALL):
            assert driver.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        (run_folder,) = (path for path in (small_disk / "runs").iterdir() if not path.name.startswith("."))
        before = read_ended(run_folder)
        with contextlib.suppress(OSError), (small_disk / "other").open("wb", buffering=0) as other:
            while True:
                other.write(bytes(4096))
        assert driver.wait(120) == 1
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    assert "error: no space left on a disk: " in text
    assert f"{run_folder} (run) has 0 MiB left" in text
    assert f"go on with: python -m nic_ray.tune --resume {run_folder}" in text
    assert before.items() <= read_ended(run_folder).items()

    (small_disk / "other").unlink()
    outcome = resume_search(str(run_folder), runs_trials=True, overwrite=False, export_anyway=False, view=Lines(say))
    assert outcome.folder == tmp_path / "models" / "tiny"
    ended = read_ended(run_folder)
    assert before.items() <= ended.items()
    assert set(ended) >= {"trial-000", "trial-001", "trial-002"}


def test_a_search_out_of_time_judges_what_it_has_and_can_go_on(tiny_model, tiny_pairs_file, tmp_path, monkeypatch):
    def later() -> float:  # an hour is over once a trial has been evaluated, however slow the machine is
        return 3600.0 if any(re.match(r"trial-\d+: epoch", line) for line in said) else 0.0

    clock = SimpleNamespace(time=lambda: time.time() + later(), monotonic=lambda: time.monotonic() + later())
    for module in ("nic_ray.search.search", "nic_ray.search.rounds", "ray.tune.stopper.timeout"):
        monkeypatch.setattr(f"{module}.time", clock)
    outcome = search(
        tiny_model(layers=3),
        tiny_pairs_file,
        tmp_path,
        trials=20,
        train={"epochs": 1000},
        search={"grace_period": 1000, "time_budget": "50m"},
        confirm={"seeds": 1},
    )
    assert "the time budget is used up" in said
    assert not any(line.startswith("training the best again") for line in said)
    assert outcome.judgement.evidence["confirmed"] == []
    statuses = {row["status"] for row in outcome.trials}
    assert statuses <= {"finished", "stopped", "failed"}
    assert "stopped" in statuses
    study = optuna.load_study(study_name="nic_ray", storage=f"sqlite:///{outcome.run_folder / 'study.db'}")
    assert all(trial.state.is_finished() for trial in study.trials)
    assert len(study.trials) < 20


def test_an_interrupted_search_says_how_to_go_on_and_ends_as_if_it_had_not_been(tiny_model, tiny_pairs_file, tmp_path):
    changes = {"train": {"epochs": 8}, "search": {"grace_period": 8}, "resources": {"concurrent_trials": 1}}
    model = tiny_model(layers=3)
    command = tune_command(tmp_path, settings(model, tiny_pairs_file, trials=2, **changes))
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        deadline = time.monotonic() + 240
        while "trial-001: epoch 3.00" not in (text := (tmp_path / "log").read_text()):
            assert driver.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(120) == 130
    text = (tmp_path / "log").read_text()
    (run_folder,) = (path for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))
    assert f"interrupted; go on with: python -m nic_ray.tune --resume {run_folder}" in text
    assert f"export the best so far: python -m nic_ray.export {run_folder}" in text
    assert "Traceback" not in text

    resumed = resume_search(str(run_folder), runs_trials=True, overwrite=False, export_anyway=False, view=Lines(say))
    whole = search(model, tiny_pairs_file, tmp_path / "whole", trials=2, **changes)

    def told(outcome: SearchResult) -> list[dict[str, object]]:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in outcome.trials]

    def losses(outcome: SearchResult) -> dict[str, str]:
        log = training_log(outcome.run_folder, "trial-001")
        return dict(re.findall(r"epoch ([0-9.]+)  step \d+/\d+  (loss [0-9.]+)", log))

    assert told(resumed) == told(whole)
    assert losses(resumed) == losses(whole)
    files = [read_metadata(outcome.folder)["files"]["model.safetensors"] for outcome in (resumed, whole)]
    assert files[0] == files[1]
