"""Searches that are killed, interrupted or out of disk space, and go on."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from nic_ray.bundle.files import read_metadata
from nic_ray.progress import Lines
from nic_ray.record import read_ended, training_log
from nic_ray.search.search import resume_search
from nic_ray.selection.selection import SearchResult
from tests.searches import MARKS, actors, said, say, search, settings, tune_command

pytestmark = [*MARKS, pytest.mark.usefixtures("local_cluster")]

ROOT = Path(__file__).parent.parent


def running(trial: str) -> int:
    # earlier searches on this cluster had trials of the same names
    return next(actor.pid for actor in actors() if actor.repr_name == trial and actor.state == "ALIVE")


def test_a_search_whose_driver_is_killed_goes_on_and_loses_nothing(tiny_model, tiny_pairs_file, tmp_path, monkeypatch):
    sections = settings(
        tiny_model(layers=3), tiny_pairs_file, trials=4, train={"epochs": 10}, search={"grace_period": 10}
    )
    command = tune_command(tmp_path, sections)
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        # two have ended, and a third one has come to its second epoch
        reached = re.compile(r"trial-00[23]: epoch [2-9]")
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

    outcome = resume_search(
        str(run_folder),
        runs_trials=True,
        overwrite=True,
        export_anyway=False,
        further={"search.trials": 5},  # one more than it was started for
        view=Lines(say),
    )
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
            assert len(set(evaluated)) == 20
            assert len(evaluated) <= 22
    # while a trial started, or the last one ran, another one was alone
    assert any("threads: 2" in training_log(run_folder, row["trial"]) for row in outcome.trials)


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
        tiny_model(layers=3), tiny_pairs_file, trials=3, train={"epochs": 10}, search={"grace_period": 10}
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


def test_an_interrupted_search_says_how_to_go_on_and_ends_as_if_it_had_not_been(tiny_model, tiny_pairs_file, tmp_path):
    changes = {"train": {"epochs": 5}, "search": {"grace_period": 5}, "resources": {"concurrent_trials": 1}}
    model = tiny_model(layers=3)
    command = tune_command(tmp_path, settings(model, tiny_pairs_file, trials=2, **changes))
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        deadline = time.monotonic() + 240
        while "trial-001: epoch 2.00" not in (text := (tmp_path / "log").read_text()):
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


def test_a_killed_trial_goes_on_from_its_checkpoint_once(tiny_model, tiny_pairs_file, tmp_path):
    kills = {"trial-001": 1, "trial-002": 2}
    killed: dict[str, list[int]] = {trial: [] for trial in kills}

    def kill(line: str) -> None:
        said.append(line)
        epoch = re.match(r"(trial-00[12]): epoch (\d+)\.00", line)
        if epoch is None:
            return
        trial, pids = epoch[1], killed[epoch[1]]
        if int(epoch[2]) == 1 + 2 * len(pids) and len(pids) < kills[trial]:
            pid = running(trial)
            pids.append(pid)
            os.kill(pid, signal.SIGKILL)

    outcome = search(
        tiny_model(layers=3),
        tiny_pairs_file,
        tmp_path,
        trials=3,
        train={"epochs": 30},  # long enough to be killed in the middle
        search={"grace_period": 30},
        say=kill,
    )
    assert [row["status"] for row in outcome.trials] == ["finished", "finished", "failed"]
    for trial, times in kills.items():
        assert len(set(killed[trial])) == times
        assert any(
            line.startswith(f"{trial}: ") and line.endswith("; it goes on from its last checkpoint") for line in said
        )
    # the one that was killed once did not begin again: no epoch but the one in which it died was done twice
    evaluated = re.findall(r"evaluation .*  epoch ([0-9.]+)", training_log(outcome.run_folder, "trial-001"))
    assert len(set(evaluated)) == 60
    assert len(evaluated) <= 62
    assert outcome.trials[2]["error"]
    assert any(line.startswith("trial-002: failed: ") for line in said)


def without(file: Path, trial: str) -> list[str]:
    return [line for line in file.read_text().splitlines() if json.loads(line)["trial"] != trial]


def test_a_confirmation_that_was_cut_off_exports_the_best_and_goes_on_when_resumed(
    tiny_model, tiny_pairs_file, tmp_path
):
    changes = {"train": {"learning_rate": 1e-9, "epochs": 4}, "confirm": {"trials": 2, "seeds": 1}}
    changes["search"] = {"objective": "mrr/macro", "grace_period": 4}
    changes["space"] = {
        "learning_rate": {"choice": [1e-9, *(1e-3 * place for place in range(1, 9))]},
        "frozen_layers": {"choice": [1]},
    }
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
