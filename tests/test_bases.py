"""Several base models in one search: what is prepared for each, what is left out, and how a winner is judged."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.modules import Dense, Pooling

from nic_ray.bundle.deployment import cells_of_bases, cells_of_kinds, short_name
from nic_ray.config import Config, trial_config
from nic_ray.errors import InputError
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model.activations import frozen_inputs
from nic_ray.model.base import load
from nic_ray.model.cache import Budget, inputs_by_depth, layout_of, run_here, what_is_left
from nic_ray.model.encoder import upper
from nic_ray.model.footprint import Footprint, footprint
from nic_ray.progress import View
from nic_ray.search.starts import starting_points
from nic_ray.selection.averaging import mean_weights
from nic_ray.selection.bases import BEST_BASE, Base, costs_of, costs_of_an_index, costs_of_bases
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.selection.selection import Contestants, judge
from nic_ray.train_config import Kind, TrainConfig, depth_of_share
from nic_ray.training import bases as rooms
from nic_ray.training.bases import Bases, base_models, describe_bases, kinds_of, prepare_bases
from nic_ray.training.prepared import depths, with_fixed_passages
from nic_ray.training.start import describe_start, refuse_other_start


@pytest.fixture
def two(tiny_model, tiny_pairs_file):
    """`two(**sections)`: settings of a search over a BERT of two blocks and an MPNet of four."""

    def make(**sections) -> Config:
        first, second = str(tiny_model()), str(tiny_model("mpnet", 4))
        given = {
            "data": {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25},
            "train": {"base_model": first, "frozen_share": 0.5, "max_tokens": 64, "precision": "fp32"},
            "space": {"base_model": {"choice": [first, second]}, "frozen_share": {"choice": [0.3, 0.5]}},
            "guard": {"retention_set": None, "min_neighbours_kept": 0},
        }
        for name, values in sections.items():
            given[name] = {**given.get(name, {}), **values}
        return Config.model_validate(given)

    return make


@pytest.mark.parametrize(
    ("share", "blocks", "depth"), [(0.5, 2, 1), (0.5, 12, 6), (0.83, 12, 10), (0.01, 6, 1), (0.99, 6, 5), (0.7, 24, 17)]
)
def test_a_share_is_rounded_to_whole_blocks_of_which_one_trains(share, blocks, depth):
    assert depth_of_share(share, blocks) == depth
    assert TrainConfig(frozen_share=share).of_base("another", blocks).frozen_layers == depth
    assert TrainConfig(frozen_layers=4).of_base("another", blocks).frozen_layers == 4


def test_each_base_model_is_prepared_with_its_own_tokens_and_depths(two):
    config = two(train={"anchor": 1.0})
    bases = prepare_bases(config, on_gpu=False)
    first, second = bases.prepared.values()
    assert bases.first is first
    assert [own.config.train.base_model for own in (first, second)] == base_models(config) == [*bases.prepared]
    assert [own.encoder.blocks for own in (first, second)] == [2, 4]
    assert first.collection is second.collection
    assert first.general == second.general != ()
    alone = prepare_bases(config.model_copy(update={"space": {}}), on_gpu=False)
    assert alone.footprints == {}
    assert alone.first.tokens.values.tolist() == first.tokens.values.tolist()
    texts, general = len(first.collection.texts), len(first.general)
    assert [len(own.tokens.lengths) for own in (first, second)] == [texts + general] * 2
    assert depths(first.config, 2) == [1]
    assert depths(second.config, 4) == [2, 1]


def test_what_a_base_model_costs_is_counted_and_timed(two):
    bases = prepare_bases(two(), on_gpu=False)
    for name, own in bases.prepared.items():
        cost, parameters = bases.footprints[name], sum(each.numel() for each in own.encoder.model.parameters())
        assert (cost.parameters, cost.dimensions, cost.blocks) == (parameters, 32, own.encoder.blocks)
        assert cost.mib == parameters * 4 / 2**20
        assert cost.ms_per_query > 0
    assert all(" ms a query" in line for line in describe_bases(bases))


def test_a_constraint_leaves_out_what_cannot_be_deployed_and_says_why(two, monkeypatch):
    config = two()
    first, second = base_models(config)
    costs = {first: Footprint(1000, 32, 2, 1.0, 2.0), second: Footprint(9000, 64, 4, 9.0, 5.0)}
    monkeypatch.setattr(rooms, "footprint", lambda encoder, _: costs[encoder.name])
    for limit, why in (
        ({"max_parameters": 8999}, "9,000 parameters, more than max_parameters 8,999"),
        ({"max_ms_per_query": 4.9}, "5.0 ms a query, more than max_ms_per_query 4.9"),
        ({"dimensions": 32}, "64 dimensions, not the 32 of constraint.dimensions"),
    ):
        found = prepare_bases(two(search={"constraint": limit, "starts": [{"base_model": second}]}), on_gpu=False)
        assert [*found.prepared] == [first]
        assert found.left_out == {second: why}
        assert found.first.config.space["base_model"].choice == (first,)
        assert found.first.config.search.starts == ()
        assert f"base model {second}: left out by search.constraint ({why})" in list(describe_bases(found))
        again = prepare_bases(two(search={"constraint": limit}), on_gpu=False, constrained=False)  # of a resumed search
        assert [*again.prepared] == [first, second]
    kept = prepare_bases(two(search={"constraint": {"max_parameters": 9000, "max_ms_per_query": 5}}), on_gpu=False)
    assert [*kept.prepared] == [first, second]
    with pytest.raises(
        InputError, match=r"search\.constraint: leaves out .*, the base model of the first trial \(1,000"
    ):
        prepare_bases(two(search={"constraint": {"max_parameters": 999}}), on_gpu=False)


def test_the_time_of_a_query_is_the_median_after_a_warm_up(tiny_model, monkeypatch):
    encoder, ticks = load(str(tiny_model())), iter([0, 9] * 3 + [0, 1] * 9 + [0, 2] * 2 + [0, 50] * 9)
    asked = []
    monkeypatch.setattr("nic_ray.model.footprint.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(encoder.model, "encode_query", lambda texts, **_: asked.append(texts), raising=False)
    assert footprint(encoder, ["a", "b"]).ms_per_query == 2000
    assert asked[:3] == [["a"], ["b"], ["a"]]


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"train": {"revision": "main"}}, r"train\.revision: must be null where base_model is searched"),
        ({"space": {"frozen_layers": {"choice": [4]}}}, r"space\.frozen_layers: must be left out with frozen_share"),
        ({"train": {"base_model": "other"}}, r"space\.base_model: must hold train\.base_model"),
        ({"data": {"replay": ["old.jsonl"]}}, r"space\.base_model: must be left out with data\.replay"),
        ({"search": {"constraint": {"max_parameters": 0}}}, r"search\.constraint\.max_parameters"),
        ({"train": {"frozen_share": 1.0}, "space": {}}, r"train\.frozen_share"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(two, sections, fault):
    with pytest.raises(ValueError, match=fault):
        two(**sections)


def test_counts_that_one_of_the_base_models_lacks_are_refused_with_the_way_out(two):
    config = two(train={"frozen_share": None, "frozen_layers": 1}, space={"frozen_share": {"choice": [None]}})
    space = {"base_model": config.space["base_model"], "frozen_layers": {"choice": [1, 3]}}
    config = Config.model_validate(config.model_dump() | {"space": space})
    with pytest.raises(InputError, match=r"space\.frozen_layers: must be 0 to 1 for .* frozen_share counts in shares"):
        prepare_bases(config, on_gpu=False)


def test_every_base_model_gets_a_trial_with_what_is_known(two):
    config = two()
    first, second = base_models(config)
    assert starting_points(config) == [
        {"base_model": first, "frozen_share": 0.5},
        {"base_model": second, "frozen_share": 0.5},
    ]
    config = two(search={"starts": [{"frozen_share": 0.3}]})
    assert starting_points(config)[-1] == {"base_model": second, "frozen_share": 0.3}
    config = two(search={"starts": [{"base_model": second}]})
    assert len(starting_points(config)) == 2


def test_query_only_trials_are_a_kind_of_their_own(two):
    config = two(space={"trains": {"choice": ["both", "queries"]}})
    bases = prepare_bases(config, on_gpu=False)
    name = config.train.base_model
    kinds = kinds_of(bases.first)
    assert [*kinds] == [(name, "both"), (name, "queries")]
    assert [own.config.train.trains for own in kinds.values()] == ["both", "queries"]
    inputs = frozen_inputs(bases.first.encoder, bases.first.tokens, [1])
    kept, fixed = (with_fixed_passages(own, inputs)[1].fixed for own in kinds.values())
    assert kept is None
    assert fixed.shape == (len(bases.first.tokens.lengths), 32)
    for sections in (
        {"space": {"trains": {"choice": ["both", "queries"]}, "anchor": {"choice": [0, 1]}}},
        {"space": {"trains": {"choice": ["both", "queries"]}}, "train": {"anchor": 1.0}},
    ):
        with pytest.raises(ValueError, match=r"(space|train)\.anchor: must be (left out|0) with"):
            two(**sections)


def test_a_trial_has_the_depth_of_its_own_base_model(two):
    config = two()
    _, second = base_models(config)
    trial = trial_config(config.train, {"base_model": second, "frozen_share": 0.3})
    assert trial.of_base(second, 4).frozen_layers == 1
    assert trial.of_base(second, 12).frozen_layers == 4


def test_the_activations_of_all_base_models_lie_within_one_budget(two, tmp_path):
    first, second = prepare_bases(two(), on_gpu=False).prepared.values()
    size = len(first.tokens.values) * 32 * 4
    room = Budget(1.5 * size, 2 * size, tmp_path)

    def stored(own, room):
        given = own.encoder, own.tokens, depths(own.config, own.encoder.blocks), room
        chain = run_here("cpu", bf16=False)
        return inputs_by_depth(*given, bf16=False, chain=chain, view=View()), layout_of(*given, bf16=False)

    _, layout = stored(first, room)
    left = what_is_left(room, layout)
    assert (left.memory, left.disk, left.others) == (0.5 * size, size, frozenset(layout.files.values()))
    found, layout = stored(second, left)
    assert (len(layout.wanted), len(layout.cached), layout.in_memory) == (2, 1, 0)
    assert {own.path for own in found.values() if hasattr(own, "path")} == set(layout.files.values())
    kept = {path.name for path in tmp_path.glob("*.npy")}  # those of the first base model were not removed for room
    assert kept == {path.name for path in (*left.others, *layout.files.values())}


def candidates_of(base: Base, names: list[str], noise: float = 0.05) -> list[Candidate]:
    made = []
    for number, name in enumerate(names):
        (depth,) = base.inputs
        config = base.prepared.config.train.of_base(base.prepared.encoder.name, base.prepared.encoder.blocks)
        generator = np.random.default_rng(number)
        weights = {
            key: value + noise * value.new_tensor(generator.standard_normal(value.shape))
            for key, value in upper(base.prepared.encoder, depth).trained_state().items()
        }
        rows = base.prepared.rows("validation")
        metrics = Scorer(base.prepared, base.inputs[depth]).metrics(weights, rows) | {"epoch": 1.0, "step": 1}
        made.append(Candidate(name, config, metrics, weights, epochs=1.0))
    return made


@pytest.fixture
def found(two) -> tuple[Bases, dict[str, Base]]:
    """Two base models with their inputs at one depth."""
    bases = prepare_bases(two(space={"frozen_share": {"choice": [0.5]}}), on_gpu=False)
    own = {}
    for name, prepared in bases.prepared.items():
        (depth,) = depths(prepared.config, prepared.encoder.blocks)
        own[name] = Base(prepared, frozen_inputs(prepared.encoder, prepared.tokens, [depth]))
    return bases, own


def kinds(base: Base) -> dict[Kind, Base]:
    return {base.prepared.config.train.kind: base}


def test_weights_of_different_base_models_have_no_mean(found):
    _, own = found
    members = [candidates_of(base, [f"trial-{number}"])[0] for number, base in enumerate(own.values())]
    with pytest.raises(
        InputError,
        match=r"trial-0 \+ trial-1: must be of models with one base model and one value of trains, got .*, .*",
    ):
        mean_weights(next(iter(own.values())).prepared, members, lambda member: member)


def test_a_winner_is_compared_with_the_best_base_model_and_with_its_own(found):
    _, own = found
    untuned = {
        name: flat_metrics(
            base.scorer.scores(None, base.prepared.rows("validation")), queries_of(base.prepared, "validation").domains
        )["recall_at_5/macro"]
        for name, base in own.items()
    }
    assert len(set(untuned.values())) == 2, "the two are to differ"
    weaker, stronger = sorted(untuned, key=untuned.__getitem__)
    base, other = own[weaker], own[stronger]
    winner, second = candidates_of(base, ["trial-000", "trial-001"])
    (elsewhere,) = candidates_of(other, ["trial-002"])
    said: list[str] = []
    found = judge(
        base.prepared, base.inputs,
        Contestants({"first trial": elsewhere}, [winner, second, elsewhere], [], others=kinds(other)),
        None, export_anyway=True, say=said.append,
    )  # fmt: skip
    results = found.results
    for part in ("validation", "test"):
        rows = base.prepared.rows(part)
        for label, scorer, weights in (
            ("base", base.scorer, None),
            (BEST_BASE, other.scorer, None),
            ("first trial", other.scorer_of(elsewhere), elsewhere.weights),
        ):
            value = scorer.metrics(weights, rows)["recall_at_5/macro"]
            assert results[part][label]["recall_at_5/macro"] == pytest.approx(value, abs=1e-9), (part, label)
    assert found.evidence["best_base"] == stronger
    assert f"tuned minus {BEST_BASE}" in found.evidence["intervals"]
    listed = "\n".join(found.evidence["guard"]["objections"])
    assert f"against the best base model, {stronger}," in listed
    assert "trial-002" not in found.tuned.name  # the mean is of one base model's trials
    # the other way round there is no better base model
    found = judge(
        other.prepared, other.inputs, Contestants({}, [elsewhere, winner], [], others=kinds(base)),
        None, export_anyway=True, say=said.append,
    )  # fmt: skip
    assert "best_base" not in found.evidence
    assert BEST_BASE not in found.results["test"]


def test_a_table_says_what_each_base_model_costs_and_finds(found):
    bases, own = found
    first, second = own
    metrics = {first: {"recall_at_5/macro": 0.5}, second: {"recall_at_5/macro": 0.25}}
    candidates = [dataclasses.replace(each, metrics={"recall_at_5/macro": value}) for each, value in zip(
        candidates_of(own[first], ["trial-003", "trial-000"]), (0.75, 0.625), strict=True
    )]  # fmt: skip
    rows = costs_of_bases(bases, metrics, candidates, "recall_at_5/macro")
    assert [(row["trial"], row["best"], row["trials"]) for row in rows] == [("trial-003", 0.75, 2), (None, None, 0)]
    cells = cells_of_bases(rows)
    assert cells[0][:4] == [Path(first).name, f"{bases.footprints[first].parameters:,}", "2", "32"]
    assert cells[0][6:] == ["0.500", "0.750 (trial-003)", "2"]
    assert cells[1][6:] == ["0.250", "–", "0"]
    assert costs_of_bases(Bases(bases.prepared, {}, {}), metrics, candidates, "recall_at_5/macro") == []
    assert short_name("no/such-model") == "no/such-model"


def test_what_an_index_that_stays_costs_is_told_where_both_kinds_were_tried(two):
    config = two().train
    trials = [
        Candidate(f"trial-{number}", config.model_copy(update={"trains": trains}), {"mrr/macro": value}, {})
        for number, (trains, value) in enumerate([("both", 0.75), ("both", 0.5), ("queries", 0.25)])
    ]
    assert cells_of_kinds(costs_of_an_index(trials, "mrr/macro")) == [
        ["queries and passages", "trial-0", "0.750", "2"],
        ["queries alone", "trial-2", "0.250", "1"],
    ]
    assert costs_of_an_index(trials[:2], "mrr/macro") == []
    elsewhere = dataclasses.replace(trials[2], config=trials[2].config.model_copy(update={"base_model": "other"}))
    assert costs_of_an_index([*trials[:2], elsewhere], "mrr/macro") == []  # another model's index
    assert costs_of(Bases({}, {}, {}), {}, trials[:2], "mrr/macro") == {}


def test_a_resumed_search_refuses_other_weights_of_any_base_model(found, tmp_path):
    bases, _ = found
    first, second = bases.prepared.values()
    start = describe_start(first) | {"other_base_weights_sha256": {second.encoder.name: second.encoder.weights_sha256}}
    for own in (first, second):
        refuse_other_start(own, start, tmp_path)
    changed = start | {"other_base_weights_sha256": {second.encoder.name: "0" * 64}}
    refuse_other_start(first, changed, tmp_path)
    with pytest.raises(InputError, match=r"has other weights than at the start"):
        refuse_other_start(second, changed, tmp_path)


def test_base_models_of_different_dimensions_can_be_searched_together(changed_model, tiny_model, two, tiny_pairs_file):
    narrow = changed_model(behind=[Pooling(32, pooling_mode="mean"), Dense(32, 16)])
    first = str(tiny_model())
    config = two(space={"base_model": {"choice": [first, str(narrow)]}})
    bases = prepare_bases(config, on_gpu=False)
    assert [cost.dimensions for cost in bases.footprints.values()] == [32, 16]


def test_what_cannot_be_deployed_is_left_out_before_it_is_asked_for_more(changed_model, tiny_model, two):
    narrow = str(changed_model(behind=[Pooling(32, pooling_mode="mean"), Dense(32, 16)]))
    changes = {"space": {"base_model": {"choice": [str(tiny_model()), narrow]}}, "train": {"dimensions": [16]}}
    with pytest.raises(InputError, match=r"train\.dimensions: must be fewer than the 16 of"):
        prepare_bases(two(**changes), on_gpu=False)
    bases = prepare_bases(two(**changes, search={"constraint": {"dimensions": 32}}), on_gpu=False)
    assert [*bases.left_out] == [narrow]


def test_an_index_that_is_searched_by_another_similarity_is_not_said_to_stay(changed_model, two):
    base = str(changed_model(behind=[Pooling(32, pooling_mode="mean")], similarity="dot"))
    sections = {"train": {"base_model": base, "trains": "queries"}, "space": {"base_model": {"choice": [base]}}}
    with pytest.raises(
        InputError, match=r"train\.trains: queries keeps the index of a base model, and that of .* by dot"
    ):
        prepare_bases(two(**sections), on_gpu=False)


def test_what_is_special_about_each_base_model_is_said(changed_model, two, tiny_model):
    prompted = str(changed_model(prompts={"query": "ask: ", "document": ""}))
    bases = prepare_bases(two(space={"base_model": {"choice": [str(tiny_model()), prompted]}}), on_gpu=False)
    assert any(line.startswith(f"{prompted} is used with the prompts stored with it") for line in describe_bases(bases))
