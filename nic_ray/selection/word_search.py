"""A search by words (BM25) beside a model: alone, and with both scores fused in the way that validation rows choose."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.evidence import StoredFusion
from nic_ray.metrics.calibration import FirstHits
from nic_ray.metrics.fusion import FUSIONS, RANKS, VECTORS, WORDS, Fusion, Scored, best_fusion
from nic_ray.metrics.intervals import Queries, lower_bound
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import PRIMARY, of_one_ranking
from nic_ray.model.evaluation import first_hits_of, fused_scores
from nic_ray.selection.scoring import Scorer, Weights

WITH_WORDS = "tuned + BM25"
"""The tuned model with its chosen fusion, as a key in results."""
CONFIDENCE = 0.99
"""One-sided confidence with which a fusion must be better than the model alone to be what is retrieved by: high, since
the same rows have chosen it."""


@dataclass(frozen=True)
class ChosenFusion:
    """The fusion of a model with a search by words, chosen on the validation rows."""

    best: Fusion
    """The better one of `forms`."""
    forms: tuple[Fusion, ...]
    """Fusion by ranks, and by scores with the best weight."""
    scores: Scored
    """Those of `forms`, of BM25 alone and of the model alone, for each validation query."""
    helps: bool
    """Whether more is surely found by `best` than by the model alone, whatever the choice of the passages."""

    first_hits: FirstHits
    """The first hits of the validation queries by `ranking`."""

    @property
    def ranking(self) -> Fusion:
        """How passages are ranked where the model serves: by `best` if that helps, else by the model alone."""
        return self.best if self.helps else VECTORS


def choose_fusion(
    scorer: Scorer, weights: Weights | None, rows: NDArray[np.int64], queries: Queries, objective: str
) -> ChosenFusion:
    """Choose the fusion of a model with a search by words that is best by an objective.

    Args:
        weights: the model's weights; None for the base model.
        rows: the validation rows.
        queries: passages and domains of these rows.
        objective: as `table.checked_objective` returns it.
    """
    asked = scorer.asked(weights, rows.tolist())
    scores = fused_scores(asked, (WORDS, VECTORS, *FUSIONS))
    results = {fusion: flat_metrics(scores[fusion], queries.domains) for fusion in FUSIONS}
    objective = of_one_ranking(objective)
    by_scores = best_fusion({fusion: flat for fusion, flat in results.items() if fusion != RANKS}, objective)
    best = best_fusion({fusion: results[fusion] for fusion in (RANKS, by_scores)}, objective)
    bound = lower_bound(
        scores[best][PRIMARY], scores[VECTORS][PRIMARY], queries.passages, queries.domains, confidence=CONFIDENCE
    )
    helps = bound is not None and bound > 0
    kept = {fusion: scores[fusion] for fusion in (WORDS, VECTORS, RANKS, by_scores)}
    hits = first_hits_of(asked, best if helps else VECTORS)
    return ChosenFusion(best, (RANKS, by_scores), kept, helps, hits)


def stored(fusion: Fusion) -> StoredFusion:
    """A fusion in the form in which it is stored."""
    assert fusion.form != "words"  # no model is served without its vectors
    return {"form": fusion.form, "weight": fusion.weight}
