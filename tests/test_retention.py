"""What is kept of other fields, on a retention set with inputs of its own."""

import dataclasses

import pytest
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.model.base import load
from nic_ray.model.evaluation import evaluate_encoder
from nic_ray.selection.retention import load_retention_set, retention_of

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
    uncut = dataclasses.replace(prepared, encoder=dataclasses.replace(prepared.encoder, can_be_cut=False))
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
