"""Making questions goes on after an interruption: document by document, with what an earlier start has kept.

Run with: pytest tests/test_kept_questions.py
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nic_ray.manuals.parallel import one_by_one
from nic_ray.manuals.sections import Section, read_sections, write_sections
from nic_ray.questions import rules
from nic_ray.questions.glossary import Term
from nic_ray.questions.rules import ask_by_rules

DATA = Path(__file__).parent.parent / "data" / "reference"


@pytest.fixture(scope="module")
def sections() -> list[Section]:
    """Sections of three documents, six of each."""
    return [
        section
        for domain in ("electronics", "hvac", "radar")
        for section in read_sections(DATA / f"{domain}.manual.jsonl")[:6]
    ]


def interrupted_after(count: int) -> Callable[..., Iterator[tuple[int, Any]]]:
    """A way to run that is interrupted after some inputs."""

    def run(function: Any, inputs: Sequence[Any], died: Any, /) -> Iterator[tuple[int, Any]]:
        for number, result in one_by_one(function, inputs, died):
            yield number, result
            if number + 1 == count:
                raise KeyboardInterrupt

    return run


@pytest.fixture
def worked_on(monkeypatch) -> list[str]:
    """The headings of the sections that questions are made of, as they are worked on."""
    headings, made = list[str](), rules._of_section

    def noted(section: Section, *others: Any) -> Any:
        headings.append(section.section)
        return made(section, *others)

    monkeypatch.setattr(rules, "_of_section", noted)
    return headings


def test_a_second_start_works_on_the_documents_that_are_left_and_gives_the_same(sections, tmp_path, worked_on):
    whole = ask_by_rules(sections, {}, seed=1)
    worked_on.clear()
    with pytest.raises(KeyboardInterrupt):
        ask_by_rules(sections, {}, seed=1, run=interrupted_after(2), parts=tmp_path)
    assert len(worked_on) == 12
    worked_on.clear()
    assert ask_by_rules(sections, {}, seed=1, parts=tmp_path) == whole
    assert worked_on == [section.section for section in sections[12:]]


def test_what_was_kept_of_other_sections_seeds_and_glossaries_is_not_used(sections, tmp_path, worked_on):
    ask_by_rules(sections, {}, seed=1, parts=tmp_path)
    glossary = {"hvac": [Term("compressor", ("pump",))]}
    for changed in (
        {"seed": 2},
        {"language": "de"},
        {"glossary": glossary},
        {"sections": sections[1:]},
    ):
        worked_on.clear()
        given: dict[str, Any] = {"sections": sections, "glossary": {}, "seed": 1, **changed}
        ask_by_rules(given.pop("sections"), given.pop("glossary"), parts=tmp_path, **given)
        assert len(worked_on) == len(changed.get("sections", sections))  # type: ignore[arg-type]


def test_a_damaged_file_is_made_anew(sections, tmp_path, worked_on):
    whole = ask_by_rules(sections, {}, seed=1, parts=tmp_path)
    first, second, _ = sorted(tmp_path.rglob("*.json"))
    first.write_text(first.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    second.write_text('[{"query": "what", "another": 1}]', encoding="utf-8")
    worked_on.clear()
    assert ask_by_rules(sections, {}, seed=1, parts=tmp_path) == whole
    assert len(worked_on) == 12


def test_the_command_leaves_nothing_beside_the_file_of_pairs(run_main, tiny_model, sections, tmp_path):
    from nic_ray.ask import main

    write_sections(sections, tmp_path / "sections.jsonl")
    out, model = tmp_path / "pairs.jsonl", ["--model", tiny_model(), "--device", "cpu"]
    assert run_main(main, tmp_path / "sections.jsonl", "--out", out, *model)[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"sections.jsonl", "pairs.jsonl"}
