"""The ledger of who has read which test rows."""

import json

import pytest

from nic_ray.bundle.card import model_card
from nic_ray.readings import describe_readings, merged, note_reading, readings_of


def note(folder, command="tune", *, split="s", model="trial-001"):
    folder.mkdir(exist_ok=True)
    return note_reading(folder, command=command, part="test", rows=320, model=model, split=split)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "a"


@pytest.fixture(autouse=True)
def runs(tmp_path):
    (tmp_path / "runs").mkdir()


def test_the_first_reading_is_known_and_needs_no_word(run):
    (found,) = note(run)
    told = {"command": "tune", "part": "test", "rows": 320, "model": "trial-001", "run": "a"}
    assert found.items() >= told.items()
    assert describe_readings([found]) is None
    assert json.loads((run / "readings.jsonl").read_text()) == found | {"split": "s"}
    assert describe_readings([]) is None


def test_the_second_reading_says_when_and_by_what_the_first_was(run):
    note(run)
    found = note(run, "export")
    assert [row["command"] for row in found] == ["tune", "export"]
    told = describe_readings(found)
    assert f"the 320 test rows had been read once before: {found[0]['when']} by tune, of trial-001 (a)." in told
    assert "may have been chosen by them" in told


def test_runs_of_the_same_split_beside_it_have_read_the_same_rows(run):
    note(run.with_name("b"), "evaluate")
    note(run.with_name("c"), split="another")
    found = note(run)
    assert [(row["run"], row["command"]) for row in found] == [("b", "evaluate"), ("a", "tune")]
    assert [row["run"] for row in readings_of(run.with_name("c"), "another")] == ["c"]


def test_of_many_readings_the_last_three_are_named(run):
    for number in range(6):
        found = note(run, f"command-{number}")
    told = describe_readings(found)
    assert "had been read 5 times before, of which the last 3 were: " in told
    assert [f"command-{number}" in told for number in range(6)] == [False, False, True, True, True, False]


def test_a_line_that_was_cut_off_costs_no_other(run):
    note(run)
    with (run / "readings.jsonl").open("a") as file:
        file.write('{"split": "s"}\n{"when": "2026-0')
    assert [row["command"] for row in note(run, "export")] == ["tune", "export"]
    assert [row["command"] for row in readings_of(run, "s")] == ["tune", "export"]


def test_what_two_places_know_counts_once(run):
    first, second = note(run)[0], note(run, "export")[1]
    assert merged([first], [first, second]) == [first, second]


def test_the_card_counts_the_readings_and_says_of_the_second_that_it_is_one(run):
    metadata = {"name": "m", "base_model": "b", "readings": note(run)}
    assert "## Readings of the test part\n\nThe test rows were read once, after everything was" in model_card(metadata)
    metadata["readings"] = note(run, "tune --resume")
    card = model_card(metadata)
    assert "The 320 test rows had been read once before: " in card
    assert card.count("| test | 320 | trial-001 | a |") == 2
    assert "Readings" not in model_card({"name": "m", "base_model": "b"})
