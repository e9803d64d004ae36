"""Every passage held out once: how rows are dealt to folds, and what each is answered by."""

import csv
import dataclasses

import numpy as np
import pytest

from nic_ray.bundle.card import model_card
from nic_ray.dataset.split import folds_of_rows
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.report.terminal import show_result
from nic_ray.results import CROSS_FIT
from nic_ray.search import outcome
from nic_ray.selection import folds
from nic_ray.selection.bases import Base
from nic_ray.selection.folds import cross_fit
from nic_ray.selection.interpolation import interpolated
from nic_ray.selection.scoring import Scorer
from nic_ray.selection.selection import Contestants, SearchResult, judge

RESULT_KEYS = {"base", "BM25", "tuned", "tuned + BM25"}


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_fold_with_all_others_of_its_passage(seed):
    generator = np.random.default_rng(seed)
    passages = generator.integers(60, size=400)
    names = [f"domain {passage % 3}" for passage in passages]
    parts = np.where(passages < 12, "test", np.where(passages < 20, "validation", "train"))
    found = folds_of_rows(passages, names, parts, count=5, seed=seed)
    assert ((found == 0) == (parts == "test")).all()
    for passage in range(60):
        assert len(set(found[passages == passage].tolist())) <= 1
    for number in range(3):
        sizes = np.bincount(found[[name == f"domain {number}" for name in names]], minlength=5)[1:]
        assert sizes.max() - sizes.min() <= np.bincount(passages).max()  # each goes to the fold with the fewest rows
    assert (found == folds_of_rows(passages, names, parts, count=5, seed=seed)).all()


def test_small_domains_do_not_all_begin_with_the_same_fold():
    names = [f"domain {number // 3}" for number in range(24)]
    found = folds_of_rows(np.arange(24), names, np.full(24, "train"), count=5, seed=0)
    assert np.bincount(found, minlength=5).tolist() == [0, 6, 6, 6, 6]


def judged(searched):
    prepared, inputs, candidates = searched
    contestants = Contestants({"first trial": candidates[0]}, candidates, [])
    found = judge(prepared, inputs, contestants, None, export_anyway=True, say=lambda _: None)
    return prepared, inputs, found


def test_each_row_is_scored_by_a_model_that_was_trained_without_its_passage(searched, monkeypatch):
    prepared, inputs, found = judged(searched(1))
    trained = []

    def again(prepared, inputs, winner, rows, **_):
        trained.append(set(rows.tolist()))
        return winner

    monkeypatch.setattr(folds, "trained_again", again)
    judgement = cross_fit(Base(prepared, inputs), found, export_anyway=True)
    count = judgement.evidence["folds"]["folds"]
    assert count == len(trained) == round(1 / prepared.config.data.test_share)
    everything = set(range(len(prepared.parts)))
    left_out = [everything - rows for rows in trained]
    assert set.union(*left_out) == everything
    assert sum(map(len, left_out)) == len(everything)
    assert left_out[0] == set(prepared.rows("test").tolist())
    for rows, held_out in zip(trained, left_out, strict=True):
        assert not set(prepared.passages[list(rows)]) & set(prepared.passages[list(held_out)])
    # the same weights for every fold: together they are scored like that model on all rows
    weights = interpolated(prepared, found.winner, found.evidence["alpha"])
    scorer, rows = Scorer(prepared, inputs[1]), np.arange(len(prepared.parts))
    results = judgement.results[CROSS_FIT]
    assert results.keys() == RESULT_KEYS
    assert results["tuned"] == pytest.approx(flat_metrics(scorer.scores(weights, rows), prepared.collection.domains))
    assert results["base"] == pytest.approx(flat_metrics(scorer.scores(None, rows), prepared.collection.domains))
    span = judgement.evidence["folds"]["intervals"]["tuned minus base"]["macro"]
    gain = results["tuned"]["recall_at_5/macro"] - results["base"]["recall_at_5/macro"]
    assert (span["difference"], span["queries"]) == (pytest.approx(gain), len(rows))
    assert judgement.evidence["passages"][CROSS_FIT]["macro"] == len(np.unique(prepared.passages))


def test_what_the_folds_show_may_refuse_the_export(searched, monkeypatch):
    prepared, inputs, found = judged(searched(1))
    monkeypatch.setattr(folds, "trained_again", lambda prepared, inputs, winner, rows, **_: winner)
    monkeypatch.setattr(folds, "objections", lambda part, *_, **__: [f"{part}: pumps falls"])
    refused = cross_fit(Base(prepared, inputs), found, export_anyway=False)
    assert not refused.may_be_exported
    assert refused.evidence["guard"]["objections"][-1] == "cross_fit: pumps falls"
    assert refused.evidence["guard"]["overridden"] is False
    overridden = cross_fit(Base(prepared, inputs), found, export_anyway=True)
    assert (overridden.may_be_exported, overridden.evidence["guard"]["overridden"]) == (True, True)


def test_card_and_terminal_show_all_rows(searched, monkeypatch, tmp_path, capsys):
    prepared, inputs, found = judged(searched(1))
    monkeypatch.setattr(folds, "trained_again", lambda prepared, inputs, winner, rows, **_: winner)
    judgement = cross_fit(Base(prepared, inputs), found, export_anyway=True)
    show_result(SearchResult(tmp_path, tmp_path, judgement, []))
    printed = capsys.readouterr().out
    assert "all rows, each answered by a model that was trained without its passage" in printed
    assert "tuned minus base, Recall@5 on all rows" in printed
    metadata = {"name": "m", "base_model": "b", "results": judgement.results, **judgement.evidence}
    card = model_card(metadata | {"split": {"protocol": "cross_fit"}})
    assert "### All rows, each answered by a model that was trained without its passage" in card
    assert "### Tuned minus base: Recall@5 on all rows" in card
    assert "every passage held out once" in card
    assert "The figures of all rows are those of 4 models" in card
    value = judgement.results[CROSS_FIT]["tuned"]["recall_at_5/macro"]
    header = card.split("---")[1]
    assert f"value: {value}" in header
    assert f"value: {judgement.results['test']['tuned']['recall_at_5/macro']}" not in header
    outcome.write_result(SearchResult(None, tmp_path, judgement, []), prepared, None)
    rows = list(csv.DictReader((tmp_path / "domains.csv").read_text().splitlines()))
    (macro,) = (row for row in rows if (row["part"], row["domain"]) == (CROSS_FIT, "macro"))
    span = judgement.evidence["folds"]["intervals"]["tuned minus base"]["macro"]
    assert float(macro["tuned minus base, difference"]) == pytest.approx(span["difference"])


def test_there_are_no_more_folds_than_passages(searched, monkeypatch):
    prepared, inputs, found = judged(searched(1))
    data = prepared.config.data.model_copy(update={"test_share": 0.001})
    prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"data": data}))
    monkeypatch.setattr(folds, "trained_again", lambda prepared, inputs, winner, rows, **_: winner)
    left = len(set(prepared.passages.tolist()) - set(prepared.passages[prepared.rows("test")].tolist()))
    assert cross_fit(Base(prepared, inputs), found, export_anyway=True).evidence["folds"]["folds"] == 1 + left


def test_a_fold_holds_whole_groups_of_rows(searched, monkeypatch):
    prepared, inputs, found = judged(searched(1))
    # two groups in each part of a domain, as if they were documents
    alike = list(zip(prepared.parts.tolist(), prepared.collection.domains, strict=True))
    numbers = {each: number for number, each in enumerate(dict.fromkeys(alike))}
    groups = np.array([numbers[each] for each in alike]) * 2 + np.unique(prepared.passages, return_inverse=True)[1] % 2
    prepared = dataclasses.replace(prepared, groups=groups)
    trained = []
    monkeypatch.setattr(
        folds, "trained_again", lambda prepared, inputs, winner, rows, **_: trained.append(rows) or winner
    )
    judgement = cross_fit(Base(prepared, inputs), found, export_anyway=True)
    for rows in trained:
        held_out = np.setdiff1d(np.arange(len(groups)), rows)
        assert not np.intersect1d(groups[rows], groups[held_out]).size
    span = judgement.evidence["folds"]["intervals"]["tuned minus base"]["macro"]
    assert span["passages"] == len(np.unique(groups))
    assert judgement.evidence["passages"][CROSS_FIT]["macro"] == len(np.unique(prepared.passages))
