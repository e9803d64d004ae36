"""What runs and bundles store: the form that earlier versions gave it, and what is said of a damaged file."""

import json
from pathlib import Path

import pytest

from nic_ray.bundle.files import read_metadata
from nic_ray.dataset.pairs import index_pairs
from nic_ray.errors import InputError
from nic_ray.evidence import Metadata, Retrieved, StoredResult, StoredRun, StoredStart
from nic_ray.readings import note_reading, readings_of
from nic_ray.report.html import write_page
from nic_ray.run_folder import RunFolder
from nic_ray.search import outcome
from nic_ray.selection.candidates import Confirmation
from nic_ray.selection.retention import load_retention_set
from nic_ray.selection.selection import Contestants, SearchResult, judge
from nic_ray.stored import checked, exported_bundle, read_result, read_retrieved

NAMES = {
    "pumps", "radios", "trucks", "macro", "worst", "micro", "base", "first trial", "tuned", "BM25", "validation",
    "test",
    "test in domain", "unseen_queries", "tuned minus base", "tuned minus first trial", "train",
    "tuned + BM25", "tuned + BM25 minus tuned",
}  # fmt: skip

# What the version before the types wrote, of the same search: where, and of which kind. Names and numbers are "*".
RESULT = """
alpha float
bundle NoneType
confirmed[].by_seed.* float
confirmed[].epochs float
confirmed[].mean float
confirmed[].seeds int
confirmed[].spread float
confirmed[].trial str
data.domains.* int
data.pairs str
data.passages int
data.rows int
data.sha256 str
front[].alpha float
front[].mrr/* float
front[].recall_at_5/* float
front[].retention.mrr float
front[].retention.recall_at_5 float
guard.lower_bounds.* NoneType
guard.max_domain_drop float
guard.max_retention_loss float
guard.objections[] str
guard.overridden bool
interval_rule.confidence float
interval_rule.min_passages int
intervals.*.*.difference float
intervals.*.*.high NoneType
intervals.*.*.low NoneType
intervals.*.*.passages int
intervals.*.*.queries int
leaks.near-duplicate passage as a negative.* int
leaks.near-duplicate passage.* int
leaks.near-duplicate query.* int
leaks.passage as a negative.* int
leaks.passage.* int
leaks.query.* int
objective str
passages.*.* int
readings[].command str
readings[].model str
readings[].part str
readings[].rows int
readings[].run str
readings[].when str
recall_intervals.*.*.difference float
recall_intervals.*.*.high NoneType
recall_intervals.*.*.low NoneType
recall_intervals.*.*.passages int
recall_intervals.*.*.queries int
refit str
results.*.*.mrr/* float
results.*.*.recall_at_5/* float
retention.*.mrr float
retention.*.recall_at_5 float
retention_set.pairs str
retention_set.sha256 str
split.protocol str
split.query_share float
split.rows.* int
split.sample_share float
split.seed int
split.sha256 str
split.test_share float
split.validation_share float
trained.*[].best_epoch float
trained.*[].epochs NoneType
trained.*[].finished bool
trained.*[].of int
trained.*[].trial str
trials[]
winner.averaged[]
winner.metrics.epoch float
winner.metrics.mrr/* float
winner.metrics.recall_at_5/* float
winner.trial str
"""
QUERIES = """
passages.*.domains[] str
passages.*.text str
queries[].domain str
queries[].passage int
queries[].query str
queries[].rank int
queries[].recall.* float
queries[].retrieved[][] float
queries[].retrieved[][] int
"""


def form(value, place=""):
    """Where in a stored object there is what kind of value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            metric, _, domain = key.partition("/")
            shown = f"{metric}/*" if domain in NAMES else "*" if key in NAMES or key.isdigit() else key
            yield from form(inner, f"{place}.{shown}" if place else shown)
    elif isinstance(value, list):
        for inner in value:
            yield from form(inner, f"{place}[]")
        if not value:
            yield f"{place}[]"
    else:
        yield f"{place} {type(value).__name__}"


@pytest.fixture
def judged_run(searched, tiny_pairs, tmp_path):
    """A run folder with what is stored of a judgement."""
    prepared, inputs, candidates = searched(1)
    contestants = Contestants(
        {"first trial": candidates[0]}, candidates, [Confirmation("trial-000", {42: 0.5, 43: 0.7}, 1.0)]
    )
    run = tmp_path / "run"
    run.mkdir()
    found = judge(
        prepared, inputs, contestants, load_retention_set(prepared, index_pairs(tiny_pairs[:20]), list(inputs)),
        export_anyway=True, say=lambda _: None,
        note_reading=lambda model: note_reading(run, command="tune", part="test", rows=12, model=model, split="s"),
    )  # fmt: skip
    outcome.write_result(SearchResult(None, run, found, []), prepared, None)
    return run


def test_a_judgement_is_stored_in_the_form_that_it_always_had(judged_run):
    result = json.loads(RunFolder(judged_run).result.read_text())
    assert result["winner"].pop("config").keys() >= {"learning_rate", "frozen_layers", "epochs"}
    assert {result.pop(later) is not None for later in ("word_search", "calibration")} == {True}
    assert [result.pop("neighbours_kept"), result["guard"].pop("min_neighbours_kept")] == [None, 0]
    assert {row.pop("neighbours") for row in result["front"]} == {None}
    assert sorted(set(form(result))) == RESULT.split("\n")[1:-1]
    queries = json.loads(RunFolder(judged_run).queries.read_text())
    assert sorted(set(form(queries))) == QUERIES.split("\n")[1:-1]


def test_what_was_written_is_read_back_equal(judged_run):
    stored = json.loads(RunFolder(judged_run).result.read_text())
    read = read_result(judged_run)
    for each in read["confirmed"]:
        assert [*each["by_seed"]] == [42, 43]
    assert json.loads(json.dumps(read)) == stored
    assert read_retrieved(judged_run) == json.loads(RunFolder(judged_run).queries.read_text())


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGE = [
    (lambda result: result.pop("trials"), r"trials is missing"),
    (lambda result: result.update(trials={}), r"trials must be a list, got {}"),
    (lambda result: result.update(front=[3]), r"front\.0 must be an object, got 3"),
    (lambda result: result["guard"].update(overridden="perhaps"), r"guard\.overridden must be true or false, got 'pe"),
    (lambda result: result["winner"].update(trial=None), r"winner\.trial must be text, got null"),
    (lambda result: result["data"].update(rows=1.5), r"data\.rows must be a whole number, got 1\.5"),
    (lambda result: result["results"]["test"]["base"].update(a="b"), r"results\.test\.base\.a must be a number, got"),
]


@pytest.mark.parametrize(("change", "said"), DAMAGE, ids=[said for _, said in DAMAGE])
def test_a_damaged_result_is_refused_with_place_rule_value_and_way_out(judged_run, change, said):
    path = RunFolder(judged_run).result
    edit(path, change)
    with pytest.raises(InputError, match=rf"result\.json: damaged, {said}.*; write it again with python -m nic_ray\.e"):
        read_result(judged_run)
    (judged_run / "config.yaml").write_text("")
    with pytest.raises(InputError, match=said):
        write_page(judged_run)


def test_of_many_faults_the_first_are_named():
    content = {"trained": {"tuned": [{"trial": 1}]}, "guard": []}
    with pytest.raises(InputError) as refused:
        checked(content, Metadata, Path("a/metadata.json"), "export the bundle again")
    assert str(refused.value) == (
        "a/metadata.json: damaged, trained.tuned.0.trial must be text, got 1; trained.tuned.0.epochs is missing; "
        "trained.tuned.0.of is missing; and 3 more faults; export the bundle again"
    )


@pytest.mark.parametrize("content", ["{", "[1]", "null", '{"queries": [], "passages": []}'])
def test_damaged_rankings_are_refused(tmp_path, content):
    RunFolder(tmp_path).queries.write_text(content)
    with pytest.raises(InputError, match=r"queries\.json: .*; write it again with python -m nic_ray\.export"):
        read_retrieved(tmp_path)


def test_a_run_without_rankings_has_none(tmp_path):
    assert read_retrieved(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"bundle": 3}', '{"bundle": null}', None])
def test_a_result_that_names_no_bundle_has_exported_none(tmp_path, content):
    if content is not None:
        RunFolder(tmp_path).result.write_text(content)
    assert exported_bundle(tmp_path) is None


FIRST_VERSION = {
    "bundle": None,
    "objective": "mrr/macro",
    "winner": {"trial": "trial-001", "config": {}, "metrics": {}},
    "results": {},
    "trials": [],
    "data": {"pairs": "pairs.jsonl", "sha256": "0", "rows": 9, "passages": 3, "domains": {}},
    "split": {"protocol": "unseen_passages", "seed": 1, "rows": {}},
}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (StoredResult, FIRST_VERSION),
        (StoredResult, FIRST_VERSION | {"bootstrap": {"resamples": 2000}, "split": {"fold": 3}}),
        (Metadata, {"name": "m", "base_model": "b"}),
        (Metadata, {"name": "m", "format": "onnx", "parity": {"texts": 3}, "base_weights_sha256": None}),
        (StoredStart, {}),
        (StoredRun, {"bundle": "b", "overwrite": False, "export_anyway": True}),
        (Retrieved, {"queries": [], "passages": {}, "later": 1}),
    ],
)
def test_keys_of_other_versions_are_no_fault_and_kept(kind, content):
    assert checked(content, kind, Path("a.json"), "") == content


def test_a_bundle_with_an_odd_section_is_refused_with_its_place(tmp_path):
    content = {"name": "m", "base_model": "b", "files": {}, "results": {"test": {"tuned": {"mrr/macro": "high"}}}}
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"damaged, results\.test\.tuned\.mrr/macro must be a number, got 'high'; exp"):
        read_metadata(tmp_path)


def test_a_damaged_reading_costs_no_other(tmp_path):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    note_reading(run, command="tune", part="test", rows=9, model="m", split="s")
    row = json.loads(RunFolder(run).readings.read_text())
    with RunFolder(run).readings.open("a") as file:
        file.write(json.dumps(row | {"rows": "many"}) + "\n" + json.dumps(row | {"command": "export"}) + "\n")
    assert [reading["command"] for reading in readings_of(run, "s")] == ["tune", "export"]
