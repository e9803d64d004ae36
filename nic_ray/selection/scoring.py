"""Evaluation on some rows of the base model and of weights that were trained above one of its blocks."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.dataset.pairs import Collection
from nic_ray.errors import InputError
from nic_ray.metrics.intervals import Queries, count_passages
from nic_ray.metrics.ranking import Similarity, flat_metrics
from nic_ray.model.activations import Inputs, feed, upper_for
from nic_ray.model.encoder import with_weights
from nic_ray.model.evaluation import Asked, embed, judged_scores, texts_to_score
from nic_ray.protocol import unit_of_groups
from nic_ray.training.distractors import embed_passages
from nic_ray.training.prepared import Prepared

Weights = Mapping[str, Tensor]
"""Weights of the blocks above a cut, by the names of `Upper.trained_state`."""


@dataclass(frozen=True)
class Scorer:
    """Evaluates models that differ only above one cut: a model is given by its weights there, the base model by None.

    Trained weights rank passages by cosine, which they were trained for; the base model ranks them by the similarity
    that its author designed it for.
    """

    prepared: Prepared
    inputs: Inputs
    """Inputs of all texts, at the cut."""
    collection: Collection | None = None
    """The collection of these texts; None for that of `prepared`."""

    def similarity(self, weights: Weights | None) -> Similarity:
        """Return the similarity that passages are ranked by."""
        return self.prepared.encoder.similarity if weights is None else "cosine"

    def embeddings(self, weights: Weights | None, texts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings (n, D) of texts, given by their numbers (n,); those that are known are not computed."""
        return self.prepared.known.of(self.inputs, weights, texts, functools.partial(self.computed, weights))

    def computed(self, weights: Weights | None, texts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the embeddings (n, D) of texts, whether they are known or not."""
        upper = upper_for(self.prepared.encoder, self.inputs).to(self.prepared.device)
        if weights is not None:
            upper.load_trained_state(weights)
        return embed(upper, feed(self.inputs, self.prepared.device), texts, bf16=self.prepared.bf16)

    def asked(self, weights: Weights | None, rows: Sequence[int], *, of_all: bool = False) -> Asked:
        """Embed what is needed to score rows.

        Args:
            of_all: whether all passages of a corpus are ranked, as in the last readings, and not only those that
                every evaluation ranks.
        """
        prepared, collection = self.prepared, self.collection or self.prepared.collection
        texts = texts_to_score(collection, rows)
        embeddings, similarity = self.embeddings(weights, texts), self.similarity(weights)
        if not of_all or self.collection is not None or prepared.corpus is None or not prepared.corpus.beyond:
            return Asked(embeddings, texts, collection, rows, similarity)
        encoder = prepared.encoder
        if weights is not None and prepared.config.train.trains == "both":
            encoder = with_weights(encoder, self.inputs.depth, weights)
        beyond, first = prepared.corpus.beyond, len(collection.texts)
        max_tokens = prepared.config.train.max_tokens
        others = embed_passages(encoder, beyond, max_tokens, device=prepared.device, bf16=prepared.bf16)
        numbers = np.append(texts, np.arange(first, first + len(beyond)))
        return Asked(np.concatenate([embeddings, others]), numbers, prepared.whole, rows, similarity)

    def scores(
        self, weights: Weights | None, rows: NDArray[np.int64], *, of_all: bool = False
    ) -> dict[str, NDArray[np.float64]]:
        """Compute the `judged_scores` of each row's query, (rows,); `of_all` as for `asked`.

        Raises:
            InputError: an embedding by the base model is not finite.
            ValueError: an embedding by trained weights is not finite.
        """
        asked = self.asked(weights, rows.tolist(), of_all=of_all)
        try:
            return judged_scores(asked, self._objective())
        except ValueError:
            if weights is not None:
                raise
            raise InputError(
                f"{self.prepared.encoder.name}: gives embeddings that are not finite, so there is nothing to tune; "
                "name another train.base_model"
            ) from None

    def _objective(self) -> str:
        """The objective of the search; none for another collection, which decides nothing by it."""
        return "" if self.collection is not None else self.prepared.config.search.objective

    def metrics(self, weights: Weights | None, rows: NDArray[np.int64], *, of_all: bool = False) -> dict[str, float]:
        """Compute the flat metrics of some rows; arguments and errors as for `scores`."""
        domains = (self.collection or self.prepared.collection).domains
        return flat_metrics(self.scores(weights, rows, of_all=of_all), [domains[row] for row in rows.tolist()])


def deepest(inputs: Mapping[int, Inputs]) -> Inputs:
    """Return the inputs at the greatest depth: with them, the fewest blocks are run to evaluate the base model."""
    return inputs[max(inputs)]


def queries_of(prepared: Prepared, part: str) -> Queries:
    """Return the passage, or the group by `data.group_by`, and the domain of each row of a part.

    Passages that are nearly the same count as one.
    """
    rows = prepared.rows(part)
    domains = [prepared.collection.domains[row] for row in rows.tolist()]
    return Queries(prepared.groups[rows], domains, unit_of_groups(prepared.config.data.group_by))


def asked_passages(prepared: Prepared, part: str) -> dict[str, int]:
    """Count the passages that the rows of a part ask about, by domain, whatever the rows are grouped by."""
    rows = prepared.rows(part)
    domains = [prepared.collection.domains[row] for row in rows.tolist()]
    return count_passages(Queries(prepared.passages[rows], domains))
