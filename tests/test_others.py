"""What a guide and a teacher bring into a training, against Sentence Transformers' own losses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from nic_ray.config import Config
from nic_ray.dataset.pairs import index_pairs, relevant_passages
from nic_ray.errors import InputError
from nic_ray.model.activations import frozen_inputs, upper_for
from nic_ray.model.base import load
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop
from nic_ray.training import others as rooms
from nic_ray.training.batches import OtherModels, make_batch
from nic_ray.training.loss import distillation_by_kl, distillation_by_margin
from nic_ray.training.others import TEACHER_SCALE, other_models
from nic_ray.training.prepared import Prepared, prepare, training_data

SCALE = 15.0


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def cross_encoder(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cross")
    words = AutoTokenizer.from_pretrained(tiny_model("bert"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), pad_token_id=1, num_labels=1, initializer_range=0.3, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def prepared(tiny_model, tiny_pairs_file) -> Callable[..., Prepared]:
    def make(space=None, **train) -> Prepared:
        settings = {
            "base_model": str(tiny_model("bert", 3)), "frozen_layers": 1, "max_tokens": 64, "precision": "fp32",
            "batch_size": 8, "epochs": 1, "learning_rate": 1e-3, "hidden_dropout": 0.0,
        }  # fmt: skip
        data = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        guard = {"retention_set": None, "min_neighbours_kept": 0}
        sections = {"data": data, "train": settings | train, "guard": guard, "space": space or {}}
        return prepare(Config.model_validate(sections), on_gpu=False)

    return make


def loss_of(prepared: Prepared) -> float:
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, [1])[1]
    data = training_data(prepared, inputs, prepared.rows("train"))
    (evaluation,) = loop.fit(prepared.config.train, upper_for(prepared.encoder, inputs), data, loop.UNJUDGED)
    return evaluation.metrics["loss"]


@pytest.mark.parametrize("way", ["kl", "margin"])
def test_the_distance_from_a_teacher_is_that_of_sentence_transformers(way):
    columns = [rows(5, seed) for seed in range(4)]  # queries, positives, two negatives each
    scores = rows(5, 9)[:, :3] * 3
    ours, theirs = ([each.clone().requires_grad_() for each in columns] for _ in range(2))
    taught = torch.full((5, 15), torch.nan, dtype=torch.float64)
    for row in range(5):
        taught[row, [row, 5 + row, 10 + row]] = scores[row]
    if way == "kl":
        found = distillation_by_kl(ours[0], torch.cat(ours[1:]), taught, scale=SCALE)
        reference = DistillKLDivLoss(torch.nn.Identity(), similarity_fct=lambda *ab: SCALE * pairwise_cos_sim(*ab))
    else:
        found = distillation_by_margin(ours[0], torch.cat(ours[1:]), taught, torch.arange(5), scale=SCALE)
        reference = MarginMSELoss(torch.nn.Identity(), similarity_fct=lambda *ab: SCALE * pairwise_cos_sim(*ab))
    expected = reference.compute_loss_from_embeddings(theirs, scores)
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-12)


def test_a_teacher_that_embeds_texts_scores_every_passage_of_a_batch(tiny_model, tiny_pairs):
    collection, teacher = index_pairs(tiny_pairs), str(tiny_model("mpnet", 3))
    others = other_models(TrainConfig(teacher=teacher), collection, "cpu")
    batch = make_batch(collection, relevant_passages(collection), np.arange(9), 1, others=others)
    model = load(teacher).model
    queries = model.encode_query([collection.texts[text] for text in batch.texts[batch.queries].tolist()])
    passages = model.encode_document([collection.texts[text] for text in batch.texts[batch.passages].tolist()])
    np.testing.assert_allclose(batch.taught, TEACHER_SCALE * model.similarity(queries, passages), atol=1e-4)


def test_a_cross_encoder_scores_a_rows_own_passages(cross_encoder, tiny_pairs):
    collection = index_pairs(tiny_pairs)
    config = TrainConfig(teacher=str(cross_encoder), hard_negatives=1)
    others = other_models(config, collection, "cpu")
    numbers = np.arange(1, 7)
    batch = make_batch(collection, relevant_passages(collection), numbers, 1, others=others)
    teacher = CrossEncoder(str(cross_encoder), device="cpu")
    texts, expected = collection.texts, np.full(batch.masked.shape, np.nan)
    for place, row in enumerate(numbers.tolist()):
        pair = tiny_pairs[row]
        for passage in (pair.positive, *pair.negatives[:1]):
            column = next(at for at, text in enumerate(batch.texts[batch.passages]) if texts[text] == passage)
            logits = teacher.predict([(pair.query, passage)], activation_fn=torch.nn.Identity())
            expected[place, column] = logits[0]
    np.testing.assert_allclose(batch.taught, expected, atol=1e-4)
    assert np.isnan(batch.taught).any()


def test_a_guide_and_a_teacher_change_the_loss_of_a_training(prepared, tiny_model, cross_encoder):
    other, plain = str(tiny_model("mpnet", 3)), loss_of(prepared())
    assert loss_of(prepared()) == plain
    assert loss_of(prepared(guide=other)) < plain  # with fewer negatives the choice is easier
    with_teacher = loss_of(prepared(teacher=other))
    assert with_teacher > plain
    assert plain < loss_of(prepared(teacher=other, distillation_weight=0.5)) < with_teacher
    assert loss_of(prepared(teacher=other, distillation="margin")) != with_teacher
    assert loss_of(prepared(teacher=str(cross_encoder), hard_negatives=1)) > plain


@pytest.mark.parametrize("kind", ["guide", "teacher", "cross-encoder"])
def test_what_others_make_of_the_texts_is_kept_for_the_next_run(
    tiny_model, cross_encoder, tiny_pairs, tmp_path, monkeypatch, kind
):
    collection, other = index_pairs(tiny_pairs), str(tiny_model("mpnet", 3))
    config = TrainConfig(teacher=str(cross_encoder)) if kind == "cross-encoder" else TrainConfig(**{kind: other})
    made: list[str] = []

    def counted(name, function):
        return lambda *given, **how: (made.append(name), function(*given, **how))[1]

    monkeypatch.setattr(rooms, "encoder_embeddings", counted("embeddings", rooms.encoder_embeddings))
    monkeypatch.setattr(CrossEncoder, "predict", counted("scores", CrossEncoder.predict))
    plain, first, second = (other_models(config, collection, "cpu", place) for place in (None, tmp_path, tmp_path))
    assert len(made) == 2
    for found in (first, second):
        for field in ("guide", "teacher", "pair_scores"):
            np.testing.assert_array_equal(getattr(found, field), getattr(plain, field))
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"?")  # a damaged file is made again
    other_models(config, collection, "cpu", tmp_path)
    assert len(made) == 3
    other_models(config.model_copy(update={"max_tokens": 9}), collection, "cpu", tmp_path)
    other_models(config, index_pairs(tiny_pairs[:20]), "cpu", tmp_path)
    assert len(made) == 5


def test_another_pooling_of_the_same_weights_is_another_guide(changed_model, tiny_pairs, tmp_path):
    collection = index_pairs(tiny_pairs)
    found = [
        other_models(TrainConfig(guide=str(folder)), collection, "cpu", tmp_path).guide
        for folder in (changed_model(behind=[Pooling(32, mode)]) for mode in ("mean", "cls"))
    ]
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_a_cross_encoder_scores_as_many_negatives_as_any_trial_uses(prepared, cross_encoder):
    ready = prepared(teacher=str(cross_encoder), hard_negatives=0, space={"hard_negatives": {"choice": [0, 1]}})
    assert ready.others.pair_scores.shape == (len(ready.parts), 2)


def test_margins_that_a_batch_has_none_of_cost_nothing():
    queries, passages = (part.requires_grad_() for part in (rows(2, 0), rows(2, 1)))
    taught = torch.full((2, 2), float("nan"), dtype=torch.float64).fill_diagonal_(1.0)
    found = distillation_by_margin(queries, passages, taught, torch.arange(2), scale=SCALE)
    found.backward()
    assert found.item() == 0
    assert not queries.grad.isnan().any()


@pytest.mark.parametrize("role", ["guide", "teacher"])
def test_what_is_no_model_is_named_by_its_setting(prepared, tmp_path, role):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=rf"^train\.{role}: .*holds no model"):
        prepared(**{role: str(tmp_path / "empty")})


def test_a_cross_encoder_without_negatives_is_refused(cross_encoder, tiny_pairs):
    config = TrainConfig(teacher=str(cross_encoder), hard_negatives=0)
    with pytest.raises(InputError, match=r"scores the hard negatives of the rows, and there are none; find some with"):
        other_models(config, index_pairs(tiny_pairs), "cpu")


def test_no_other_model_leaves_a_batch_as_it_was(tiny_pairs):
    collection = index_pairs(tiny_pairs)
    batch = make_batch(collection, relevant_passages(collection), np.arange(5), 0, others=OtherModels())
    assert batch.taught is None
