"""Searches on a local cluster with a tiny model: trials in one process and in several, stops, failures."""

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import ray
import torch
from ray.util.state import list_placement_groups
from sentence_transformers import SentenceTransformer

from nic_ray.bundle.files import read_metadata
from nic_ray.errors import InputError
from nic_ray.model.activations import Inputs
from nic_ray.record import study_url
from tests.searches import MARKS, actor_names, said, search

pytestmark = [*MARKS, pytest.mark.usefixtures("local_cluster")]


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
    # the study knows how each ended
    study = optuna.load_study(study_name="nic_ray", storage=study_url(outcome.run_folder / "study.db"))
    in_study = {f"trial-{trial.number:03d}": trial for trial in study.trials}
    states = {"finished": optuna.trial.TrialState.COMPLETE, "stopped": optuna.trial.TrialState.PRUNED}
    for row in outcome.trials:
        assert in_study[row["trial"]].state == states[row["status"]]
        assert in_study[row["trial"]].value == pytest.approx(row["recall_at_5/macro"])
    for trial in study.trials:
        # Optuna sees the best so far: it never falls
        values = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
        assert values == sorted(values)


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


def test_every_trial_of_search_and_confirmation_may_join_the_mean_and_the_default_is_trained_to_its_end(
    tiny_model, tiny_pairs_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("nic_ray.selection.averaging.SIZES", (1, 6))
    monkeypatch.setattr("nic_ray.selection.averaging.cross_fitted", lambda *_: {1: 0.5, 6: 0.75})
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
        with worker.shared_threads(two) as take:
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
            worker.shared_threads(SimpleNamespace(concurrent=1, threads=8)) as take,
            hardware.shared_cpus(2, tmp_path / host) as share,
        ):
            take()
            assert (torch.get_num_threads(), share()) == (2, 1)
        # nothing that befalls the locks ends a training
        with worker.shared_threads(two) as take:
            shutil.rmtree(tmp_path)
            take()
        tmp_path.write_text("no folder")
        with worker.shared_threads(two) as take:
            take()
            assert torch.get_num_threads() == 1
        assert "threads: 1 throughout, other trainings cannot be counted: " in caplog.text
    finally:
        torch.set_num_threads(before)


def test_two_workers_find_what_one_finds_and_gpus_that_are_not_there_are_not_waited_for(
    tiny_model, tiny_pairs_file, tmp_path
):
    # in fp32 on any processor: in bf16 the two round differently, by what lies beside each other in a chunk
    still = {"attention_dropout": 0.0, "hidden_dropout": 0.0, "epochs": 1, "precision": "fp32"}
    model = tiny_model(layers=3)
    one = search(model, tiny_pairs_file, tmp_path / "one", trials=1, train=still, resources={"gpus_per_worker": 1})
    assert one.trials[0]["status"] == "finished"
    assert any("so trials train on CPUs" in line for line in said)
    two = search(model, tiny_pairs_file, tmp_path / "two", trials=1, train=still, resources={"workers": 2})
    metrics, others = one.judgement.winner.metrics, two.judgement.winner.metrics
    assert metrics["loss"] == pytest.approx(others["loss"], abs=1e-4)
    for key, value in metrics.items():
        assert others[key] == pytest.approx(value, abs=1e-3), key


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


def test_a_trial_reads_the_activations_where_they_lie():
    def private_growth(given):  # inside, so that Ray sends it along: workers cannot import this file

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


def test_a_search_out_of_time_judges_what_it_has_and_can_go_on(tiny_model, tiny_pairs_file, tmp_path, monkeypatch):
    def later() -> float:  # an hour is over once a trial has been evaluated, however slow the machine is
        return 3600.0 if any(re.match(r"trial-\d+: epoch", line) for line in said) else 0.0

    clock = SimpleNamespace(time=lambda: time.time() + later(), monotonic=lambda: time.monotonic() + later())
    for module in ("nic_ray.search.trained", "nic_ray.search.rounds", "ray.tune.stopper.timeout"):
        monkeypatch.setattr(f"{module}.time", clock)
    outcome = search(
        tiny_model(layers=3),
        tiny_pairs_file,
        tmp_path,
        trials=20,
        train={"epochs": 1000},
        # more starts than begin within the time
        search={"grace_period": 1000, "time_budget": "50m", "starts": [{"learning_rate": rate} for rate in GOOD[1:]]},
        confirm={"seeds": 1},
    )
    assert "the time budget is used up" in said
    assert not any(line.startswith("training the best again") for line in said)
    assert outcome.judgement.evidence["confirmed"] == []
    statuses = {row["status"] for row in outcome.trials}
    assert statuses <= {"finished", "stopped", "failed"}
    assert "stopped" in statuses
    study = optuna.load_study(study_name="nic_ray", storage=f"sqlite:///{outcome.run_folder / 'study.db'}")
    assert all(trial.state.is_finished() for trial in study.trials if trial.state.name != "WAITING")
    assert any(trial.state.name == "WAITING" for trial in study.trials)
    assert len(study.trials) < 20
