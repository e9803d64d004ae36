"""The configurations that a search tries first."""

import pytest

from nic_ray.config import Config
from nic_ray.config_file import dump_config
from nic_ray.errors import InputError
from nic_ray.record import EndedTrial, add_ended
from nic_ray.search.starts import starting_points

SPACE = {"scale": {"uniform": [1, 100]}, "batch_size": {"choice": [32, 64]}}


def points(**search):
    return [
        (point["scale"], point["batch_size"])
        for point in starting_points(Config.model_validate({"space": SPACE, "search": search}))
    ]


@pytest.fixture
def earlier(tmp_path):
    """`earlier(name=(objective, sample), ...)`: the folder of an earlier search."""

    def make(**trials):
        for name, (objective, sample) in trials.items():
            row = EndedTrial(status="finished", error="", sample=sample, seconds=1.0)
            add_ended(tmp_path, name.replace("_", "-"), row | ({} if objective is None else {"objective": objective}))
        return str(tmp_path)

    return make


def test_the_default_comes_first_then_the_starts_in_their_order():
    assert points() == [(20.0, 32)]
    assert points(starts=[{"scale": 30}, {"batch_size": 64}]) == [(20, 32), (30, 32), (20, 64)]


def test_a_warm_start_takes_over_the_best_three_as_far_as_the_space_holds_them(earlier):
    run = earlier(
        trial_000=(0.5, {"scale": 20.0, "batch_size": 32}),
        trial_001=(0.9, {"scale": 40.0, "batch_size": 64, "warmup_share": 0.5}),
        trial_002=(None, {"scale": 99.0}),
        trial_003=(0.8, {"scale": 500.0, "batch_size": 64}),  # the space of this search ends at 100
        trial_004=(0.7, {"scale": 50.0, "batch_size": 128}),
        trial_005=(0.6, {"scale": 60.0, "batch_size": 32}),
        trial_001_seed_43=(0.95, {"scale": 41.0, "seed": 43}),
    )
    assert points(warm_start=run) == [(20, 32), (40, 64), (20, 64), (50, 32)]
    assert points(warm_start=run, starts=[{"scale": 40, "batch_size": 64}]) == [(20, 32), (40, 64), (20, 64), (50, 32)]


def test_what_an_earlier_trial_had_from_its_settings_comes_along(earlier, tmp_path):
    run = earlier(trial_000=(0.9, {"lora_rank": 4}), trial_001=(0.8, {"lora_rank": 16}))
    before = Config.model_validate({"train": {"method": "lora", "lora_learning_rate": 2e-3}})
    (tmp_path / "config.yaml").write_text(dump_config(before))
    space = {
        "method": {"choice": ["blocks", "lora"]}, "lora_rank": {"choice": [4, 16]},
        "lora_learning_rate": {"log_uniform": [1e-4, 1e-2]},
    }  # fmt: skip
    found = starting_points(Config.model_validate({"space": space, "search": {"warm_start": run}}))
    assert found[1] == {"method": "lora", "lora_rank": 4, "lora_learning_rate": 2e-3}
    assert found[2]["lora_rank"] == 16


def test_a_depth_that_was_a_count_stays_one(earlier):
    run = earlier(trial_000=(0.9, {"frozen_layers": 2}))
    space = {"frozen_share": {"choice": [0.5, None]}, "frozen_layers": {"choice": [2, 4]}}
    settings = {"space": space, "train": {"frozen_share": 0.5}, "search": {"warm_start": run}}
    assert starting_points(Config.model_validate(settings)) == [
        {"frozen_share": 0.5},
        {"frozen_share": None, "frozen_layers": 2},
    ]


def test_a_folder_without_a_search_is_refused(tmp_path, earlier):
    for run in (tmp_path / "none", earlier(trial_000=(None, {"scale": 30.0}))):
        with pytest.raises(
            InputError, match=r"search\.warm_start: .* holds no search with a trial that has ended; name"
        ):
            points(warm_start=str(run))
