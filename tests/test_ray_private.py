"""Private names of Ray: those that are used are there, and one that is gone is named before anything is trained."""

import optuna
import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.tune.experiment.trial import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from nic_ray.errors import RunError
from nic_ray.search import ray_private


def test_this_ray_has_every_private_name_that_is_used():
    ray_private.refuse_unknown_ray()


@pytest.mark.parametrize(("module", "name"), ray_private.NAMES)
def test_a_name_that_is_gone_is_named_with_the_version(monkeypatch, module, name):
    monkeypatch.delattr(f"{module}.{name}")
    with pytest.raises(RunError) as refused:
        ray_private.refuse_unknown_ray()
    assert str(refused.value).startswith(f"Ray {ray.__version__} does not have {module}.{name}, which nic_ray uses of")


def test_a_module_that_is_gone_is_named(monkeypatch):
    monkeypatch.setattr(ray_private, "NAMES", (("ray.gone", "anything"),))
    with pytest.raises(RunError, match=r"does not have ray\.gone\.anything, which"):
        ray_private.refuse_unknown_ray()


@pytest.mark.parametrize(("kind", "name"), [(ASHAScheduler, "ASHAScheduler"), (OptunaSearch, "OptunaSearch")])
def test_attributes_that_are_gone_are_named(monkeypatch, kind, name):
    monkeypatch.setattr(kind, "__init__", lambda self, *_, **__: None)
    with pytest.raises(RunError, match=rf"does not have {name}\._"):
        ray_private.refuse_unknown_ray()


def test_rungs_and_trials_are_those_of_ray_itself():
    asha = ASHAScheduler(time_attr="epoch", metric="a", mode="max", max_t=10, grace_period=2, reduction_factor=2)
    assert [milestone for milestone, _ in ray_private.rungs_of(asha)] == [8, 4, 2]
    space = {"a": optuna.distributions.FloatDistribution(0, 1)}
    searcher = OptunaSearch(space, metric="a", mode="max")
    sample = searcher.suggest("one")
    assert ray_private.optuna_trials_of(searcher)["one"].params == sample
    assert [trial.params for trial in ray_private.optuna_study_of(searcher).trials] == [sample]


def test_a_failure_that_is_not_counted_uses_up_no_retry(monkeypatch):
    monkeypatch.setattr(Trial, "local_path", None)  # nothing is written
    trial = Trial("trial", stub=True, max_failures=1)
    lost, died = ActorUnavailableError("Socket closed", None), ActorDiedError()
    with ray_private.uncounted(lambda error: error is lost):
        for error, failures in ((died, 1), (lost, 1), (lost, 1), (died, 2)):
            trial.handle_error(error)
            assert (trial.num_failures, trial.should_recover()) == (failures, failures < 2)
    trial.handle_error(lost)
    assert trial.num_failures == 3


def test_no_trial_is_tried_for_ever(monkeypatch):
    monkeypatch.setattr(Trial, "local_path", None)
    one, other = (Trial("trial", stub=True, max_failures=1) for _ in range(2))
    lost = ActorUnavailableError("Socket closed", None)
    with ray_private.uncounted(lambda _: True):
        for failures in [0] * ray_private.MOST_UNCOUNTED + [1, 2]:
            one.handle_error(lost)
            assert one.num_failures == failures
        other.handle_error(lost)
        assert other.num_failures == 0
