"""A cluster that has GPUs by Ray's count alone: who may train on them, and how many processes work on one."""

import dataclasses
import gc
import os
from collections.abc import Iterator

import pytest
import ray

from nic_ray.config import Config
from nic_ray.errors import InputError, RunError
from nic_ray.progress import View
from nic_ray.search import cluster as room
from nic_ray.search import search
from nic_ray.search.session import import_ray
from nic_ray.training.prepared import prepare
from tests.searches import MARKS, settings

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    import_ray()
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, configure_logging=False)
    yield
    ray.shutdown()
    gc.collect()


@pytest.fixture
def config(tiny_model, tiny_pairs_file) -> Config:
    return Config.model_validate(settings(tiny_model(layers=3), tiny_pairs_file, resources={"gpus_per_worker": 0.5}))


def run(config: Config, folder) -> None:
    search.run_search(
        config, out=folder / "models", name="tiny", run_root=folder / "runs", overwrite=False, view=View()
    )


def test_no_more_processes_than_gpus_work_on_all_shards_in_their_order():
    done = list(room.on_gpus(lambda shard: (shard, os.getpid()), range(12), 2))
    assert [shard for shard, _ in done] == list(range(12))
    assert len({process for _, process in done}) <= 2  # the second may come too late for so little


def test_who_stops_early_gives_the_gpus_back():
    shards = room.on_gpus(lambda shard: shard, range(12), 2)
    assert next(shards) == 0
    shards.close()
    # or this would wait for ever
    assert list(room.on_gpus(lambda shard: shard, range(3), 2)) == [0, 1, 2]


def test_a_gpu_that_ray_sees_and_pytorch_does_not_ends_the_search(config, tmp_path):
    with pytest.raises(InputError, match=r"^node .*: Ray gives trials 2 GPU\(s\) there, and PyTorch .* sees no CUDA"):
        run(config, tmp_path)


def test_a_trial_with_a_gpu_that_pytorch_does_not_see_fails_and_says_so(config, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "in_format_of_trials", lambda prepared, _, joined: prepared)
    monkeypatch.setattr(room, "on_gpus", lambda work, shards, _: map(on_cpu(work), shards))
    with pytest.raises(RunError, match=r"no trial produced a model:\n.*Ray has given this trial a GPU, and PyTorch"):
        run(config, tmp_path)


def on_cpu(work):
    """The same blocks, where they can run here."""
    blocks, bf16 = work.args
    return lambda shard: room.run_shard(ray.get(blocks), shard, "cpu", bf16)


@pytest.mark.parametrize("native", [True, False])
def test_activations_have_the_format_of_the_gpus_and_not_of_this_processor(config, monkeypatch, native):
    monkeypatch.setattr(room, "look_for_gpus", lambda precision: room.VisibleGpus("", native))
    prepared = dataclasses.replace(prepare(config, on_gpu=False), bf16=not native)
    placement = room.placement_on_cluster(config)
    assert (placement.gpus_per_worker, placement.concurrent) == (0.5, 2)
    assert room.in_format_of_trials({"base": prepared}, placement, joined=True)["base"].bf16 == native


def test_cuda_may_be_asked_for_where_only_the_cluster_has_a_gpu(config):
    asked = config.model_copy(update={"train": config.train.model_copy(update={"device": "cuda"})})
    prepared = prepare(asked, on_gpu=search.may_use_a_gpu_here(asked))
    assert prepared.device == "cpu"
    assert room.placement_on_cluster(asked).gpus_per_worker == 0.5
