"""Manuals read as Ray tasks: the same sections as in this process, and a task whose process dies takes no other along.

Run with: pytest -m ray tests/test_ray_tasks.py
"""

import os
from pathlib import Path

import pytest

from nic_ray.manuals.extraction import extract_sections
from nic_ray.manuals.parallel import one_by_one
from nic_ray.manuals.sections import read_sections
from nic_ray.questions.rules import ask_by_rules
from nic_ray.search.tasks import as_tasks, on_cluster
from tests.rendered_manuals import REFERENCE, WRITERS, reference_manual


def manual_of(domain: str) -> Path:
    return REFERENCE / f"{domain}.manual.jsonl"


def test_without_an_address_there_is_no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with on_cluster(None, []) as run:
        assert run is None


@pytest.mark.ray
def test_tasks_give_the_sections_that_one_process_gives(local_cluster, tmp_path):
    manuals = tmp_path / "manuals"
    manuals.mkdir()
    for domain, ending in (("hvac", ".html"), ("radar", ".md"), ("electronics", ".txt")):
        WRITERS[ending](reference_manual(domain), manuals / f"{domain}{ending}")
    written = [Path(tmp_path / name) for name in ("here.jsonl", "there.jsonl")]
    here = extract_sections(manuals, written[0], run=one_by_one)
    there = extract_sections(manuals, written[1], run=as_tasks)
    assert written[0].read_bytes() == written[1].read_bytes()
    assert [outcome.title for outcome in there.outcomes] == [outcome.title for outcome in here.outcomes]
    assert len(there.sections) > 100


@pytest.mark.ray
def test_tasks_make_the_questions_that_one_process_makes(local_cluster):
    sections = [section for domain in ("hvac", "radar") for section in read_sections(manual_of(domain))[:20]]
    here = ask_by_rules(sections, {}, seed=3)
    assert ask_by_rules(sections, {}, seed=3, run=as_tasks) == here
    assert {question.section for question in here} == set(range(40))


@pytest.mark.ray
@pytest.mark.fault
def test_a_task_whose_process_dies_gives_what_stands_for_it_and_the_others_go_on(local_cluster):
    # defined here, so that it travels by value
    def dies_of_three(number: int) -> int:
        if number == 3:
            os._exit(1)
        return number * number

    assert dict(as_tasks(dies_of_three, range(8), lambda number: -number)) == {
        number: -3 if number == 3 else number * number for number in range(8)
    }


@pytest.mark.ray
def test_an_error_of_the_function_is_raised_as_it_is(local_cluster):
    def fails_at_two(number: int) -> int:
        if number == 2:
            raise KeyError("two")
        return number

    with pytest.raises(KeyError, match="two"):
        list(as_tasks(fails_at_two, range(4), lambda number: -number))


@pytest.mark.ray
def test_on_a_cluster_that_runs_already_tasks_are_used(local_cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with on_cluster(None, [tmp_path]) as run:
        assert run is as_tasks
