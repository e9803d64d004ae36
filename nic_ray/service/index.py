"""The passages that a service searches: their embeddings, kept for the next start, and exact search over them."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from nic_ray.bundle.comparison import fusion_of
from nic_ray.bundle.retriever import calibration_of, caveat_of
from nic_ray.dataset.passage_files import Passage
from nic_ray.dataset.passages import read_corpus
from nic_ray.evidence import Metadata
from nic_ray.metrics.bm25 import bm25
from nic_ray.metrics.calibration import Calibration, chances_of
from nic_ray.metrics.fusion import VECTORS, Fusion, fused
from nic_ray.service.engine import Engine
from nic_ray.service.kept import own_folder
from nic_ray.sources import Sources

log = logging.getLogger("nic_ray.service")

BLOCK = 65_536
"""Number of passages that are scored at once."""
EMBEDDED_AT_ONCE = 512


@dataclass(frozen=True)
class Hit:
    """A passage that was retrieved."""

    rank: int
    score: float
    """What the passages are ranked by."""
    similarity: float
    domain: str
    text: str


@dataclass(frozen=True)
class Answer:
    """What was retrieved for a query."""

    hits: Sequence[Hit]
    chance: float | None
    """Calibrated chance that the first hit answers the query; None if the bundle has no calibration."""
    nothing_found: bool
    """Whether the first hit scores below the threshold of the calibration."""


@dataclass(frozen=True)
class Index:
    """Passages that can be searched."""

    passages: Sequence[Passage]
    similarities: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """(C,) similarity of each passage to a query's (D,) embedding."""
    by_words: Callable[[Sequence[str]], NDArray[np.float32]] | None
    """BM25 scores, as of `metrics.bm25`; None if passages are ranked by similarity alone."""
    ranking: Fusion
    calibration: Calibration | None
    caveat: str | None
    """Of which passages the chances are, if of others than these; None if they are of these, or if there are none."""


def index_of(corpus: Sources, engine: Engine, metadata: Metadata | None, weights: str) -> Index:
    """Embed passages, or read their embeddings from an earlier start, and prepare the search over them.

    Args:
        corpus: the passages, as for `read_corpus`.
        metadata: that of the bundle, whose ranking and calibration are used; None for another model.
        weights: hash of the model's weights, by which kept embeddings are recognised.

    Raises:
        InputError: as `read_corpus`.
    """
    passages = read_corpus(corpus)
    texts = [passage.text for passage in passages]
    embeddings = _embeddings(texts, engine, weights)
    helps = metadata is not None and metadata.get("word_search", {}).get("helps", False)
    ranking = fusion_of(metadata) if metadata is not None and helps else VECTORS
    calibration = None if metadata is None else calibration_of(metadata, ranking)
    return Index(
        passages,
        _similarities(embeddings, engine.similarity),
        bm25(texts) if helps else None,
        ranking,
        calibration,
        None if metadata is None or calibration is None else caveat_of(metadata, corpus, passages),
    )


def search(index: Index, query: str, embedding: NDArray[np.float32], count: int) -> Answer:
    """Find the passages that rank first for a query; of equal ones, the first in the corpus.

    Args:
        embedding: (D,) that of the query.
        count: number of passages to return.
    """
    similarities = index.similarities(embedding)
    if index.by_words is None:
        scores = similarities
    else:
        scores = np.asarray(fused(similarities[None], index.by_words([query]), index.ranking)[0])
    top = _highest(scores, count)
    hits = [
        Hit(
            rank,
            float(scores[place]),
            float(similarities[place]),
            index.passages[place].domain,
            index.passages[place].text,
        )
        for rank, place in enumerate(top.tolist(), 1)
    ]
    calibration, first = index.calibration, scores[top[:1]]
    if calibration is None:
        return Answer(hits, None, nothing_found=False)
    return Answer(hits, float(chances_of(calibration, first)[0]), bool(first[0] < calibration.threshold))


def _highest(scores: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Places of the highest scores, the highest first, equal ones in their order."""
    count = min(count, len(scores))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]


def _similarities(
    embeddings: NDArray[np.float32], similarity: str
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    blocks = [slice(start, start + BLOCK) for start in range(0, len(embeddings), BLOCK)]
    if similarity in ("cosine", "dot"):  # products of stored rows, which need not be normalised again for each query

        def product(query: NDArray[np.float32]) -> NDArray[np.float32]:
            asked = query / max(float(np.linalg.norm(query)), 1e-12) if similarity == "cosine" else query
            return np.concatenate([embeddings[block] @ asked for block in blocks])

        return product
    metric = "cityblock" if similarity == "manhattan" else "euclidean"

    def other(query: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([-cdist(query[None], embeddings[block], metric)[0] for block in blocks])

    return other


def _embeddings(texts: Sequence[str], engine: Engine, weights: str) -> NDArray[np.float32]:
    """(C, D) embeddings of passages, of unit length for a model of cosines.

    They are kept in a file that all processes on this machine share, so that one that takes another's place is ready
    without embedding them again. Where it cannot be written, they are in memory only.
    """
    digest = hashlib.sha256(f"{weights} {engine.form} {engine.max_tokens} {engine.similarity}\n".encode())
    for text in texts:
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    embeddings = None
    try:
        path = own_folder() / f"{digest.hexdigest()[:32]}.npy"
        with FileLock(path.with_suffix(".lock")):
            kept = _kept(path, len(texts), engine.dimensions)
            if kept is not None:
                return kept
            embeddings = _embed(texts, engine)
            temporary = path.with_suffix(".tmp.npy")
            np.save(temporary, embeddings)
            temporary.replace(path)
            return np.asarray(np.load(path, mmap_mode="r"))
    except OSError as error:
        log.warning("embeddings of passages are not kept for the next start: %s", error)
        return _embed(texts, engine) if embeddings is None else embeddings


def _kept(path: Path, count: int, dimensions: int) -> NDArray[np.float32] | None:
    """Embeddings of an earlier start; None if there are none, or the file is damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError, EOFError):
        embeddings: NDArray[np.float32] = np.asarray(np.load(path, mmap_mode="r"))
        if embeddings.shape == (count, dimensions) and embeddings.dtype == np.float32:
            return embeddings
    return None


def _embed(texts: Sequence[str], engine: Engine) -> NDArray[np.float32]:
    blocks = []
    for start in range(0, len(texts), EMBEDDED_AT_ONCE):
        blocks.append(engine.embed_passages(texts[start : start + EMBEDDED_AT_ONCE]))
        if len(texts) > 20 * EMBEDDED_AT_ONCE:
            log.info("embedded %d of %d passages", start + len(blocks[-1]), len(texts))
    embeddings = np.concatenate(blocks)
    if engine.similarity == "cosine":
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return embeddings
