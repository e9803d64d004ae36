"""Per-domain metrics of a model on given rows: embed, rank the whole corpus, average."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from nic_ray.dataset.cut_passages import ranked_for
from nic_ray.dataset.pairs import Collection, gains_by_query, relevant_passages
from nic_ray.metrics.bm25 import bm25
from nic_ray.metrics.calibration import FirstHits, first_hits
from nic_ray.metrics.fusion import FUSIONS, VECTORS, Fusion, best_fusion, fused
from nic_ray.metrics.ranking import (
    Similarity,
    as_matrix,
    empty_metrics,
    flat_metrics,
    nearest_passages,
    query_blocks,
    query_metrics,
    score_metrics,
    similarities,
)
from nic_ray.metrics.table import is_fused, of_one_ranking
from nic_ray.model.activations import Feed, assembled, fixed_embeddings, in_chunks, packs
from nic_ray.model.cut import Upper


@dataclass(frozen=True)
class Asked:
    """Rows of a collection whose queries are asked, one query per row, with what a model makes of all texts needed."""

    embeddings: NDArray[np.floating]
    """(n, D), at least of the distinct queries of the rows and of the whole corpus."""
    texts: NDArray[np.int64]
    """(n,) ascending, the number of the text that each embedding belongs to."""
    collection: Collection
    rows: Sequence[int]
    similarity: Similarity = "cosine"
    """The measure that passages are ranked by. Models trained here are trained for cosine; a base model may be designed
    for another measure."""

    @property
    def domains(self) -> list[str]:
        """The domain of each row."""
        return [self.collection.domains[row] for row in self.rows]

    def vectors(self, texts: NDArray[np.int64] | Sequence[int]) -> NDArray[np.floating]:
        """Return the embeddings (m, D) of texts, given by their numbers (m,)."""
        return self.embeddings[np.searchsorted(self.texts, texts)]


@torch.inference_mode()
def embed(
    upper: Upper,
    source: Feed,
    texts: NDArray[np.int64],
    *,
    bf16: bool = False,
    done: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Embed texts in eval mode, each distinct text once; fixed embeddings are taken as they are.

    Args:
        source: inputs at the depth of `upper`, on its device.
        texts: (n,) numbers of texts.
        done: called with the number of further distinct texts that have been embedded.

    Returns:
        embeddings (n, D) in the order of `texts`.

    Raises:
        RunError: the device has too little memory for even a small chunk.
    """
    was_training = upper.training
    upper.eval()
    distinct, place = np.unique(texts, return_inverse=True)
    order, parts = [], []
    if (fixed := distinct[source.is_fixed[distinct]]).size:
        parts.append(fixed_embeddings(source, fixed))
        order.append(fixed)
        done(len(fixed))
    left = distinct[~source.is_fixed[distinct]]
    packed = packs(upper, source.device, bf16=bf16)
    # one context for all chunks, so that the weights are cast once
    with torch.autocast(source.device.type, torch.bfloat16, enabled=bf16):
        for chunk, vectors in in_chunks(
            lambda chunk: upper(*assembled(source, chunk, packed=packed)), source, left, packed=packed
        ):
            parts.append(vectors)
            order.append(chunk)
            done(len(chunk))
    upper.train(was_training)
    embeddings = torch.cat(parts).cpu().numpy()
    return embeddings[np.argsort(np.concatenate(order))][place]


def score(asked: Asked, objective: str = "") -> dict[str, float]:
    """Average the `judged_scores` of rows by domain.

    Returns:
        as `ranking.flat_metrics`.
    """
    return flat_metrics(judged_scores(asked, objective), asked.domains)


def judged_scores(asked: Asked, objective: str) -> dict[str, NDArray[np.float64]]:
    """Compute the metrics that a model is judged by: `query_scores`, and those of its best fusion if that is asked for.

    Args:
        objective: as `table.checked_objective` returns it. If it ends in "/fused", the metrics of the fusion with a
            search by words that has the best macro mean on these rows are added, as "recall_at_5/fused", ...
    """
    values = query_scores(asked)
    if is_fused(objective):
        found = fused_scores(asked, FUSIONS)
        means = {each: flat_metrics(found[each], asked.domains) for each in FUSIONS}
        best = best_fusion(means, of_one_ranking(objective))
        values |= {f"{metric}/fused": scores for metric, scores in found[best].items()}
    return values


def query_scores(asked: Asked, *, within_domain: bool = False) -> dict[str, NDArray[np.float64]]:
    """Compute every metric of each row's query, ranked over the whole corpus.

    Near duplicates of an answer (`Collection.near_group`) are left out of a query's ranking: they neither count as hits
    nor take the rank of another passage.

    Args:
        within_domain: rank only over the passages of the row's domain, which are those that any of its rows names;
            a passage of another domain then does not count as an answer either.

    Returns:
        as `ranking.query_metrics`, each (rows,), with the further metrics that the collection names.
    """
    collection = ranked_for(asked.collection, asked.rows)
    relevant, gains = relevant_passages(collection), gains_by_query(collection)
    found = empty_metrics(len(asked.rows), collection.metrics)
    for places, corpus in _corpora(collection, asked.rows, within_domain=within_domain):
        queries = collection.query[[asked.rows[place] for place in places]]
        numbers = queries.tolist()
        right, worth = answers_in(corpus, relevant, gains, numbers)
        values = query_metrics(
            asked.vectors(queries),
            asked.vectors(corpus),
            right,
            asked.similarity,
            left_out_of(collection, corpus, relevant, numbers),
            worth,
            collection.metrics,
        )
        for name, metric in values.items():
            found[name][places] = metric
    return found


def nearest(asked: Asked, *, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Retrieve the passages of the whole corpus nearest to each row's query, without near-duplicates of its answers.

    Args:
        k: number of passages per query; lower for all queries if the corpus has fewer passages for one of them.

    Returns:
        (rows, k) numbers of passages, the nearest first, and their similarities.
    """
    collection, rows = ranked_for(asked.collection, asked.rows), asked.rows
    corpus = collection.corpus
    relevant = relevant_passages(collection)
    queries = collection.query[list(rows)]
    left_out = left_out_of(collection, corpus, relevant, queries.tolist())
    k = min(k, len(corpus) - max((len(places) for places in left_out or ()), default=0))
    scored = similarities(asked.vectors(queries), asked.vectors(corpus), asked.similarity)
    found, values = nearest_passages(scored, (len(queries), len(corpus)), k=k, ignored=left_out)
    return corpus[found], values


def fused_scores(
    asked: Asked, fusions: Sequence[Fusion], *, within_domain: bool = False
) -> dict[Fusion, dict[str, NDArray[np.float64]]]:
    """Compute `query_scores` for each of several fusions of embeddings with a search by words.

    Args:
        fusions: ways to score a passage; `fusion.WORDS` is BM25 alone.
        within_domain: as for `query_scores`.

    Returns:
        fusion -> metric -> its value for each row's query, (rows,).
    """
    further = asked.collection.metrics
    if [*fusions] == [VECTORS]:
        return {VECTORS: query_scores(asked, within_domain=within_domain)}
    scores = {fusion: empty_metrics(len(asked.rows), further) for fusion in fusions}
    for block in _scored_blocks(asked, fusions, within_domain=within_domain):
        for fusion, values in block.scores.items():
            for name, metric in score_metrics(values, block.relevant, block.left_out, block.gains, further).items():
                scores[fusion][name][block.places] = metric
    return scores


def first_hits_of(asked: Asked, fusion: Fusion) -> FirstHits:
    """Find the passage of the whole corpus that ranks first for each row's query.

    Args:
        fusion: how a passage is scored.
    """
    parts, order = [], []
    for block in _scored_blocks(asked, [fusion]):
        scores = block.scores[fusion]
        passages = scores.shape[1]
        left_out = None if block.left_out is None else as_matrix(block.left_out, passages)
        relevant = as_matrix(block.relevant, passages)
        hits = first_hits(scores, relevant, left_out)
        # without the answers, the others move up in both lists
        gone = relevant if left_out is None else relevant | left_out
        bare = fused(block.vectors, block.words, fusion, gone)
        parts.append(replace(hits, without_answer=np.where(gone, -np.inf, bare).max(axis=1)))
        order += block.places
    at = np.argsort(order)
    return FirstHits(
        np.concatenate([part.scores for part in parts])[at],
        np.concatenate([part.right for part in parts])[at],
        np.concatenate([part.without_answer for part in parts])[at],
    )


@dataclass(frozen=True)
class _Block:
    """Some of the rows, with the scores that their queries give to passages."""

    places: list[int]
    """(q,) positions in the rows."""
    vectors: NDArray[np.floating]
    """(q, C) similarities."""
    words: NDArray[np.floating]
    """(q, C) BM25 scores; the similarities, where no fusion asks for words."""
    scores: dict[Fusion, NDArray[np.floating]]
    """Fusion -> (q, C) scores."""
    relevant: list[NDArray[np.int64]]
    """q arrays of positions among the C passages."""
    gains: list[NDArray[np.float64]] | None
    """Likewise, how relevant each of them is; None: all equally."""
    left_out: list[NDArray[np.int64]] | None
    """Likewise, of near duplicates of each query's answers."""


def _scored_blocks(asked: Asked, fusions: Sequence[Fusion], *, within_domain: bool = False) -> Iterator[_Block]:
    """Score passages block by block, so that memory does not grow with the rows; arguments as for `fused_scores`."""
    collection = ranked_for(asked.collection, asked.rows)
    relevant, gains = relevant_passages(collection), gains_by_query(collection)
    for places, corpus in _corpora(collection, asked.rows, within_domain=within_domain):
        queries = collection.query[[asked.rows[place] for place in places]]
        scored = similarities(asked.vectors(queries), asked.vectors(corpus), asked.similarity)
        by_vectors = scored.block(slice(0, len(corpus)))
        by_words = None
        if {*fusions} != {VECTORS}:
            whole = corpus is collection.corpus
            by_words = (
                collection.search_by_words if whole else bm25([collection.texts[text] for text in corpus.tolist()])
            )
        all_left_out = left_out_of(collection, corpus, relevant, queries.tolist())
        for block in query_blocks(len(queries), len(corpus)):
            numbers, vectors = queries[block].tolist(), by_vectors(block)
            words = vectors if by_words is None else by_words([collection.texts[query] for query in numbers])
            left_out = None if all_left_out is None else all_left_out[block]
            ignored = None if left_out is None else as_matrix(left_out, len(corpus))
            right, worth = answers_in(corpus, relevant, gains, numbers)
            yield _Block(
                places[block],
                vectors,
                words,
                {fusion: fused(vectors, words, fusion, ignored) for fusion in fusions},
                right,
                worth,
                left_out,
            )


def texts_to_score(collection: Collection, rows: Sequence[int]) -> NDArray[np.int64]:
    """Return the numbers of the texts needed to score rows, (n,) ascending: their queries and the whole corpus."""
    return np.union1d(collection.query[list(rows)], ranked_for(collection, rows).corpus)


def evaluate(
    upper: Upper,
    source: Feed,
    collection: Collection,
    rows: Sequence[int],
    *,
    bf16: bool = False,
    objective: str = "",
) -> dict[str, float]:
    """Compute per-domain metrics of rows, ranked over the whole corpus; `objective` as for `judged_scores`.

    Raises:
        ValueError: an embedding is not finite.
    """
    texts = texts_to_score(collection, rows)
    return score(Asked(embed(upper, source, texts, bf16=bf16), texts, collection, rows), objective)


def _corpora(
    collection: Collection, rows: Sequence[int], *, within_domain: bool
) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
    """Yield positions in `rows` that are ranked over the same passages, together with these passages."""
    if not within_domain:
        yield list(range(len(rows))), collection.corpus
        return
    names = np.asarray(collection.domains, dtype=np.str_)
    domains = names[list(rows)]
    for domain in np.unique(domains):
        in_domain = names == domain
        passages = np.union1d(collection.positive[in_domain], collection.negatives[in_domain].ravel())
        yield np.flatnonzero(domains == domain).tolist(), np.intersect1d(passages, collection.corpus)


def left_out_of(
    collection: Collection,
    corpus: NDArray[np.int64],
    relevant: Mapping[int, NDArray[np.int64]],
    queries: Sequence[int],
) -> list[NDArray[np.int64]] | None:
    """Find the positions in the corpus of near-duplicates of each query's answers; None if no query has any.

    Args:
        corpus: numbers of the passages that are ranked, ascending.
        relevant: from `relevant_passages`.
        queries: numbers of texts.
    """
    groups = collection.near_group[corpus]
    counts = np.bincount(groups, minlength=len(collection.texts))
    if counts.max() < 2:
        return None
    # the positions in the corpus, sorted by group
    places, ends = np.argsort(groups, kind="stable"), np.cumsum(counts)
    left_out = []
    for query in queries:
        answers = relevant[query]
        numbers = np.unique(collection.near_group[answers])
        same = [places[ends[group] - counts[group] : ends[group]] for group in numbers[counts[numbers] > 1].tolist()]
        near = np.sort(np.concatenate(same)) if same else places[:0]
        left_out.append(near[~np.isin(corpus[near], answers)])
    return left_out if any(map(len, left_out)) else None


def answers_in(
    corpus: NDArray[np.int64],
    relevant: Mapping[int, NDArray[np.int64]],
    gains: Mapping[int, NDArray[np.float64]] | None,
    queries: Sequence[int],
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]] | None]:
    """Return the positions of each query's answers in the corpus, and how relevant they are if that differs."""
    if gains is None:
        return [_places(corpus, relevant[query]) for query in queries], None
    kept = [np.isin(relevant[query], corpus) for query in queries]
    return (
        [_places(corpus, relevant[query][present]) for query, present in zip(queries, kept, strict=True)],
        [gains[query][present] for query, present in zip(queries, kept, strict=True)],
    )


def _places(corpus: NDArray[np.int64], texts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions in an ascending corpus of those texts that it contains."""
    places: NDArray[np.int64] = np.searchsorted(corpus, texts)
    present: NDArray[np.int64] = places[corpus[np.minimum(places, len(corpus) - 1)] == texts]
    return present
