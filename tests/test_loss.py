"""The loss against loops, against Sentence Transformers, and against laws it must obey."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss, MultipleNegativesRankingLoss
from torch import Tensor

from nic_ray.dataset.pairs import Pair, index_pairs, relevant_passages
from nic_ray.train_config import TrainConfig
from nic_ray.training.batches import OtherModels, make_batch
from nic_ray.training.loss import LOSSES, at_dimensions, multiple_negatives_ranking_loss, symmetric_ranking_loss


def rows(count: int, width: int = 8, seed: int = 0) -> Tensor:
    """Seeded random rows of no particular length, (count, width) float64."""
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def nothing(queries: int, passages: int) -> Tensor:
    return torch.zeros(queries, passages, dtype=torch.bool)


def test_matches_the_definition_written_as_loops():
    queries, passages, positive = rows(4), rows(6, seed=1), [1, 1, 4, 0]
    masked = nothing(4, 6)
    masked[0, 2] = masked[2, 0] = masked[2, 5] = masked[3, 3] = True
    expected = 0.0
    for i, own in enumerate(positive):
        logits = {}
        for j in range(6):
            if j == own or not masked[i, j]:
                product = sum(float(a) * float(b) for a, b in zip(queries[i], passages[j], strict=True))
                logits[j] = 7.0 * product / math.hypot(*queries[i].tolist()) / math.hypot(*passages[j].tolist())
        expected += math.log(sum(math.exp(x) for x in logits.values())) - logits[own]
    loss = multiple_negatives_ranking_loss(queries, passages, torch.tensor(positive), masked, scale=7.0)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-12)


@pytest.mark.parametrize("hard_negatives", [0, 1, 3])
def test_value_and_gradients_are_those_of_sentence_transformers_when_no_passage_repeats(hard_negatives):
    ours = [rows(5, seed=seed).requires_grad_() for seed in range(2 + hard_negatives)]
    theirs = [column.detach().clone().requires_grad_() for column in ours]
    total = 5 * (1 + hard_negatives)
    loss = multiple_negatives_ranking_loss(ours[0], torch.cat(ours[1:]), torch.arange(5), nothing(5, total))
    # The loss takes embeddings here, so the model it must be given is never called.
    reference = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0).compute_loss_from_embeddings(
        theirs, labels=torch.empty(0)
    )
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    for column, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(column.grad, expected.grad, rtol=1e-10, atol=1e-14)


def test_a_masked_passage_changes_neither_the_loss_nor_any_gradient():
    queries, passages, second_answer = rows(3), rows(4, seed=1), torch.zeros(3, 5, dtype=torch.bool)
    second_answer[:, 4] = True
    results = []
    for candidates, masked in (
        (passages, nothing(3, 4)),
        (torch.cat([passages, queries[:1]]), second_answer),
    ):
        leaves = queries.clone().requires_grad_(), candidates.clone().requires_grad_()
        loss = multiple_negatives_ranking_loss(*leaves, torch.tensor([0, 1, 2]), masked)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    (alone, alone_queries, alone_passages), (beside, beside_queries, beside_passages) = results
    assert beside.item() == pytest.approx(alone.item(), rel=1e-12)
    torch.testing.assert_close(beside_queries, alone_queries)
    torch.testing.assert_close(beside_passages, torch.cat([alone_passages, torch.zeros(1, 8, dtype=torch.float64)]))


def test_an_unmasked_second_answer_does_change_the_loss():
    queries, passages, positive = rows(1), torch.cat([rows(2, seed=1), rows(1)]), torch.tensor([0])
    masked = torch.tensor([[False, False, True]])
    without = multiple_negatives_ranking_loss(queries, passages, positive, masked)
    assert multiple_negatives_ranking_loss(queries, passages, positive, nothing(1, 3)).item() > without.item() + 0.1


def test_the_mask_at_the_positive_itself_is_ignored():
    queries, passages, positive = rows(3), rows(4, seed=1), torch.tensor([3, 0, 0])
    own = nothing(3, 4)
    own[torch.arange(3), positive] = True
    loss = multiple_negatives_ranking_loss(queries, passages, positive, own)
    assert loss.item() == multiple_negatives_ranking_loss(queries, passages, positive, nothing(3, 4)).item()


def test_arguments_are_left_as_they_were():
    arguments = rows(2), rows(3, seed=1), torch.tensor([0, 2]), torch.ones(2, 3, dtype=torch.bool)
    before = [argument.clone() for argument in arguments]
    multiple_negatives_ranking_loss(*arguments)
    assert all(torch.equal(argument, copy) for argument, copy in zip(arguments, before, strict=True))


@pytest.mark.parametrize("passages", [1, 2, 37])
def test_equal_cosines_cost_log_p(passages):
    same = torch.ones(3, 4, dtype=torch.float64), torch.ones(passages, 4, dtype=torch.float64)
    loss = multiple_negatives_ranking_loss(*same, torch.zeros(3, dtype=torch.int64), nothing(3, passages))
    assert loss.item() == pytest.approx(math.log(passages), abs=1e-12)


def test_the_length_of_an_embedding_does_not_matter():
    queries, passages, positive = rows(3), rows(5, seed=1), torch.tensor([4, 2, 0])
    stretched = queries * torch.tensor([[3.0], [0.01], [1.0]]), passages * 50.0
    loss = multiple_negatives_ranking_loss(*stretched, positive, nothing(3, 5))
    assert loss.item() == pytest.approx(
        multiple_negatives_ranking_loss(queries, passages, positive, nothing(3, 5)).item(), rel=1e-12
    )


def test_one_sure_and_one_mistaken_query_worked_by_hand():
    axes = torch.eye(2, dtype=torch.float64)
    loss = multiple_negatives_ranking_loss(axes, axes, torch.tensor([0, 0]), nothing(2, 2), scale=3.0)
    assert loss.item() == pytest.approx((math.log1p(math.exp(-3)) + math.log1p(math.exp(3))) / 2)


def test_a_broken_embedding_gives_a_broken_loss_and_no_error():
    queries = rows(2)
    queries[0, 0] = math.nan
    assert multiple_negatives_ranking_loss(queries, rows(2, seed=1), torch.arange(2), nothing(2, 2)).isnan()


@pytest.mark.parametrize("scale", [0.0, -20.0, math.nan])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match=f"scale must be > 0, got {scale}"):
        multiple_negatives_ranking_loss(rows(2), rows(2), torch.arange(2), nothing(2, 2), scale=scale)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"queries": rows(2, width=7)}, r"queries \(2, 7\), passages \(3, 8\)"),
        ({"queries": rows(1)[0]}, r"queries \(8,\)"),
        ({"passages": rows(4)}, r"passages \(4, 8\).*masked \(2, 3\)"),
        ({"positive": torch.arange(3)}, r"positive \(3,\)"),
        ({"positive": torch.zeros(2, 1, dtype=torch.int64)}, r"positive \(2, 1\)"),
        ({"masked": nothing(3, 2)}, r"masked \(3, 2\)"),
        ({"masked": nothing(1, 3)}, r"masked \(1, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(changed, found):
    fitting = {"queries": rows(2), "passages": rows(3), "positive": torch.arange(2), "masked": nothing(2, 3)}
    with pytest.raises(ValueError, match=rf"want \(B, D\), \(P, D\), \(B,\), \(B, P\), got .*{found}"):
        multiple_negatives_ranking_loss(**fitting | changed)


def test_the_symmetric_loss_is_that_of_sentence_transformers_when_no_passage_repeats():
    ours = [rows(5, seed=seed).requires_grad_() for seed in range(2)]
    theirs = [column.detach().clone().requires_grad_() for column in ours]
    loss = symmetric_ranking_loss(*ours, torch.arange(5), nothing(5, 5), scale=15.0)
    ways = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    reference = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=15.0, **ways).compute_loss_from_embeddings(
        theirs, labels=torch.empty(0)
    )
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    for column, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(column.grad, expected.grad, rtol=1e-10, atol=1e-14)


def test_a_passage_is_not_kept_from_another_query_that_it_answers():
    queries, passages = rows(4), rows(3, seed=1)
    positive, masked = torch.tensor([0, 0, 1, 2]), nothing(4, 3)
    masked[3, 1] = True  # the second passage answers the last query as well
    cosines = 20.0 * torch.cosine_similarity(passages[positive][:, None], queries[None], dim=2)
    others = [[0, 2, 3], [1, 2, 3], [0, 1, 2], [0, 1, 2, 3]]
    backward = [torch.logsumexp(cosines[row, others[row]], 0) - cosines[row, row] for row in range(4)]
    forward = multiple_negatives_ranking_loss(queries, passages, positive, masked)
    found = symmetric_ranking_loss(queries, passages, positive, masked)
    assert found.item() == pytest.approx(((forward + torch.stack(backward).mean()) / 2).item(), rel=1e-12)


def test_the_loss_at_several_dimensions_is_that_of_sentence_transformers():
    columns = [rows(5, width=16, seed=seed) for seed in range(2)]
    loss = at_dimensions(multiple_negatives_ranking_loss, [4, 8, None])
    inner = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0)
    expected = sum(
        inner.compute_loss_from_embeddings([column[:, :width] for column in columns], labels=torch.empty(0))
        for width in (4, 8, 16)
    )
    assert loss(*columns, torch.arange(5), nothing(5, 5), scale=20.0).item() == pytest.approx(expected.item())


def test_negatives_of_a_guide_are_those_of_sentence_transformers(tiny_model, tiny_pairs):
    """The loss of GISTEmbed on the same batch, by a guide of other random weights with the same tokenizer."""
    model, guide = (SentenceTransformer(str(tiny_model(*kind)), device="cpu") for kind in (("bert", 2), ("bert", 3)))
    pairs = list({pair.positive: pair for pair in tiny_pairs}.values())[:12]
    collection = index_pairs([Pair(pair.query, pair.positive, pair.domain) for pair in pairs])
    vars(collection)["near_group"] = np.arange(len(collection.texts))  # theirs knows no near-duplicates
    by_guide = guide.encode(list(collection.texts), normalize_embeddings=True)
    batch = make_batch(collection, relevant_passages(collection), np.arange(12), 0, others=OtherModels(by_guide))
    assert batch.masked.any()
    embeddings = torch.from_numpy(model.encode([collection.texts[text] for text in batch.texts.tolist()]))
    ours = multiple_negatives_ranking_loss(
        embeddings[batch.queries],
        embeddings[batch.passages],
        torch.from_numpy(batch.positive),
        torch.from_numpy(batch.masked),
        scale=20.0,
    )
    theirs = GISTEmbedLoss(model, guide, temperature=1 / 20, contrast_anchors=False, contrast_positives=False)
    features = [model.preprocess([getattr(pair, side) for pair in pairs]) for side in ("query", "positive")]
    model.eval()
    assert ours.item() == pytest.approx(theirs(features, torch.empty(0)).item(), abs=1e-5)


def test_the_names_of_the_losses_are_those_of_the_setting():
    assert tuple(LOSSES) == get_args(TrainConfig.model_fields["loss"].annotation)
