"""What models are worth on some rows: the base model, and weights that were trained above one of its blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.dataset.pairs import Collection
from nic_ray.errors import InputError
from nic_ray.metrics.bootstrap import Queries
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model.activations import Inputs, feed, upper_for
from nic_ray.model.evaluation import embed, query_scores, texts_to_score
from nic_ray.training.prepared import Prepared

Weights = Mapping[str, Tensor]
"""Of the blocks above a cut, by the names of `Upper.trained_state`."""


@dataclass(frozen=True)
class Scorer:
    """Scores models that are alike below one cut: weights above it, and the base model, for which None stands.

    What is trained is trained for cosine and ranks by it; the base model ranks by the similarity that its owner means.
    """

    prepared: Prepared
    inputs: Inputs
    """Of all texts, at the cut of the weights."""
    collection: Collection | None = None
    """Whose texts these are; None for the prepared one."""

    def embeddings(
        self, weights: Weights | None, texts: NDArray[np.int64], *, done: Callable[[int], None] = lambda _: None
    ) -> NDArray[np.float32]:
        """(n, D) embeddings of texts.

        Args:
            texts: (n,) their numbers.
            done: is told how many more of them are embedded.
        """
        upper = upper_for(self.prepared.encoder, self.inputs).to(self.prepared.device)
        if weights is not None:
            upper.load_trained_state(weights)
        return embed(upper, feed(self.inputs, self.prepared.device), texts, bf16=self.prepared.bf16, done=done)

    def scores(self, weights: Weights | None, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Every metric of each row's query, (rows,).

        Raises:
            InputError: an embedding by the base model is not finite.
            ValueError: one by the weights is not.
        """
        collection = self.collection or self.prepared.collection
        embeddings = self.embeddings(weights, texts_to_score(collection, rows.tolist()))
        if weights is None:
            return base_scores(self.prepared, embeddings, rows, collection)
        return query_scores(embeddings, texts_to_score(collection, rows.tolist()), collection, rows.tolist())

    def metrics(self, weights: Weights | None, rows: NDArray[np.int64]) -> dict[str, float]:
        """Flat metrics of some rows; raises what `scores` does."""
        domains = (self.collection or self.prepared.collection).domains
        return flat_metrics(self.scores(weights, rows), [domains[row] for row in rows.tolist()])


def base_scores(
    prepared: Prepared, embeddings: NDArray[np.float32], rows: NDArray[np.int64], collection: Collection
) -> dict[str, NDArray[np.float64]]:
    """Every metric of each row's query, (rows,), by the base model.

    Args:
        embeddings: (n, D), of `texts_to_score` of the rows.

    Raises:
        InputError: they are not finite.
    """
    texts = texts_to_score(collection, rows.tolist())
    try:
        return query_scores(embeddings, texts, collection, rows.tolist(), similarity=prepared.encoder.similarity)
    except ValueError:
        raise InputError(
            f"{prepared.encoder.name}: gives embeddings that are not finite, so there is nothing to tune; name "
            "another train.base_model"
        ) from None


def deepest(inputs: Mapping[int, Inputs]) -> Inputs:
    """Of inputs by depth those that the base model is read from: its own weights lie above any cut, and fewest here."""
    return inputs[max(inputs)]


def queries_of(prepared: Prepared, part: str) -> Queries:
    """Passage and domain of each row of a part; passages that are nearly the same count as one."""
    rows = prepared.rows(part)
    return Queries(prepared.passages[rows], [prepared.collection.domains[row] for row in rows.tolist()])
