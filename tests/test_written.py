"""The command `ask` with a language model: its options, what it asks and keeps, and what becomes of its questions.

Run with: pytest tests/test_written.py
"""

import json
from pathlib import Path

import pytest

from nic_ray import check
from nic_ray.ask import main
from nic_ray.manuals.sections import read_sections, write_sections
from tests.recording_endpoint import Scripted, recording

DATA = Path(__file__).parent.parent / "data" / "reference"


@pytest.fixture
def few(tmp_path, monkeypatch) -> Path:
    """A file of four sections."""
    for name in ("NIC_RAY_LLM_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "sections.jsonl"
    write_sections(read_sections(DATA / "hvac.manual.jsonl")[:4], path)
    return path


def test_a_model_writes_the_questions_and_the_filters_take_them(run_main, tiny_model, few, tmp_path):
    out = tmp_path / "pairs.jsonl"
    with recording() as endpoint:
        options = ["--llm", endpoint.url, "--llm-model", "tiny", "--per-section", 5, "--model", tiny_model()]
        code, printed, _ = run_main(main, few, "--out", out, *options, "--device", "cpu")
        assert code == 0
        sections = read_sections(few)
        assert sorted(endpoint.sections) == sorted(section.section for section in sections)
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert {row["positive"] for row in rows} == {section.passage for section in sections}
        assert {row["synthetic"] for row in rows} == {True}
        assert "language model: 20 questions about 4 of 4 sections" in printed
        first = out.read_bytes()
        code, _, complaint = run_main(main, few, "--out", out, *options, "--device", "cpu")
        assert (code, "or replace it with --overwrite" in complaint) == (2, True)
        assert run_main(main, few, "--out", out, *options, "--device", "cpu", "--overwrite")[0] == 0
        assert (out.read_bytes(), len(endpoint.asked)) == (first, 4)


def test_a_budget_ends_the_asking_and_the_command_that_goes_on_asks_for_the_rest(run_main, tiny_model, few, tmp_path):
    out = tmp_path / "pairs.jsonl"
    with recording() as endpoint:
        options = ["--llm", endpoint.url, "--llm-model", "tiny", "--model", tiny_model(), "--device", "cpu"]
        limits = ["--budget-calls", 3, "--concurrency", 1]
        code, printed, _ = run_main(main, few, "--out", out, *options, *limits)
        assert code == 0
        assert "the budget is spent: 1 sections are left" in printed
        assert "with --overwrite goes on" in printed
        assert run_main(main, few, "--out", out, *options, *limits, "--overwrite")[0] == 0
        assert len(endpoint.asked) == 4
    assert len({json.loads(line)["positive"] for line in out.read_text(encoding="utf-8").splitlines()}) == 4


def test_a_model_that_writes_no_json_leaves_no_file_and_says_so(run_main, tiny_model, few, tmp_path):
    out = tmp_path / "pairs.jsonl"
    with recording(lambda number, body: Scripted(content="I cannot do that.")) as endpoint:
        options = ["--llm", endpoint.url, "--llm-model", "tiny", "--model", tiny_model(), "--device", "cpu"]
        code, _, complaint = run_main(main, few, "--out", out, *options)
    assert (code, out.exists()) == (1, False)
    assert "Traceback" not in complaint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--llm", "http://127.0.0.1:9"], "--llm: name the model too, with --llm-model"),
        (["--llm-model", "tiny"], "--llm-model: name the endpoint too, with --llm URL"),
        (["--budget-calls", 5], "--budget-calls and --budget-tokens: name the endpoint too"),
        (["--llm", "somewhere", "--llm-model", "tiny"], "--llm: must be an address such as http://127.0.0.1:8000/v1"),
        (["--llm", "http://127.0.0.1:9", "--llm-model", "tiny"], "http://127.0.0.1:9"),
        (
            ["--llm", "http://127.0.0.1:9", "--glossary", DATA / "glossary.json"],
            "--glossary: a language model makes no",
        ),
    ],
)
def test_options_that_do_not_go_together_and_endpoints_that_are_not_there_are_refused(
    run_main, tiny_model, few, tmp_path, options, message
):
    code, _, complaint = run_main(main, few, "--out", tmp_path / "pairs.jsonl", "--model", tiny_model(), *options)
    assert (code, message in complaint, "Traceback" in complaint) == (2, True, False), complaint


def test_a_file_of_sections_is_no_file_of_pairs_and_it_is_said_how_it_becomes_one(run_main, few):
    code, _, complaint = run_main(check.main, few)
    assert code == 2
    assert "holds sections of manuals and no questions; make pairs of it with python -m nic_ray.ask" in complaint
