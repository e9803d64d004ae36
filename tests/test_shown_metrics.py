"""A third metric in the table is shown wherever metrics are: nothing that shows them knows them by name."""

import functools
import io
import json

import pytest
from huggingface_hub import ModelCard
from rich.console import Console

from nic_ray import console
from nic_ray.bundle.card import model_card
from nic_ray.metrics.table import METRICS, Metric, recall_at
from nic_ray.report.html import write_page
from nic_ray.report.terminal import describe_evidence

MODELS = {"base": 0.25, "first trial": 0.5, "tuned": 0.75}


@pytest.fixture(autouse=True)
def third(monkeypatch):
    first = functools.partial(recall_at, 1)
    monkeypatch.setitem(METRICS, "recall_at_1", Metric("Recall@1", "share that comes first", first))


def flat(value):
    """Every metric of the table in two domains; of the third one half as much."""
    return {
        f"{metric}/{domain}": value / 2 if metric == "recall_at_1" else value
        for metric in METRICS
        for domain in ("pumps", "radios", "macro", "worst", "micro")
    }


RETENTION = {"recall_at_5": -0.01, "mrr": -0.02, "recall_at_1": -0.03}


@pytest.fixture
def metadata():
    results = {model: flat(value) for model, value in MODELS.items()}
    return {
        "name": "m",
        "base_model": "b",
        "data": {"pairs": "p.jsonl", "sha256": "", "rows": 9, "passages": 9, "domains": {"pumps": 5, "radios": 4}},
        "split": {"protocol": "unseen_passages", "seed": 1, "rows": {"validation": 9, "test": 9}},
        "results": {"validation": results, "test": results | {"BM25": flat(0.4)}},
        "alpha": 1.0,
        "retention": {"tuned": RETENTION},
        "front": [{"alpha": alpha, **flat(0.5), "retention": RETENTION} for alpha in (0.0, 1.0)],
        "confirmed": [],
        "trained": {},
        "leaks": {},
        "passages": {},
        "guard": {"objections": [], "overridden": False, "max_retention_loss": 0.05},
        "retention_set": {"pairs": "retention.jsonl", "sha256": ""},
        "word_search": {
            "chosen": {"tuned": {"form": "scores", "weight": 0.03}},
            "helps": True,
            "gain": {"difference": 0.125, "low": 0.0625, "high": 0.1875, "queries": 9, "passages": 9},
            "figures": {"validation": {"BM25": flat(0.4)}, "test": {"BM25": flat(0.4)}},
        },
    }


def test_the_card_has_it_in_its_tables_its_text_and_the_model_index(metadata):
    card = model_card(metadata)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("|")]
    header = next(row for row in rows if row[:2] == ["domain", "Recall@5 base"])
    (pumps, *_) = (row for row in rows if row[0] == "pumps")
    assert dict(zip(header, pumps, strict=True))["Recall@1 tuned"] == "0.375"
    assert ["alpha", "Recall@5 macro, validation", "MRR", "Recall@1", "retention Recall@5", "retention MRR",
            "retention Recall@1", "neighbours kept"] in rows  # fmt: skip
    assert ["1", "0.500", "0.500", "0.250", "-0.010", "-0.020", "-0.030", "–"] in rows
    assert ["tuned", "-0.010", "-0.020", "-0.030"] in rows
    assert "Recall@1 is the share that comes first." in card
    assert ["ranked by, macro, test part", "Recall@5", "MRR", "Recall@1"] in rows
    assert ["BM25", "0.400", "0.400", "0.200"] in rows
    told = "By similarity + 0.03 BM25, chosen on the validation rows, the tuned model finds +0.125 (+0.062 to +0.188) "
    assert told in card
    index = {(each.metric_name, each.dataset_config): each.metric_value for each in ModelCard(card).data.eval_results}
    assert (index["Recall@1", "macro"], index["Recall@1", "pumps"], index["MRR", "macro"]) == (0.375, 0.375, 0.75)


def test_the_terminal_has_it_in_its_tables_and_lines(metadata):
    printed = Console(file=io.StringIO(), width=200)
    printed.print(console.metrics_table({"base": flat(0.25), "tuned": flat(0.75)}))
    lines = printed.file.getvalue().splitlines()
    # of each metric base, tuned and gain
    assert lines[-1].split() == ["macro", *["0.250", "0.750", "+0.500"] * 2, "0.125", "0.375", "+0.250"]
    said = describe_evidence(metadata)
    assert any("tuned -0.010 Recall@5, -0.020 MRR, -0.030 Recall@1" in line for line in said)
    assert "\nwith and without a search by words, macro Recall@5 and MRR and Recall@1 on the test rows:" in said
    assert "  BM25  0.400  0.400  0.200" in said


def test_the_page_calls_it_by_its_name_where_it_is_the_objective(metadata, tmp_path):
    (tmp_path / "config.yaml").write_text("space: {scale: {choice: [20, 40]}}")
    trials = [
        {"trial": f"trial-{number:03d}", "status": "finished", "scale": 20, "recall_at_1/macro": 0.25, "seconds": 1.0}
        for number in range(3)
    ]
    result = metadata | {
        "objective": "recall_at_1/macro", "bundle": None, "winner": {"trial": "trial-000"}, "trials": trials,
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    text = write_page(tmp_path).read_text(encoding="utf-8")
    assert "cannot be shown" not in text
    header = text.partition("<header>")[2].partition("</header>")[0]
    assert "On the test rows its macro Recall@1 is 0.375, +0.250 against the base model." in header
    assert "<th>macro Recall@1, validation rows</th>" in text
