"""How well queries retrieve their passages from the whole corpus, domain by domain."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nic_ray.metrics.ranks import Answers, Ranks, answers_of, count_rivals, flat_columns, ranked, ranks_of
from nic_ray.metrics.table import METRICS, is_fused, metric_of

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
"""How the similarity of passage and query is computed, by Sentence Transformers' names; distances are negated."""


# Scores held in memory at once (4 bytes each), whatever the number of queries.
_BLOCK_SCORES = 2**20

# Passages of a larger corpus are scored this many at a time.
_BLOCK_PASSAGES = 2**16


def by_domain(values: NDArray[np.float64], domains: Sequence[str], *, direction: int = 1) -> dict[str, float]:
    """Compute the mean of `values` within each domain, then "macro" and "worst" over those means, and "micro".

    "macro" weighs all domains equally, so that a search cannot buy gains in a large domain with losses in a small one;
    "worst" is the mean of the worst domain; "micro" weighs all queries equally.

    Args:
        values: (Q,) one number per query.
        domains: (Q,) the domain of each query, at least one.
        direction: 1 where higher is better, -1 where lower is better.
    """
    names, member = np.unique(np.asarray(domains), return_inverse=True)
    means = np.bincount(member, weights=values) / np.bincount(member)
    inside = {str(name): float(mean) for name, mean in zip(names, means, strict=True)}
    worst = float(means.min() if direction > 0 else means.max())
    return inside | {"macro": float(means.mean()), "worst": worst, "micro": float(np.mean(values))}


def query_metrics(
    queries: NDArray[np.floating],
    corpus: NDArray[np.floating],
    relevant: Sequence[NDArray[np.integer]],
    similarity: Similarity = "cosine",
    ignored: Sequence[NDArray[np.integer]] | None = None,
    gains: Sequence[NDArray[np.floating]] | None = None,
    further: Iterable[str] = (),
) -> dict[str, NDArray[np.float64]]:
    """Compute metrics for every single query, over the whole corpus.

    Queries and passages are scored in blocks, so that the memory for scores does not grow with their numbers.

    Args:
        queries: (Q, D) embeddings, of any norm; a zero row has cosine 0 with everything.
        corpus: (C, D) embeddings of all passages, of any norm.
        relevant: Q arrays, each naming the rows of `corpus` that answer the query.
        similarity: the similarity that passages are ranked by.
        ignored: Q arrays, each naming rows of `corpus` that are left out of the query's ranking; none is relevant.
        gains: as for `ranks_of`.
        further: keys of metrics besides those of `METRICS`.

    Returns:
        the metrics by name, each (Q,).

    Raises:
        ValueError: an embedding is not finite, a query has no relevant passage or one
            outside the corpus, or the lengths do not match.
    """
    _check_relevant(relevant, len(queries), len(corpus))
    scored = similarities(queries, corpus, similarity)
    if len(corpus) <= _BLOCK_PASSAGES:
        return _in_blocks(scored.block(slice(0, len(corpus))), relevant, ignored, gains, further, len(corpus))
    ranks = _ranks_in_blocks(scored, answers_of(relevant, gains), ignored, (len(queries), len(corpus)))
    return {name: metric_of(name).of_ranks(ranks) for name in (*METRICS, *further)}


def _ranks_in_blocks(
    scored: "Similarities",
    answers: Answers,
    ignored: Sequence[NDArray[np.integer]] | None,
    shape: tuple[int, int],
) -> Ranks:
    own = scored.pairs(answers.rows, answers.columns)
    rows, columns = answers.rows, answers.columns
    if ignored is not None:
        rows, columns = (np.concatenate(both) for both in zip((rows, columns), flat_columns(ignored), strict=True))
    before = np.zeros(len(own), dtype=np.int64)
    for start in range(0, shape[1], _BLOCK_PASSAGES):
        passages = slice(start, min(start + _BLOCK_PASSAGES, shape[1]))
        here = np.flatnonzero((columns >= passages.start) & (columns < passages.stop))
        scores_of = scored.block(passages)
        for block in query_blocks(shape[0], passages.stop - passages.start):
            scores = scores_of(block)
            excluded = here[(rows[here] >= block.start) & (rows[here] < block.stop)]
            scores[rows[excluded] - block.start, columns[excluded] - passages.start] = -np.inf
            first, last = np.searchsorted(answers.rows, [block.start, block.start + len(scores)])
            before[first:last] += count_rivals(answers.rows[first:last] - block.start, own[first:last], scores)
    return ranked(answers, own, before)


@dataclass(frozen=True)
class Similarities:
    """The similarity of Q queries to C passages, computed block by block.

    They are cosines, or another similarity of the vectors after all of them were divided by the norm of the longest one
    (queries by their own norm for "dot").
    """

    block: Callable[[slice], Callable[[slice], NDArray[np.floating]]]
    """A function of a slice of the passages, c of them, that returns a function of a slice of the queries, which
    returns their (q, c) scores. Raises ValueError if an embedding of a passage is not finite."""
    pairs: Callable[[NDArray[np.integer], NDArray[np.integer]], NDArray[np.floating]]
    """A function of n queries and n passages that returns the (n,) score of each pair."""


def similarities(
    queries: NDArray[np.floating], corpus: NDArray[np.floating], similarity: Similarity = "cosine"
) -> Similarities:
    """Prepare embeddings for scoring.

    Args:
        queries: (Q, D) embeddings, as for `query_metrics`.
        corpus: (C, D) embeddings of all passages.
        similarity: the similarity that passages are ranked by.

    Raises:
        ValueError: an embedding of a query is not finite.
    """
    if similarity in ("cosine", "dot"):
        # neither the norm of a query nor a factor that all passages share changes any rank
        unit = _unit_rows(queries, "query")
        longest = _longest(corpus) if similarity == "dot" else 1.0

        def prepared(passages: NDArray[np.floating]) -> NDArray[np.float32]:
            return _unit_rows(passages, "passage") if similarity == "cosine" else _scaled(passages, longest)

        def product(passages: slice) -> Callable[[slice], NDArray[np.floating]]:
            block = prepared(corpus[passages])
            return lambda asking: unit[asking] @ block.T

        return Similarities(product, lambda rows, columns: np.einsum("nd,nd->n", unit[rows], prepared(corpus[columns])))
    from scipy.spatial.distance import cdist

    longest = max(_longest(queries), _longest(corpus))
    vectors = _scaled(queries, longest)
    metric = "cityblock" if similarity == "manhattan" else "euclidean"

    def distance(passages: slice) -> Callable[[slice], NDArray[np.floating]]:
        block = _scaled(corpus[passages], longest)
        return lambda asking: -cdist(vectors[asking], block, metric)

    order = 1 if similarity == "manhattan" else 2
    return Similarities(
        distance,
        lambda rows, columns: (
            -np.linalg.norm(vectors[rows].astype(np.float64) - _scaled(corpus[columns], longest), ord=order, axis=1)
        ),
    )


def nearest_passages(
    scored: Similarities,
    shape: tuple[int, int],
    *,
    k: int,
    ignored: Sequence[NDArray[np.integer]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find each query's nearest passages, of equally near ones the first (of a large corpus, any of the last rank's).

    Args:
        shape: numbers of queries and of passages, Q and C.
        k: number of passages a query; at least that many must not be ignored.
        ignored: as for `ranks_of`.

    Returns:
        (Q, k) numbers of passages, the nearest first, and their similarities.
    """
    rows, columns = (np.zeros(0, np.int64),) * 2 if ignored is None else flat_columns(ignored)
    found, values = np.zeros((shape[0], 0), np.int64), np.zeros((shape[0], 0), np.float32)
    for start in range(0, shape[1], _BLOCK_PASSAGES):
        passages = slice(start, min(start + _BLOCK_PASSAGES, shape[1]))
        here = np.flatnonzero((columns >= passages.start) & (columns < passages.stop))
        scores_of, tops, numbers = scored.block(passages), [], []
        for block in query_blocks(shape[0], passages.stop - start):
            scores = scores_of(block)
            excluded = here[(rows[here] >= block.start) & (rows[here] < block.stop)]
            scores[rows[excluded] - block.start, columns[excluded] - start] = -np.inf
            first = _highest(scores, k, exactly=shape[1] <= _BLOCK_PASSAGES)
            numbers.append(first + start)
            tops.append(np.take_along_axis(scores, first, axis=1))
        found, values = np.hstack([found, np.concatenate(numbers)]), np.hstack([values, np.concatenate(tops)])
        best = np.argsort(-values, axis=1, kind="stable")[:, :k]
        found, values = np.take_along_axis(found, best, axis=1), np.take_along_axis(values, best, axis=1)
    return found, values.astype(np.float64)


def _highest(scores: NDArray[np.floating], k: int, *, exactly: bool) -> NDArray[np.int64]:
    """Return (q, k) columns of the highest of (q, c) scores, highest first; of equal ones the first if `exactly`."""
    if exactly or scores.shape[1] <= k:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    some = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def score_metrics(
    scores: NDArray[np.floating],
    relevant: Sequence[NDArray[np.integer]],
    ignored: Sequence[NDArray[np.integer]] | None = None,
    gains: Sequence[NDArray[np.floating]] | None = None,
    further: Iterable[str] = (),
) -> dict[str, NDArray[np.float64]]:
    """Compute the metrics of `query_metrics` for anything that scores passages, not only for embeddings.

    Args:
        scores: (Q, C) score of each passage for each query, finite; higher is better.
        relevant, ignored, gains, further: as in `query_metrics`.

    Raises:
        ValueError: as `query_metrics`.
    """
    _check_relevant(relevant, *scores.shape)
    return _in_blocks(lambda block: scores[block], relevant, ignored, gains, further, scores.shape[1])


def flat_metrics(values: Mapping[str, NDArray[np.float64]], domains: Sequence[str]) -> dict[str, float]:
    """Average the metrics of single queries to the numbers that a model is judged by.

    Args:
        values: metrics by name, as `query_metrics` gives them, each (Q,). Of a name that ends in "/fused"
            only the mean over domains is given, under that name.
        domains: (Q,) the domain of each query.

    Returns:
        for each metric, its mean within each domain ("recall_at_5/<domain>"), and "macro", "worst" and "micro" as in
        `by_domain` ("recall_at_5/macro").

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
        means = by_domain(scores, domains, direction=metric_of(name).direction)
        flat |= {f"{name}/{domain}": value for domain, value in means.items()}
    return flat


def empty_metrics(queries: int, further: Iterable[str] = ()) -> dict[str, NDArray[np.float64]]:
    """Allocate an array for each metric of this number of queries, to be filled part by part."""
    return {name: np.empty(queries) for name in (*METRICS, *further)}


def query_blocks(queries: int, passages: int) -> Iterator[slice]:
    """Cut a number of queries into slices whose scores of all passages fit into a few MiB."""
    step = max(1, _BLOCK_SCORES // passages)
    for start in range(0, queries, step):
        yield slice(start, start + step)


def _in_blocks(
    scores: Callable[[slice], NDArray[np.floating]],
    relevant: Sequence[NDArray[np.integer]],
    ignored: Sequence[NDArray[np.integer]] | None,
    gains: Sequence[NDArray[np.floating]] | None,
    further: Iterable[str],
    passages: int,
) -> dict[str, NDArray[np.float64]]:
    values = empty_metrics(len(relevant), further)
    for block in query_blocks(len(relevant), passages):
        ranks = ranks_of(
            scores(block),
            relevant[block],
            None if ignored is None else ignored[block],
            None if gains is None else gains[block],
        )
        for name, metric in values.items():
            metric[block] = metric_of(name).of_ranks(ranks)
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
