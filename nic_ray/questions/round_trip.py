"""The round trip: a question must lead back to its section, by words or by a model."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nic_ray.manuals.sections import Section
from nic_ray.metrics.bm25 import bm25
from nic_ray.questions.filters import ROUND_TRIP, Kept
from nic_ray.questions.question import Question

if TYPE_CHECKING:
    from nic_ray.model.encoder import Encoder

FIRST = 20
"""Places among which the own section must be; the first place alone would keep only easy questions."""
_BLOCK = 512


def refuse_lost(
    questions: Sequence[Question],
    sections: Sequence[Section],
    encoder: "Encoder",
    *,
    max_tokens: int,
    device: str = "cpu",
    done: Callable[[int], None] = lambda _: None,
) -> Kept:
    """Refuse questions whose section is among the first `FIRST` of neither BM25 nor an exact search by a model.

    A section's rank counts the passages that score as high, so that one that shares no word is not found.

    Args:
        encoder: the base model, which embeds only questions that BM25 does not lead back.
        max_tokens: number of tokens that texts are truncated to.
        device: where to embed.
        done: called with the number of further questions done.

    Source: Alberti et al. 2019, "Synthetic QA corpora generation with roundtrip consistency" (arXiv:1906.05416); Dai et
    al. 2022, "Promptagator" (arXiv:2209.11755), for passages, where the own one must be the first.
    """
    passages = list(dict.fromkeys(section.passage for section in sections))
    number_of = {passage: number for number, passage in enumerate(passages)}
    own = np.array([number_of[sections[each.section].passage] for each in questions], dtype=np.int64)
    by_words = bm25(passages)
    found = np.zeros(len(questions), dtype=np.bool_)
    for start in range(0, len(questions), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores = by_words([each.query for each in questions[part]])
        found[part] = is_among_first(scores, own[part]) & (scores[np.arange(len(scores)), own[part]] > 0)
        done(int(found[part].sum()))
    lost = np.flatnonzero(~found)
    if lost.size:
        vectors, queries = _embeddings(
            encoder, passages, [questions[n].query for n in lost.tolist()], max_tokens, device
        )
        for start in range(0, len(lost), _BLOCK):
            rows = lost[start : start + _BLOCK]
            found[rows] = is_among_first(queries[start : start + _BLOCK] @ vectors.T, own[rows])
            done(len(rows))
    kept = [each for each, is_found in zip(questions, found.tolist(), strict=True) if is_found]
    refused = len(questions) - len(kept)
    return Kept(kept, Counter({ROUND_TRIP: refused}))


def is_among_first(scores: NDArray[np.floating], own: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (q,) whether the own passage is among the first of (q, c) scores; ties count against it."""
    of_own = np.take_along_axis(scores, own[:, np.newaxis], axis=1)
    return np.asarray((scores >= of_own).sum(axis=1) <= FIRST)


def _embeddings(
    encoder: "Encoder", passages: Sequence[str], queries: Sequence[str], max_tokens: int, device: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embed passages (C, D) and queries (Q, D), at unit length."""
    return (
        _embedded(encoder.passages or encoder, passages, max_tokens, device, is_query=False),
        _embedded(encoder, queries, max_tokens, device, is_query=True),
    )


def _embedded(
    encoder: "Encoder", texts: Sequence[str], max_tokens: int, device: str, *, is_query: bool
) -> NDArray[np.float32]:
    from nic_ray.model.activations import feed, token_inputs
    from nic_ray.model.encoder import whole
    from nic_ray.model.evaluation import embed

    tokens = token_inputs(encoder, list(texts), max_tokens, np.full(len(texts), is_query))
    vectors = embed(whole(encoder, device), feed(tokens, device), np.arange(len(texts)))
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
