"""The corpus of a run: which of its passages every evaluation ranks, and which the last readings rank as well."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.config import Config
from nic_ray.dataset.corpus import read_distractors, with_distractors
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.pairs import Collection
from nic_ray.metrics.ranking import nearest_passages, similarities
from nic_ray.model.activations import feed, token_inputs
from nic_ray.model.cache import kept
from nic_ray.model.encoder import Encoder, whole
from nic_ray.model.evaluation import embed
from nic_ray.model.whole_models import encoder_embeddings
from nic_ray.progress import View

BLOCK = 4096
"""Passages whose token ids are held at once."""


@dataclass(frozen=True)
class Place:
    """Where and how the passages of a corpus are embedded."""

    device: str
    bf16: bool
    folder: Path | None
    """Keeps embeddings for the next run on the same passages; None to keep nothing."""
    view: View
    """Shows the progress."""


@dataclass(frozen=True)
class Corpus:
    """The passages of a corpus that no row of a run names."""

    path: Path
    sha256: str
    sampled: int
    """Number of those that every evaluation ranks, the last ones of the collection's texts."""
    beyond: tuple[str, ...] = ()
    """The others; empty where every evaluation ranks all."""

    @property
    def count(self) -> int:
        """Return the number of all these passages."""
        return self.sampled + len(self.beyond)


def embed_passages(
    encoder: Encoder,
    texts: Sequence[str],
    max_tokens: int,
    *,
    device: str = "cpu",
    bf16: bool = False,
    done: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Embed any number of passages with a whole model, (n, D), block by block.

    Args:
        done: called with the number of further passages that have been embedded.
    """
    model = encoder.passages or encoder
    upper, parts = whole(model, device), []
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        source = feed(token_inputs(model, block, max_tokens, np.zeros(len(block), np.bool_)), device)
        parts.append(embed(upper, source, np.arange(len(block)), bf16=bf16))
        done(len(block))
    return np.concatenate(parts)


def ranked_corpus(
    config: Config,
    collection: Collection,
    asking: NDArray[np.int64],
    encoder: Encoder,
    *,
    place: Place,
    hardest: bool = True,
) -> tuple[Collection, Corpus | None]:
    """Add the passages of `data.corpus` that every evaluation ranks to a collection.

    Up to `evaluation.exact_up_to` passages that is all of them. Of more it is a sample of that size: half of it the
    hardest for the base model, the nearest passage of each query that is validated on before the second nearest of any;
    the others at random.

    Args:
        asking: (q,) numbers of the queries that are validated on.
        encoder: the base model.
        place: where and how passages are embedded.
        hardest: False for a random sample, which takes no time.

    Returns:
        the collection, and the corpus; None without one.

    Raises:
        InputError: the corpus cannot be used.
    """
    path, limit = config.data.corpus, config.evaluation.exact_up_to
    if path is None:
        return collection, None
    texts = read_distractors(path, collection)
    chosen = np.ones(len(texts), np.bool_)
    if len(texts) > limit:
        known = _hardest(config, collection, asking, encoder, texts, place) if hardest and limit > 1 else []
        left = np.setdiff1d(np.arange(len(texts)), known)
        drawn = np.random.default_rng(config.data.seed).permutation(left)[: limit - len(known)]
        chosen = np.isin(np.arange(len(texts)), [*known, *drawn.tolist()])
    kept_here = chosen.tolist()
    ranked = [text for text, here in zip(texts, kept_here, strict=True) if here]
    beyond = tuple(text for text, here in zip(texts, kept_here, strict=True) if not here)
    return with_distractors(collection, ranked), Corpus(path, content_sha256(path), len(ranked), beyond)


def _hardest(
    config: Config,
    collection: Collection,
    asking: NDArray[np.int64],
    encoder: Encoder,
    texts: Sequence[str],
    place: Place,
) -> list[int]:
    """Return the numbers of half as many passages as are sampled, the hardest for a model."""
    max_tokens, wanted = config.train.max_tokens, config.evaluation.exact_up_to // 2

    def compute() -> NDArray[np.float32]:
        with place.view.work(f"embedding {len(texts):,} passages of {config.data.corpus}", len(texts)) as done:
            return embed_passages(encoder, texts, max_tokens, device=place.device, bf16=place.bf16, done=done)

    key = [encoder.weights_sha256, repr(encoder.model), asdict(encoder.prompts), max_tokens, place.bf16]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    passages = kept(place.folder, json.dumps([*key, digest]), compute)
    queries = encoder_embeddings(encoder, collection, np.unique(asking), max_tokens, device=place.device)
    scored, shape = similarities(queries, passages, encoder.similarity), (len(queries), len(texts))
    k, found = max(1, math.ceil(2 * wanted / len(queries))), list[int]()
    while len(found) < wanted:  # queries may share their neighbours
        near, _ = nearest_passages(scored, shape, k=min(k, len(texts)))
        found, k = list(dict.fromkeys(near.T.ravel().tolist())), 4 * k
    return found[:wanted]


def whole_collection(collection: Collection, corpus: Corpus | None) -> Collection:
    """Return a collection whose queries are ranked over all passages of a corpus."""
    return collection if corpus is None else with_distractors(collection, corpus.beyond)


def describe_corpus(corpus: Corpus, named: int) -> str:
    """Say how many passages are ranked, by which readings.

    Args:
        named: number of passages that rows name.
    """
    if not corpus.count:
        return f"{corpus.path} holds no passage that no row names: {named:,} passages are ranked"
    ranked = f"{named + corpus.count:,} passages are ranked, {corpus.count:,} of them of {corpus.path}, named by no row"
    if not corpus.beyond:
        return ranked
    return (
        f"{ranked}: all of them for the test rows, at the end; for all that is chosen {named + corpus.sampled:,}, "
        f"with a sample of {corpus.sampled:,} of that corpus (evaluation.exact_up_to), half of it the hardest for the "
        "base model"
    )
