"""Scores of the base model and of weights above a cut, against those of whole models."""

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray.errors import InputError
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model.activations import Inputs
from nic_ray.model.base import load
from nic_ray.model.cache import Budget, inputs_by_depth, opened, run_here
from nic_ray.model.encoder import with_weights
from nic_ray.model.evaluation import Asked, query_scores, texts_to_score
from nic_ray.model.whole_models import evaluate_encoder
from nic_ray.progress import View
from nic_ray.selection.scoring import Scorer, deepest, queries_of


def test_a_part_is_scored_as_whole_models_are(searched):
    prepared, inputs, candidates = searched(1, 2)
    for part in ("validation", "test"):
        rows = prepared.rows(part)
        expected = evaluate_encoder(prepared.encoder, prepared.collection, rows.tolist(), 64)
        for each in candidates:
            depth = each.config.frozen_layers
            scorer = Scorer(prepared, inputs[depth])
            assert scorer.metrics(None, rows) == pytest.approx(expected, abs=1e-6)
            tuned = with_weights(prepared.encoder, depth, each.weights)
            whole = evaluate_encoder(tuned, prepared.collection, rows.tolist(), 64)
            assert scorer.metrics(each.weights, rows) == pytest.approx(whole, abs=1e-6)
            assert flat_metrics(scorer.scores(each.weights, rows), queries_of(prepared, part).domains) == (
                scorer.metrics(each.weights, rows)
            )


def test_token_ids_that_are_fed_at_a_cut_give_what_the_output_of_the_frozen_blocks_gives(searched, tmp_path):
    prepared, inputs, (candidate,) = searched(2)
    no_room = Budget(0, 0, tmp_path)
    chain = run_here("cpu", bf16=False)
    ids = opened(
        inputs_by_depth(prepared.encoder, prepared.tokens, [2], no_room, bf16=False, chain=chain, view=View())[2]
    )
    assert (ids.are_ids, ids.depth, inputs[2].are_ids, inputs[2].depth) == (True, 2, False, 2)
    texts = np.arange(len(prepared.collection.texts))
    for weights in (None, candidate.weights):
        found, expected = (Scorer(prepared, each).embeddings(weights, texts) for each in (ids, inputs[2]))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_inputs_of_one_depth_are_not_scored_with_weights_of_another(searched):
    prepared, inputs, candidates = searched(1, 2)
    with pytest.raises(ValueError, match="tensors of another cut"):
        Scorer(prepared, inputs[1]).metrics(candidates[1].weights, prepared.rows("validation"))


def test_the_base_model_is_read_where_fewest_blocks_are_left_to_run(searched):
    _, inputs, _ = searched(1, 2, 0)
    assert deepest(inputs) is inputs[2]


def test_a_base_model_without_finite_embeddings_is_refused(searched):
    prepared, inputs, (candidate,) = searched(2)
    with torch.no_grad():
        prepared.encoder.transformer.encoder.layer[2].output.dense.weight.fill_(float("nan"))
    said = r"embeddings that are not finite, so there is nothing to tune"
    with pytest.raises(InputError, match=said):
        Scorer(prepared, inputs[2]).metrics(None, prepared.rows("validation"))
    broken = {name: torch.full_like(value, float("nan")) for name, value in candidate.weights.items()}
    with pytest.raises(ValueError, match="must be finite") as raised:
        Scorer(prepared, inputs[2]).metrics(broken, prepared.rows("validation"))
    assert not isinstance(raised.value, InputError)


def test_the_base_is_scored_as_its_owner_means_it_and_what_is_trained_by_cosine(searched, changed_model):
    folder = changed_model(prompts={"query": "valve oven kite "}, similarity="dot", behind=[Pooling(32)], layers=3)
    prepared, inputs, (candidate,) = searched(1, base=folder)
    rows, scorer = prepared.rows("validation"), Scorer(prepared, inputs[1])
    expected = evaluate_encoder(load(str(folder)), prepared.collection, rows.tolist(), 64)
    assert scorer.metrics(None, rows) == pytest.approx(expected, abs=1e-6)
    texts = texts_to_score(prepared.collection, rows.tolist())
    embeddings = scorer.embeddings(candidate.weights, texts)
    tuned = query_scores(Asked(embeddings, texts, prepared.collection, rows.tolist()))
    found = scorer.scores(candidate.weights, rows)
    assert {name: values.tolist() for name, values in found.items()} == {n: own.tolist() for n, own in tuned.items()}
    metrics = scorer.metrics(candidate.weights, rows)
    assert metrics == pytest.approx({name: candidate.metrics[name] for name in metrics}, abs=1e-6)


def test_inputs_of_other_texts_are_scored_with_their_own_collection(searched, tiny_pairs):
    from nic_ray.dataset.pairs import index_pairs
    from nic_ray.model.activations import token_inputs

    prepared, _, _ = searched(1)
    few = index_pairs(tiny_pairs[:8])
    tokens = token_inputs(prepared.encoder, few.texts, 64)
    assert isinstance(tokens, Inputs)
    found = Scorer(prepared, tokens, few).metrics(None, np.arange(8))
    assert found == pytest.approx(evaluate_encoder(prepared.encoder, few, range(8), 64), abs=1e-6)
