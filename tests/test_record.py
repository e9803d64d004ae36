"""What a training leaves on disk, where the disk does not take it."""

import errno
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nic_ray import record
from nic_ray.errors import InputError, is_disk_full
from nic_ray.record import (
    TrainingState,
    add_ended,
    load_state,
    locked,
    logging_to,
    read_ended,
    readable_state,
    save_state,
)


def test_a_line_that_was_cut_off_does_not_take_the_next_one_with_it(tmp_path):
    for number in range(3):
        add_ended(tmp_path, f"trial-00{number}", {"status": "finished"})
    whole = (tmp_path / "ended.jsonl").read_bytes()
    for missing in (1, 10):  # the end of the line alone, and a part of it
        (tmp_path / "ended.jsonl").write_bytes(whole[:-missing])
        add_ended(tmp_path, "trial-003", {"status": "failed", "error": "Überlauf"})
        kept = {f"trial-00{number}": "finished" for number in range(3 if missing == 1 else 2)}
        assert {name: row["status"] for name, row in read_ended(tmp_path).items()} == kept | {"trial-003": "failed"}
        assert read_ended(tmp_path)["trial-003"]["error"] == "Überlauf"
    (tmp_path / "ended.jsonl").unlink()
    add_ended(tmp_path, "trial-000", {})
    assert json.loads((tmp_path / "ended.jsonl").read_text()) == {"trial": "trial-000"}


def test_damaged_lines_cost_no_other(tmp_path):
    add_ended(tmp_path, "trial-000", {"status": "finished"})
    with (tmp_path / "ended.jsonl").open("ab") as file:
        file.write(b'\xff\n{"x": 1}\n[1]\n')
    add_ended(tmp_path, "trial-001", {"status": "failed"})
    assert list(read_ended(tmp_path)) == ["trial-000", "trial-001"]


def test_a_run_is_locked_by_one_process(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="another process is working on this run"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def state_at(step: int) -> TrainingState:
    """What a training leaves after so many steps."""
    metrics = {"loss": 0.5, "finished": 0.0}
    return {
        "upper": {"weight": torch.ones(3)},
        "optimizer": {},
        "random": torch.get_rng_state(),
        "step": step,
        "stale": 0,
        "best": {"metrics": metrics, "upper": {"weight": torch.ones(3)}},
        "metrics": metrics,
        "finished": False,
    }


@pytest.mark.parametrize("content", [b"", b"nonsense", [1], {"step": 1}])
def test_a_state_that_is_damaged_or_none_of_a_training_is_none(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "state.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "state.pt")
    assert readable_state(tmp_path) is None


def test_a_state_of_an_early_version_is_read(tmp_path):
    torch.save(dict(state_at(4)), tmp_path / "state.pt")  # it notes neither the device nor what memory has left
    found = readable_state(tmp_path)
    assert found is not None
    assert (found["step"], "random_of" in found, "micro_batch_tokens" in found) == (4, False, False)


@pytest.mark.parametrize(("free", "is_full"), [(4096, True), (2**30, False)])
def test_a_checkpoint_without_room_says_so_and_leaves_the_last_one(tmp_path, monkeypatch, free, is_full):
    save_state(state_at(1), tmp_path)

    def fail(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(record.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError if is_full else RuntimeError) as raised:
        save_state(state_at(2), tmp_path)
    assert is_disk_full(raised.value) == is_full
    assert load_state(tmp_path)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_log_without_room_loses_its_lines_and_prints_nothing(capfd):
    with logging_to(Path("/dev/full"), ["nic_ray.some"]):
        logging.getLogger("nic_ray.some").info("a line")
    assert capfd.readouterr() == ("", "")


def test_want_of_room_is_seen_through_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device")

    def behind(error: Exception) -> Exception:
        try:
            try:
                raise full
            except OSError as cause:
                raise error from cause
        except Exception as found:
            return found

    assert is_disk_full(full)
    assert is_disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert is_disk_full(behind(RuntimeError("the trial failed")))
    assert is_disk_full(ValueError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    circle = ValueError("a")
    circle.__cause__ = circle
    assert not is_disk_full(circle)
