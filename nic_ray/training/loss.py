"""The training objective: out of all passages of a batch, pick the one that answers the query."""

from typing import Protocol

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
