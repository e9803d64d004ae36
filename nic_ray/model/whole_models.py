"""Evaluation of whole models, from the texts: by their encoder, or as Sentence Transformers alone embeds them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.cut_passages import ranked_for
from nic_ray.dataset.pairs import Collection, gains_by_query, relevant_passages
from nic_ray.hardware import keep_to_usable_cpus
from nic_ray.metrics.fusion import VECTORS, Fusion
from nic_ray.metrics.ranking import empty_metrics, flat_metrics, query_blocks, score_metrics
from nic_ray.model.activations import feed, token_inputs
from nic_ray.model.encoder import Encoder, whole
from nic_ray.model.evaluation import Asked, answers_in, embed, fused_scores, left_out_of, texts_to_score

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PLAIN_BATCH = 16
"""Texts that plain Sentence Transformers embeds at once: at 64 tokens each, as many as `CHUNK_TOKENS` on a CPU."""


def evaluate_encoder(
    encoder: Encoder,
    collection: Collection,
    rows: Sequence[int],
    max_tokens: int,
    *,
    device: str = "cpu",
    done: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """Compute per-domain metrics of a whole model, starting from the texts, in fp32.

    Args:
        device: where to embed.
        done: called with the number of further `texts_to_score` that have been embedded.

    Raises:
        ValueError: an embedding is not finite.
    """
    values = encoder_scores(encoder, collection, rows, max_tokens, [VECTORS], device=device, done=done)[VECTORS]
    return flat_metrics(values, [collection.domains[row] for row in rows])


def encoder_embeddings(
    encoder: Encoder,
    collection: Collection,
    texts: NDArray[np.int64],
    max_tokens: int,
    *,
    device: str = "cpu",
    done: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Embed texts of a collection with a whole model, each by its role, in fp32.

    Args:
        texts: (n,) numbers of texts.
        device: where to embed; the encoder itself stays on the CPU.
        done: called with the number of further distinct texts that have been embedded.

    Returns:
        embeddings (n, D) in the order of `texts`.
    """
    routes = [(encoder, np.arange(len(texts)))]
    if encoder.passages is not None:
        asks = collection.is_query[texts]
        routes = [(encoder, np.flatnonzero(asks)), (encoder.passages, np.flatnonzero(~asks))]
    routes = [(model, places) for model, places in routes if len(places)]
    parts = []
    for model, places in routes:
        tokens = token_inputs(model, collection.texts, max_tokens, collection.is_query)
        parts.append(embed(whole(model, device), feed(tokens, device), texts[places], done=done))
    embeddings: NDArray[np.float32] = np.concatenate(parts)[np.argsort(np.concatenate([at for _, at in routes]))]
    return embeddings


def encoder_scores(
    encoder: Encoder,
    collection: Collection,
    rows: Sequence[int],
    max_tokens: int,
    fusions: Sequence[Fusion],
    *,
    device: str = "cpu",
    done: Callable[[int], None] = lambda _: None,
) -> dict[Fusion, dict[str, NDArray[np.float64]]]:
    """Compute `fused_scores` of a whole model, starting from the texts, in fp32, with its prompts and its similarity.

    Args:
        fusions: as for `fused_scores`.
        device: where to embed; the encoder itself stays on the CPU.
        done: called with the number of further `texts_to_score` that have been embedded.

    Raises:
        ValueError: an embedding is not finite.
    """
    return fused_scores(asked_of(encoder, collection, rows, max_tokens, device=device, done=done), fusions)


def asked_of(
    encoder: Encoder,
    collection: Collection,
    rows: Sequence[int],
    max_tokens: int,
    *,
    device: str = "cpu",
    done: Callable[[int], None] = lambda _: None,
) -> Asked:
    """Embed what is needed to score rows with a whole model; arguments as for `encoder_scores`."""
    keep_to_usable_cpus()
    texts = texts_to_score(collection, rows)
    embeddings = encoder_embeddings(encoder, collection, texts, max_tokens, device=device, done=done)
    return Asked(embeddings, texts, collection, rows, encoder.similarity)


def plain_scores(
    model: "SentenceTransformer",
    collection: Collection,
    rows: Sequence[int],
    *,
    done: Callable[[int], None] = lambda _: None,
) -> dict[str, NDArray[np.float64]]:
    """Compute `query_scores` of a model as a user of the exported folder would: with Sentence Transformers alone.

    Queries are embedded by `encode_query`, passages by `encode_document`, and both are compared by `similarity`.

    Args:
        done: called with the number of further texts that have been embedded, first the passages, then the queries.

    Raises:
        ValueError: a similarity is not finite.
    """
    collection = ranked_for(collection, rows)
    relevant, gains = relevant_passages(collection), gains_by_query(collection)
    corpus = [collection.texts[text] for text in collection.corpus.tolist()]
    passages = model.encode_document(corpus, batch_size=PLAIN_BATCH, show_progress_bar=False)
    done(len(corpus))
    distinct, place = np.unique(collection.query[list(rows)], return_inverse=True)
    texts = [collection.texts[query] for query in distinct.tolist()]
    queries = model.encode_query(texts, batch_size=PLAIN_BATCH, show_progress_bar=False)
    done(len(texts))
    scores = empty_metrics(len(distinct), collection.metrics)
    for block in query_blocks(len(distinct), len(corpus)):
        numbers = distinct[block].tolist()
        right, worth = answers_in(collection.corpus, relevant, gains, numbers)
        left_out = left_out_of(collection, collection.corpus, relevant, numbers)
        similarity = model.similarity(queries[block], passages).numpy()
        for name, values in score_metrics(similarity, right, left_out, worth, collection.metrics).items():
            scores[name][block] = values
    return {name: values[place] for name, values in scores.items()}
