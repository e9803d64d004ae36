"""Fusion of a search by vectors with a search by words (BM25): how both scores of a passage become one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import maximised, metrics_in
from nic_ray.results import Flat

Form = Literal["vectors", "words", "scores", "ranks"]

RANK_CONSTANT = 60
"""What is added to a rank before its reciprocal is taken. Source: Cormack, Clarke and Büttcher 2009, SIGIR, 758-759."""

WEIGHTS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)
"""Weights of BM25 that are tried. On English questions its scores reach 10 to 40, cosines differ by a few tenths."""


@dataclass(frozen=True)
class Fusion:
    """A way to score a passage from its similarity to a query and from its BM25 score."""

    form: Form
    """"vectors": the similarity alone. "words": BM25 alone. "scores": the similarity + `weight` * BM25. "ranks": the
    sum of the reciprocal ranks by both."""
    weight: float = 0.0
    """The factor of BM25 in "scores"; 0 for the other forms."""

    def __str__(self) -> str:
        """Describe the scoring in a few words."""
        if self.form == "scores":
            return f"similarity + {self.weight:g} BM25"
        return {"vectors": "similarity", "words": "BM25", "ranks": "reciprocal rank fusion"}[self.form]


VECTORS, WORDS, RANKS = Fusion("vectors"), Fusion("words"), Fusion("ranks")
FUSIONS = (RANKS, *(Fusion("scores", weight) for weight in WEIGHTS))
"""The fusions to choose from."""


Scored = Mapping[Fusion, Mapping[str, NDArray[np.float64]]]
"""Fusion -> metric -> its value for each query, (Q,)."""


def fused(
    similarity: NDArray[np.floating],
    by_words: NDArray[np.floating],
    fusion: Fusion,
    ignored: NDArray[np.bool_] | None = None,
) -> NDArray[np.floating]:
    """Score passages by their similarity to a query and by their words.

    Args:
        similarity: (Q, C) similarity of each passage to each query.
        by_words: (Q, C) BM25 scores, 0 where no word is shared.
        ignored: (Q, C) bool, True where the passage is left out of the query's ranking, and so takes no rank from
            another one. What it scores itself means nothing.

    Returns:
        (Q, C) scores; higher is better. By ranks they lie in [0, 2]: a first place by either search counts 1, and a
        passage that shares no word with the query is not in the list of the search by words. Passages with equal
        scores share the last of their ranks.
    """
    if fusion.form == "vectors":
        return similarity
    if fusion.form == "words":
        return by_words
    if fusion.form == "scores":
        return similarity + np.float32(fusion.weight) * by_words
    if ignored is not None:
        similarity, by_words = np.where(ignored, -np.inf, similarity), np.where(ignored, 0.0, by_words)
    return _reciprocal_ranks(similarity) + np.where(by_words > 0, _reciprocal_ranks(by_words), 0.0)


def _reciprocal_ranks(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    from scipy.stats import rankdata  # a trial that does not search by words starts sooner without it

    reciprocal: NDArray[np.float64] = (RANK_CONSTANT + 1) / (RANK_CONSTANT + rankdata(-scores, method="max", axis=1))
    return reciprocal


def best_fusion(results: Mapping[Fusion, Mapping[str, float]], objective: str) -> Fusion:
    """Return the fusion with the best objective; of equal ones the first.

    Args:
        results: fusion -> flat metrics.
        objective: as `table.checked_objective` returns it.
    """
    return max(results, key=lambda fusion: maximised(results[fusion], objective))


def ranking_figures(scored: Mapping[str, Scored], domains: Sequence[str]) -> dict[str, Flat]:
    """Compute the macro metrics of BM25, and of each model alone and fused with it.

    Args:
        scored: model -> its scores.
        domains: (Q,) domain of each query.

    Returns:
        "BM25", a model, or a model and its fusion, such as "tuned, similarity + 0.03 BM25" -> macro metrics.
    """
    figures: dict[str, Flat] = {}
    for model, by_fusion in scored.items():
        for fusion, scores in by_fusion.items():
            flat = flat_metrics(scores, domains)
            label = {VECTORS: model, WORDS: "BM25"}.get(fusion, f"{model}, {fusion}")
            figures[label] = {f"{name}/macro": flat[f"{name}/macro"] for name in metrics_in(flat)}
    return figures
