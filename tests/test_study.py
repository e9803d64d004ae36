"""The study of a search: what is noted beside it, and how it is read again."""

import optuna
import pytest

from nic_ray.errors import InputError
from nic_ray.metrics.table import METRICS, Metric
from nic_ray.record import add_ended, read_ended
from nic_ray.study import (
    NAME,
    Course,
    end_unfinished,
    open_study,
    read_courses,
    restore_ledger_rows,
    storage,
    trial_name,
    trial_number,
)


@pytest.mark.parametrize("number", [0, 7, 123, 12345])
def test_a_number_is_found_again_in_its_name(number):
    assert trial_number(trial_name(number)) == number


@pytest.mark.parametrize("name", ["trial-003-seed-43", "7", "trial-", "other"])
def test_other_names_have_no_number(name):
    assert trial_number(name) is None


def test_courses_are_those_of_the_study_and_a_damaged_one_has_none(tmp_path):
    file = tmp_path / "study.db"
    assert read_courses(file, {}, "mrr/macro") == (None, ())
    opened = storage(file)
    study = optuna.create_study(study_name="nic_ray", storage=opened, direction="maximize")
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state],
                value=None if state == "FAIL" else 0.6,
                intermediate_values={} if state == "FAIL" else {2: 0.6, 1: 0.5},
                user_attrs={"epoch at 1": 0.5, "epoch at 2": 1.0},
            )
        )
    study.ask()
    opened.engine.dispose()
    drawn, courses = read_courses(file, {"trial-000": "repeated"}, "mrr/macro")
    assert [trial.state.name for trial in drawn.trials] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    points = ((0.5, 0.5), (1.0, 0.6))
    assert courses == (
        Course("trial-000", "repeated", points),
        Course("trial-001", "stopped", points),
        Course("trial-002", "failed", ()),
        Course("trial-003", "cut off", ()),
    )
    file.write_bytes(b"damaged")
    assert read_courses(file, {}, "mrr/macro") == (None, ())


def test_an_objective_of_which_less_is_better_is_shown_with_its_own_sign(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "rank", Metric("rank", "low is good", lambda ranked: ranked.argmax(axis=1), -1))
    opened = storage(tmp_path / "study.db")
    study = optuna.create_study(study_name="nic_ray", storage=opened, direction="maximize")
    complete, user_attrs = optuna.trial.TrialState.COMPLETE, {"epoch at 1": 0.5}
    study.add_trial(
        optuna.trial.create_trial(state=complete, value=-3.0, intermediate_values={1: -3.0}, user_attrs=user_attrs)
    )
    opened.engine.dispose()
    drawn, courses = read_courses(tmp_path / "study.db", {}, "rank/macro")
    assert (drawn.direction.name, drawn.trials[0].value) == ("MINIMIZE", 3.0)
    assert courses == (Course("trial-000", "finished", ((0.5, 3.0),)),)


def test_what_the_study_alone_knows_is_written_into_the_ledger(tmp_path):
    study = optuna.create_study(direction="maximize")
    for number, state in enumerate(("COMPLETE", "PRUNED", "FAIL", "FAIL")):
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state],
                value=0.5 if state == "COMPLETE" else None,
                params={"scale": 20.0},
                distributions={"scale": optuna.distributions.FloatDistribution(10, 30)},
                intermediate_values={} if number == 3 else {1: 0.4, 2: 0.5},
                user_attrs={"epoch at 1": 0.5, "epoch at 2": 1.0},
            )
        )
    study.ask()  # still running
    add_ended(tmp_path, "trial-000", {"status": "finished", "seconds": 12.0})
    restore_ledger_rows(study, tmp_path, read_ended(tmp_path))
    found = read_ended(tmp_path)
    assert list(found) == ["trial-000", "trial-001", "trial-002", "trial-003"]
    assert found["trial-000"].items() >= {"trial": "trial-000", "status": "finished", "seconds": 12.0}.items()
    stopped = {"status": "stopped", "error": "", "epoch": 1.0, "objective": 0.5, "evaluation": 2}
    assert found["trial-001"].items() >= ({"sample": {"scale": 20.0}} | stopped).items()
    assert [found[name]["error"] for name in ("trial-002", "trial-003")] == ["failed; why was lost"] * 2
    assert "epoch" not in found["trial-003"]


def test_what_was_never_handed_out_stays_for_a_resume_when_the_time_is_up(tmp_path):
    study = optuna.create_study(direction="maximize")
    space = {"scale": optuna.distributions.FloatDistribution(1, 100)}
    for scale in (20.0, 30.0, 40.0):
        study.enqueue_trial({"scale": scale})
    study.ask(space)
    end_unfinished(study, tmp_path, "out of time")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING", "WAITING"]
    assert [(row["status"], row["error"]) for row in read_ended(tmp_path).values()] == [
        ("failed", "out of time before its first evaluation")
    ]
    assert study.ask(space).params == {"scale": 30.0}


def test_a_study_does_not_wait_for_the_disk_at_each_change(tmp_path):
    from sqlalchemy import text

    with storage(tmp_path / "study.db").engine.connect() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 0


def test_a_study_of_which_a_page_was_never_written_is_damaged_even_if_it_opens(tmp_path):
    file = tmp_path / "study.db"
    study = optuna.create_study(study_name=NAME, storage=storage(file))
    for number in range(40):
        trial = study.ask({"scale": optuna.distributions.FloatDistribution(1, 2)})
        trial.set_user_attr("what", f"{number} " * 200)
        study.tell(trial, 1.0)
    assert open_study(file) is not None
    whole, found = file.read_bytes(), set()
    for page in range(1, len(whole) // 4096):
        file.write_bytes(whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])
        try:
            opened = open_study(file)
        except InputError:
            found.add(page)
        else:
            assert opened is not None
            assert len(opened.trials) == 40
    assert len(found) > len(whole) // 4096 // 2  # the others are empty, or hold what nobody asks for
