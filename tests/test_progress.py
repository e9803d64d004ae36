"""What is shown of long work, in a terminal and elsewhere."""

import dataclasses
import io
import logging
import re

import pytest
from rich.console import Console

from nic_ray.progress import Board, Lines, Live, Running, TrialBatch, View, drawn, headline

BASE = {"recall_at_5/radar": 0.5, "recall_at_5/hvac": 0.25, "recall_at_5/macro": 0.375, "recall_at_5/worst": 0.25}
ROUND = TrialBatch("search", trials=4, epochs=2, objective="recall_at_5/macro", base=BASE)


def metrics(epoch: float, macro: float) -> dict[str, float]:
    return {
        "epoch": epoch, "loss": 0.25, "recall_at_5/radar": macro + 0.1, "recall_at_5/hvac": macro - 0.1,
        "recall_at_5/macro": macro, "recall_at_5/worst": macro - 0.1, "mrr/macro": 0.5, "pairs_per_second": 123.4,
    }  # fmt: skip


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False)


def picture(board: Board, now: float = 60.0, width: int = 100) -> str:
    console = terminal(width)
    with console.capture() as got:
        console.print(drawn(board, now))
    return got.get()


def three_trials(view: View) -> None:
    view.dashboard("http://127.0.0.1:8265")
    view.begin(ROUND)
    view.started("trial-000", "scale 20")
    view.started("trial-001", "scale 30")
    view.evaluated("trial-000", metrics(1, 0.6))
    view.evaluated("trial-001", metrics(1, 0.4))
    view.ended("trial-001", "stopped")
    view.started("trial-002", "scale 40")
    view.restarted("trial-002", "the worker died")
    view.started("trial-002", "scale 40")
    view.ended("trial-002", "failed", "no room")


def test_lines_tell_everything_in_order():
    lines: list[str] = []
    three_trials(Lines(lines.append))
    assert lines == [
        "dashboard: http://127.0.0.1:8265",
        "trial-000: scale 20",
        "trial-001: scale 30",
        f"trial-000: {headline(metrics(1, 0.6))}",
        f"trial-001: {headline(metrics(1, 0.4))}",
        "trial-001: stopped early (1 of 4 done)",
        "trial-002: scale 40",
        "trial-002: the worker died; it goes on from its last checkpoint",
        "trial-002: scale 40",
        "trial-002: failed: no room (2 of 4 done)",
    ]


@pytest.mark.parametrize("make", [View, lambda: Lines(lambda _: None), lambda: Live(terminal())])
def test_every_view_writes_the_same_log(make, caplog):
    caplog.set_level(logging.INFO, "nic_ray.progress")
    three_trials(make())
    told: list[str] = []
    three_trials(Lines(told.append))
    assert len(told) == 10
    assert caplog.messages == told * 2


def test_the_live_view_shows_what_runs_the_best_and_the_counts():
    console = terminal()
    live = Live(console, clock=lambda: 0.0)
    three_trials(live)
    text = picture(live.board)
    lines = [line.strip() for line in text.splitlines()]
    assert "trial-000  1.0 of 2             0.6000      123  scale 20" in lines
    assert not any(line.startswith(("trial-001", "trial-002")) for line in lines)
    assert "best so far: trial-000, recall_at_5/macro 0.6000 (base model beside it)" in lines
    # 0.7, 0.5 and 0.6 of 24 characters: 16.8, 12 and 14.4
    assert "radar  ████████████████▊······· 0.700  0.500 (+0.200)" in lines
    assert "hvac   ████████████············ 0.500  0.250 (+0.250)" in lines
    assert "macro  ██████████████▍········· 0.600  0.375 (+0.225)" in lines
    # two of four are over and one is half done: 62.5 % in a minute leaves 36 seconds
    assert "search: 2 of 4 trials ended (0 finished, 1 stopped, 1 failed), 1:00 gone, about 0:36 left" in lines
    assert lines[-1] == "dashboard: http://127.0.0.1:8265"
    above = console.file.getvalue()
    assert "trial-001: stopped at 0.4000 after 1.00 epochs  (scale 30)" in above
    assert "trial-002: the worker died; it goes on from its last checkpoint" in above
    assert "trial-002: failed: no room  (scale 40)" in above


def test_nothing_is_drawn_before_and_after_the_trials():
    live = Live(terminal(), clock=lambda: 0.0)
    live.dashboard("http://127.0.0.1:8265")
    assert picture(live.board).strip() == ""
    live.begin(ROUND)
    assert "0 of 4 trials ended" in picture(live.board)
    assert "left unknown" in picture(live.board)
    live.end()
    assert picture(live.board).strip() == ""


def test_the_second_round_keeps_the_best_of_the_first():
    live = Live(terminal(), clock=lambda: 0.0)
    three_trials(live)
    live.begin(TrialBatch("again", 1, 2, "recall_at_5/macro", BASE))
    text = picture(live.board)
    assert "best so far: trial-000" in text
    assert "again: 0 of 1 trials ended (0 finished, 0 stopped, 0 failed)" in text


def test_the_best_of_an_earlier_part_of_a_search_is_still_the_best():
    live = Live(terminal(), clock=lambda: 0.0)
    live.begin(dataclasses.replace(ROUND, best=("trial-007", metrics(2, 0.5))))
    assert "best so far: trial-007, recall_at_5/macro 0.5000" in picture(live.board)
    live.started("trial-008", "scale 20")
    live.evaluated("trial-008", metrics(1, 0.4))
    assert "best so far: trial-007" in picture(live.board)
    live.evaluated("trial-008", metrics(2, 0.6))
    assert "best so far: trial-008" in picture(live.board)


@pytest.mark.parametrize(
    ("deadline", "left"),
    [(600, "about 1:00 left"), (120, "about 1:00 left"), (90, "at most 0:30 left"), (30, "at most 0:00")],
)
def test_no_more_time_is_left_than_the_budget_gives(deadline, left):
    # half done after a minute
    running = {"trial-000": Running("scale 20", epoch=2.0), "trial-001": Running("scale 20", epoch=2.0)}
    board = Board(round=dataclasses.replace(ROUND, deadline=deadline), running=running)
    assert left in picture(board, now=60)


def test_a_budget_is_shown_before_anything_else_is_known():
    board = Board(round=dataclasses.replace(ROUND, deadline=90))
    assert "at most 0:30 left" in picture(board, now=60)


def test_a_trial_that_never_came_up_is_shown_to_have_failed():
    console = terminal()
    live = Live(console, clock=lambda: 0.0)
    live.begin(ROUND)
    live.restarted("trial-000", "no room")
    live.ended("trial-000", "failed", "no room")
    assert "trial-000: failed: no room\n" in console.file.getvalue()
    assert "1 of 4 trials ended (0 finished, 0 stopped, 1 failed)" in picture(live.board)


def test_work_has_a_bar_until_it_is_done():
    live = Live(terminal(), clock=lambda: 0.0)
    with live.work("computing", 200) as done:
        done(100)
        done(50)
        assert f"computing  {'█' * 18}······ 75%" in picture(live.board)
    assert picture(live.board).strip() == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    sample = "frozen_layers 4  learning_rate 0.000432  batch_size 128  scale 44.1  schedule cosine_restarts"
    board = Board(
        dashboard="http://127.0.0.1:8265",
        round=ROUND,
        running={f"trial-00{number}": Running(sample, 1.5, 0.5, 200.0) for number in range(3)},
        best=("trial-000", metrics(1, 0.6)),
    )
    assert max(map(len, picture(board, width=width).splitlines())) <= width


def test_of_many_running_trials_some_are_shown_and_the_others_counted():
    running = {f"trial-{number:03d}": Running("scale 20") for number in range(12)}
    text = picture(Board(round=ROUND, running=running))
    assert text.count("scale 20") == 10
    assert "and 2 more" in text


def test_an_objective_of_another_metric_draws_its_bars():
    board = Board(
        round=TrialBatch("search", 2, 1, "mrr/macro", {"mrr/macro": 0.25}), best=("trial-000", {"mrr/macro": 0.5})
    )
    assert "macro  ████████████············ 0.500  0.250 (+0.250)" in picture(board)


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_are_left_away_where_that_is_asked_for(monkeypatch, no_color):
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(drawn(Board(round=ROUND, best=("trial-000", metrics(1, 0.6))), 60.0))
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", console.file.getvalue())) != no_color


def test_the_headline_of_an_evaluation_has_its_figures():
    found = {"epoch": 1.5, "loss": 0.25, "recall_at_5/macro": 0.7125, "mrr/macro": 0.61}
    assert headline(found) == "epoch 1.50  loss 0.250  recall_at_5/macro 0.7125  mrr/macro 0.6100"
    assert headline(found | {"pairs_per_second": 99.6}).endswith("mrr/macro 0.6100  100 pairs/s")
