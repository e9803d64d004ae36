"""From a model and rows to per-domain numbers: embed, rank the whole corpus, average."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nic_ray.activations import CHUNK_TOKENS, Feed, chunks, feed, padded_batch, token_inputs
from nic_ray.encoder import Encoder, Upper, upper
from nic_ray.pairs import Collection, relevant_passages
from nic_ray.retrieval import flat_metrics, query_metrics


@torch.inference_mode()
def embed(upper: Upper, source: Feed, texts: NDArray[np.int64], *, bf16: bool = False) -> NDArray[np.float32]:
    """Embed texts in eval mode, each once.

    Args:
        source: inputs at the depth that `upper` is fed at, on its device.
        texts: (n,) numbers of texts.

    Returns:
        (n, D) in the order of `texts`.
    """
    device = source.values.device
    was_training = upper.training
    upper.eval()
    distinct, place = np.unique(texts, return_inverse=True)
    order, parts = [], []
    for chunk in chunks(source.lengths, distinct, CHUNK_TOKENS[device.type]):
        values, mask = padded_batch(source, chunk)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.append(upper(values, mask))
        order.append(chunk)
    upper.train(was_training)
    found = torch.cat(parts).cpu().numpy()
    return found[np.argsort(np.concatenate(order))][place]


def score(
    embeddings: NDArray[np.floating], texts: NDArray[np.int64], collection: Collection, rows: Sequence[int]
) -> dict[str, float]:
    """Metrics of rows whose texts are embedded already: those of `query_scores`, by domain.

    Returns:
        flat metrics as `retrieval.retrieval_metrics` names them.
    """
    values = query_scores(embeddings, texts, collection, rows)
    return flat_metrics(values, [collection.domains[row] for row in rows])


def query_scores(
    embeddings: NDArray[np.floating], texts: NDArray[np.int64], collection: Collection, rows: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Recall@5 and reciprocal rank of each row's query, ranked over the whole corpus.

    Args:
        embeddings: (n, D), of the distinct queries of the rows and of the whole corpus, at least.
        texts: (n,) ascending: which text each embedding is of.
        rows: rows of the collection, each one query.

    Returns:
        as `retrieval.query_metrics`, each (rows,).
    """
    relevant = relevant_passages(collection)
    queries = collection.query[list(rows)]
    return query_metrics(
        embeddings[np.searchsorted(texts, queries)],
        embeddings[np.searchsorted(texts, collection.corpus)],
        [np.searchsorted(collection.corpus, relevant[query]) for query in queries.tolist()],
    )


def texts_to_score(collection: Collection, rows: Sequence[int]) -> NDArray[np.int64]:
    """(n,) ascending numbers of the texts that scoring these rows needs: their queries, the whole corpus."""
    return np.union1d(collection.query[list(rows)], collection.corpus)


def evaluate(
    upper: Upper, source: Feed, collection: Collection, rows: Sequence[int], *, bf16: bool = False
) -> dict[str, float]:
    """Per-domain Recall@5 and MRR of rows, ranked over the whole corpus.

    Raises:
        ValueError: an embedding is not finite.
    """
    texts = texts_to_score(collection, rows)
    return score(embed(upper, source, texts, bf16=bf16), texts, collection, rows)


def evaluate_encoder(
    encoder: Encoder, collection: Collection, rows: Sequence[int], max_tokens: int, *, device: str = "cpu"
) -> dict[str, float]:
    """Per-domain Recall@5 and MRR of a whole model, from the texts on, in fp32.

    Raises:
        ValueError: an embedding is not finite.
    """
    tokens = token_inputs(encoder, collection.texts, max_tokens)
    # in eval mode, or `embed` would leave dropout on in the encoder that `upper` shares its modules with
    whole = upper(encoder, 0).to(device).eval()
    return evaluate(whole, feed(tokens, device), collection, rows)
