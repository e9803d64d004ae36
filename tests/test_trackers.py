"""Trials in MLflow, as far as it needs no cluster; tests/test_ray.py has a search that is recorded."""

import logging
import sys

import pytest

from nic_ray.config import TrackersConfig
from nic_ray.errors import InputError
from nic_ray.search.trackers import _with_names_of_mlflow, tracker_callbacks


def test_nothing_is_recorded_where_nobody_asked():
    assert tracker_callbacks(TrackersConfig(), "run") == []


def test_a_package_that_lacks_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"MLflow is not installed; pip install -c constraints\.txt -e '\.\[mlflow\]'"):
        tracker_callbacks(TrackersConfig(mlflow="sqlite:///m.db"), "run")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_store_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"trackers\.mlflow: nonsense://there cannot be used .*; name a store such as"):
        tracker_callbacks(TrackersConfig(mlflow="nonsense://there"), "run")


def test_every_figure_has_a_name_that_mlflow_takes():
    _validate_metric_name = pytest.importorskip("mlflow.utils.validation")._validate_metric_name
    domains = ["brakes & hydraulics (old)", "brakes ? hydraulics (old)", "हिन्दी", "..", "radar"]
    found = _with_names_of_mlflow({f"mrr/{domain}": place for place, domain in enumerate(domains)})
    assert list(found.values()) == list(range(5))
    assert list(found)[-1] == "mrr/radar"
    for name in found:
        _validate_metric_name(name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_tracker_that_fails_costs_its_record_and_no_search(tmp_path, caplog, monkeypatch):
    (tracked,) = tracker_callbacks(TrackersConfig(mlflow=f"sqlite:///{tmp_path}/m.db"), "run")
    caplog.set_level(logging.WARNING, "nic_ray.trackers")
    monkeypatch.setattr(tracked.mlflow_util, "setup_mlflow", lambda **_: 1 / 0)
    tracked.setup()
    for record in (tracked.log_trial_start, tracked.log_trial_end):
        record(object())  # no trial, and nothing is set up
    tracked.log_trial_result(1, object(), {})
    told = [record.getMessage() for record in caplog.records if record.name == "nic_ray.trackers"]
    assert len(told) == 4
    assert all(message.startswith("MLflow: not recorded (") for message in told)
