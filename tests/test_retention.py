"""What is kept of other fields, on a retention set with inputs of its own."""

import dataclasses

import pytest
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.metrics.neighbours import nearest_neighbours, share_kept
from nic_ray.model.base import load
from nic_ray.model.encoder import with_weights
from nic_ray.model.whole_models import evaluate_encoder
from nic_ray.search import outcome
from nic_ray.selection.retention import load_general_text, load_retention_set, neighbours_kept, retention_of
from nic_ray.selection.selection import Contestants, SearchResult, judge
from nic_ray.stored import read_result

RETENTION_SET = index_pairs(
    [Pair(f"{part} is {fault}", f"drain the {part} if {fault}.", part) for part in ("valve", "oven", "kite")
     for fault in ("cracked", "wet", "bent")]
)  # fmt: skip


def test_a_retention_set_is_scored_as_the_owner_means_the_base(searched, changed_model):
    folder = changed_model(prompts={"query": "valve oven kite "}, similarity="dot", behind=[Pooling(32)], layers=3)
    prepared, _, _ = searched(1, base=folder)
    found = evaluate_encoder(load(str(folder)), RETENTION_SET, range(9), 64)
    expected = {name: found[f"{name}/macro"] for name in ("recall_at_5", "mrr")}
    assert load_retention_set(prepared, RETENTION_SET, [1]).base == pytest.approx(expected, abs=1e-6)


def test_a_base_model_that_cannot_be_cut_keeps_what_one_that_can_keeps(searched):
    prepared, _, candidates = searched(1, 2)
    uncut = dataclasses.replace(prepared, encoder=dataclasses.replace(prepared.encoder, block_output=None))
    fed = load_retention_set(uncut, RETENTION_SET, [1, 2]).inputs
    assert {depth: (own.are_ids, own.depth) for depth, own in fed.items()} == {1: (True, 1), 2: (True, 2)}
    for each in candidates:
        whole = {name_in_the_whole(name, each.config.frozen_layers): value for name, value in each.weights.items()}
        found = retention_of(
            uncut, load_retention_set(uncut, RETENTION_SET, [1, 2]), dataclasses.replace(each, weights=whole)
        )
        assert found == pytest.approx(
            retention_of(prepared, load_retention_set(prepared, RETENTION_SET, [1, 2]), each), abs=1e-6
        )


def name_in_the_whole(name, depth):
    """Of a parameter above a cut, where blocks are counted from there."""
    parts = name.split(".")
    parts[3] = str(int(parts[3]) + depth)
    return ".".join(parts)


GENERAL = tuple(f"the {what} of a {place} is {size}" for what in ("door", "lamp", "roof", "wall") for place in (
    "house", "barn", "ship", "school") for size in ("large", "old"))  # fmt: skip


def measuring(searched, *depths, least=0.5):
    prepared, inputs, candidates = searched(*depths)
    guard = prepared.config.guard.model_copy(update={"min_neighbours_kept": least})
    config = prepared.config.model_copy(update={"guard": guard})
    return dataclasses.replace(prepared, config=config, measuring=GENERAL), inputs, candidates


def test_neighbours_are_compared_with_those_of_plain_sentence_transformers(searched):
    prepared, _, candidates = measuring(searched, 1, 2)
    general = load_general_text(prepared, [1, 2])
    before = nearest_neighbours(prepared.encoder.model.encode(list(GENERAL)))
    assert general.neighbours.tolist() == before.tolist()
    for candidate in candidates:
        tuned = with_weights(prepared.encoder, candidate.config.frozen_layers, candidate.weights)
        expected = share_kept(nearest_neighbours(tuned.model.encode(list(GENERAL))), before)
        assert neighbours_kept(prepared, general, candidate) == pytest.approx(expected, abs=0.02)
        assert expected < 1
    assert load_general_text(dataclasses.replace(prepared, measuring=()), [1]) is None


def test_the_weights_are_drawn_back_until_enough_neighbours_are_kept(searched, tmp_path):
    prepared, inputs, candidates = measuring(searched, 1, least=0.7)
    found = judge(
        prepared, inputs, Contestants({"first trial": candidates[0]}, candidates, []), None,
        export_anyway=False, say=lambda _: None,
    )  # fmt: skip
    front = found.evidence["front"]
    kept = {row["alpha"]: row["neighbours"] for row in front}
    assert (kept[0.0], found.evidence["guard"]["min_neighbours_kept"]) == (1.0, 0.7)
    assert kept[1.0] < 0.7 <= kept[found.evidence["alpha"]] == found.evidence["neighbours_kept"]["tuned"]
    assert found.evidence["neighbours_kept"]["first trial"] == pytest.approx(kept[1.0])
    assert not any(objection.startswith("retention:") for objection in found.evidence["guard"]["objections"])
    outcome.write_result(SearchResult(None, tmp_path, found, []), prepared, None)
    assert [*read_result(tmp_path)["general_texts"]["sha256"]] == ["measuring"]


def test_a_model_that_keeps_too_few_however_far_it_is_drawn_back_is_refused(searched):
    prepared, inputs, candidates = measuring(searched, 1, least=1.0)
    wild = {name: 100 * value for name, value in candidates[0].weights.items()}
    candidates[0] = dataclasses.replace(candidates[0], weights=wild)
    found = judge(
        prepared, inputs, Contestants({}, candidates, []), None, export_anyway=False, say=lambda _: None
    )  # fmt: skip
    assert found.evidence["guard"]["objections"][0].startswith(
        "retention: every mix with the base model keeps at most 0."
    )
    assert not found.may_be_exported
