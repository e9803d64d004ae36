"""What more pairs would bring: worked by hand, and a training that is repeated on parts of its rows."""

import json

import numpy as np
import pytest

from nic_ray.config import Config
from nic_ray.errors import InputError
from nic_ray.metrics.intervals import Queries, paired_intervals
from nic_ray.metrics.learning_curve import fit_curve, shares_of_passages
from nic_ray.model.activations import feed
from nic_ray.progress import View
from nic_ray.report.html import write_page
from nic_ray.run_folder import RunFolder
from nic_ray.search import learning_curve as room
from nic_ray.search.learning_curve import learning_curve
from nic_ray.search.run import begin_run, destination
from nic_ray.stored import read_curve
from nic_ray.training.bases import Bases
from nic_ray.training.loop import UNJUDGED, TrainingData, fit
from nic_ray.training.prepared import prepare


def queries(passages=12):
    return Queries(np.arange(passages), ["a", "b"] * (passages // 2))


def test_points_on_a_line_give_that_line():
    scores = {share: np.full(12, 0.75 + 0.125 * np.log2(share)) for share in (0.25, 0.5, 1.0)}
    fitted = fit_curve(scores, queries())
    assert fitted.at_one == pytest.approx(0.75)
    assert fitted.doubling.difference == pytest.approx(0.125)
    assert (fitted.doubling.low, fitted.doubling.high) == (pytest.approx(0.125), pytest.approx(0.125))
    assert [fitted.at(share) for share in (0.25, 1.0, 2.0)] == pytest.approx([0.5, 0.75, 0.875])


def test_the_line_is_numpys_and_its_slope_has_the_interval_of_a_difference():
    random = np.random.default_rng(0)
    scores = {share: random.uniform(size=12) for share in (0.125, 0.25, 1.0)}
    fitted, asked = fit_curve(scores, queries()), queries()
    macro = [np.mean([values[::2].mean(), values[1::2].mean()]) for values in scores.values()]
    slope, at_one = np.polyfit(np.log2([*scores]), macro, 1)
    assert (fitted.doubling.difference, fitted.at_one) == (pytest.approx(slope), pytest.approx(at_one))
    # of two points the slope is their difference over their distance
    two = {share: scores[share] for share in (0.25, 1.0)}
    difference = paired_intervals(scores[1.0] / 2, scores[0.25] / 2, asked.passages, asked.domains)["macro"]
    found = fit_curve(two, asked).doubling
    assert (found.low, found.high) == (pytest.approx(difference.low), pytest.approx(difference.high))


@pytest.mark.parametrize("seed", range(3))
def test_larger_parts_hold_the_smaller_ones_with_whole_passages_of_every_domain(seed):
    passages = np.repeat(np.arange(30), 3)
    names = ["small" if passage < 2 else "large" for passage in passages.tolist()]
    parts = shares_of_passages(passages, names, (0.25, 0.5, 1.0), seed=seed)
    assert parts[1.0].tolist() == list(range(90))
    assert set(parts[0.25].tolist()) < set(parts[0.5].tolist())
    for share, rows in parts.items():
        drawn = np.unique(passages[rows])
        assert len(rows) == 3 * len(drawn)
        assert [np.sum(drawn < 2), np.sum(drawn >= 2)] == [max(1, 2 * share), 28 * share]


@pytest.fixture
def ended(tiny_model, tiny_pairs_file, tmp_path):
    """The folder of a search that has ended, as far as its curve looks at it."""
    config = Config.model_validate(
        {
            "data": {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25},
            "train": {"base_model": str(tiny_model()), "frozen_layers": 1, "epochs": 2, "max_tokens": 32},
            "space": {"scale": {"choice": [20, 30]}},
            "guard": {"retention_set": None},
        }
    )
    prepared = prepare(config, on_gpu=False)
    where = destination(config, out=tmp_path / "models", name="m", run_root=tmp_path / "runs", overwrite=False)
    folder = begin_run(
        Bases({prepared.encoder.name: prepared}, {}, {}), where, overwrite=False, export_anyway=False
    ).folder
    winner = config.train.model_copy(update={"learning_rate": 1e-3, "patience": 1})
    result = {
        "bundle": None,
        "objective": "recall_at_5/macro",
        "winner": {"trial": "trial-001", "config": winner.model_dump(mode="json"), "metrics": {}},
        "results": {"validation": {label: {"recall_at_5/macro": 0.5} for label in ("base", "tuned")}},
        "trials": [],
        "data": {"pairs": "none", "sha256": "0", "rows": 1, "passages": 1, "domains": {}},
        "split": {"protocol": "unseen_passages", "seed": 42, "rows": {}},
    }
    RunFolder(folder).result.write_text(json.dumps(result))
    return prepared, winner, folder


def test_the_winner_is_trained_as_the_kind_and_at_the_depth_that_it_had(ended, monkeypatch):
    _, winner, folder = ended
    result = json.loads(RunFolder(folder).result.read_text())
    own = winner.model_copy(update={"trains": "queries", "frozen_share": 0.9, "frozen_layers": 0})
    result["winner"] |= {"config": own.model_dump(mode="json"), "averaged": ["trial-001", "trial-002"]}
    result["trials"] = [{"trial": "trial-001", "status": "finished", "frozen_layers": 1}]
    RunFolder(folder).result.write_text(json.dumps(result))
    seen = []

    def measured(prepared, inputs, settings, *_):
        seen.append((prepared.config.train.kind, inputs.depth, inputs.fixed is not None, settings.frozen_layers))
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "_measured", measured)
    with pytest.raises(KeyboardInterrupt):
        learning_curve(folder, [0.5, 1.0], view=View())
    assert seen == [((winner.base_model, "queries"), 1, True, 1)]


def test_each_point_is_a_training_on_its_share_and_the_reading_is_noted(ended):
    prepared, winner, folder = ended
    said = []

    class Said(View):
        def say(self, line):
            said.append(line)

    curve = learning_curve(folder, [1.0, 0.5], view=Said())
    assert [point["share"] for point in curve["points"]] == [0.0, 0.5, 1.0]
    assert read_curve(folder) == curve
    train = prepared.rows("train")
    assert [point["rows"] for point in curve["points"]][::2] == [0, len(train)]
    assert curve["points"][1]["passages"] == pytest.approx(curve["points"][2]["passages"] / 2, abs=2)
    # the last point is a training on all training rows
    inputs = room._inputs_at(prepared, 1, folder, View())
    upper = room.upper_for(prepared.encoder, inputs)
    settings = winner.model_copy(update={"patience": None})
    for _ in fit(
        settings, upper, TrainingData(prepared.collection, train, feed(inputs, "cpu"), prepared.bf16), UNJUDGED
    ):
        pass
    expected = room.Scorer(prepared, inputs).metrics(upper.trained_state(), prepared.rows("test"))
    assert curve["points"][2]["metrics"] == {name: expected[name] for name in ("recall_at_5/macro", "mrr/macro")}
    base = room.Scorer(prepared, inputs).metrics(None, prepared.rows("test"))
    assert curve["points"][0]["metrics"]["mrr/macro"] == base["mrr/macro"]
    (reading,) = [json.loads(line) for line in RunFolder(folder).readings.read_text().splitlines()]
    assert (reading["command"], reading["part"], reading["model"]) == ("curve", "test", "trial-001 at 2 shares")
    assert any(line.startswith("50% of the training passages: macro Recall@5 0.") for line in said)
    page = write_page(folder).read_text()
    assert 'id="figure-curve"' in page
    assert "By the line through these points, twice as many passages bring " in page


@pytest.mark.parametrize(
    ("shares", "told"), [([0.5], "0.5"), ([0.5, 0.5], "0.5"), ([0, 1], "0, 1"), ([0.5, 2], "0.5, 2")]
)
def test_shares_that_make_no_curve_are_refused(tmp_path, shares, told):
    with pytest.raises(InputError, match=rf"--shares: want two or more, each > 0 and <= 1, got {told}$"):
        learning_curve(tmp_path, shares, view=View())


def test_a_folder_without_a_search_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no result of a search"):
        learning_curve(tmp_path, [0.5, 1], view=View())
