"""What models are worth on some rows: the base model, and weights that were trained above one of its blocks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.dataset.pairs import Collection
from nic_ray.errors import InputError
from nic_ray.metrics.bootstrap import Queries
from nic_ray.metrics.ranking import Similarity, flat_metrics
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

    def similarity(self, weights: Weights | None) -> Similarity:
        """What passages are ranked by."""
        return self.prepared.encoder.similarity if weights is None else "cosine"

    def embeddings(self, weights: Weights | None, texts: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, D) embeddings of texts, (n,) numbers."""
        upper = upper_for(self.prepared.encoder, self.inputs).to(self.prepared.device)
        if weights is not None:
            upper.load_trained_state(weights)
        return embed(upper, feed(self.inputs, self.prepared.device), texts, bf16=self.prepared.bf16)

    def scores(self, weights: Weights | None, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Every metric of each row's query, (rows,).

        Raises:
            InputError: an embedding by the base model is not finite.
            ValueError: one by the weights is not.
        """
        collection, numbers = self.collection or self.prepared.collection, rows.tolist()
        texts = texts_to_score(collection, numbers)
        embeddings = self.embeddings(weights, texts)
        try:
            return query_scores(embeddings, texts, collection, numbers, similarity=self.similarity(weights))
        except ValueError:
            if weights is not None:
                raise
            raise InputError(
                f"{self.prepared.encoder.name}: gives embeddings that are not finite, so there is nothing to tune; "
                "name another train.base_model"
            ) from None

    def metrics(self, weights: Weights | None, rows: NDArray[np.int64]) -> dict[str, float]:
        """Flat metrics of some rows; raises what `scores` does."""
        domains = (self.collection or self.prepared.collection).domains
        return flat_metrics(self.scores(weights, rows), [domains[row] for row in rows.tolist()])


def deepest(inputs: Mapping[int, Inputs]) -> Inputs:
    """Of inputs by depth those that the base model is read from: its own weights lie above any cut, and fewest here."""
    return inputs[max(inputs)]


def queries_of(prepared: Prepared, part: str) -> Queries:
    """Passage and domain of each row of a part; passages that are nearly the same count as one."""
    rows = prepared.rows(part)
    return Queries(prepared.passages[rows], [prepared.collection.domains[row] for row in rows.tolist()])
