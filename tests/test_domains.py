"""Which domains are shown, and the file of all of them."""

import csv
import io
import json
import sys

import pytest

from nic_ray import check, compare, console, evaluate, mine
from nic_ray.bundle.card import model_card
from nic_ray.bundle.picture import recall_png
from nic_ray.domains import AT_EACH_END, MAX_SHOWN, as_csv, changes_of, names_of, omitted_domains, shown_domains
from nic_ray.progress import Live, TrialBatch, drawn
from nic_ray.report.html import write_page
from nic_ray.report.terminal import describe_evidence

COUNT = 300
NAMES = [f"MX-{number:04d}" for number in range(COUNT)]
PASSAGES = {**dict.fromkeys(NAMES, 3), "macro": 3 * COUNT}


def flat(value):
    """Each domain finds more than the one before it, or less if `value` is negative."""
    found = {name: 0.5 + value * number / COUNT for number, name in enumerate(NAMES)}
    found["macro"] = sum(found.values()) / COUNT
    return {f"{metric}/{name}": each for metric in ("recall_at_5", "mrr") for name, each in found.items()}


RESULTS = {"base": flat(0.0), "tuned": flat(0.4)}


def test_as_many_as_can_be_shown_keep_their_order():
    changes = {name: -number for number, name in enumerate(NAMES[:MAX_SHOWN])}
    assert shown_domains(changes) == NAMES[:MAX_SHOWN]


def test_of_more_the_worst_and_the_best_are_shown_the_worst_first():
    changes = {name: float(number * 7 % COUNT) for number, name in enumerate(NAMES)}
    ranked = sorted(NAMES, key=changes.__getitem__)
    assert shown_domains(changes) == [*ranked[:AT_EACH_END], None, *ranked[-AT_EACH_END:]]
    assert omitted_domains(changes) == f"… {COUNT - 2 * AT_EACH_END} more"


def test_a_change_is_the_last_model_minus_the_first_and_of_one_model_its_value():
    results = {"base": {"mrr/a": 0.25, "mrr/macro": 1.0}, "other": {"mrr/a": 9.0}, "tuned": {"mrr/a": 0.75}}
    assert changes_of(results, "mrr") == {"a": 0.5}
    assert changes_of({"tuned": results["tuned"]}, "mrr") == {"a": 0.75}


def test_a_sentence_names_a_few_of_many():
    assert names_of({"a": 1, "b": 2}) == "a, b"
    assert names_of(dict.fromkeys(NAMES, 1)) == "300 domains, such as MX-0000, MX-0001, MX-0002"


def test_the_file_has_every_domain_of_every_part():
    interval = {"difference": 0.1, "low": None, "high": None, "queries": 6, "passages": 3}
    results = {"validation": RESULTS, "test": RESULTS, "test in domain": RESULTS}
    text = as_csv(
        results,
        {"validation": PASSAGES, "test": PASSAGES},
        {"test": {"tuned minus base": dict.fromkeys(NAMES, interval)}},
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 3 * (COUNT + 1)
    last = next(row for row in rows if (row["part"], row["domain"]) == ("test", NAMES[-1]))
    assert last["passages"] == "3"
    assert float(last["recall_at_5 tuned"]) == RESULTS["tuned"][f"recall_at_5/{NAMES[-1]}"]
    assert (last["tuned minus base, difference"], last["tuned minus base, low"]) == ("0.1", "")
    assert {row["passages"] for row in rows} == {"3", str(3 * COUNT)}


def rendered(table):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue().splitlines()


def test_a_table_of_metrics_is_bounded_and_has_the_passages():
    lines = rendered(console.metrics_table(RESULTS, passages=PASSAGES))
    assert len(lines) < 2 * AT_EACH_END + 10
    assert any(line.split()[:3] == ["MX-0299", "3", "0.500"] for line in lines)
    assert any(f"… {COUNT - 2 * AT_EACH_END} more" in line for line in lines)
    assert lines[-1].split()[:2] == ["macro", str(3 * COUNT)]


def test_three_models_and_the_passages_fit_80_columns():
    domain = {f"{metric}/vehicle_civilian": 0.5 for metric in ("recall_at_5", "mrr")}
    results = {"base": domain, "first trial": domain, "tuned": domain}
    lines = rendered(console.metrics_table(results, passages={"vehicle_civilian": 1234}))
    assert lines[-1].split()[:2] == ["vehicle_civilian", "1234"]


def test_the_picture_is_no_higher_for_many_domains():
    def height(count):
        kept = (*NAMES[:count], "macro")
        results = {model: {f"recall_at_5/{name}": own[f"recall_at_5/{name}"] for name in kept}
                   for model, own in RESULTS.items()}  # fmt: skip
        return int.from_bytes(recall_png(results, {})[20:24])

    assert height(COUNT) < height(MAX_SHOWN) < 2200
    assert height(6) < height(12) < height(COUNT)


@pytest.fixture
def metadata():
    interval = {"low": -0.5, "high": 0.5, "queries": 6, "passages": 3}
    changes = {name: {"difference": value, **interval} for name, value in changes_of(RESULTS).items()}
    return {
        "name": "m",
        "base_model": "b",
        "data": {"pairs": "p.jsonl", "rows": 9, "passages": 9, "domains": dict.fromkeys(NAMES, 3)},
        "split": {"protocol": "unseen_passages", "seed": 1, "rows": {"validation": 9, "test": 9}},
        "results": {"validation": RESULTS, "test": RESULTS},
        "passages": {"validation": PASSAGES, "test": PASSAGES},
        "intervals": {"tuned minus base": {**changes, "macro": {"difference": 0.2, **interval}}},
        "alpha": 1.0,
        "front": [],
        "guard": {"objections": [], "overridden": False, "max_retention_loss": 0.05},
    }


def test_the_card_shows_the_ends_of_many_domains_with_their_passages(metadata):
    card = model_card(metadata)
    assert len(card.splitlines()) < 220
    for part in ("### Test part", "### Validation part", "### Tuned minus base"):
        table = card.partition(part)[2].partition("\n\n|")[2].partition("\n\n")[0]
        assert "passages" in table.splitlines()[0]
        assert f"… {COUNT - 2 * AT_EACH_END} more, in metadata.json" in table
        assert "MX-0000" in table
        assert "MX-0299" in table
        assert "MX-0150" not in table
    assert "such as MX-0000" in card.partition("## Results")[0]


def test_the_page_shows_the_ends_of_many_domains_with_their_passages(metadata, tmp_path):
    queries = [
        {"query": f"what of {name}?", "domain": name, "passage": 1, "rank": 9, "retrieved": [[2, 0.9]],
         "recall": {"base": 0.0, "tuned": float(number > 40)}}
        for number, name in enumerate(NAMES)
    ]  # fmt: skip
    passages = {str(number): {"text": f"passage {number}", "domains": []} for number in (1, 2)}
    (tmp_path / "queries.json").write_text(json.dumps({"queries": queries, "passages": passages}))
    (tmp_path / "config.yaml").write_text("space: {scale: {choice: [20, 40]}}")
    result = metadata | {
        "objective": "recall_at_5/macro", "bundle": None, "winner": {"trial": "trial-000"}, "trials": [], "leaks": {},
        "data": metadata["data"] | {"sha256": ""},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    text = write_page(tmp_path).read_text(encoding="utf-8")
    recall = text.partition('<section id="recall">')[2].partition("</section>")[0]
    assert "<th>passages</th>" in recall
    assert recall.count("<td>3</td>") == 2 * AT_EACH_END
    assert f"<td>{3 * COUNT}</td>" in recall
    assert recall.count("<tr>") == 1 + 2 * AT_EACH_END + 1
    assert f"{COUNT - 2 * AT_EACH_END:,} more lie between, see domains.csv" in recall
    assert int(recall.partition('"height":')[2].partition(",")[0].partition("}")[0]) < 1500
    worst = text.partition('<section id="worst">')[2].partition("</section>")[0]
    assert worst.count("<details>") == 2 * AT_EACH_END
    assert "MX-0299" not in worst
    data = text.partition('<section id="data">')[2].partition("</section>")[0]
    assert data.count("<tr>") < 2 * AT_EACH_END + 5


def test_the_live_view_shows_the_ends_of_many_domains():
    from rich.console import Console

    live = Live(Console(file=io.StringIO(), width=100), clock=lambda: 0.0)
    live.begin(TrialBatch("search", 4, 2, "recall_at_5/macro", RESULTS["base"]))
    live.started("trial-000", "scale 20")
    live.evaluated("trial-000", RESULTS["tuned"] | {"epoch": 1.0, "loss": 1.0})
    shown = Console(file=io.StringIO(), width=100)
    shown.print(drawn(live.board, 1.0))
    lines = shown.file.getvalue().splitlines()
    assert len(lines) < 30
    assert any(line.startswith("MX-0000") for line in lines)
    assert any(line.startswith("MX-0299") for line in lines)
    assert any("more" in line for line in lines)


@pytest.fixture
def catalogue(tmp_path):
    """Pairs of 60 domains with 3 passages of one question each."""
    rows = [
        {"query": f"{what} of {name}?", "positive": f"the {what} of machine {name} is {name[-1]} wide", "domain": name}
        for name in NAMES[:60]
        for what in ("door", "lamp", "filter")
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def printed(monkeypatch, capsys):
    """`printed(main, ...)`: what a command writes to stdout, run in this process."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            console.run(main)
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run


def test_what_is_said_of_many_domains_at_the_end_of_a_search_is_bounded(metadata):
    evidence = metadata | {"trained": {}, "confirmed": [], "retention": None, "leaks": {}}
    lines = describe_evidence(evidence)
    assert len(lines) < 2 * AT_EACH_END + 10
    assert f"  … {COUNT - 2 * AT_EACH_END} more" in lines
    for name, told in (("MX-0000", True), ("MX-0150", False), ("MX-0299", True)):
        assert any(line.startswith(f"  {name}: ") for line in lines) == told


def test_what_mining_prints_of_many_domains_is_bounded(catalogue, tiny_model_folder, printed, tmp_path):
    pytest.importorskip("datasets")
    text = printed(mine.main, catalogue, "--out", tmp_path / "mined.jsonl", "--model", tiny_model_folder)
    assert len(text.splitlines()) < 60
    assert "… 40 more" in text


def test_what_commands_print_of_many_domains_is_bounded_and_json_is_complete(catalogue, tiny_model_folder, printed):
    copy = catalogue.parent / "copy"
    copy.symlink_to(tiny_model_folder)
    commands = {
        check.main: [catalogue, "--base-model", tiny_model_folder],
        evaluate.main: [tiny_model_folder, catalogue],
        compare.main: [tiny_model_folder, copy, "--pairs", catalogue],
    }
    for main, arguments in commands.items():
        text = printed(main, *arguments)
        assert len(text.splitlines()) < (80 if main is check.main else 60), main  # check has two tables
        assert max(map(len, text.splitlines())) < 600, main
        assert "… 40 more" in text
        whole = printed(main, *arguments, "--json")
        assert all(name in whole for name in NAMES[:60]), main
