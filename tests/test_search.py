"""How trials are laid out and judged; no cluster is started."""

import contextlib
import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch

from nic_ray import study as study_room
from nic_ray.config import Config
from nic_ray.config_file import dump_config, load_config
from nic_ray.errors import InputError, RunError
from nic_ray.model.encoder import upper
from nic_ray.progress import View
from nic_ray.record import add_ended, save_state
from nic_ray.search import outcome, rounds, search
from nic_ray.search.placement import place_trials, threads_of
from nic_ray.search.run import Run, keep_trials, refuse_unwritable, reopen_run
from nic_ray.selection import averaging
from nic_ray.selection.bases import Base
from nic_ray.selection.candidates import Candidate, best_first
from nic_ray.training.bases import Bases
from nic_ray.training.prepared import prepare
from nic_ray.training.start import describe_start, refuse_other_start


def config(**sections: object) -> Config:
    return Config.model_validate(sections)


def test_a_trial_of_one_process_gets_a_core_and_a_thread():
    placement = place_trials(config(), cpus=2, gpus_of_nodes=[0])
    assert (placement.workers, placement.concurrent, placement.threads, placement.note) == (1, 2, 1, None)


def test_a_single_trial_gets_all_threads():
    placement = place_trials(config(search={"trials": 1}), cpus=4, gpus_of_nodes=[0])
    assert (placement.concurrent, placement.threads) == (1, 4)


def test_two_workers_share_two_cores_one_trial_at_a_time():
    placement = place_trials(config(resources={"workers": 2}), cpus=2, gpus_of_nodes=[0])
    assert (placement.workers, placement.concurrent, placement.threads) == (2, 1, 1)


def test_gpus_that_no_node_has_become_cpus_and_one_line_says_so():
    placement = place_trials(config(resources={"gpus_per_worker": 1}), cpus=2, gpus_of_nodes=[0, 0])
    assert placement.gpus_per_worker == 0
    assert placement.concurrent == 2
    assert placement.note == "gpus_per_worker 1: no node has as many (found 0), so trials train on CPUs"


def test_more_gpus_than_one_node_has_do_not_add_up_over_nodes():
    assert place_trials(config(resources={"gpus_per_worker": 2}), cpus=8, gpus_of_nodes=[1, 1]).gpus_per_worker == 0


def test_a_fraction_lets_trials_share_a_gpu():
    placement = place_trials(config(resources={"gpus_per_worker": 0.25}), cpus=16, gpus_of_nodes=[1])
    assert (placement.gpus_per_worker, placement.concurrent, placement.threads) == (0.25, 4, 4)


def test_workers_beyond_the_cluster_are_not_waited_for():
    placement = place_trials(config(resources={"workers": 8}), cpus=2, gpus_of_nodes=[0])
    assert placement.workers == 2
    assert placement.note == "workers 8: the cluster has room for 2, so trials have 2"


def test_never_more_trials_at_a_time_than_there_are():
    assert place_trials(config(search={"trials": 2}), cpus=16, gpus_of_nodes=[0]).concurrent == 2


def test_training_on_the_cpu_books_no_gpu():
    asked = config(train={"device": "cpu"}, resources={"gpus_per_worker": 1})
    assert place_trials(asked, cpus=2, gpus_of_nodes=[4]).gpus_per_worker == 0


def test_a_trial_takes_the_threads_of_others_that_have_ended_but_no_more_than_its_chunks_keep_busy():
    assert threads_of(1, planned=1) == 1
    assert threads_of(6, planned=2) == 6
    assert threads_of(32, planned=2) == 8
    assert threads_of(32, planned=16) == 16
    assert threads_of(1, planned=2) == 1  # where more of them run than were planned


def candidate(name: str, recall: float, mrr: float, epoch: float) -> Candidate:
    metrics = {"recall_at_5/macro": recall, "mrr/macro": mrr, "epoch": epoch}
    return Candidate(name, config().train, metrics, {})


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((0.8, 0.1, 3.0), (0.7, 0.9, 1.0)),
        ((0.8, 0.6, 3.0), (0.8, 0.5, 1.0)),
        ((0.8, 0.6, 1.0), (0.8, 0.6, 1.5)),
    ],
)
def test_trials_are_ordered_by_objective_then_mrr_then_the_earlier_epoch(better, worse):
    for pair in ((better, worse), (worse, better)):
        found = best_first([candidate(str(place), *each) for place, each in enumerate(pair)], "recall_at_5/macro")
        assert [tuple(each.metrics.values()) for each in found] == [better, worse]


def test_a_fraction_that_does_not_divide_a_gpu_leaves_its_rest_free():
    # two of 0.4 fit on a device, not two and a half: four on two devices, not five
    placement = place_trials(config(resources={"gpus_per_worker": 0.4}), cpus=16, gpus_of_nodes=[2])
    assert placement.concurrent == 4


def test_workers_on_gpus_need_cpus_too():
    placement = place_trials(config(resources={"workers": 4, "gpus_per_worker": 0.25}), cpus=2, gpus_of_nodes=[1])
    assert (placement.workers, placement.concurrent) == (2, 1)


def test_cuda_without_a_node_that_has_it_is_refused():
    asked = config(train={"device": "cuda"}, resources={"gpus_per_worker": 2})
    with pytest.raises(InputError, match=r"no node has the 2 GPUs of resources.gpus_per_worker \(found 1\)"):
        place_trials(asked, cpus=2, gpus_of_nodes=[1, 1])


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (0.25, "gloo"), (0.5, "gloo"), (1, "nccl"), (2, "nccl")])
def test_workers_that_may_share_a_gpu_talk_by_gloo(gpus, backend):
    worker = pytest.importorskip("nic_ray.search.worker")
    placement = place_trials(config(resources={"workers": 2, "gpus_per_worker": gpus}), cpus=8, gpus_of_nodes=[4])
    assert worker.backend(placement.gpus_per_worker) == backend


class FarEnough(Exception):
    pass


@pytest.mark.parametrize(("gpus", "backend"), [(0.5, "gloo"), (1, "nccl")])
def test_a_trial_of_several_workers_is_started_with_that_backend(tmp_path, monkeypatch, gpus, backend):
    worker, UserCallback = pytest.importorskip("nic_ray.search.worker"), pytest.importorskip("ray.train").UserCallback
    asked = []

    def stop(*_, torch_config, scaling_config, **__):
        asked.append((torch_config.backend, scaling_config.resources_per_worker["GPU"]))
        raise FarEnough

    monkeypatch.setattr(worker, "TorchTrainer", stop)
    monkeypatch.setattr(worker, "TuneReportCallback", UserCallback)  # Tune's own wants a session of Tune
    monkeypatch.setattr(worker.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:6379"))
    monkeypatch.setattr(worker.tune, "get_context", lambda: SimpleNamespace(get_trial_name=lambda: "trial-000"))
    monkeypatch.setattr(worker, "hand_to_train_workers", lambda *_: None)
    train = config().train
    bases = {train.base_model: SimpleNamespace(blocks=6)}
    plan = SimpleNamespace(base=train, bases=bases, workers=2, gpus_per_worker=gpus, run_folder=tmp_path, mirror=None)
    with pytest.raises(FarEnough):
        worker.run_trial({}, plan)
    assert asked == [(backend, gpus)]


@pytest.mark.parametrize(("gpus", "share"), [(0.25, 0.25), (1, 1.0), (2, 1.0)])
def test_a_trial_takes_no_more_of_a_gpu_for_its_inputs_than_its_share(prepared, monkeypatch, gpus, share):
    worker = pytest.importorskip("nic_ray.search.worker")
    asked = []

    def stop(*_, **given):
        asked.append(given)
        raise FarEnough

    monkeypatch.setattr(worker.ray, "get", lambda each: each)
    monkeypatch.setattr(worker, "feed", stop)
    base = SimpleNamespace(uppers={1: upper(prepared.encoder, 1, from_ids=True)}, inputs={1: prepared.tokens})
    plan = SimpleNamespace(
        collection=prepared.collection,
        bases={prepared.encoder.name: base},
        gpus_per_worker=gpus,
    )
    with pytest.raises(FarEnough):
        worker.what_is_trained(plan, prepared.config.train, prepared.rows("train"), "cpu")
    assert asked == [{"share": share}]


@pytest.mark.parametrize(("usable", "cpus"), [(3, 3), (64, 6)])
def test_trials_share_no_more_cpus_than_a_process_may_use(monkeypatch, usable, cpus):
    worker = pytest.importorskip("nic_ray.search.worker")
    nodes = [
        {"NodeID": name, "Alive": True, "NodeManagerHostname": host, "Resources": {"CPU": 3.0}}
        for name, host in (("a", "here"), ("b", "here"), ("c", "elsewhere"))
    ]
    monkeypatch.setattr(worker.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(worker.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a"))
    monkeypatch.setattr("nic_ray.search.worker.usable_cpus", lambda: usable)
    assert worker._this_machine() == ("here", cpus)


def test_a_trial_that_was_given_a_gpu_does_not_train_on_the_cpu(monkeypatch):
    worker = pytest.importorskip("nic_ray.search.worker")
    with_gpu, without = SimpleNamespace(gpus_per_worker=0.5), SimpleNamespace(gpus_per_worker=0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (worker.device_of(with_gpu), worker.device_of(without)) == ("cuda", "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert worker.device_of(without) == "cpu"
    with pytest.raises(RunError, match=r"Ray has given this trial a GPU, and PyTorch .* sees no CUDA device"):
        worker.device_of(with_gpu)


def test_a_gpu_that_pytorch_sees_and_ray_does_not_ends_the_search(prepared, monkeypatch):
    cluster = pytest.importorskip("nic_ray.search.cluster")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    asked = prepared.config.model_copy(update={"resources": config(resources={"gpus_per_worker": 1}).resources})
    without = place_trials(asked, cpus=2, gpus_of_nodes=[0])
    with pytest.raises(InputError, match=r"PyTorch sees 2 GPU\(s\) on this machine, and Ray sees none"):
        cluster.in_format_of_trials({"base": replace(prepared, config=asked)}, without, joined=False)
    # the GPU of a machine that only starts a search on others is of no use to trials
    assert (
        cluster.in_format_of_trials({"base": replace(prepared, config=asked)}, without, joined=True)["base"].device
        == "cpu"
    )
    on_cpus = asked.model_copy(update={"train": asked.train.model_copy(update={"device": "cpu"})})
    assert (
        cluster.in_format_of_trials({"base": replace(prepared, config=on_cpus)}, without, joined=False)["base"].device
        == "cpu"
    )


@pytest.mark.parametrize("missing", ["", "PyTorch 2 sees no CUDA device"])
def test_a_gpu_that_ray_sees_and_pytorch_does_not_ends_the_search(prepared, monkeypatch, missing):
    ray, cluster = pytest.importorskip("ray"), pytest.importorskip("nic_ray.search.cluster")
    node = {"NodeID": "a", "Alive": True, "Resources": {"GPU": 2.0}, "NodeManagerAddress": "10.0.0.7"}
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a"))
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    monkeypatch.setattr(cluster, "look_for_gpus", lambda _: cluster.VisibleGpus(missing, False))
    asked = prepared.config.model_copy(update={"resources": config(resources={"gpus_per_worker": 1}).resources})
    placement = place_trials(asked, cpus=2, gpus_of_nodes=[2])
    given = {"base": replace(prepared, config=asked)}
    if not missing:
        assert not cluster.in_format_of_trials(given, placement, joined=True)["base"].bf16
        return
    with pytest.raises(
        InputError, match=rf"^node 10\.0\.0\.7: Ray gives trials 2 GPU\(s\) there, and {missing}; or train"
    ):
        cluster.in_format_of_trials(given, placement, joined=True)


def test_frozen_blocks_run_in_one_process_a_gpu_and_not_in_one_a_shard(prepared, monkeypatch):
    ray, cluster = pytest.importorskip("ray"), pytest.importorskip("nic_ray.search.cluster")
    asked = []

    def on_gpus(_, shards, gpus):
        asked.append(gpus)
        return ([shard] for shard in shards)

    monkeypatch.setattr(ray, "put", lambda each: each)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0, "CPU": 4.0})
    monkeypatch.setattr(cluster, "on_gpus", on_gpus)
    placement = place_trials(config(resources={"gpus_per_worker": 0.5}), cpus=4, gpus_of_nodes=[2])
    chain = cluster.chain_on_cluster(placement, bf16=prepared.bf16)
    assert list(chain([], list(range(12)))) == [[shard] for shard in range(12)]
    assert list(chain([], [0])) == [[0]]
    assert asked == [2, 1]


def test_cuda_is_left_to_the_cluster_where_one_is_joined(monkeypatch):
    asked = config(train={"device": "cuda"}, resources={"gpus_per_worker": 1})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert search.may_use_a_gpu_here(asked)  # and is refused when it is picked
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not search.may_use_a_gpu_here(asked)
    with pytest.raises(InputError, match="no node has the 1 GPUs"):
        place_trials(asked, cpus=2, gpus_of_nodes=[0, 0])


def test_places_that_cannot_be_written_are_refused_and_none_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    refuse_unwritable(tmp_path / "new" / "runs", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for folder, fault in (
        (tmp_path / "file" / "runs", "file is not a folder"),
        (Path("/proc/1/runs"), "cannot be written"),
    ):
        with pytest.raises(InputError, match=rf"^{folder}: nothing can be kept there \(.*{fault}\); name others"):
            refuse_unwritable(tmp_path, folder)


@pytest.fixture
def prepared(tiny_model, tiny_pairs_file):
    settings = config(
        data={"pairs": tiny_pairs_file, "validation_share": 0.25, "test_share": 0.25},
        train={"base_model": str(tiny_model()), "frozen_layers": 1, "batch_size": 8},
        space={"learning_rate": {"log_uniform": [1e-5, 1e-3]}},
    )
    return prepare(settings, on_gpu=False)


def run_folder_of(tmp_path, settings, *, noted=True, study=False, trials=1):
    """What a search that was started with some settings leaves, as far as a resume looks at it at first."""
    folder = tmp_path / "runs" / "tiny-20260101T000000Z"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(settings))
    asked = {"bundle": str(tmp_path / "models" / "tiny"), "overwrite": False, "export_anyway": False}
    (folder / "run.json").write_text(
        json.dumps(asked | ({"settings": settings.model_dump(mode="json")} if noted else {}))
    )
    if study:
        storage = study_room.storage(folder / "study.db")
        drawn = {name: study_room.distribution_of(each) for name, each in settings.space.items()}
        params = {name: getattr(settings.train, name) for name in drawn}
        made = optuna.create_study(study_name="nic_ray", storage=storage, direction="maximize")
        for _ in range(trials):
            made.add_trial(optuna.trial.create_trial(value=0.5, params=params, distributions=drawn))
        storage.engine.dispose()
    return folder


SEARCHED = {
    "space": {"batch_size": {"choice": [32, 64, 128]}, "learning_rate": {"log_uniform": [1e-5, 1e-3]}},
    "search": {"trials": 2},
}


def changed(**sections):
    return config(**{name: {**SEARCHED.get(name, {}), **values} for name, values in ({**SEARCHED, **sections}).items()})


OTHER_SPACES = [
    ({"batch_size": {"choice": [32, 64]}}, "space.batch_size is choice [32, 64], was choice [32, 64, 128]"),
    ({"batch_size": {"choice": [64, 32, 128]}}, "space.batch_size is choice [64, 32, 128], was choice [32, 64, 128]"),
    (
        {"learning_rate": {"log_uniform": [1e-5, 1e-2]}},
        "space.learning_rate is log_uniform [1e-05, 0.01], was log_uniform [1e-05, 0.001]",
    ),
    (
        {"learning_rate": {"uniform": [1e-5, 1e-3]}},
        "space.learning_rate is uniform [1e-05, 0.001], was log_uniform [1e-05, 0.001]",
    ),
    ({"scale": {"choice": [20, 30]}}, "space.scale is choice [20, 30], was left out"),
]


@pytest.fixture
def nothing_is_read(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the pairs were read")

    monkeypatch.setattr(search, "prepare_bases", refuse)


def resumed(folder):
    return search.resume_search(str(folder), runs_trials=True, overwrite=False, export_anyway=False, view=View())


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize(("space", "message"), OTHER_SPACES)
def test_another_space_than_that_of_the_trials_is_refused_before_anything_is_read(
    tmp_path, nothing_is_read, noted, space, message
):
    folder = run_folder_of(tmp_path, config(**SEARCHED), noted=noted, study=True)
    (folder / "config.yaml").write_text(dump_config(changed(space=space)))
    with pytest.raises(InputError) as refused:
        resumed(folder)
    assert f"({message})" in str(refused.value)
    assert f"start a new search with the new ones: python -m nic_ray.tune {folder / 'config.yaml'}" in str(
        refused.value
    )


@pytest.mark.parametrize("noted", [True, False])
def test_a_dimension_that_is_gone_is_named(tmp_path, nothing_is_read, noted):
    folder = run_folder_of(tmp_path, config(**SEARCHED), noted=noted, study=True)
    left = {"learning_rate": SEARCHED["space"]["learning_rate"]}
    (folder / "config.yaml").write_text(dump_config(config(**SEARCHED | {"space": left})))
    with pytest.raises(InputError, match=r"\(space.batch_size is left out, was choice \[32, 64, 128\]\)"):
        resumed(folder)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"search": {"objective": "mrr/macro"}}, "search.objective is mrr/macro, was recall_at_5/macro"),
        ({"train": {"epochs": 5}}, "train.epochs is 5, was 3"),
        (
            {"train": {"hidden_dropout": 0.2, "seed": 1}},
            "train.hidden_dropout is 0.2, was 0.1; train.seed is 1, was 42",
        ),
    ],
)
def test_trials_of_another_objective_or_training_are_not_put_beside_each_other(
    tmp_path, nothing_is_read, sections, message
):
    folder = run_folder_of(tmp_path, config(**SEARCHED))
    (folder / "config.yaml").write_text(dump_config(changed(**sections)))
    with pytest.raises(InputError) as refused:
        resumed(folder)
    assert f"({message})" in str(refused.value)


@pytest.mark.parametrize("noted", [True, False])
def test_what_does_not_change_a_trial_may_be_changed(tmp_path, nothing_is_read, noted):
    folder = run_folder_of(tmp_path, config(**SEARCHED), noted=noted, study=True)
    sections = {"train": {"micro_batch_tokens": 1024}, "search": {"trials": 5}, "resources": {"concurrent_trials": 1}}
    (folder / "config.yaml").write_text(dump_config(changed(**sections)))
    with pytest.raises(AssertionError, match="the pairs were read"):
        resumed(folder)


def test_a_search_can_be_given_more_trials_and_no_fewer(tmp_path, nothing_is_read):
    folder = run_folder_of(tmp_path, config(**SEARCHED), study=True)

    def go_on(trials):
        further = {"search.trials": trials, "search.time_budget": None}
        search.resume_search(
            str(folder), runs_trials=True, overwrite=False, export_anyway=False, further=further, view=View()
        )

    before = (folder / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"--trials 1: .* was started for 2 trials in all; name a larger number"):
        go_on(1)
    assert (folder / "config.yaml").read_text() == before
    for trials in (None, 5):
        with pytest.raises(AssertionError, match="the pairs were read"):
            go_on(trials)
    # nothing is kept until the pairs are known to be the same
    assert (folder / "config.yaml").read_text() == before
    run, settings, _ = reopen_run(
        str(folder), "tune --resume", overwrite=False, export_anyway=False, further={"search.trials": 5}
    )
    keep_trials(run, settings.search.trials)
    assert load_config(folder / "config.yaml").search.trials == settings.search.trials == 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_tracker_of_no_use_ends_a_search_before_anything_is_read(tmp_path, nothing_is_read):
    settings = config(**SEARCHED, trackers={"mlflow": "nonsense://there"})
    with pytest.raises(InputError, match=r"trackers\.mlflow: "):
        resumed(run_folder_of(tmp_path, settings))
    with pytest.raises(InputError, match=r"trackers\.mlflow: "):
        search.run_search(
            settings, out=tmp_path / "models", name="a", run_root=tmp_path / "runs", overwrite=False,
            export_anyway=False, view=View(),
        )  # fmt: skip


@pytest.mark.parametrize("settings", [[], {"train": 1}, {"train": {}, "search": {"objective": "a"}, "space": {"a": 1}}])
def test_damaged_settings_of_a_run_are_named(tmp_path, nothing_is_read, settings):
    folder = run_folder_of(tmp_path, config(**SEARCHED))
    asked = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(asked | {"settings": settings}))
    with pytest.raises(InputError, match=r"run\.json: its settings are damaged"):
        resumed(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"its config\.yaml is gone; write it again, from"):
        resumed(folder)


@pytest.mark.parametrize("study", [None, b""])
def test_a_study_that_was_lost_is_made_anew_from_the_trials_that_have_ended(tmp_path, study):
    folder, told = run_folder_of(tmp_path, config(**SEARCHED)), []
    if study is not None:
        (folder / "study.db").write_bytes(study)
    assert rounds.study_of(folder, config(**SEARCHED), told.append) is None  # nothing has ended yet
    for name in ("study.db", "study.damaged"):
        (folder / name).unlink(missing_ok=True)
    sample = {"batch_size": 64, "learning_rate": 1e-4}
    ended = {"status": "finished", "sample": sample, "epoch": 1.0, "evaluation": 1, "objective": 0.7}
    add_ended(folder, "trial-000", ended)
    if study is not None:
        (folder / "study.db").write_bytes(study)
    (found,) = rounds.study_of(folder, config(**SEARCHED), told.append).trials
    assert (found.params, found.value) == (sample, 0.7)
    assert told == [f"{folder / 'study.db'}: is not there, or empty; it is made anew from the trials that have ended"]


def test_a_run_goes_on_with_the_weights_of_its_base_model(prepared, tmp_path):
    started = json.loads(json.dumps(describe_start(prepared)))
    refuse_other_start(prepared, started, tmp_path)
    refuse_other_start(prepared, {**started, "base_weights_sha256": prepared.encoder.weights_sha256}, tmp_path)
    with pytest.raises(InputError, match=r"has other weights than at the start of"):
        refuse_other_start(prepared, started | {"base_weights_sha256": "0"}, tmp_path)
    with pytest.raises(InputError, match="is split differently from the start of"):
        refuse_other_start(prepared, started | {"split": {}}, tmp_path)
    with pytest.raises(InputError, match="has changed since"):
        refuse_other_start(prepared, started | {"data": {}}, tmp_path)


def test_a_prompt_that_leaves_next_to_nothing_of_a_text_is_refused(changed_model, tiny_pairs_file):
    def prepared_with(prompts, max_tokens):
        train = {"base_model": str(changed_model(prompts=prompts)), "frozen_layers": 1, "max_tokens": max_tokens}
        return prepare(config(data={"pairs": tiny_pairs_file}, train=train), on_gpu=False)

    prepared_with({"query": "pumps " * 10}, 20)
    for kind in ("query", "document"):
        with pytest.raises(InputError, match=r"its prompt for a \w+ takes 13 of the 20 tokens .*train\.max_tokens,"):
            prepared_with({kind: "pumps " * 11}, 20)


def test_a_resumed_search_too_tries_what_ray_needs_before_anything_is_read(tmp_path, nothing_is_read, monkeypatch):
    def refuse():
        raise InputError("TMPDIR: too long for Ray")

    monkeypatch.setattr(search, "refuse_what_ray_cannot_use", refuse)
    with pytest.raises(InputError, match="too long for Ray"):
        resumed(run_folder_of(tmp_path, config(**SEARCHED)))


def run_in(folder):
    return Run(folder, folder / "m", False, False, None, None, "export")


def setup_of(prepared, folder):
    """A search that trains nothing and reads what is there."""
    placement = place_trials(prepared.config, cpus=2, gpus_of_nodes=[0])
    return rounds.SearchSetup(prepared, run_in(folder), placement, None, {}, [], math.inf, False, View())


def state_with(metrics, *, finished=True, tokens=32768):
    """What a training leaves that has come to its best evaluation."""
    return {
        "upper": {},
        "optimizer": {},
        "random": torch.get_rng_state(),
        "random_of": "cpu",
        "micro_batch_tokens": tokens,
        "step": 1,
        "stale": 0,
        "best": {"metrics": metrics, "upper": {}},
        "metrics": metrics,
        "finished": finished,
    }


def left_by(folder, trial, value, *, epoch=3.0, status="finished", tokens=32768):
    """What a trial leaves in its run folder."""
    place = folder / "ray" / trial / "checkpoint_000000"
    place.mkdir(parents=True)
    metrics = {"recall_at_5/macro": value, "mrr/macro": value, "epoch": epoch}
    save_state(state_with(metrics, finished=status == "finished", tokens=tokens), place)
    add_ended(folder, trial, {"status": status, "error": "", "epoch": epoch, "seconds": 1.0, "sample": {}})


def test_a_row_of_a_trial_says_how_long_it_was_trained_and_how_many_tokens_its_memory_held(prepared, tmp_path):
    left_by(tmp_path, "trial-000", 0.6)
    left_by(tmp_path, "trial-001", 0.7, epoch=1.0, status="stopped", tokens=4096)
    result = rounds.result_of_trials(setup_of(prepared, tmp_path), {"trial-000": {}, "trial-001": {}}, {})
    assert [(each.name, each.epochs, each.finished) for each in result.best] == [
        ("trial-001", 1.0, False),
        ("trial-000", 3.0, True),
    ]
    outcome.write_trials(tmp_path / "trials.csv", result.rows)
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        found = [(row["trial"], row["epochs"], row["micro_batch_tokens"]) for row in csv.DictReader(file)]
    assert found == [("trial-000", "3.0", "32768"), ("trial-001", "1.0", "4096")]


def test_the_best_are_tried_again_whatever_the_first_trial_and_every_trial_may_join_the_mean(prepared, tmp_path):
    folder = run_folder_of(tmp_path, prepared.config, study=True, trials=4)
    for number, value in enumerate((0.5, 0.749, 0.6, 0.7)):
        left_by(folder, f"trial-{number:03d}", value)
    left_by(folder, "trial-003-seed-43", 0.72)
    left_by(folder, "trial-001-seed-43", 0.1, epoch=0.5, status="stopped")  # was cut off
    setup = setup_of(prepared, folder)
    searched = rounds.result_of_trials(setup, rounds.run_search_trials(setup), {})
    chosen = searched.best[: prepared.config.confirm.trials]
    again = rounds.result_of_trials(setup, rounds.run_trials_again(setup, chosen), {})
    winner, confirmations = rounds.pick_winner(setup, chosen, again)
    assert winner.name == "trial-001"
    assert [(each.trial, each.values) for each in confirmations] == [
        ("trial-001", {42: 0.749}),
        ("trial-003", {42: 0.7, 43: 0.72}),
    ]
    assert [each.name for each in searched.best] == ["trial-001", "trial-003", "trial-002", "trial-000"]
    assert [each.name for each in again.best] == ["trial-003-seed-43", "trial-001-seed-43"]
    for result in (searched, again):
        assert {row["trial"] for row in result.rows} == {each.name for each in result.best}


@pytest.mark.parametrize(("forgotten", "count"), [([0.0] * 12, 8), ([0.0, -0.05] * 6, 11), ([0.02] * 12, 8)])
def test_what_was_forgotten_is_measured_of_trials_that_may_be_averaged(
    prepared, tmp_path, monkeypatch, forgotten, count
):
    values = [round(0.8 - number / 100, 2) for number in range(12)]
    for number, value in enumerate(values):
        left_by(tmp_path, f"trial-{number:03d}", value)
    asked = []

    def retention_of(_prepared, _set, candidate):
        asked.append(candidate.name)
        return {"recall_at_5": forgotten[int(candidate.name[-3:])], "mrr": 0.0}

    monkeypatch.setattr(rounds, "retention_of", retention_of)
    kind = prepared.config.train.kind
    samples = {f"trial-{number:03d}": {} for number in range(12)}
    result = rounds.result_of_trials(setup_of(prepared, tmp_path), samples, {kind: "the retention set"})
    assert len(asked) == count
    assert [each.name for each in result.best] == list(samples)
    assert [row["trial"] for row in result.rows if "retention" in row] == sorted(asked)
    # the best eight are those that all figures would choose
    worth = {name: value + min(0.0, lost) for name, value, lost in zip(samples, values, forgotten, strict=True)}
    expected = sorted(samples, key=worth.__getitem__, reverse=True)[:8]
    found = sorted(result.best, key=lambda each: averaging.worth(each, "recall_at_5/macro"), reverse=True)[:8]
    assert [each.name for each in found] == expected


def test_what_was_forgotten_is_measured_of_the_best_of_each_kind_and_of_those_that_are_trained_again(
    prepared, tmp_path, monkeypatch
):
    samples = {f"trial-{number:03d}": {"trains": "queries"} if number > 9 else {} for number in range(20)}
    for number, name in enumerate(samples):
        left_by(tmp_path, name, round(0.8 - number / 100, 2))
    asked = []
    monkeypatch.setattr(
        rounds, "retention_of", lambda _, __, each: asked.append(each.name) or {"recall_at_5": 0.0, "mrr": 0.0}
    )
    setup = setup_of(prepared, tmp_path)
    kinds = [prepared.config.train.kind, (prepared.config.train.base_model, "queries")]
    result = rounds.result_of_trials(setup, samples, dict.fromkeys(kinds, "the retention set"))
    assert asked == [f"trial-{number:03d}" for number in (*range(8), *range(10, 18))]
    assert [each.name for each in result.best] == list(samples)

    asked.clear()
    confirm = prepared.config.confirm.model_copy(update={"trials": 9})
    several = replace(prepared, config=prepared.config.model_copy(update={"confirm": confirm}))
    rounds.result_of_trials(setup_of(several, tmp_path), samples, dict.fromkeys(kinds, "the retention set"))
    assert asked == [f"trial-{number:03d}" for number in (*range(9), *range(10, 18))]


def test_a_report_that_cannot_be_written_costs_a_line_and_no_search(tmp_path, monkeypatch):
    def fail(_):
        raise ValueError("no\nfigure")

    monkeypatch.setattr("nic_ray.report.html.write_page", fail)
    said = []
    outcome.write_report(run_in(tmp_path), said.append)
    assert said == [f"{tmp_path / 'report.html'}: not written (ValueError: no figure)"]


def test_a_resumed_view_begins_with_the_best_of_what_the_study_knows(tmp_path):
    trials = [
        SimpleNamespace(number=number, intermediate_values=values)
        for number, values in enumerate([{1: 0.4, 2: 0.6}, {1: 0.7}, {}])
    ]
    assert rounds.best_before(tmp_path, trials) is None  # its checkpoint is gone
    for number, value in enumerate((0.6, 0.7)):
        folder = tmp_path / "ray" / f"trial-00{number}" / "checkpoint_000000"
        folder.mkdir(parents=True)
        save_state(state_with({"recall_at_5/macro": value}), folder)
    assert rounds.best_before(tmp_path, trials) == ("trial-001", {"recall_at_5/macro": 0.7})
    assert rounds.best_before(tmp_path, trials[2:]) is None


@pytest.mark.parametrize("name", ["", "a/b", "..", "a/", "/a", "a\nb", "a\0"])
def test_a_name_that_is_none_of_a_folder_is_refused_before_anything_is_read(tmp_path, name):
    with pytest.raises(InputError, match=r"--name .*: must be the name of one folder, without a slash and printable"):
        search.run_search(config(), out=tmp_path, name=name, run_root=tmp_path, overwrite=False, view=View())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["run_all_trials", "judge", "_export"])
def test_ctrl_c_at_any_step_of_a_search_says_how_it_is_resumed(prepared, tmp_path, monkeypatch, step):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    best = Candidate("trial-000", prepared.config.train, {}, {})
    steps = {
        "import_ray": lambda: None,
        "ray_session": lambda *_: contextlib.nullcontext(),
        "run_all_trials": lambda *_, **__: search.SearchedTrials(
            {prepared.config.train.kind: Base(prepared, {})}, {}, [best], [], []
        ),
        "judge": lambda *_, **__: SimpleNamespace(may_be_exported=True, evidence={}),
        "_export": None,
        "write_trials": lambda *_: None,
        "write_result": lambda *_, **__: None,
    }
    for name, replacement in (steps | {step: interrupt}).items():
        monkeypatch.setattr(search, name, replacement)
    run = run_in(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        search._search(Bases({prepared.encoder.name: prepared}, {}, {}), run, None, runs_trials=False, view=View())


def test_a_command_that_was_cut_off_after_its_reading_has_read_once(prepared, tmp_path, monkeypatch):
    run = run_in(tmp_path / "runs" / "one")
    run.folder.mkdir(parents=True)
    assert len(outcome.note_test_reading(run, prepared, "trial-001")) == 1
    assert len(outcome.note_test_reading(run, prepared, "trial-001")) == 2  # nothing was trained in between
    run.files.refits.mkdir()
    assert len(outcome.note_test_reading(run, prepared, "trial-001")) == 2
    assert len(outcome.note_test_reading(run, prepared, "trial-002")) == 3  # another winner has been chosen
    monkeypatch.setattr(outcome, "read_result", lambda _: {"bundle": "models/one"})
    assert len(outcome.note_test_reading(run, prepared, "trial-002")) == 4  # that command had come to its end
