"""Old rows beside new ones: who keeps which part, what is refused, and the guard on old rows alone."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nic_ray.bundle.card import model_card
from nic_ray.bundle.comparison import compare_models, compare_with_base
from nic_ray.bundle.detector_fit import rows_by_part
from nic_ray.bundle.previous import describe_previous, table_of
from nic_ray.config import Config
from nic_ray.config_file import dump_config, load_config
from nic_ray.data_config import DataConfig
from nic_ray.dataset.pairs import Pair, index_pairs, read_pairs
from nic_ray.dataset.replay import Earlier, Replay, describe_replay, earlier_pairs, join, pairs_of
from nic_ray.errors import InputError
from nic_ray.model.activations import feed
from nic_ray.model.encoder import upper
from nic_ray.model.evaluation import evaluate
from nic_ray.report.html import write_page
from nic_ray.report.terminal import show_result
from nic_ray.run_folder import RunFolder
from nic_ray.search import outcome
from nic_ray.search.continuing import continued_settings
from nic_ray.search.run import destination, refuse_new_settings
from nic_ray.selection import selection
from nic_ray.selection.guard import falls
from nic_ray.selection.previous import compared_with_previous, falls_on_old_rows, gain_is_judged_by
from nic_ray.selection.selection import Contestants, SearchResult, judge
from nic_ray.sources import as_sources
from nic_ray.training.prepared import divide, leaks, prepare
from nic_ray.training.start import describe_data, describe_run, describe_start, refuse_other_start

WORDS = "open the valve slowly until steam leaves the upper pipe and close it when water follows through the lower one"


def changed(text: str, *places: int) -> str:
    """The text with some of its words replaced; of 20 words, one may differ in a near duplicate."""
    return " ".join(f"other{place}" if place in places else word for place, word in enumerate(text.split()))


def passage(name: str) -> str:
    return " ".join(f"{name}{number}" for number in range(12))


OLD = [
    Pair("how is steam let out?", WORDS, "pumps"),
    Pair("when is it closed?", WORDS, "pumps"),
    Pair("validation?", passage("b"), "pumps"),
    Pair("test?", changed(WORDS, 3, 15), "pumps"),
    Pair("more?", passage("d"), "pumps"),
]
OLD_PARTS = np.array(["train", "unseen_queries", "validation", "test", "train"])
RADIOS = [Pair(f"radio {name}?", passage(name), "radios") for name in ("x", "y", "z")]


def joined(*new: Pair, **settings):
    data = DataConfig.model_validate({"pairs": "new.jsonl", "query_share": 0.0, **settings})
    found = join(index_pairs(OLD), OLD_PARTS, new, data)
    assert found.pairs[: len(OLD)] == OLD
    assert found.parts[: len(OLD)].tolist() == OLD_PARTS.tolist()
    return found


def parts_of_new(found):
    return dict(zip((pair.query for pair in found.pairs[len(OLD) :]), found.parts[len(OLD) :].tolist(), strict=True))


def test_old_rows_keep_their_parts_and_a_new_domain_is_split():
    found = joined(*RADIOS)
    assert sorted(parts_of_new(found).values()) == ["test", "train", "validation"]
    assert (found.repeated, found.left_out) == (0, 0)


def test_a_new_question_goes_where_its_passage_is_exactly_or_nearly():
    found = joined(
        Pair("again, validation?", passage("b"), "pumps"),
        Pair("again, test?", changed(WORDS, 3, 15), "pumps"),
        Pair("nearly test?", changed(WORDS, 3, 15, 19), "pumps"),
        Pair("about what is trained?", passage("d"), "pumps"),
    )
    assert parts_of_new(found) == {
        "again, validation?": "validation",
        "again, test?": "test",
        "nearly test?": "test",
        "about what is trained?": "train",
    }


def test_a_new_question_about_the_passage_of_an_unseen_query_is_trained_on():
    assert parts_of_new(joined(Pair("how hot is the steam?", WORDS, "pumps"))) == {"how hot is the steam?": "train"}


def test_an_identical_row_counts_once_and_keeps_its_part():
    found = joined(OLD[2], *RADIOS, OLD[1])
    assert (len(found.pairs), found.repeated) == (8, 2)
    # the same text in another domain is a figure of its own
    other = joined(dataclasses.replace(OLD[2], domain="radios"), *RADIOS)
    assert (parts_of_new(other)["validation?"], other.repeated) == ("validation", 0)


def test_few_passages_in_an_old_domain_are_trained_on_and_more_are_split():
    few = [Pair(f"{name}?", passage(name), "pumps") for name in ("e", "f")]
    assert set(parts_of_new(joined(*few)).values()) == {"train"}
    more = [*few, Pair("g?", passage("g"), "pumps")]
    assert sorted(parts_of_new(joined(*more)).values()) == ["test", "train", "validation"]


def test_a_new_domain_of_few_passages_is_refused_as_ever():
    with pytest.raises(InputError, match='domain "radios" has too few distinct passages, 2; want 3'):
        joined(*RADIOS[:2])
    near = [Pair(f"{number}?", passage("d") + " again" * (number == 2), "radios") for number in range(3)]
    with pytest.raises(InputError, match='domain "radios": no row of it is for validation, since its passages are'):
        joined(*near)


def test_a_passage_between_two_parts_is_left_out_and_links_them_no_more():
    # one word from the trained passage, one from that of the test
    bridge = Pair("between?", changed(WORDS, 3), "pumps")
    found = joined(bridge, *RADIOS)
    assert (found.left_out, "between?" in parts_of_new(found)) == (1, False)
    with pytest.raises(InputError, match=r"new\.jsonl: holds no new row that can be used: 0 are old rows, and 1 lie"):
        joined(bridge)


def test_a_question_that_was_held_back_is_not_trained_on_under_another_passage():
    again = Pair("when is it closed?", passage("e"), "pumps")
    found = joined(again, *RADIOS)
    assert (found.left_out, "when is it closed?" in parts_of_new(found)) == (1, False)


def test_new_rows_hold_back_their_own_questions_about_trained_passages():
    new = [Pair(f"{name} {number}?", passage(name), "radios") for name in "tuvwxyz" for number in range(4)]
    found = parts_of_new(joined(*new, query_share=0.1))
    assert sum(part == "unseen_queries" for part in found.values()) == 3


def test_a_query_that_an_old_row_trains_on_is_not_unseen():
    def parts(query, seed):
        others = [Pair(f"{name}?", passage(name), "radios") for name in "tuvwxyz"]
        new = [Pair(query, passage("t"), "radios"), *others]
        return parts_of_new(joined(*new, query_share=0.9, seed=seed))[query]

    assert "unseen_queries" in {parts("how is it let out?", seed) for seed in range(10)}
    assert "unseen_queries" not in {parts("how is steam let out?", seed) for seed in range(10)}


def test_a_query_of_an_old_row_keeps_its_part_where_rows_are_held_back_by_query():
    data = DataConfig(pairs=Path("new.jsonl"), protocol="unseen_queries")
    parts = np.array(["train", "test", "validation", "test", "train"])
    new = [Pair("test?", passage("e"), "pumps"), Pair("validation?", WORDS, "pumps")]
    assert join(index_pairs(OLD), parts, new, data).parts[len(OLD) :].tolist() == ["test", "validation"]


def test_a_sample_of_the_new_rows_leaves_the_old_ones_whole():
    new = [Pair(f"{number}?", passage(f"p{number}x"), "radios") for number in range(10)]
    found = joined(*new, sample_share=0.5)
    assert len(found.pairs) - len(OLD) == 5


def test_a_file_that_brings_nothing_new_is_refused():
    with pytest.raises(InputError, match=r"no new row that can be used: 5 are old rows, .* new pairs with --data"):
        joined(*OLD)


def test_rows_are_read_back_from_a_collection(tiny_pairs):
    bare = [dataclasses.replace(pair, line=0, source_section=None) for pair in tiny_pairs]
    assert pairs_of(index_pairs(tiny_pairs)) == bare


def write(path, pairs):
    rows = [{"query": pair.query, "positive": pair.positive, "domain": pair.domain} for pair in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


NEW = [Pair(f"new {name} {number}?", passage(name), "radars") for name in "stuvwxyz" for number in range(2)]
NEW += [Pair("new about pumps?", passage("p"), "pumps")]


@pytest.fixture
def given(tiny_model_folder, tiny_pairs_file):
    """`given(base, pairs, replay=...)`: the settings of a run."""

    def make(base=tiny_model_folder, pairs=tiny_pairs_file, **data):
        shares = {
            "pairs": pairs if isinstance(pairs, list) else str(pairs),
            "validation_share": 0.25,
            "test_share": 0.25,
            "seed": 7,
            **data,
        }
        train = {"base_model": str(base), "frozen_layers": 1}
        return Config.model_validate({"data": shares, "train": train, "guard": {"min_neighbours_kept": 0}})

    return make


@pytest.fixture
def exported(given, tmp_path):
    """`exported(name, settings, **metadata)`: a base model with the metadata that a search would have left."""

    def make(name, settings, **changes):
        folder = shutil.copytree(given().train.base_model, tmp_path / name)
        run = RunFolder(tmp_path / f"run-of-{name}")
        run.path.mkdir()
        run.config.write_text(dump_config(settings), encoding="utf-8")
        own = {"name": name, "base_model": settings.train.base_model, "files": {}, "run": str(run.path)}
        content = {**own, **describe_data(prepare(settings, on_gpu=False)), **changes}
        (folder / "metadata.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def continued(given, exported, tiny_pairs_file, tmp_path):
    """A run that goes on from a model of `tiny_pairs_file`, and the run that made that model."""
    before = given(sample_share=0.75)
    model = exported("first", before)
    settings = given(model, write(tmp_path / "new.jsonl", NEW), seed=8, replay=[str(tiny_pairs_file)])
    return prepare(settings, on_gpu=False), before


def parts_by_row(collection, parts):
    keys = zip(collection.query.tolist(), collection.positive.tolist(), strict=True)
    texts = [(collection.texts[query], collection.texts[positive]) for query, positive in keys]
    return dict(zip(texts, parts.tolist(), strict=True))


def test_a_run_that_goes_on_splits_the_old_rows_as_they_were(continued):
    prepared, before = continued
    then = parts_by_row(*divide(read_pairs(before.data.pairs), before.data))
    now = parts_by_row(prepared.collection, prepared.parts)
    assert {row: now[row] for row in then} == then
    assert prepared.replay.old.sum() == len(then)
    assert (len(now), len(then)) == (len(then) + len(NEW), 36)  # 6 of 8 passages a domain, two rows each
    # the old training rows are trained on again, and nothing leaks
    trained = {row for row, part in then.items() if part == "train"}
    assert trained <= {row for row, part in now.items() if part == "train"}
    assert leaks(prepared)["near-duplicate passage"] | {"unseen_queries": 0} == {
        "validation": 0, "test": 0, "unseen_queries": 0
    }  # fmt: skip


def test_what_a_run_starts_with_names_the_old_pairs(continued):
    prepared, before = continued
    (record,) = describe_start(prepared)["data"]["replay"]
    assert record["pairs"] == "pairs.jsonl"
    assert record["split"]["seed"] == 7
    assert record["split"]["rows"] == describe_data(prepare(before, on_gpu=False))["split"]["rows"]
    said = "\n".join(describe_run(prepared))
    assert f"old rows, from {before.data.pairs}, which" in said
    assert "refit" not in said
    assert load_and_dump(prepared.config) == prepared.config


def load_and_dump(config):
    path = Path(config.data.pairs).with_name("again.yaml")
    path.write_text(dump_config(config), encoding="utf-8")
    return load_config(path)


def test_a_run_is_not_resumed_with_other_old_rows(continued, tmp_path):
    prepared, _ = continued
    started = json.loads(json.dumps(describe_start(prepared)))
    refuse_other_start(prepared, started, tmp_path)
    started["data"]["replay"][0]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="has changed since"):
        refuse_other_start(prepared, started, tmp_path)
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write(json.dumps({"query": "a", "positive": "b", "domain": "pumps"}) + "\n")
    with pytest.raises(
        InputError, match=r"pairs\.jsonl: is not what .*first was tuned on: its SHA-256 is .* name a copy"
    ):
        prepare(prepared.config, on_gpu=False)


def test_a_model_can_be_tuned_further_again_and_again(continued, given, exported, tmp_path):
    prepared, _ = continued
    second = exported("second", prepared.config)
    found = continued_settings(second, [])
    assert [Path(path).name for path in found["data.replay"]] == ["pairs.jsonl", "new.jsonl"]
    latest = write(tmp_path / "latest.jsonl", [Pair("third?", passage("q"), "pumps"), NEW[0]])
    third = prepare(given(second, latest, replay=found["data.replay"]), on_gpu=False)
    then, now = (parts_by_row(each.collection, each.parts) for each in (prepared, third))
    assert {row: now[row] for row in then} == then
    assert (len(now) - len(then), third.replay.repeated) == (1, 1)
    assert [record["pairs"] for record in describe_data(third)["data"]["replay"]] == ["pairs.jsonl", "new.jsonl"]


def test_where_the_old_pairs_lie_is_known_from_the_run_or_named(given, exported, tiny_pairs_file, tmp_path):
    model = exported("first", given())
    assert continued_settings(None, []) == {}
    assert continued_settings(model, []) == {"train.base_model": str(model), "data.replay": [str(tiny_pairs_file)]}
    shutil.rmtree(tmp_path / "run-of-first")
    with pytest.raises(InputError, match=r"settings of the run that made it cannot be read .* with --replay"):
        continued_settings(model, [])
    assert continued_settings(model, [Path("moved.jsonl")])["data.replay"] == [str(Path("moved.jsonl").absolute())]
    with pytest.raises(
        InputError, match=r"--replay a\.jsonl: names the pairs that a model was tuned on; name the model with --from"
    ):
        continued_settings(None, [Path("a.jsonl")])
    with pytest.raises(InputError, match=r"holds no metadata\.json"):
        continued_settings(Path(given().train.base_model), [])


def test_a_model_of_several_files_is_tuned_further_with_all_of_them(given, exported, tiny_pairs_file, tmp_path):
    lines = tiny_pairs_file.read_text(encoding="utf-8").splitlines(keepends=True)
    halves = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, part in zip(halves, (lines[:20], lines[20:]), strict=True):
        path.write_text("".join(part), encoding="utf-8")
    model = exported("first", given(pairs=[str(path) for path in halves]))
    found = continued_settings(model, [])
    assert found["data.replay"] == [str(path) for path in halves]
    new = write(tmp_path / "new.jsonl", NEW)
    continued = prepare(given(model, new, replay=found["data.replay"]), on_gpu=False)
    assert continued.replay.old.sum() == len(lines)
    (record,) = describe_data(continued)["data"]["replay"]
    assert (record["pairs"], [file["name"] for file in record["files"]]) == ("a.jsonl, b.jsonl", ["a.jsonl", "b.jsonl"])
    with pytest.raises(InputError, match=r"was tuned on 2 file\(s\) of pairs \(a\.jsonl, b\.jsonl\), got 1"):
        earlier_pairs(str(model), halves[:1])
    with pytest.raises(InputError, match=r"b\.jsonl, .*a\.jsonl: is not what .* was tuned on"):
        earlier_pairs(str(model), halves[::-1])


def test_old_pairs_that_are_gone_or_too_few_are_refused_with_the_way_out(given, exported, tiny_pairs_file, tmp_path):
    model = str(exported("first", given()))
    with pytest.raises(InputError, match=r"gone\.jsonl: cannot be read .*was tuned on pairs\.jsonl, .*--replay"):
        earlier_pairs(model, [tmp_path / "gone.jsonl"])
    with pytest.raises(InputError, match=r"was tuned on 1 file\(s\) of pairs \(pairs\.jsonl\), got 2"):
        earlier_pairs(model, [tiny_pairs_file, tiny_pairs_file])
    with pytest.raises(InputError, match=r"holds no sound metadata\.json.* write old and new pairs into one file"):
        earlier_pairs(given().train.base_model, [tiny_pairs_file])
    bare = str(exported("bare", given(), data={}))
    with pytest.raises(InputError, match="does not say what the model was tuned on"):
        earlier_pairs(bare, [tiny_pairs_file])


def test_a_split_that_cannot_be_made_again_is_refused(given, exported, tiny_pairs_file, tmp_path):
    split = describe_data(prepare(given(), on_gpu=False))["split"]
    model = exported("first", given(), split={**split, "seed": 8})
    new = write(tmp_path / "new.jsonl", NEW)
    with pytest.raises(InputError, match="first: its pairs are split differently now from when it was tuned"):
        prepare(given(model, new, replay=[str(tiny_pairs_file)]), on_gpu=False)
    sound = exported("second", given())
    with pytest.raises(InputError, match=r"data\.protocol: is unseen_queries, and the rows of .* by unseen_passages"):
        prepare(given(sound, new, replay=[str(tiny_pairs_file)], protocol="unseen_queries"), on_gpu=False)


def test_old_pairs_are_split_for_a_comparison_as_they_were_and_new_ones_are_not_alone(continued, exported, tmp_path):
    prepared, before = continued
    first, second = tmp_path / "first", exported("second", prepared.config)
    old, new = before.data.pairs, prepared.config.data.pairs
    ranking = compare_models([str(first), str(second)], old, "validation", say=print)
    assert ranking.queries == (divide(read_pairs(old), before.data)[1] == "validation").sum()
    assert ranking.warnings == []
    assert compare_with_base(str(second), old, "validation").split_from == "bundle"
    for compare in (compare_with_base, lambda model, *rest: compare_models([model, str(first)], *rest, say=print)):
        with pytest.raises(InputError, match=r"second: its rows of new\.jsonl were split beside those of pairs\.jsonl"):
            compare(str(second), new, "test")


def test_a_search_does_not_overwrite_the_model_that_it_goes_on_from(given, exported, tiny_pairs_file, tmp_path):
    model = exported("first", given())
    settings = given(model, replay=[str(tiny_pairs_file)])
    with pytest.raises(InputError, match="--name first: is the model that the search goes on from"):
        destination(settings, out=tmp_path, name="first", run_root=tmp_path, overwrite=True)
    with pytest.raises(InputError, match="--from: --resume goes on with the settings of the run"):
        refuse_new_settings("runs/a", None, {"--from": model})


def run_of(domains, old, passages=20):
    """A run whose validation rows ask about `passages` passages of each domain, a row each."""
    names = [name for name in domains for _ in range(passages)]
    rows = np.arange(len(names))
    earlier = Earlier("models/first", (), (), "", False)
    return SimpleNamespace(
        rows=lambda _: rows,
        passages=rows,
        groups=rows,
        parts=np.array(["validation"] * len(names)),
        collection=SimpleNamespace(domains=names),
        config=Config(),
        replay=Replay(earlier, np.array(old), 0, 0),
    )


def both(base, tuned):
    return {name: {"recall_at_5": values, "mrr": values / 2} for name, values in (("base", base), ("tuned", tuned))}


@pytest.mark.parametrize("saw_all", [False, True])
def test_a_model_that_knows_its_old_passages_is_judged_by_new_ones(saw_all):
    # one domain, two rows a passage: passage 0 has an old row and a new one, passage 1 old rows, passage 2 new ones
    earlier = Earlier("models/first", (), (), "", saw_all)
    prepared = SimpleNamespace(
        rows=lambda _: np.arange(6),
        groups=np.array([0, 0, 1, 1, 2, 2]),
        collection=SimpleNamespace(domains=["a"] * 6),
        config=Config(),
        replay=Replay(earlier, np.array([True, False, True, True, False, False]), 0, 0),
    )
    tuned, base, queries = gain_is_judged_by(prepared, "test", np.arange(6.0), np.arange(6.0) + 10)
    expected = [4, 5] if saw_all else list(range(6))
    assert (tuned.tolist(), (base - 10).tolist()) == (expected, expected)
    assert queries.passages.tolist() == ([2, 2] if saw_all else [0, 0, 1, 1, 2, 2])
    assert queries.domains == ["a"] * len(expected)


def test_who_descends_from_a_model_that_saw_all_has_seen_all(given, exported, tiny_pairs_file):
    parent = {"model": "first", "saw_all": True, "rows": {}, "results": {}}
    for name, metadata, expected in (
        ("none", {"refit": "none"}, False),
        ("all", {"refit": "all"}, True),
        ("child", {"refit": "none", "previous": parent}, True),
    ):
        assert earlier_pairs(str(exported(name, given(), **metadata)), [tiny_pairs_file]).saw_all is expected


def test_a_gain_on_new_rows_does_not_hide_a_fall_on_old_ones():
    # in each domain 10 old passages and 10 new ones: "a" forgets 6 of its old and learns 10 new ones
    old = ([True] * 10 + [False] * 10) * 2
    prepared = run_of(("a", "b"), old)
    base = np.array(([1.0] * 10 + [0.0] * 10) * 2)
    tuned = np.array([0.0] * 6 + [1.0] * 4 + [1.0] * 10 + [1.0] * 20)
    queries = selection.queries_of(prepared, "validation")
    assert falls(tuned, base, queries, max_domain_drop=0.02) == []
    (found,) = falls_on_old_rows(prepared, "validation", both(base, tuned))
    assert found.startswith(
        "validation, old rows alone, against models/first: a falls by 0.600 Recall@5 on 10 passages, more than "
    )
    assert falls_on_old_rows(prepared, "validation", both(base, np.ones(40))) == []
    prepared.replay = None
    assert falls_on_old_rows(prepared, "validation", both(base, tuned)) == []
    assert compared_with_previous(prepared, {}) == {}


def test_old_and_new_rows_have_figures_of_their_own():
    # "b" is a new domain; macro is over the domains of the rows that are asked
    prepared = run_of(("a", "b"), [True, False, False, False], passages=2)
    scores = both(np.array([1.0, 0.0, 0.5, 0.5]), np.array([0.5, 1.0, 1.0, 0.5]))
    found = compared_with_previous(prepared, {"validation": scores})["previous"]
    assert (found["model"], found["saw_all"]) == ("models/first", False)
    assert found["rows"]["validation"] == {"old": 1, "new": 3}
    old, new = found["results"]["validation"]["old"], found["results"]["validation"]["new"]
    assert old["base"] == {"recall_at_5/macro": 1.0, "mrr/macro": 0.5}
    assert old["tuned"] == {"recall_at_5/macro": 0.5, "mrr/macro": 0.25}
    assert new["base"] == {"recall_at_5/macro": 0.25, "mrr/macro": 0.125}  # (0 + 0.5) / 2
    assert new["tuned"] == {"recall_at_5/macro": 0.875, "mrr/macro": 0.4375}  # (1 + 0.75) / 2
    assert table_of(found)[1] == [
        ["old, validation", "1", "1.000", "0.500", "0.500", "0.250"],
        ["new, validation", "3", "0.250", "0.875", "0.125", "0.438"],
    ]
    none = compared_with_previous(run_of(("a",), [True, True], passages=2), {"validation": both(*np.ones((2, 2)))})
    assert list(none["previous"]["results"]["validation"]) == ["old"]


def test_a_base_model_that_saw_its_held_back_rows_is_said_to_flatter():
    prepared = run_of(("a",), [True, False], passages=2)
    seen = dataclasses.replace(prepared.replay, earlier=dataclasses.replace(prepared.replay.earlier, saw_all=True))
    told = "models/first was trained on all of its rows at last (refit: all), those held back included"
    assert any(told in line for line in describe_replay(seen, prepared.parts))
    assert not any(told in line for line in describe_replay(prepared.replay, prepared.parts))
    for replay, expected in ((seen, True), (prepared.replay, False)):
        prepared.replay = replay
        found = compared_with_previous(prepared, {"validation": both(*np.ones((2, 2)))})["previous"]
        assert (told in describe_previous(found)) == expected


def test_what_was_left_out_or_counted_once_is_said():
    prepared = run_of(("a",), [True, False], passages=2)
    said = "\n".join(describe_replay(dataclasses.replace(prepared.replay, repeated=3, left_out=2), prepared.parts))
    assert "1 validation, as they were then; they are trained on again. New rows: 1 validation" in said
    assert "3 rows of the new file are old rows, and count once" in said
    assert "2 new rows are left out" in said


def test_a_search_judges_old_rows_and_every_reader_is_told(searched, tmp_path, capsys):
    prepared, inputs, (candidate,) = searched(1)
    old = np.asarray(prepared.collection.domains) != "radios"
    record = {"pairs": "old.jsonl", "sha256": "1" * 64, "split": {}}
    replay = Replay(Earlier("models/first", (), (record,), "", True), old, 0, 0)
    prepared = dataclasses.replace(prepared, replay=replay)
    given = Contestants({"first trial": candidate}, [candidate], [])
    found = judge(prepared, inputs, given, None, export_anyway=True, say=lambda _: None)
    previous = found.evidence["previous"]
    rows = [row for row in prepared.rows("test").tolist() if old[row]]
    part = upper(prepared.encoder, 1, from_ids=False)
    source = feed(inputs[1], "cpu")
    whole = evaluate(part, source, prepared.collection, rows)
    base = previous["results"]["test"]["old"]["base"]
    assert base == pytest.approx({name: whole[name] for name in ("recall_at_5/macro", "mrr/macro")})
    assert previous["rows"]["test"]["old"] == len(rows)
    RunFolder(tmp_path).config.write_text(dump_config(prepared.config), encoding="utf-8")
    result = SearchResult(tmp_path, tmp_path, found, [])
    outcome.write_result(result, prepared, None)
    show_result(result)
    card = model_card({"name": "a", "base_model": "b", **found.evidence, **describe_data(prepared)})
    page = write_page(tmp_path).read_text(encoding="utf-8")
    for shown in (" ".join(capsys.readouterr().out.split()), card, page):
        assert "models/first was trained on all of its rows at last (refit: all)" in shown
        assert "old, validation" in shown
        assert "new, test" in shown
    assert f"old.jsonl (SHA-256 {'1' * 64})" in card


def test_a_fall_on_old_rows_alone_keeps_the_test_rows_unread(searched, monkeypatch):
    prepared, inputs, (candidate,) = searched(1)
    monkeypatch.setattr(selection, "objections", lambda *_, **__: [])
    monkeypatch.setattr(selection, "falls_on_old_rows", lambda _, part, scores: [f"{part}: {sorted(scores)}"])
    given = (prepared, inputs, Contestants({"first trial": candidate}, [candidate], []), None)
    found = judge(*given, export_anyway=False, say=lambda _: None)
    assert found.evidence["guard"]["objections"] == ["validation: ['base', 'tuned']"]
    assert not found.may_be_exported
    found = judge(*given, export_anyway=True, say=lambda _: None)
    assert [each.partition(":")[0] for each in found.evidence["guard"]["objections"]] == ["validation", "test"]


def test_a_detector_of_a_model_that_was_tuned_further_is_fitted_to_the_rows_of_all_its_files(
    given, exported, tiny_pairs_file, tmp_path
):
    new = write(tmp_path / "new.jsonl", NEW)
    settings = given(exported("first", given()), new, seed=8, replay=[str(tiny_pairs_file)])
    prepared = prepare(settings, on_gpu=False)
    model = exported("second", settings)
    metadata = json.loads((model / "metadata.json").read_text())
    collection, rows = rows_by_part(metadata, as_sources([tiny_pairs_file, new]), model)
    assert collection.texts == prepared.collection.texts
    assert rows == {part: prepared.rows(part).tolist() for part in ("train", "validation", "test")}
    with pytest.raises(
        InputError, match=r"was tuned on 2 file\(s\) .*, got 1; name each behind the bundle, the oldest"
    ):
        rows_by_part(metadata, new, model)
    with pytest.raises(
        InputError, match=r"is not what .* was tuned on: .*; name a copy of that file behind the bundle"
    ):
        rows_by_part(metadata, as_sources([new, tiny_pairs_file]), model)
