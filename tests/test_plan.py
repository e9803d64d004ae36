"""What a forecast measures on: what the trials would train on, or nothing that it could tell the time by."""

import dataclasses

import pytest
import torch

from nic_ray import console, plan
from nic_ray.config import Config
from nic_ray.errors import InputError
from nic_ray.search import forecast
from nic_ray.search.rates import Rates, _measure

RATES = Rates(start=1.0, frozen=1e-6, trained=1e-6, step=0.01, read=1e-6, memory=2**20)


@pytest.fixture
def config(tiny_model, tiny_pairs_file) -> Config:
    return Config.model_validate(
        {
            "data": {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25},
            "train": {"base_model": str(tiny_model()), "frozen_layers": 1, "batch_size": 8, "epochs": 2},
            "search": {"trials": 8},
            "guard": {"retention_set": None},
        }
    )


def with_gpus(config: Config, share: float, device: str = "auto") -> Config:
    resources = config.resources.model_copy(update={"gpus_per_worker": share})
    train = config.train.model_copy(update={"device": device})
    return config.model_copy(update={"resources": resources, "train": train})


@pytest.fixture
def asked(monkeypatch) -> list[tuple[int, int, str]]:
    """Processes, threads and device of each measurement, none of which is made."""
    found: list[tuple[int, int, str]] = []

    def measured(_: Config, *how: object) -> Rates:
        found.append(how)
        return RATES

    monkeypatch.setattr(forecast, "measured", measured)
    monkeypatch.setattr("nic_ray.search.forecast.usable_cpus", lambda: 16)
    return found


def gpus(monkeypatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)


@pytest.mark.parametrize(("share", "there", "processes"), [(0.25, 1, 4), (0.25, 2, 4), (1, 2, 1), (0.5, 1, 2)])
def test_trials_for_gpus_are_measured_on_one_with_as_many_beside_as_will_share_it(
    monkeypatch, config, asked, share, there, processes
):
    gpus(monkeypatch, there)
    found = forecast.forecast(with_gpus(config, share))
    ((beside, _, device),) = asked
    assert (beside, device) == (processes, "cuda")
    assert found.concurrent == processes * there
    assert found.total_s > 0


def test_a_search_without_gpus_is_measured_on_the_cpu_even_where_there_is_one(monkeypatch, config, asked):
    gpus(monkeypatch, 1)
    forecast.forecast(config)
    forecast.forecast(with_gpus(config, 0.25, device="cpu"))
    assert asked == [(8, 2, "cpu")] * 2


def test_the_cpu_does_not_tell_the_time_of_trials_on_gpus(monkeypatch, config, asked):
    gpus(monkeypatch, 0)
    found = dataclasses.asdict(forecast.forecast(with_gpus(config, 0.25)))
    times = {name for name in found if name.endswith("_s")}
    assert {name for name, value in found.items() if value is None} == {*times, "every_depth"}
    assert found["concurrent"] == 4
    assert min(found["memory"], found["activations"], found["disk"]) > 0


def test_plan_says_in_a_sentence_that_it_knows_no_time(monkeypatch, config, asked, tmp_path, capsys):
    from nic_ray.config_file import dump_config

    gpus(monkeypatch, 0)
    (tmp_path / "config.yaml").write_text(dump_config(with_gpus(config, 0.25)), encoding="utf-8")
    for device, told in (("auto", False), ("cpu", True)):
        monkeypatch.setattr("sys.argv", ["plan", str(tmp_path / "config.yaml"), "--device", device])
        with pytest.raises(SystemExit) as ended:
            console.run(plan.main)
        said = capsys.readouterr().out
        assert ended.value.code == 0
        assert ("the time on one cannot be predicted on this machine" in " ".join(said.split())) != told
        assert ("min" in said) == told
        assert "GiB" in said


def test_cuda_that_no_trial_would_be_given_is_refused(config):
    with pytest.raises(InputError, match=r"cuda is asked for, and resources\.gpus_per_worker is 0"):
        forecast.forecast(with_gpus(config, 0, device="cuda"))


@pytest.mark.parametrize("kind", ["blocks", "lora", "queries", "a model that cannot be cut"])
def test_a_measurement_on_this_processor_gives_rates_of_all_kinds(config, family_model, kind):
    changes = {"lora": {"method": "lora"}, "queries": {"trains": "queries"}}.get(kind, {})
    if kind.startswith("a model"):
        changes = {"base_model": str(family_model("ALBERT")), "frozen_layers": 0}
    config = config.model_copy(update={"train": config.train.model_copy(update=changes)})
    threads = torch.get_num_threads()
    try:
        rates = _measure(config, 1, 0.0, "cpu")
    finally:
        torch.set_num_threads(threads)
    assert min(rates.frozen, rates.read, rates.start, rates.memory) > 0
