"""How well queries retrieve their passages from the whole corpus, domain by domain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nic_ray.metrics.table import METRICS, is_fused

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
"""How the similarity of passage and query is computed, by Sentence Transformers' names; distances are negated."""

# A matrix product rounds the same pair of vectors differently at different places of the
# matrix, by about 1e-7 for float32 cosines, so an exact comparison would break true ties by chance.
_ROUNDING = 1e-6

# Scores held in memory at once (4 bytes each), whatever the number of queries.
_BLOCK_SCORES = 2**20


def relevance_by_rank(
    scores: NDArray[np.floating], relevant: NDArray[np.bool_], ignored: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Lay out each query's relevant passages by rank, best score first.

    Ties count against the model: a relevant passage ranks behind every irrelevant one
    whose score is equal, or lower by no more than rounding (1e-6). An encoder that maps
    all texts to one point therefore finds nothing instead of everything.

    Args:
        scores: (Q, C) similarity of each query to each passage, finite.
        relevant: (Q, C) bool, True where the passage answers the query.
        ignored: (Q, C) bool, True where the passage is left out of the query's ranking, whatever its score; no such
            passage is relevant.

    Returns:
        (Q, C) bool: column r tells whether the passage at rank r + 1 is relevant.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        raise ValueError(f"scores must be finite, {np.count_nonzero(~finite)} of {scores.size} are not")
    rows, columns = np.nonzero(relevant)
    relevant_scores = scores[rows, columns]
    best_first = np.lexsort((-relevant_scores, rows))
    relevant_scores = relevant_scores[best_first]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)  # 0 for a query's best relevant passage

    # Only the relevant passages need a rank, so rivals are counted and nothing is sorted.
    irrelevant = np.where(relevant if ignored is None else relevant | ignored, -np.inf, scores)
    ranked = np.zeros_like(relevant)
    for number in range(place.max(initial=-1) + 1):
        here = place == number
        rivals = irrelevant[rows[here]] >= relevant_scores[here, np.newaxis] - _ROUNDING
        ranked[rows[here], number + np.count_nonzero(rivals, axis=1)] = True
    return ranked


def by_domain(values: NDArray[np.float64], domains: Sequence[str], *, direction: int = 1) -> dict[str, float]:
    """Compute the mean of `values` within each domain, then "macro" and "worst" over those means.

    "macro" weighs all domains equally, so that a search cannot buy gains in a large domain
    with losses in a small one; "worst" is the mean of the worst domain.

    Args:
        values: (Q,) one number per query.
        domains: (Q,) the domain of each query, at least one.
        direction: 1 where higher is better, -1 where lower is better.
    """
    names, member = np.unique(np.asarray(domains), return_inverse=True)
    means = np.bincount(member, weights=values) / np.bincount(member)
    inside = {str(name): float(mean) for name, mean in zip(names, means, strict=True)}
    return inside | {"macro": float(means.mean()), "worst": float(means.min() if direction > 0 else means.max())}


def query_metrics(
    queries: NDArray[np.floating],
    corpus: NDArray[np.floating],
    relevant: Sequence[NDArray[np.integer]],
    similarity: Similarity = "cosine",
    ignored: Sequence[NDArray[np.integer]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Compute every metric of the table for every single query, over the whole corpus.

    Queries are scored in blocks, so that the memory for scores does not grow with their number.

    Args:
        queries: (Q, D) embeddings, of any norm; a zero row has cosine 0 with everything.
        corpus: (C, D) embeddings of all passages, of any norm.
        relevant: Q arrays, each naming the rows of `corpus` that answer the query.
        similarity: the similarity that passages are ranked by.
        ignored: Q arrays, each naming rows of `corpus` that are left out of the query's ranking; none is relevant.

    Returns:
        the metrics of `METRICS` by name, each (Q,).

    Raises:
        ValueError: an embedding is not finite, a query has no relevant passage or one
            outside the corpus, or the lengths do not match.
    """
    _check_relevant(relevant, len(queries), len(corpus))
    return _in_blocks(similarities(queries, corpus, similarity), relevant, ignored, len(corpus))


def similarities(
    queries: NDArray[np.floating], corpus: NDArray[np.floating], similarity: Similarity = "cosine"
) -> Callable[[slice], NDArray[np.floating]]:
    """Prepare embeddings for scoring, which is then done for some queries at a time.

    Args:
        queries: (Q, D) embeddings, as for `query_metrics`.
        corpus: (C, D) embeddings of all passages.
        similarity: the similarity that passages are ranked by.

    Returns:
        a function of a slice of the queries that returns their (q, C) scores: cosines, or another similarity of the
        vectors after all of them were divided by the norm of the longest one (queries by their own norm for "dot").

    Raises:
        ValueError: an embedding is not finite.
    """
    if similarity in ("cosine", "dot"):
        # neither the norm of a query nor a factor that all passages share changes any rank
        unit = _unit_rows(queries, "query")
        passages = _unit_rows(corpus, "passage") if similarity == "cosine" else _scaled(corpus, _longest(corpus))
        return lambda block: unit[block] @ passages.T
    from scipy.spatial.distance import cdist

    longest = max(_longest(queries), _longest(corpus))
    query_vectors, passages = _scaled(queries, longest), _scaled(corpus, longest)
    metric = "cityblock" if similarity == "manhattan" else "euclidean"
    return lambda block: -cdist(query_vectors[block], passages, metric)


def score_metrics(
    scores: NDArray[np.floating],
    relevant: Sequence[NDArray[np.integer]],
    ignored: Sequence[NDArray[np.integer]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Compute the metrics of `query_metrics` for anything that scores passages, not only for embeddings.

    Args:
        scores: (Q, C) score of each passage for each query, finite; higher is better.
        relevant, ignored: as in `query_metrics`.

    Raises:
        ValueError: as `query_metrics`.
    """
    _check_relevant(relevant, *scores.shape)
    return _in_blocks(lambda block: scores[block], relevant, ignored, scores.shape[1])


def flat_metrics(values: Mapping[str, NDArray[np.float64]], domains: Sequence[str]) -> dict[str, float]:
    """Average the metrics of single queries to the numbers that a model is judged by.

    Args:
        values: metrics of `METRICS` by name, as `query_metrics` gives them, each (Q,). Of a name that ends in "/fused"
            only the mean over domains is given, under that name.
        domains: (Q,) the domain of each query.

    Returns:
        for each metric, its mean within each domain ("recall_at_5/<domain>"), the unweighted mean of these
        ("recall_at_5/macro"), and, where the table says so, the mean of the worst domain
        ("recall_at_5/worst").

    Raises:
        ValueError: `domains` does not have exactly one domain per query.
    """
    flat: dict[str, float] = {}
    for name, scores in values.items():
        if len(domains) != len(scores):
            raise ValueError(f"domains must name one domain a query: {len(domains)} for {len(scores)} queries")
        if is_fused(name):
            flat[name] = by_domain(scores, domains)["macro"]
            continue
        means = by_domain(scores, domains, direction=METRICS[name].direction)
        if not METRICS[name].shows_worst:
            del means["worst"]
        flat |= {f"{name}/{domain}": value for domain, value in means.items()}
    return flat


def empty_metrics(queries: int) -> dict[str, NDArray[np.float64]]:
    """Allocate an array for each metric of this number of queries, to be filled part by part."""
    return {name: np.empty(queries) for name in METRICS}


def query_blocks(queries: int, passages: int) -> Iterator[slice]:
    """Cut a number of queries into slices whose scores of all passages fit into a few MiB."""
    step = max(1, _BLOCK_SCORES // passages)
    for start in range(0, queries, step):
        yield slice(start, start + step)


def _in_blocks(
    scores: Callable[[slice], NDArray[np.floating]],
    relevant: Sequence[NDArray[np.integer]],
    ignored: Sequence[NDArray[np.integer]] | None,
    passages: int,
) -> dict[str, NDArray[np.float64]]:
    values = empty_metrics(len(relevant))
    for block in query_blocks(len(relevant), passages):
        left_out = None if ignored is None else as_matrix(ignored[block], passages)
        ranked = relevance_by_rank(scores(block), as_matrix(relevant[block], passages), left_out)
        for name, metric in METRICS.items():
            values[name][block] = metric.of_ranks(ranked)
    return values


def _check_relevant(relevant: Sequence[NDArray[np.integer]], queries: int, passages: int) -> None:
    if not queries or len(relevant) != queries:
        raise ValueError(f"relevant must name the passages of every query: {len(relevant)} for {queries} queries")
    counts = np.array([len(columns) for columns in relevant])
    if not counts.all():
        raise ValueError(f"every query needs a relevant passage, query {counts.argmin()} has none")
    columns = np.concatenate(relevant)
    lowest, highest = columns.min(), columns.max()
    if lowest < 0 or highest >= passages:
        raise ValueError(f"relevant must name rows of the corpus, 0 to {passages - 1}, got {lowest} to {highest}")


def _unit_rows(rows: NDArray[np.floating], what: str) -> NDArray[np.float32]:
    # Squares of float32 values overflow beyond 1e19, which a diverging model reaches; in float64 they do not.
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    if not np.isfinite(lengths).all():
        broken = np.count_nonzero(~np.isfinite(lengths))
        raise ValueError(f"{what} embeddings must be finite, {broken} of {len(rows)} are not")
    lengths[lengths == 0.0] = 1.0
    unit = np.empty(rows.shape, dtype=np.float32)
    np.divide(rows, lengths[:, np.newaxis], out=unit, casting="same_kind")
    return unit


def _longest(rows: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64)).max())


def _scaled(rows: NDArray[np.floating], longest: float) -> NDArray[np.float32]:
    """Scale rows to norms of at most 1, so that what counts as rounding does not depend on a model's scale."""
    if not np.isfinite(longest):
        raise ValueError("embeddings must be finite, and some are not")
    return (rows / (longest or 1.0)).astype(np.float32)


def as_matrix(relevant: Sequence[NDArray[np.integer]], passages: int) -> NDArray[np.bool_]:
    """Return (Q, C) bool: True at the columns that each of Q arrays names."""
    matrix = np.zeros((len(relevant), passages), dtype=np.bool_)
    rows = np.repeat(np.arange(len(relevant)), [len(columns) for columns in relevant])
    matrix[rows, np.concatenate(relevant)] = True
    return matrix
