"""Configurations trained again as Ray tasks: the weights that this process gives them, whatever dies meanwhile.

Run with: pytest -m ray tests/test_again.py
"""

import contextlib
import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from nic_ray.errors import RunError
from nic_ray.record import LOG, load_state
from nic_ray.search.again import training_on_cluster
from nic_ray.search.placement import Placement
from nic_ray.search.rounds import trial_inputs
from nic_ray.selection.refit import training_here
from tests.searches import MARKS

pytestmark = [*MARKS, pytest.mark.usefixtures("local_cluster")]

ALONE = Placement(1, 0.0, 1, 1, None)
TWO = Placement(1, 0.0, 2, 1, None)


@pytest.fixture
def given(searched, tmp_path):
    """Two members that are trained for two epochs each, what trains them here and by tasks, and the rows."""
    prepared, inputs, candidates = searched(1, 2)
    members = [
        dataclasses.replace(
            candidate,
            config=candidate.config.model_copy(update={"epochs": 2, "evaluations_per_epoch": 1, "patience": 1}),
            metrics={**candidate.metrics, "epoch": 2.0},
        )
        for candidate in candidates
    ]

    def by_tasks(placement):
        run = dataclasses.make_dataclass("Run", ["folder", "mirror"])(tmp_path, None)
        shared = trial_inputs({prepared.encoder.name: (prepared, inputs)}, placement, run)
        return training_on_cluster(shared, placement, lambda member: (prepared, inputs[member.config.frozen_layers]))

    return members, training_here(prepared, inputs), by_tasks, np.arange(len(prepared.parts))


def for_long(member, epochs=60):
    """A member that is trained long enough for its process to be killed meanwhile."""
    config = member.config.model_copy(update={"epochs": epochs})
    return dataclasses.replace(member, config=config, metrics={**member.metrics, "epoch": float(epochs)})


class Killing:
    """Notes what is said, and kills the process of the training after its first parts.

    Args:
        times: how many processes are killed.
    """

    def __init__(self, times):
        self.said, self.left = [], times

    def __call__(self, line):
        self.said.append(line)
        if self.left and "loss" in line:
            self.left -= 1
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if (process / "cmdline").read_bytes().startswith(b"ray::train_in_parts"):
                        os.kill(int(process.name), signal.SIGKILL)


def alike(found, expected, apart=0.0):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=apart, atol=apart)


@pytest.mark.parametrize("placement", [ALONE, TWO], ids=["one at a time", "two at a time"])
def test_tasks_give_the_weights_that_this_process_gives_and_leave_the_same_files(given, tmp_path, placement):
    members, here, by_tasks, rows = given
    said = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = here(members, rows, folder=tmp_path / "here", say=lambda _: None)
    finally:
        torch.set_num_threads(before)
    found = by_tasks(placement)(members, rows, folder=tmp_path / "tasks", say=said.append)
    # where two run, each takes the core that the other one leaves, and more threads round differently
    alike(found, expected, 0.0 if placement is ALONE else 1e-5)
    for member in members:
        assert load_state(tmp_path / "tasks" / member.name)["metrics"]["epoch"] == 2.0
        logs = [(tmp_path / where / member.name / LOG).read_text() for where in ("here", "tasks")]
        assert [log.count("evaluation  ") for log in logs] == [2, 2]
    assert sorted(line.partition("  loss")[0] for line in said if "epoch " in line and "loss" in line) == sorted(
        f"{member.name}: epoch {epoch:.2f}" for member in members for epoch in (1, 2)
    )
    said.clear()
    alike(by_tasks(placement)(members, rows, folder=tmp_path / "tasks", say=said.append), found)
    assert said == []  # they have ended already


def test_without_a_folder_no_file_is_left(given, tmp_path):
    members, _, by_tasks, rows = given
    before = set(tmp_path.rglob("*.pt"))
    assert len(by_tasks(ALONE)(members[:1], rows, folder=None, say=lambda _: None)) == 1
    assert set(tmp_path.rglob("*.pt")) == before


@pytest.mark.fault
def test_a_training_whose_process_dies_goes_on_from_its_last_checkpoint_once(given, tmp_path):
    members, _, by_tasks, rows = given
    member = for_long(members[0])
    expected = by_tasks(ALONE)([member], rows, folder=tmp_path / "whole", say=lambda _: None)
    killing = Killing(times=1)
    alike(by_tasks(ALONE)([member], rows, folder=tmp_path / "killed", say=killing), expected)
    assert killing.said.count(f"{member.name}: its process has died, it goes on from its last checkpoint") == 1
    with pytest.raises(RunError, match=f"^{member.name}: its process has died again"):
        by_tasks(ALONE)([for_long(member, 200)], rows, folder=tmp_path / "again", say=Killing(times=2))


def test_a_training_that_fails_is_named_with_its_reason_and_no_traceback(given, tmp_path):
    members, _, by_tasks, rows = given
    wild = dataclasses.replace(
        members[0], config=members[0].config.model_copy(update={"learning_rate": 1e30, "warmup_share": 0.0})
    )
    with pytest.raises(RunError, match=r"^loss or gradient not finite at step \d+") as raised:
        by_tasks(ALONE)([wild], rows, folder=tmp_path / "wild", say=lambda _: None)
    assert "Traceback" not in str(raised.value)


def test_a_training_whose_checkpoint_cannot_be_read_at_its_end_is_not_repeated(given, tmp_path, monkeypatch):
    members, _, by_tasks, rows = given
    said = []
    monkeypatch.setattr("nic_ray.search.again.readable_state", lambda _: None)
    with pytest.raises(RunError, match="the checkpoint that was written there cannot be read"):
        by_tasks(ALONE)(members[:1], rows, folder=tmp_path / "again", say=said.append)
    assert [line.partition("  loss")[0] for line in said if "loss" in line] == [
        f"{members[0].name}: epoch {epoch:.2f}" for epoch in (1, 2)
    ]


@pytest.mark.fault
def test_a_lost_node_uses_up_no_retry(given, tmp_path, monkeypatch):
    members, _, by_tasks, rows = given
    monkeypatch.setattr("nic_ray.search.again.has_lost_its_node", lambda _: True)
    killing = Killing(times=3)
    by_tasks(ALONE)([for_long(members[0], 200)], rows, folder=tmp_path / "lost", say=killing)
    gone = f"{members[0].name}: its node is gone, it goes on from its last checkpoint"
    assert killing.said.count(gone) == 3
    assert killing.left == 0
