"""The exported folder's numbers must be found again."""

import dataclasses

import pytest

from nic_ray.candidates import averaged
from nic_ray.errors import InputError, RunError
from nic_ray.outcome import export, new_run_folder, refuse_other_numbers
from nic_ray.progress import View


def test_the_numbers_of_a_mean_are_found_again_in_the_exported_folder_and_the_base_stays_as_it_was(searched, tmp_path):
    prepared, inputs, candidates = searched(1, 2)
    weights = {name: value * 0 for name, value in candidates[0].weights.items()}
    useless = dataclasses.replace(candidates[0], weights=weights, metrics=dict.fromkeys(candidates[0].metrics, 0.0))
    found = averaged(prepared, inputs, [useless, candidates[1]], "recall_at_5/macro")
    assert found.members
    found = dataclasses.replace(found, metrics=found.metrics | {"epoch": 1.0, "step": 3.0})
    before = {name: value.sum() for name, value in prepared.encoder.model.state_dict().items()}
    written = export(
        prepared,
        found,
        {},
        tmp_path / "mean",
        objective="recall_at_5/macro",
        training_log="",
        overwrite=False,
        view=View(),
    )
    assert {name: value.sum() for name, value in prepared.encoder.model.state_dict().items()} == before
    assert written["averaged"] == [member.name for member in found.members]


def test_other_numbers_from_the_exported_folder_are_refused():
    metrics = {"recall_at_5/macro": 0.75, "mrr/macro": 0.6, "recall_at_5/radar": 0.7}
    refuse_other_numbers(metrics, metrics | {"recall_at_5/macro": 0.754, "recall_at_5/radar": 0.0}, 0.005)
    with pytest.raises(RunError, match=r"recall_at_5/macro 0\.7000 instead of 0\.7500; it was not kept"):
        refuse_other_numbers(metrics, metrics | {"recall_at_5/macro": 0.7}, 0.005)
    with pytest.raises(RunError, match=r"mrr/macro nan instead of"):
        refuse_other_numbers(metrics, metrics | {"mrr/macro": float("nan")}, 0.005)


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be made .*; name another place for runs"):
        new_run_folder(tmp_path / "file", "name")
