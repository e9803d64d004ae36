"""The table of metrics: what is chosen by, in which order, and that a row more is all that another metric takes."""

import csv
import dataclasses
import functools
import io
import itertools
import subprocess
import sys

import numpy as np
import pytest

from nic_ray.dataset.pairs import index_pairs
from nic_ray.domains import as_csv, changes_of
from nic_ray.metrics import table
from nic_ray.metrics.intervals import Queries
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import METRICS, Metric, checked_objective, label_of, order_key, recall_at
from nic_ray.model.activations import feed, upper_for
from nic_ray.model.evaluation import evaluate
from nic_ray.model.whole_models import plain_scores
from nic_ray.progress import View, headline
from nic_ray.selection.averaging import averaged
from nic_ray.selection.candidates import Candidate, best_first, confirm
from nic_ray.selection.export import export
from nic_ray.selection.guard import Mixture, choose_mixture
from nic_ray.selection.interpolation import interpolation_path
from nic_ray.selection.retention import load_retention_set, retention_of
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.selection.selection import Contestants, judge
from nic_ray.selection.word_search import choose_fusion
from nic_ray.train_config import TrainConfig
from nic_ray.training.loop import TrainingData, Validation, fit

RECALL_AT_1 = Metric("Recall@1", "share of right passages that come first", functools.partial(recall_at, 1))


@pytest.fixture
def third(monkeypatch):
    """The name of a third metric, which stands in the table meanwhile."""
    monkeypatch.setitem(METRICS, "recall_at_1", RECALL_AT_1)
    return "recall_at_1"


@pytest.mark.parametrize(
    ("written", "key", "label"),
    [
        ("recall_at_5/macro", "recall_at_5/macro", "macro Recall@5"),
        ("recall@5/worst", "recall_at_5/worst", "worst Recall@5"),
        ("nDCG@10/micro", "ndcg_at_10/micro", "micro nDCG@10"),
        ("map/fused", "map/fused", "fused MAP"),
        ("recall_at_1/macro", "recall_at_1/macro", "macro Recall@1"),
    ],
)
def test_a_search_may_choose_by_any_metric_over_any_mean(third, written, key, label):
    assert (checked_objective(written), label_of(key)) == (key, label)


@pytest.mark.parametrize(
    "written", ["recall@5", "recall@5/", "recall@5/radar", "ndgc@5/macro", "recall/macro", "/macro"]
)
def test_an_objective_that_is_none_is_refused(written):
    with pytest.raises(ValueError, match=r"must be .*, got "):
        checked_objective(written)


def test_evaluations_are_ordered_by_objective_then_mrr_then_the_earlier_epoch():
    rising = [
        {"recall_at_5/macro": 0.7, "mrr/macro": 0.9, "epoch": 1.0},
        {"recall_at_5/macro": 0.8, "mrr/macro": 0.5},  # whose epoch is not known yet: later than any other
        {"recall_at_5/macro": 0.8, "mrr/macro": 0.5, "epoch": 3.0},
        {"recall_at_5/macro": 0.8, "mrr/macro": 0.5, "epoch": 2.0},
        {"recall_at_5/macro": 0.8, "mrr/macro": 0.6, "epoch": 9.0},
    ]
    for worse, better in itertools.combinations(rising, 2):
        assert order_key(worse, "recall_at_5/macro") < order_key(better, "recall_at_5/macro")


def test_of_a_metric_of_which_less_is_better_the_lowest_is_the_best(monkeypatch):
    monkeypatch.setitem(
        METRICS,
        "rank",
        Metric("rank", "low is good", RECALL_AT_1.of_ranks, direction=-1),
    )
    assert order_key({"rank/macro": 3.0, "mrr/macro": 0.1}, "rank/macro") > order_key(
        {"rank/macro": 4.0, "mrr/macro": 0.9}, "rank/macro"
    )
    ranks = np.repeat([1.0, 7.0, 4.0], 20)
    names = [name for name in "abc" for _ in range(20)]
    flat = flat_metrics({"rank": ranks}, names)
    assert (flat["rank/macro"], flat["rank/worst"]) == (4.0, 7.0)
    mixtures = [
        Mixture(alpha, flat_metrics({"rank": ranks + more}, names), {"rank": ranks + more}, None)
        for alpha, more in ((0.3, 2.0), (0.6, 0.0), (1.0, 1.0))
    ]
    for objective in ("rank/macro", "rank/worst"):
        taken = choose_mixture(mixtures, Queries(np.arange(60), names), objective=objective, max_retention_loss=0.0)
        assert taken is mixtures[1]
    candidates = [
        Candidate(name, TrainConfig(), {"rank/macro": rank, "mrr/macro": 0.5, "epoch": 1.0}, {})
        for name, rank in (("lower", 3.0), ("higher", 4.0))
    ]
    for tried in itertools.permutations([[candidate] for candidate in candidates]):
        assert confirm(tried, "rank/macro")[0].name == "lower"


def test_a_third_metric_is_in_all_that_is_measured(third, searched, tiny_pairs, tiny_model_folder):
    from sentence_transformers import SentenceTransformer

    prepared, inputs, candidates = searched(1, 2)
    rows, domains = prepared.rows("validation"), sorted(set(prepared.collection.domains))
    scorer = Scorer(prepared, inputs[1])
    scores, flat = scorer.scores(None, rows), scorer.metrics(None, rows)
    # every query of these pairs has one answer
    assert scores[third].tolist() == (scores["mrr"] == 1).astype(float).tolist()
    means = {name: flat[f"{third}/{name}"] for name in domains}
    assert flat[f"{third}/macro"] == pytest.approx(np.mean(list(means.values())))
    assert flat[f"{third}/worst"] == min(means.values())
    assert flat.keys() == candidates[0].metrics.keys() - {"epoch"}
    fusion = choose_fusion(scorer, None, rows, queries_of(prepared, "validation"), f"{third}/macro")
    assert {third} <= {name for scored in fusion.scores.values() for name in scored} == METRICS.keys()
    plain = plain_scores(SentenceTransformer(str(tiny_model_folder), device="cpu"), prepared.collection, rows.tolist())
    assert plain.keys() == METRICS.keys()
    retention_set = load_retention_set(prepared, index_pairs(tiny_pairs[:20]), [1, 2])
    assert retention_set.base.keys() == retention_of(prepared, retention_set, candidates[1]).keys() == METRICS.keys()
    told = headline(flat | {"epoch": 1.0, "loss": 0.5})
    assert told.endswith(f"{third}/macro {flat[f'{third}/macro']:.4f}")
    lines = list(csv.DictReader(io.StringIO(as_csv({"validation": {"base": flat}}, {}, {}))))
    assert [float(line[f"{third} base"]) for line in lines] == [flat[f"{third}/{name}"] for name in (*domains, "macro")]
    assert changes_of({"base": flat}, third) == means


@pytest.mark.parametrize("over", ["macro", "worst"])
def test_a_third_metric_can_be_what_is_chosen_by_from_the_training_to_the_export(
    third, searched, tiny_pairs, tmp_path, over
):
    objective = f"{third}/{over}"
    prepared, inputs, candidates = searched(1, 2)
    search = prepared.config.search.model_copy(update={"objective": objective})
    prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"search": search}))
    rows, source = prepared.rows("validation"), feed(inputs[1], "cpu")
    data = TrainingData(prepared.collection, prepared.rows("train"), source)
    *_, last = fit(
        prepared.config.train,
        upper_for(prepared.encoder, inputs[1]),
        data,
        Validation(lambda part: evaluate(part, source, prepared.collection, rows.tolist()), objective),
    )
    assert last.metrics["objective"] == last.state["best"]["metrics"][objective]
    best = best_first(candidates, objective)
    assert best[0].metrics[objective] == max(each.metrics[objective] for each in candidates)
    prepared = dataclasses.replace(
        prepared,
        config=prepared.config.model_copy(
            update={"search": prepared.config.search.model_copy(update={"objective": objective})}
        ),
    )
    average = averaged(prepared, inputs, best)
    assert average.cross_fitted.keys() == {1, 2}
    mean = average.candidate
    retention_set = load_retention_set(prepared, index_pairs(tiny_pairs[:20]), [1, 2])
    base = Scorer(prepared, inputs[2]).scores(None, rows)
    mixtures = interpolation_path(prepared, inputs[mean.config.frozen_layers], mean, base, retention_set)
    assert all(mixture.retention.keys() == METRICS.keys() for mixture in mixtures)
    chosen = choose_mixture(
        mixtures[1:], queries_of(prepared, "validation"), objective=objective, max_retention_loss=1.0
    )
    assert chosen.metrics[objective] <= max(mixture.metrics[objective] for mixture in mixtures[1:])
    found = judge(
        prepared,
        inputs,
        Contestants({"first trial": best[0]}, best, []),
        retention_set,
        export_anyway=True,
        say=lambda _: None,
    )
    assert found.results["test"]["tuned"].keys() >= {objective, f"{third}/macro"}
    tuned = dataclasses.replace(found.tuned, metrics={**found.tuned.metrics, "step": 3.0})
    written = export(
        prepared, tuned, {"results": found.results}, tmp_path / "out", training_log="", overwrite=False, view=View(),
    )  # fmt: skip
    assert written["objective"] == objective
    assert written["results"]["test"]["tuned"][f"{third}/macro"] == found.results["test"]["tuned"][f"{third}/macro"]


def test_a_third_metric_can_be_the_objective_of_a_configuration_file(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text("search: {objective: recall_at_1/worst}\n")
    code = (
        "import functools\n"
        "from pathlib import Path\n"
        "from nic_ray.metrics.table import METRICS, Metric, recall_at\n"
        "own = functools.partial(recall_at, 1)\n"
        "METRICS['recall_at_1'] = Metric('Recall@1', 'share that comes first', own)\n"
        "from nic_ray.config import Config\n"
        "from nic_ray.config_file import load_config\n"
        f"print(load_config(Path({str(path)!r})).search.objective)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "recall_at_1/worst\n"


def test_the_table_is_read_without_numpy():
    code = "import sys; from nic_ray.metrics import table; assert 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert table.PRIMARY == "recall_at_5"
