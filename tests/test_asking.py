"""Asking a language model: against a recording endpoint over HTTP, with every fault that one can have."""

import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nic_ray.errors import InputError, RunError
from nic_ray.manuals.sections import Section, write_sections
from nic_ray.questions import asking
from nic_ray.questions.asking import Asked, ask_model, summary_of
from nic_ray.questions.cache import held
from nic_ray.questions.endpoint import Endpoint
from nic_ray.questions.question import Question
from nic_ray.questions.spending import Budget, Spending
from nic_ray.questions.standing import Standing, _bar, in_lines
from tests.recording_endpoint import Endpoint as Recorded
from tests.recording_endpoint import Scripted, heading_in, recording, refusal, user_message

KEY = "sk-a-secret-that-nobody-may-see-0123456789"
HEADINGS = [f"Heading{number:02}" for number in range(12)]
SECTIONS = [
    Section("pumps", "Pump manual", "Care", heading, f"{heading} is done with the tool of {heading}.", None, "pump.md")
    for heading in HEADINGS
]
NO_JSON = "I am sorry, but I would rather write a poem."
LATE = 1e-3
ROOT = Path(__file__).parent.parent


class Told:
    """A display that remembers what it was told."""

    def __init__(self) -> None:
        self.standings: list[Standing] = []

    def __call__(self, standing: Standing) -> None:
        self.standings.append(standing)


def endpoint_at(recorded: Recorded, **changes: Any) -> Endpoint:
    return replace(Endpoint(recorded.url, "tiny", backoff_s=LATE, timeout_s=20, concurrency=1), **changes)


def ask(
    endpoint: Endpoint, folder: Path, sections: list[Section] = SECTIONS, budget: Budget | None = None, **changes: Any
) -> Asked:
    given = {"per_section": 10, "budget": budget or Budget(), "cache_dir": folder / "cache", "progress": Told()}
    return ask_model(sections, endpoint, **(given | changes))


def first(count: int, scripted: Scripted) -> Callable[[int, dict[str, Any]], Scripted]:
    """A script whose first answers are of one kind, and all others good."""
    return lambda number, body: scripted if number < count else Scripted()


def everything_in(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*")) if path.is_file())


def test_every_section_is_asked_about_once_and_its_questions_come_in_the_order_of_sections(tmp_path):
    with recording(lambda number, body: Scripted(delay_s=0.03 * (number % 3))) as recorded:
        asked = ask(endpoint_at(recorded, concurrency=4), tmp_path)
    assert sorted(recorded.sections) == HEADINGS
    assert [question.section for question in asked.questions] == [number for number in range(12) for _ in range(10)]
    assert asked.questions[0] == Question("direct 0: how is the Heading00 done?", "direct", 0)
    assert all(HEADINGS[question.section] in question.query for question in asked.questions)
    assert (asked.calls, asked.tokens, asked.failed, asked.unasked, asked.cached) == (12, 12 * 150, {}, (), 0)
    assert recorded.paths[0] == "/v1/models"


def test_a_second_run_sends_nothing_and_gives_the_same_questions_and_bytes(tmp_path):
    with recording() as recorded:
        once = ask(endpoint_at(recorded, concurrency=4), tmp_path)
        before = everything_in(tmp_path)
        again = ask(endpoint_at(recorded), tmp_path, budget=Budget(calls=0, tokens=0))
    assert len(recorded.asked) == 12
    assert len(recorded.paths) == 13
    assert again.questions == once.questions
    assert (again.calls, again.tokens, again.cached) == (0, 0, 12)
    assert everything_in(tmp_path) == before
    # no endpoint is needed any more
    assert ask(endpoint_at(recorded), tmp_path).questions == once.questions


def test_another_manual_in_the_folder_does_not_ask_again_about_the_others(tmp_path):
    common = "undo the four bolts of the flange then pull the rotor out and wipe it with a rag"
    first, second = (
        replace(SECTIONS[number], text=f"{common}; {word}") for number, word in enumerate(("oil", "grease"))
    )
    with recording() as recorded:
        ask(endpoint_at(recorded), tmp_path, [first])
        ask(endpoint_at(recorded), tmp_path, [second, first])
        assert recorded.sections == [HEADINGS[0], HEADINGS[1]]
        # although other words are rare now
        ask(endpoint_at(recorded, seed=1), tmp_path, [second, first])
    of_first = [user_message(body) for body in recorded.asked if heading_in(body) == HEADINGS[0]]
    assert len(set(of_first)) == 2


@pytest.mark.parametrize("changes", [{"model": "other"}, {"seed": 1}, {"temperature": 0.1}, {"per_section": 5}])
def test_another_model_prompt_or_parameter_is_another_question(tmp_path, changes):
    of_endpoint = {name: value for name, value in changes.items() if name in ("model", "seed", "temperature")}
    of_prompt = {name: value for name, value in changes.items() if name not in of_endpoint}
    with recording() as recorded:
        ask(endpoint_at(recorded), tmp_path, SECTIONS[:1])
        ask(endpoint_at(recorded, **of_endpoint), tmp_path, SECTIONS[:1], **of_prompt)
    assert len(recorded.asked) == 2


def test_sections_that_are_the_same_are_asked_about_once(tmp_path):
    with recording() as recorded:
        asked = ask(endpoint_at(recorded), tmp_path, [SECTIONS[0], SECTIONS[1], SECTIONS[0]])
    assert recorded.sections == HEADINGS[:2]
    assert [question.section for question in asked.questions] == [0] * 10 + [1] * 10 + [2] * 10


def test_temperature_seed_and_limit_are_sent(tmp_path):
    with recording() as recorded:
        ask(endpoint_at(recorded, temperature=0.3, seed=7, answer_tokens=321), tmp_path, SECTIONS[:1])
    (body,) = recorded.asked
    assert (body["temperature"], body["seed"], body["max_tokens"], body["model"]) == (0.3, 7, 321, "tiny")
    assert body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_are_on_their_way_than_are_allowed(tmp_path, concurrency):
    with recording(lambda number, body: Scripted(delay_s=0.02)) as recorded:
        ask(endpoint_at(recorded, concurrency=concurrency), tmp_path)
    assert recorded.most_at_once == concurrency


@pytest.mark.parametrize(
    "fault",
    [
        refusal(429, "slow down"),
        refusal(429, "slow down", headers={"Retry-After": "0"}),
        refusal(500, "no memory"),
        Scripted(status=502, body="<html>Bad gateway</html>", kind="text/html"),
        refusal(503, "loading"),
        Scripted(hang_up=True),
        Scripted(body="{"),
        Scripted(body=json.dumps({"choices": []})),
        Scripted(body=json.dumps({"error": {"message": "upstream", "code": 502}})),
        Scripted(delay_s=0.4),
        Scripted(drip_s=0.005),
    ],
)
def test_a_fault_that_passes_is_waited_out(tmp_path, fault):
    with recording(first(2, fault)) as recorded:
        asked = ask(endpoint_at(recorded, timeout_s=0.2), tmp_path, SECTIONS[:2])
    assert recorded.sections == [HEADINGS[0]] * 3 + [HEADINGS[1]]
    assert len(asked.questions) == 20
    assert asked.failed == {}


def test_the_wait_that_a_server_asks_for_is_kept_by_all_requests(tmp_path):
    with recording(first(1, refusal(429, "slow down", headers={"Retry-After": "0.5"}))) as recorded:
        ask(endpoint_at(recorded, concurrency=2), tmp_path, SECTIONS[:6])
    later = [moment - recorded.times[0] for moment in recorded.times[2:]]
    assert min(later[1:]) >= 0.45  # the second worker's first request may be on its way already


def test_waits_grow_from_attempt_to_attempt(tmp_path):
    with recording(first(4, refusal(500, "no memory"))) as recorded:
        ask(endpoint_at(recorded, backoff_s=0.05), tmp_path, SECTIONS[:1])
    waits = [later - sooner for sooner, later in zip(recorded.times, recorded.times[1:], strict=False)]
    assert all(wait >= 0.025 * 2**number for number, wait in enumerate(waits))


def test_a_request_that_keeps_failing_is_given_up_and_its_section_named_and_asked_for_by_the_next_run(tmp_path):
    def broken(number, body):
        return refusal(500, "no memory") if heading_in(body) == "Heading03" else Scripted()

    with recording(broken) as recorded:
        asked = ask(endpoint_at(recorded, attempts=3), tmp_path)
        recorded.script = lambda number, body: Scripted()
        sent = len(recorded.asked)
        again = ask(endpoint_at(recorded), tmp_path)
    assert asked.failed == {3: "3 attempts failed, the last with 500: no memory"}
    assert recorded.sections[:sent].count("Heading03") == 3
    assert recorded.sections[sent:] == ["Heading03"]
    assert again.failed == {}
    assert "line 4 (Pump manual > Heading03): 3 attempts" in "\n".join(summary_of(asked, SECTIONS, tmp_path))


def test_an_endpoint_that_fails_for_many_sections_in_a_row_ends_the_run_and_what_was_answered_is_kept(tmp_path):
    many = [replace(SECTIONS[0], section=f"Part{number}") for number in range(30)]
    with recording(lambda number, body: Scripted() if number < 4 else refusal(500, "no memory")) as recorded:
        with pytest.raises(
            RunError, match=r"tiny failed for 8 sections in a row, the last: 2 attempts.*no memory.*4 of"
        ):
            ask(endpoint_at(recorded, attempts=2), tmp_path, many)
        assert len(recorded.asked) == 4 + 8 * 2
        recorded.script = lambda number, body: Scripted()
        assert ask(endpoint_at(recorded), tmp_path, many).cached == 4


def test_failures_with_answers_between_them_do_not_end_the_run(tmp_path):
    many = [replace(SECTIONS[0], section=f"Part{number}") for number in range(24)]
    with recording(lambda number, body: Scripted() if number % 2 else refusal(500, "no memory")) as recorded:
        asked = ask(endpoint_at(recorded, attempts=1), tmp_path, many)
    assert len(asked.failed) == 12
    assert len(asked.questions) == 120


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refusal(401, f"{KEY} is wrong"), r"refuses the key \(401: \[key\] is wrong\); correct .*NIC_RAY_LLM_KEY"),
        (refusal(403, "not for you"), r"refuses the key \(403: not for you\)"),
        (refusal(404, "unknown model"), r"has no model 'tiny' \(404: unknown model\).*--llm-model: large, small"),
        (Scripted(status=308, body="", headers={"Location": "https://u:p@b/v1"}), r"redirects to https://b/v1 \(308\)"),
        (Scripted(body="<html><title>Welcome</title>", kind="text/html"), r"answers with text/html.*\(Welcome\)"),
    ],
)  # fmt: skip
def test_a_fault_that_only_the_user_can_mend_ends_the_run_after_one_request(tmp_path, fault, message):
    with recording(lambda number, body: fault) as recorded:
        recorded.models = Scripted(body=json.dumps({"data": [{"id": "large"}, {"id": "small"}]}))
        with pytest.raises(InputError, match=message) as error:
            ask(endpoint_at(recorded, key=KEY), tmp_path)
    assert len(recorded.asked) == 1
    assert KEY not in str(error.value)
    assert recorded.url in str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refusal(402, "insufficient balance"), r"no credit left \(402"),
        (Scripted(status=429, body='{"error": {"code": "insufficient_quota", "message": "quota"}}'), r"no credit left"),
        (refusal(429, "daily limit", headers={"Retry-After": "86400"}), r"asks to wait 86,\d+ s \(429: daily limit\)"),
    ],
)
def test_no_credit_or_a_long_wait_ends_the_run(tmp_path, fault, message):
    with recording(first(1, fault)) as recorded, pytest.raises(RunError, match=message):
        ask(endpoint_at(recorded), tmp_path)


def test_a_wanted_key_is_asked_for(tmp_path):
    with (
        recording(first(1, refusal(401, "no key"))) as recorded,
        pytest.raises(InputError, match=r"wants a key .*; set the environment variable NIC_RAY_LLM_KEY"),
    ):
        ask(endpoint_at(recorded), tmp_path)


def test_the_key_is_sent_and_stands_nowhere_else(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    script = first(2, refusal(500, f"never seen {KEY}"))
    told = Told()
    with recording(script) as recorded:
        asked = ask(endpoint_at(recorded, key=KEY, attempts=2), tmp_path, progress=told)
    assert set(recorded.keys) == {f"Bearer {KEY}"}
    texts = [
        everything_in(tmp_path),
        caplog.text,
        str(told.standings),
        repr(asked),
        repr(endpoint_at(recorded, key=KEY)),
    ]
    texts += [*capfd.readouterr(), *summary_of(asked, SECTIONS, tmp_path)]
    assert asked.failed == {0: "2 attempts failed, the last with 500: never seen [key]"}
    assert not [text for text in texts if KEY in text]


def test_a_refused_form_of_answers_is_given_up_once_for_the_run(tmp_path):
    def strict(number, body):
        form = body.get("response_format", {}).get("type")
        return refusal(400, f"response_format {form} is not supported") if form else Scripted()

    with recording(strict) as recorded:
        asked = ask(endpoint_at(recorded), tmp_path, SECTIONS[:4])
    forms = [body.get("response_format", {}).get("type") for body in recorded.asked]
    assert forms == ["json_schema", "json_object", None, None, None, None]
    assert (asked.calls, len(asked.questions)) == (4, 40)


def test_fields_that_a_server_does_not_know_are_left_out_or_renamed(tmp_path):
    def particular(number, body):
        if "max_tokens" in body:
            return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        for name in ("temperature", "seed"):
            if name in body:
                return Scripted(
                    status=422, body=json.dumps({"detail": [{"loc": ["body", name], "msg": "Extra inputs"}]})
                )
        return Scripted()

    with recording(particular) as recorded:
        ask(endpoint_at(recorded), tmp_path, SECTIONS[:3])
    assert len(recorded.asked) == 3 + 3
    assert recorded.asked[-1]["max_completion_tokens"] == 2000
    assert recorded.asked[-1]["response_format"]["type"] == "json_schema"


def test_one_refused_section_does_not_change_the_form_for_the_others(tmp_path):
    def filtered(number, body):
        return refusal(400, "content filter") if heading_in(body) == "Heading01" else Scripted()

    with recording(filtered) as recorded:
        asked = ask(endpoint_at(recorded), tmp_path, SECTIONS[:4])
    assert asked.failed == {1: "400: content filter"}
    assert recorded.asked[-1]["response_format"]["type"] == "json_schema"
    assert len(recorded.asked) == 3 + 3


def test_a_server_that_refuses_everything_is_the_users_to_mend(tmp_path):
    with (
        recording(lambda number, body: refusal(400, "context too short")) as recorded,
        pytest.raises(InputError, match=r"tiny failed for 2 sections in a row, the last: 400: context too short"),
    ):
        ask(endpoint_at(recorded), tmp_path, SECTIONS[:2])


def test_an_answer_that_is_no_json_is_tried_once_more_and_then_named(tmp_path):
    def poet(number, body):
        bad = heading_in(body) == "Heading02" or (heading_in(body) == "Heading01" and number == 1)
        return Scripted(content=NO_JSON) if bad else Scripted()

    with recording(poet) as recorded:
        asked = ask(endpoint_at(recorded), tmp_path, SECTIONS[:4])
        sent = len(recorded.asked)
        again = ask(endpoint_at(recorded), tmp_path, SECTIONS[:4])
    assert recorded.sections == ["Heading00", "Heading01", "Heading01", "Heading02", "Heading02", "Heading03"]
    assert user_message(recorded.asked[2]).startswith(user_message(recorded.asked[1]))
    assert "nothing but the JSON object" in user_message(recorded.asked[2])
    assert list(asked.failed) == [2]
    assert "I am sorry" in asked.failed[2]
    assert {question.section for question in asked.questions} == {0, 1, 3}
    # paid for, and of no use: not paid for again
    assert (sent, len(recorded.asked), again.failed) == (6, 6, asked.failed)


def test_a_model_that_never_writes_json_does_not_use_the_budget_up(tmp_path):
    many = [replace(SECTIONS[0], section=f"Part{number}") for number in range(30)]
    with recording(lambda number, body: Scripted(content=NO_JSON)) as recorded:
        with pytest.raises(RunError, match="in a row, the last: answered twice without the JSON"):
            ask(endpoint_at(recorded), tmp_path, many)
        assert len(recorded.asked) == 16


def test_of_an_answer_that_is_cut_off_the_whole_questions_are_used(tmp_path):
    items = [{"kind": "shop", "query": f"question {name}"} for name in ("one", "two", "three")]
    content = json.dumps({"questions": items})[:-20]
    with recording(lambda number, body: Scripted(content=content, finish_reason="length")) as recorded:
        asked = ask(endpoint_at(recorded), tmp_path, SECTIONS[:1])
        assert [question.query for question in asked.questions] == ["question one", "question two"]
        assert (asked.cut_off, asked.missing, asked.calls) == (1, 8, 1)
        ask(endpoint_at(recorded), tmp_path, SECTIONS[:1])
        assert len(recorded.asked) == 1
        # longer answers are allowed: it is worth asking again
        recorded.script = lambda number, body: Scripted()
        assert len(ask(endpoint_at(recorded, answer_tokens=5000), tmp_path, SECTIONS[:1]).questions) == 10


def test_what_is_dropped_is_counted_and_giveaways_too(tmp_path):
    items = [
        {"kind": "riddle", "query": "what has keys"},
        {"kind": "symptom", "query": "the heading00 thing squeaks"},
        {"kind": "symptom", "query": "it squeaks"},
    ]
    with recording(lambda number, body: Scripted(content=json.dumps(items))) as recorded:
        asked = ask(endpoint_at(recorded), tmp_path, SECTIONS[:1])
    assert (asked.dropped, asked.giveaways, asked.missing) == ({"no such kind": 1}, 1, 8)
    assert len(asked.questions) == 2


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_budget_of_calls_is_never_exceeded_and_the_same_command_goes_on(tmp_path, concurrency):
    with recording(lambda number, body: Scripted(delay_s=0.01)) as recorded:
        endpoint = endpoint_at(recorded, concurrency=concurrency)
        asked = ask(endpoint, tmp_path, budget=Budget(calls=5))
        assert (len(recorded.asked), asked.calls, asked.unasked) == (5, 5, tuple(range(5, 12)))
        assert len(asked.questions) == 50
        (line,) = [line for line in summary_of(asked, SECTIONS, tmp_path) if "budget" in line]
        assert (
            "7 sections are left, from line 6 (Pump manual > Heading05); the same command with --overwrite goes on"
            in line
        )
        rest = ask(endpoint, tmp_path, budget=Budget(calls=7))
    assert (rest.cached, rest.calls, rest.unasked, len(rest.questions)) == (5, 7, (), 120)
    assert sorted(recorded.sections) == HEADINGS


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_budget_of_tokens_ends_the_run_before_it_is_exceeded(tmp_path, concurrency):
    usage = {"prompt_tokens": 2000, "completion_tokens": 1000}
    with recording(lambda number, body: Scripted(usage=usage, delay_s=0.01)) as recorded:
        asked = ask(endpoint_at(recorded, concurrency=concurrency), tmp_path, budget=Budget(tokens=20_000))
    assert asked.tokens == 3000 * len(recorded.asked)
    assert 5 <= len(recorded.asked) <= 6
    assert len(asked.unasked) == 12 - len(recorded.asked)


def test_tokens_are_estimated_where_the_server_does_not_count_them(tmp_path):
    with recording(lambda number, body: Scripted(usage=None)) as recorded:
        asked = ask(endpoint_at(recorded), tmp_path, SECTIONS[:1])
    (body,) = recorded.asked
    sent = sum(len(message["content"].encode()) for message in body["messages"])
    assert asked.estimated
    assert asked.tokens > sent / 4
    assert "tokens (estimated)" in summary_of(asked, SECTIONS, tmp_path)[0]


@pytest.mark.parametrize("lost", [Scripted(hang_up=True), Scripted(delay_s=0.6), Scripted(body="{")])
def test_lost_answers_count_against_the_budget_since_they_may_have_been_paid_for(tmp_path, lost):
    with recording(first(2, lost)) as recorded:
        asked = ask(endpoint_at(recorded, timeout_s=0.3), tmp_path, budget=Budget(calls=4))
    assert (len(recorded.asked), asked.calls, len(asked.questions)) == (4, 4, 20)


def test_a_request_waits_for_those_on_their_way_before_it_takes_the_budget_for_spent():
    async def two() -> tuple[int | None, int | None]:
        spending = Spending(Budget(tokens=100))
        ticket = await spending.reserve(90)
        assert ticket is not None
        waiting = asyncio.create_task(spending.reserve(40))
        await asyncio.sleep(0)
        assert not waiting.done()
        await spending.settle(ticket, calls=1, tokens=50, estimate=90)
        second = await waiting
        assert second is not None
        return second, await spending.reserve(40) if spending.tokens > 100 else None

    assert asyncio.run(two()) == (2, None)


def test_progress_counts_sections_tokens_and_time(tmp_path):
    told = Told()
    with recording() as recorded:
        ask(endpoint_at(recorded), tmp_path, SECTIONS[:2])
        ask(endpoint_at(recorded), tmp_path, SECTIONS[:5], progress=told)
    last = told.standings[-1]
    assert (last.total, last.cached, last.answered, last.failed, last.tokens) == (5, 2, 3, 0, 450)
    assert last.elapsed_s > 0
    half = Standing(total=100, cached=20, answered=30, failed=10, tokens=1234, elapsed_s=60)
    assert half.line() == (
        "60 of 100 sections: 30 answered, 20 kept, 10 failed; 1,234 tokens, 40 sections a minute, about 1:00 left"
    )


def test_lines_come_seldom_and_notes_and_the_last_always():
    lines: list[str] = []
    show = in_lines(lines.append, every_s=60)
    for answered in range(3):
        show(Standing(total=3, answered=answered, elapsed_s=1))
    show(Standing(total=3, answered=2, note="interrupted"))
    show(Standing(total=3, answered=3, elapsed_s=1))
    assert lines == ["interrupted", "3 of 3 sections: 3 answered, 0 kept, 0 failed; 0 tokens, 180 sections a minute"]


def test_the_bar_of_a_long_run_fits_into_80_columns():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False)
    long = Standing(total=12_345, cached=2_000, answered=3_300, failed=10, tokens=1_234_567, elapsed_s=600)
    with _bar(console) as show:
        show(long)
        show(replace(long, note="interrupted"))
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert all(part in drawn for part in (*long.parts(), "interrupted\n"))


def test_a_damaged_answer_is_asked_for_again(tmp_path):
    with recording() as recorded:
        ask(endpoint_at(recorded), tmp_path, SECTIONS[:3])
        for number, path in enumerate(sorted((tmp_path / "cache").glob("*.json"))[:2]):
            path.write_text("" if number else '{"answer": {"content": 3}}', encoding="utf-8")
        ask(endpoint_at(recorded), tmp_path, SECTIONS[:3])
    assert len(recorded.asked) == 5


def test_two_runs_do_not_ask_for_the_same_answers(tmp_path):
    with (
        recording() as recorded,
        held(tmp_path / "cache"),
        pytest.raises(InputError, match=r"cache: another process is asking for these answers"),
    ):
        ask(endpoint_at(recorded), tmp_path)
    assert recorded.paths == []


def test_a_folder_of_answers_that_is_a_file_is_refused_before_anything_is_sent(tmp_path):
    (tmp_path / "cache").write_text("", encoding="utf-8")
    with recording() as recorded, pytest.raises(InputError, match=r"cache: cannot be used as the folder of answers"):
        ask(endpoint_at(recorded), tmp_path)
    assert recorded.paths == []


@pytest.fixture
def command(tmp_path) -> Callable[[Recorded], list[str]]:
    """A small command that asks about `SECTIONS` and prints a line at its end."""
    write_sections(SECTIONS, tmp_path / "sections.jsonl")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nic_ray import console\n"
        "from nic_ray.manuals.sections import read_sections\n"
        "from nic_ray.questions.asking import ask_model, summary_of\n"
        "from nic_ray.questions.endpoint import Endpoint\n"
        "from nic_ray.questions.spending import Budget\n"
        "from nic_ray.questions.standing import display\n"
        "def main(url: str, sections: Path, cache: Path) -> None:\n"
        "    rows = read_sections(sections)\n"
        "    with display(console.say) as progress:\n"
        "        asked = ask_model(rows, Endpoint(url, 'tiny', concurrency=2), per_section=10, budget=Budget(),\n"
        "                          cache_dir=cache, progress=progress)\n"
        "    console.say(summary_of(asked, rows, cache)[0])\n"
        "console.run(main)\n"
    )
    return lambda recorded: [
        sys.executable, "-c", code, recorded.url, str(tmp_path / "sections.jsonl"), str(tmp_path / "cache")
    ]  # fmt: skip


def started(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"},
    )  # fmt: skip


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_a_run_that_is_killed_has_lost_nothing_that_arrived_and_the_next_sends_only_what_is_missing(tmp_path, command):
    with recording(lambda number, body: Scripted(delay_s=0 if number < 5 else 60)) as recorded:
        process = started(command(recorded))
        wait_for(lambda: len(recorded.asked) == 7)
        process.kill()
        process.communicate(timeout=30)
        kept = sorted((tmp_path / "cache").glob("*.json"))
        assert len(kept) == 5
        recorded.script = lambda number, body: Scripted()
        arrived = recorded.sections[:5]
        done = subprocess.run(command(recorded), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert sorted(recorded.sections[7:]) == sorted(set(HEADINGS) - set(arrived))
    assert "120 questions about 12 of 12 sections; 5 sections kept from before; this run: 7 calls" in done.stdout


def test_an_interrupt_keeps_the_answers_on_their_way_and_says_how_to_go_on(tmp_path, command):
    with recording(lambda number, body: Scripted(delay_s=0 if number < 4 else 1)) as recorded:
        process = started(command(recorded))
        wait_for(lambda: len(recorded.asked) == 6)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "waiting up to 10 s for answers on their way" in out
    assert f"interrupted with 6 of 12 sections answered; they are kept in {tmp_path / 'cache'}" in err
    assert "Traceback" not in err
    assert len(recorded.asked) == 6
    assert len(list((tmp_path / "cache").glob("*.json"))) == 6


def test_a_second_interrupt_does_not_wait(tmp_path, command):
    with recording(lambda number, body: Scripted(delay_s=0 if number < 4 else 60)) as recorded:
        process = started(command(recorded))
        wait_for(lambda: len(recorded.asked) == 6)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert "waiting up to" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=8)
    assert process.returncode == 130
    assert "interrupted with 4 of 12 sections answered" in err
    assert "Traceback" not in err


def test_answers_on_their_way_are_kept_when_the_run_stops_for_another(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "GRACE_S", 5.0)

    def script(number, body):
        return refusal(401, "revoked") if number == 2 else Scripted(delay_s=0.3 if number == 1 else 0)

    with recording(script) as recorded, pytest.raises(InputError, match="wants a key"):
        ask(endpoint_at(recorded, concurrency=2), tmp_path)
    assert len(recorded.asked) == 3
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2
