"""The training objective: out of all passages of a batch, pick the one that answers the query."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(Protocol):
    """A loss function to minimise, with the arguments and result of `multiple_negatives_ranking_loss`."""

    def __call__(self, queries: Tensor, passages: Tensor, positive: Tensor, masked: Tensor, *, scale: float) -> Tensor:
        """Return the loss, () float."""


def multiple_negatives_ranking_loss(
    queries: Tensor, passages: Tensor, positive: Tensor, masked: Tensor, *, scale: float = 20.0
) -> Tensor:
    """Compute the cross-entropy of choosing each query's positive among the passages, mean over the queries.

    The logits are scaled cosines. Every other passage of the batch serves as a
    negative, unless `masked` says that it answers the query as well: such a passage
    is left out of the softmax, since pushing it away would teach the model a mistake.

    NaN and infinities are passed on rather than refused: looking for them here would
    make every step wait for the accelerator.

    Args:
        queries: (B, D) float, of any length.
        passages: (P, D) float, of any length and any number; queries may share a positive.
        positive: (B,) int in [0, P), the row of each query's positive in `passages`.
        masked: (B, P) bool, True where the passage must not count as a negative of the
            query. Its value at the positive itself is ignored.
        scale: the inverse of the temperature, > 0, without unit. Cosines differ by 2 at
            most, so at scale 1 even a perfect encoder would leave the softmax almost flat.

    Returns:
        () float, in nats. Near 0 when every positive stands out; log(P) when all cosines
        are equal and nothing is masked.

    Raises:
        ValueError: the shapes do not fit together, or the scale is not above 0.

    Source: Henderson et al. 2017, arXiv:1705.00652, section 4.4.
    """
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    _check_shapes(queries, passages, positive, masked)

    cosines = F.normalize(queries, dim=1) @ F.normalize(passages, dim=1).T
    excluded = masked.scatter(1, positive.unsqueeze(1), False)
    return F.cross_entropy((scale * cosines).masked_fill(excluded, float("-inf")), positive)


def symmetric_ranking_loss(
    queries: Tensor, passages: Tensor, positive: Tensor, masked: Tensor, *, scale: float = 20.0
) -> Tensor:
    """Compute the mean of `multiple_negatives_ranking_loss` and of the same choice the other way round.

    The other way round, the query of a row is picked for its passage among the queries of the batch. Queries that the
    passage answers as well are left out. Arguments and result as for `multiple_negatives_ranking_loss`.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
    """
    forward = multiple_negatives_ranking_loss(queries, passages, positive, masked, scale=scale)
    own = F.normalize(passages, dim=1)[positive]
    cosines = own @ F.normalize(queries, dim=1).T
    # (B, B): whether the passage of a row answers the query of another row
    answers = (positive[:, None] == positive[None, :]) | masked[:, positive].T
    rows = torch.arange(len(queries), device=queries.device)
    excluded = answers.scatter(1, rows[:, None], False)
    backward = F.cross_entropy((scale * cosines).masked_fill(excluded, float("-inf")), rows)
    return (forward + backward) / 2


def distillation_by_kl(queries: Tensor, passages: Tensor, taught: Tensor, *, scale: float) -> Tensor:
    """Compute the divergence of the model's choice among passages from a teacher's, () in nats, mean over the queries.

    Args:
        queries: (B, D) float.
        passages: (P, D) float.
        taught: (B, P) the teacher's logits; NaN for passages that are left out of the choice.
        scale: factor of the model's cosines.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    unknown = taught.isnan()
    student = (scale * _cosines(queries, passages)).masked_fill(unknown, float("-inf")).log_softmax(1)
    teacher = taught.masked_fill(unknown, float("-inf")).log_softmax(1)
    parts = teacher.exp() * (teacher - student)
    return parts.masked_fill(unknown, 0.0).sum(1).mean()


def distillation_by_margin(
    queries: Tensor, passages: Tensor, taught: Tensor, positive: Tensor, *, scale: float
) -> Tensor:
    """Compute the mean squared error of the margins between each query's positive and other passages, ().

    Args:
        taught: (B, P) the teacher's logits; NaN for passages that are left out.
        positive: (B,) int, the row of each query's positive in `passages`.

    Source: Hofstaetter et al. 2020, arXiv:2010.02666.
    """
    logits = scale * _cosines(queries, passages)
    wrong = (logits.gather(1, positive[:, None]) - logits) - (taught.gather(1, positive[:, None]) - taught)
    known = (~taught.isnan()).scatter(1, positive[:, None], False)
    # without a hard negative in the batch there is no margin: nothing to learn, and no mean of nothing
    return wrong.masked_fill(~known, 0.0).square().sum() / known.sum().clamp(min=1)


def _cosines(queries: Tensor, passages: Tensor) -> Tensor:
    return F.normalize(queries, dim=1) @ F.normalize(passages, dim=1).T


def at_dimensions(loss: Loss, dimensions: Sequence[int | None]) -> Loss:
    """Return the sum of a loss over embeddings that are cut off at several dimensions (Matryoshka).

    Args:
        dimensions: numbers of leading dimensions; None for all.

    Source: Kusupati et al. 2022, arXiv:2205.13147.
    """

    def total(queries: Tensor, passages: Tensor, positive: Tensor, masked: Tensor, *, scale: float) -> Tensor:
        parts = [loss(queries[:, :width], passages[:, :width], positive, masked, scale=scale) for width in dimensions]
        return torch.stack(parts).sum()

    return total


LOSSES: Mapping[str, Loss] = {"ranking": multiple_negatives_ranking_loss, "symmetric": symmetric_ranking_loss}
"""Losses by the name that `train.loss` gives them."""


def distance_to(targets: Tensor, embeddings: Tensor) -> Tensor:
    """Compute the mean of 1 - cosine between embeddings and their targets, () in [0, 2].

    Args:
        targets: (n, D) float, of any length, n at least 1.
        embeddings: (n, D) likewise.
    """
    return (1 - F.cosine_similarity(embeddings, targets, dim=1)).mean()


def _check_shapes(queries: Tensor, passages: Tensor, positive: Tensor, masked: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (queries, passages, positive, masked)]
    if queries.ndim == passages.ndim == 2:
        (batch, width), total = shapes[0], len(passages)
        if shapes[1:] == [(total, width), (batch,), (batch, total)]:
            return
    names = ("queries", "passages", "positive", "masked")
    listed = ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
    raise ValueError(f"shapes do not fit: want (B, D), (P, D), (B,), (B, P), got {listed}")
