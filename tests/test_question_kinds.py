"""What is said of questions: figures by kind, and what those are worth that were made from the passages."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from nic_ray import compare, console, evaluate, train
from nic_ray.bundle.card import model_card
from nic_ray.bundle.comparison import compare_models, compare_with_base
from nic_ray.bundle.files import write_bundle
from nic_ray.bundle.question_kinds import caution, caution_of, describe_trained
from nic_ray.config_file import dump_config
from nic_ray.dataset.pairs import Pair, row_of
from nic_ray.metrics.intervals import Queries, paired_intervals
from nic_ray.metrics.kinds import figures_by_kind
from nic_ray.report.checkup import as_json, check_file, show_checkup
from nic_ray.report.elements import read_run
from nic_ray.report.html import page
from nic_ray.report.terminal import show_result
from nic_ray.results import CROSS_FIT
from nic_ray.search import outcome, train_single
from nic_ray.selection import folds, selection
from nic_ray.selection.bases import Base
from nic_ray.selection.folds import cross_fit
from nic_ray.selection.guard import (
    LEAST_GAIN_OF_SYNTHETIC,
    choose_mixture,
    macro_bound,
    neighbours_asked_for,
    objections,
    retention_objection,
)
from nic_ray.selection.selection import Contestants, SearchResult, judge
from nic_ray.training.start import describe_data
from tests.test_guard import QUERIES, mixture, scores

ALL = "All 12 questions that these figures are of were made from the passages themselves, by rules or by a language"


# figures by kind


def test_kinds_are_sorted_by_number_with_means_and_intervals_worked_by_hand():
    kinds = ["typo", "direct", "direct", None, "direct", "typo"]
    base, tuned = np.array([0, 0, 1, 1, 0, 0.0]), np.array([1, 1, 1, 0, 0, 1.0])
    queries = Queries(np.array([5, 6, 7, 7, 8, 5]), ["a", "b", "a", "b", "a", "b"])
    found = figures_by_kind(kinds, {"base": base, "tuned": tuned}, queries)
    assert [(each.kind, each.gain.queries, each.gain.passages) for each in found] == [
        ("direct", 3, 3), ("typo", 2, 1), ("(no kind)", 1, 1)
    ]  # fmt: skip
    assert found[0].means == pytest.approx({"base": 1 / 3, "tuned": 2 / 3})
    assert [each.gain.difference for each in found] == pytest.approx([1 / 3, 1.0, -1.0])
    assert found[0].gain.low is None  # too few passages
    many = Queries(np.arange(20), ["any"] * 20)
    first, last = scores(0.3)[:20], scores(0.8, seed=1)[:20]
    (only,) = figures_by_kind(["symptom"] * 20, {"base": first, "tuned": last}, many)
    assert only.gain == paired_intervals(last, first, many.passages, many.domains)["any"]


def test_of_many_kinds_the_rarest_are_taken_together_and_without_kinds_nothing_is_shown():
    kinds = [f"k{number:02}" for number in range(25) for _ in range(30 - number)]
    values, count = {"model": np.ones(len(kinds))}, len(kinds)
    found = figures_by_kind(kinds, values, Queries(np.arange(count), ["d"] * count))
    assert [each.kind for each in found] == [*(f"k{number:02}" for number in range(20)), "5 further kinds"]
    assert sum(each.gain.queries for each in found) == count
    assert figures_by_kind([None, None], {"model": np.ones(2)}, Queries(np.arange(2), ["d"] * 2)) == []


# what they are worth


def test_the_caution_counts_what_is_held_back_and_says_how_many_questions_are_wanted():
    assert caution(0, 12) is None
    assert caution(12, 12).startswith(ALL)
    assert "Write questions by hand about 40 passages of each domain" in caution(12, 12)  # 8 of each in a fifth
    assert caution(3, 12).startswith("Of the 12 questions that these figures are of, 3 were made from the passages")
    split = {"rows": {"train": 30, "validation": 5, "test": 7}, "validation_share": 0.2, "test_share": 0.1}
    held_back = {"synthetic": {"train": 30, "validation": 5, "test": 7}}
    assert caution_of(held_back, split).startswith(ALL)
    assert "about 80 passages" in caution_of(held_back, split)
    trained = {"synthetic": {"train": 20, "validation": 0, "test": 0}}
    assert caution_of(trained, split) is None
    assert describe_trained(trained, split).startswith("Of the 30 training rows, 20 are synthetic")
    assert describe_trained({}, split) is None


CARD = {"name": "m", "base_model": "b", "results": {}}


def test_the_card_begins_with_it():
    split = {"rows": {"train": 30, "validation": 5, "test": 7}}
    data = {"pairs": "p", "rows": 42, "synthetic": {"train": 30, "validation": 5, "test": 7}}
    title, first = model_card({**CARD, "data": data, "split": split}).partition("---\n\n# ")[2].split("\n\n")[:2]
    assert (title, first.startswith(f"**{ALL}")) == ("m", True)
    only_trained = {**data, "synthetic": {"train": 30, "validation": 0, "test": 0}}
    card = model_card({**CARD, "data": only_trained, "split": split})
    assert card.partition("# m\n\n")[2].startswith("A sentence-embedding model")
    assert "Of the 30 training rows, 30 are synthetic" in card
    assert "synthetic" not in model_card({**CARD, "data": {"pairs": "p", "rows": 42}, "split": split})


# the guard


def test_of_synthetic_questions_the_bound_must_exceed_more_than_zero_and_the_objection_says_why():
    base, tuned = scores(0.5, seed=1), scores(0.62, seed=2)
    bound = macro_bound("test", tuned, base, QUERIES)
    given = {"max_domain_drop": 1.0}
    assert bound > 0
    assert objections("test", tuned, base, QUERIES, **given) == []
    (found,) = objections("test", tuned, base, QUERIES, **given, least_gain=bound + 0.001)
    gain = np.mean(tuned - base)
    assert found == (
        f"test: macro Recall@5 {gain:+.3f} against the base model is too little: its 97.5% lower bound is {bound:+.3f}"
        f", and must be above {bound + 0.001:g}, since all of these questions are synthetic: made from the passages, "
        "by rules or a language model; more rows or trials may show more, and for questions by people a bound above 0 "
        "is enough"
    )
    assert objections("test", tuned, base, QUERIES, **given, least_gain=bound - 0.001) == []
    assert LEAST_GAIN_OF_SYNTHETIC == 0.01


def test_more_neighbours_must_be_kept_unless_none_are_measured():
    assert [neighbours_asked_for(least, synthetic=True) for least in (0.0, 0.8, 0.97)] == pytest.approx([0, 0.85, 1.0])
    assert neighbours_asked_for(0.8, synthetic=False) == 0.8
    kept = [dataclasses.replace(mixture(1.0, scores(0.5)), neighbours=0.83)]
    limits = {"max_retention_loss": 0.05, "min_neighbours_kept": neighbours_asked_for(0.8, synthetic=True)}
    assert choose_mixture(kept, QUERIES, objective="recall_at_5/macro", **limits) is None
    said = retention_objection(kept, **limits, synthetic=True)
    assert "less than guard.min_neighbours_kept 0.8 and 0.05 more, since all of these questions are synthetic" in said


# a search


@pytest.fixture
def pairs_file(tiny_pairs, tmp_path):
    """`pairs_file(...)`: the rows of `tiny_pairs` with their kinds, and with those given in front."""

    def make(*more: Pair, synthetic: bool = False):
        kinds = ("direct", "keyword")
        rows = [dataclasses.replace(pair, kind=kinds[n % 2], synthetic=synthetic) for n, pair in enumerate(tiny_pairs)]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row_of(pair)) + "\n" for pair in [*more, *rows]))
        return path

    return make


def judged(searched, path, **data):
    prepared, inputs, candidates = searched(1, more={"data": {"pairs": str(path), **data}})
    contestants = Contestants({"first trial": candidates[0]}, candidates, [])
    return prepared, inputs, judge(prepared, inputs, contestants, None, export_anyway=True, say=lambda _: None)


def test_report_terminal_and_card_show_kinds_and_begin_with_what_synthetic_questions_are_worth(
    searched, pairs_file, tmp_path, capsys
):
    prepared, _, found = judged(searched, pairs_file(synthetic=True))
    rows = len(prepared.rows("test")) + len(prepared.rows("validation"))
    said = caution(rows, rows, share=0.25)
    kinds = found.evidence["question_kinds"]
    assert sorted((each["kind"], each["queries"]) for each in kinds) == [
        (kind, int(sum(prepared.collection.kinds[row] == kind for row in prepared.rows("test").tolist())))
        for kind in ("direct", "keyword")
    ]
    total = sum(each["queries"] for each in kinds)
    mean = sum(each["queries"] * each["recall"]["tuned"] for each in kinds) / total
    asked = [query["recall"]["tuned"] for query in found.queries["queries"]]
    assert mean == pytest.approx(np.mean(asked))
    guard = found.evidence["guard"]
    assert guard["least_gain"] == 0.01
    result = SearchResult(tmp_path, tmp_path, found, [], caution=said)
    outcome.write_result(result, prepared, None)
    (tmp_path / "config.yaml").write_text(dump_config(prepared.config), encoding="utf-8")
    show_result(result)
    printed = capsys.readouterr().out
    assert printed.strip().startswith(said)
    assert "by kind of question" in printed
    html = page(read_run(tmp_path))
    assert html.partition("</h1>")[2].strip().startswith(f'<div class="warning"><p>{said.replace(chr(39), "&#x27;")}')
    assert 'id="kinds"' in html
    described = describe_data(prepared)
    card = model_card({**CARD, **found.evidence, **described, "objective": "recall_at_5/macro"})
    assert card.partition("# m\n\n")[2].startswith(f"**{said}**")
    assert "### By kind of question" in card
    assert described["data"]["synthetic"]["test"] == len(prepared.rows("test"))


def test_without_synthetic_rows_nothing_is_said_and_the_guard_asks_for_no_more(searched, tiny_pairs_file, tmp_path):
    prepared, _, found = judged(searched, tiny_pairs_file)
    assert "least_gain" not in found.evidence["guard"]
    assert "question_kinds" not in found.evidence
    outcome.write_result(SearchResult(tmp_path, tmp_path, found, []), prepared, None)
    (tmp_path / "config.yaml").write_text(dump_config(prepared.config), encoding="utf-8")
    html = page(read_run(tmp_path))
    assert "language model" not in html
    assert 'id="kinds"' not in html


def test_the_demand_reaches_every_part_and_the_best_base(searched, pairs_file, monkeypatch):
    asked_for = []

    def objections_of(part, *_, least_gain=0.0, **__):
        asked_for.append((part, least_gain))
        return []

    monkeypatch.setattr(selection, "objections", objections_of)
    judged(searched, pairs_file(synthetic=True))
    assert asked_for == [("validation", 0.01), ("test", 0.01)]
    asked_for.clear()
    judged(searched, pairs_file(Pair("made?", "Turn the fan.", "pumps", synthetic=True)))
    assert asked_for == [("validation", 0.0), ("test", 0.0)]


def test_folds_measure_the_rows_of_people_and_train_on_no_synthetic_row_about_what_they_hold_out(
    searched, pairs_file, tiny_pairs, monkeypatch
):
    passages = dict.fromkeys((pair.positive, pair.domain) for pair in tiny_pairs)
    made = [Pair(f"made {n}?", text, domain, synthetic=True) for n, (text, domain) in enumerate(passages)]
    made.append(Pair("further?", "Turn the fan.", "pumps", synthetic=True))
    prepared, inputs, found = judged(searched, pairs_file(*made), protocol="cross_fit")
    trained = []
    monkeypatch.setattr(
        folds, "trained_again", lambda prepared, inputs, winner, rows, **_: trained.append(rows) or winner
    )
    judgement = cross_fit(Base(prepared, inputs), found, export_anyway=True)
    synthetic, groups = prepared.collection.synthetic, prepared.groups
    alone = int(
        np.flatnonzero([prepared.collection.texts[text] == "further?" for text in prepared.collection.query])[0]
    )
    held_out = [np.setdiff1d(np.arange(len(groups)), rows) for rows in trained]
    people = np.concatenate([rows[~synthetic[rows]] for rows in held_out])
    assert sorted(people.tolist()) == np.flatnonzero(~synthetic).tolist()
    for rows, out in zip(trained, held_out, strict=True):
        assert not np.intersect1d(groups[rows], groups[out[~synthetic[out]]]).size
        assert alone in rows
    span = judgement.evidence["folds"]["intervals"]["tuned minus base"]["macro"]
    assert span["queries"] == int((~synthetic).sum()) == len(tiny_pairs)
    assert judgement.results[CROSS_FIT]["base"].keys() == found.results["test"]["base"].keys()


# commands


def test_evaluate_and_compare_say_it_first_and_show_kinds(
    pairs_file, tiny_model_folder, tiny_model, tmp_path, monkeypatch, capsys
):
    path, other = pairs_file(synthetic=True), tiny_model(layers=3)
    from sentence_transformers import SentenceTransformer

    metadata = {"name": "tuned", "base_model": str(tiny_model_folder), "results": {}}
    write_bundle(tmp_path / "tuned", SentenceTransformer(str(other), device="cpu"), metadata, training_log="")
    found = compare_with_base(str(tmp_path / "tuned"), path, "test")
    assert found.synthetic == found.queries
    assert [sorted(each["recall"]) for each in found.kinds] == [["base", "model"]] * 2
    assert sum(each["queries"] for each in found.kinds) == found.queries

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            console.run(command.main)
        assert stopped.value.code == 0
        return capsys.readouterr().out

    out = run(evaluate, tmp_path / "tuned", path, "--split", "test")
    assert out.startswith(f"All {found.queries} questions that these figures are of were made from the passages")
    assert "by kind of question" in out
    stored = json.loads(run(evaluate, tmp_path / "tuned", path, "--split", "test", "--json"))
    assert (stored["synthetic"], stored["kinds"]) == (found.queries, found.kinds)
    both = [str(tiny_model_folder), str(other)]
    ranking = compare_models(both, path, "validation", say=lambda _: None)
    assert ranking.warnings[0].startswith("All ")
    assert "warning: All " in run(compare, *both, "--pairs", path)


def test_check_counts_synthetic_rows_and_kinds(pairs_file, tiny_model_folder, capsys):
    more = [Pair(f"made {n}?", "Turn the fan.", "pumps", synthetic=True) for n in range(2)]
    checkup = check_file(
        pairs_file(*more), clean_file=None, leave_out=None, base_model=str(tiny_model_folder), max_tokens=64
    )
    show_checkup(checkup)
    out = " ".join(capsys.readouterr().out.split())
    assert "synthetic rows, whose question was made from its passage: 2 of 50 (4.0%)" in out
    assert "kinds of questions: direct 24, keyword 24, none named 2" in out
    profile = as_json(checkup)["profile"]
    assert (profile["rows"], profile["synthetic"], profile["kinds"]) == (50, 2, {"direct": 24, "keyword": 24})


@pytest.mark.parametrize("said", [caution(12, 12), None])
def test_a_single_training_says_it_before_its_figures(said, tmp_path, monkeypatch, capsys):
    flat = {"recall_at_5/pumps": 0.5, "recall_at_5/macro": 0.5, "mrr/pumps": 0.4, "mrr/macro": 0.4}
    trained = train_single.TrainedModel(tmp_path, tmp_path, {"test": {"tuned": flat}}, {"test": {"pumps": 3}}, said)
    monkeypatch.setattr(train_single, "train_one", lambda *_, **__: trained)
    (tmp_path / "c.yaml").write_text("train: {epochs: 1}\n")
    train.main(tmp_path / "c.yaml", data=None, out=tmp_path, resume=None, quiet=True)
    assert capsys.readouterr().out.strip().startswith(said or "test")
