"""Training of the query side alone: passages keep the base model's embeddings, in training, export and use."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from nic_ray.bundle import files, onnx
from nic_ray.bundle.comparison import compare_with_base
from nic_ray.config import Config
from nic_ray.errors import InputError
from nic_ray.model.activations import Inputs, feed, frozen_inputs, upper_for
from nic_ray.model.base import load
from nic_ray.model.encoder import with_weights
from nic_ray.model.evaluation import embed, evaluate
from nic_ray.model.whole_models import encoder_embeddings
from nic_ray.progress import View
from nic_ray.selection.candidates import Candidate, best_of
from nic_ray.selection.export import export
from nic_ray.selection.retention import load_general_text, load_retention_set, neighbours_kept
from nic_ray.training import loop
from nic_ray.training.batches import make_batch
from nic_ray.training.gradients import accumulate_gradients
from nic_ray.training.loss import multiple_negatives_ranking_loss
from nic_ray.training.prepared import Prepared, prepare, training_data, with_fixed_passages

OBJECTIVE = "recall_at_5/macro"


@pytest.fixture
def prepared(tiny_model, tiny_pairs_file) -> Callable[..., Prepared]:
    def make(kind: str = "bert", **train) -> Prepared:
        settings = {
            "base_model": str(tiny_model(kind, 3)), "frozen_layers": 1, "max_tokens": 64, "precision": "fp32",
            "batch_size": 8, "epochs": 1, "learning_rate": 1e-3, "hidden_dropout": 0.0, "trains": "queries",
        }  # fmt: skip
        data = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        given = {"data": data, "train": settings | train, "guard": {"retention_set": None}}
        return prepare(Config.model_validate(given), on_gpu=False)

    return make


def inputs_of(prepared: Prepared) -> Inputs:
    at_depth = frozen_inputs(prepared.encoder, prepared.tokens, [1])
    return with_fixed_passages(prepared, at_depth)[1]


def trained(prepared: Prepared, inputs: Inputs) -> Candidate:
    source, rows = feed(inputs, "cpu"), prepared.rows("validation").tolist()
    *_, last = loop.fit(
        prepared.config.train,
        upper_for(prepared.encoder, inputs),
        training_data(prepared, inputs, prepared.rows("train")),
        loop.Validation(lambda model: evaluate(model, source, prepared.collection, rows), OBJECTIVE),
    )
    return best_of("trial", prepared.config.train, last.state)


def test_passages_have_the_embeddings_of_the_base_model_whatever_was_trained(prepared):
    ready = prepared()
    inputs, collection = inputs_of(ready), ready.collection
    winner = trained(ready, inputs)
    part = upper_for(ready.encoder, inputs)
    part.load_trained_state(winner.weights)
    base, tuned = (
        ready.encoder.model.encode(list(collection.texts), convert_to_numpy=True),
        with_weights(ready.encoder, 1, winner.weights).model.encode(list(collection.texts), convert_to_numpy=True),
    )
    found = embed(part, feed(inputs, "cpu"), np.arange(len(collection.texts)))
    asks = collection.is_query
    np.testing.assert_allclose(found[~asks], base[~asks], atol=1e-5)
    np.testing.assert_allclose(found[asks], tuned[asks], atol=1e-5)
    assert np.abs(base - tuned)[asks].max() > 1e-3


@pytest.mark.parametrize("tokens", [32768, 256])
def test_gradients_are_those_of_the_loss_over_all_training_passages(prepared, tokens):
    ready = prepared(micro_batch_tokens=tokens)
    inputs = inputs_of(ready)
    training = loop.new_training(
        ready.config.train, upper_for(ready.encoder, inputs), training_data(ready, inputs, ready.rows("train"))
    )
    collection, rows = ready.collection, ready.rows("train")[:6]
    wanted = np.union1d(
        collection.positive[ready.rows("train")],
        (negatives := collection.negatives[ready.rows("train"), :1].ravel())[negatives >= 0],
    )
    np.testing.assert_array_equal(training.candidates, wanted)
    batch = make_batch(collection, training.relevant, rows, 1, candidates=training.candidates)
    np.testing.assert_array_equal(batch.texts[batch.passages], wanted)
    value = accumulate_gradients(training.upper, feed(inputs, "cpu"), batch, ready.config.train)
    found = {name: each.grad.clone() for name, each in training.upper.named_parameters() if each.requires_grad}

    model = with_weights(ready.encoder, 1, upper_for(ready.encoder, inputs).trained_state()).model.eval()
    texts = collection.texts
    queries = model(model.preprocess([texts[text] for text in batch.texts[batch.queries].tolist()]))
    passages = torch.from_numpy(ready.encoder.model.encode([texts[text] for text in wanted.tolist()]))
    expected = multiple_negatives_ranking_loss(
        queries["sentence_embedding"],
        passages,
        torch.from_numpy(batch.positive),
        torch.from_numpy(batch.masked),
        scale=ready.config.train.scale,
    )
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    own = dict(model[0].auto_model.named_parameters())
    for name, gradient in found.items():
        whole = name.removeprefix("transformer.").replace("layer.1.", "layer.2.").replace("layer.0.", "layer.1.")
        torch.testing.assert_close(gradient, own[whole].grad, atol=1e-5, rtol=1e-3)


def test_what_is_exported_answers_by_two_routes(prepared, tmp_path, tiny_pairs_file):
    ready = prepared()
    inputs = inputs_of(ready)
    winner = trained(ready, inputs)
    folder = tmp_path / "out"
    export(ready, winner, {"results": {}}, folder, training_log="", overwrite=False, view=View())
    assert files.find_faults(folder) == []
    model, base, texts = SentenceTransformer(str(folder), device="cpu"), ready.encoder.model, ["a hot pump", "x y z"]
    tuned = with_weights(ready.encoder, 1, winner.weights).model
    np.testing.assert_allclose(model.encode_query(texts), tuned.encode(texts), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(texts), base.encode(texts), atol=1e-5)
    np.testing.assert_allclose(model.encode(texts), base.encode(texts), atol=1e-5)

    again, collection = load(str(folder)), ready.collection
    numbers = np.arange(len(collection.texts))
    part = upper_for(ready.encoder, inputs)
    part.load_trained_state(winner.weights)
    expected = embed(part, feed(inputs, "cpu"), numbers)
    np.testing.assert_allclose(encoder_embeddings(again, collection, numbers, 64), expected, atol=1e-5)
    service = files.load(folder)
    np.testing.assert_allclose(service.encode_query(texts), tuned.encode(texts), atol=1e-5)
    np.testing.assert_allclose(service.encode_document(texts), base.encode(texts), atol=1e-5)
    compared = compare_with_base(str(folder), tiny_pairs_file, "validation")
    assert compared.results["model"] == pytest.approx(
        {name: winner.metrics[name] for name in compared.results["model"]}, abs=1e-6
    )


def test_what_such_a_model_cannot_be_used_for_is_said(prepared, tmp_path, tiny_pairs_file):
    ready = prepared()
    folder = tmp_path / "out"
    winner = trained(ready, inputs_of(ready))
    export(ready, winner, {"results": {}}, folder, training_log="", overwrite=False, view=View())
    given = {"overwrite": False, "say": lambda _: None}
    with pytest.raises(
        InputError, match=r"embeds queries and passages with different weights .* use the folder itself"
    ):
        onnx.convert(folder, tmp_path / "graph", "onnx", tiny_pairs_file, **given)
    with pytest.raises(InputError, match=r"with different weights, and one set is tuned here; name its base model"):
        prepared(base_model=str(folder))


def test_general_texts_and_the_retention_set_keep_their_passages(prepared, tiny_pairs):
    from nic_ray.dataset.pairs import index_pairs

    ready = prepared()
    ready = dataclasses.replace(
        ready, measuring=tuple(f"a {word} thing" for word in "hot cold red old new".split() * 3)
    )
    winner = trained(ready, inputs_of(ready))
    general = load_general_text(ready, [1])
    assert neighbours_kept(ready, general, winner) == 1.0
    retention_set = load_retention_set(ready, index_pairs(tiny_pairs), [1])
    fixed = retention_set.inputs[1].fixed
    assert (np.isnan(fixed[:, 0]) == retention_set.collection.is_query).all()


def test_nothing_holds_what_keeps_still():
    with pytest.raises(ValueError, match="anchor must be 0 with trains: queries, got 3"):
        Config.model_validate({"train": {"trains": "queries", "anchor": 3}})
    with pytest.raises(ValueError, match=r"space\.anchor: must be left out with trains: queries"):
        Config.model_validate({"train": {"trains": "queries"}, "space": {"anchor": {"choice": [0, 3]}}})
