"""From a model and rows to per-domain numbers: embed, rank the whole corpus, average."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from nic_ray.activations import CHUNK_TOKENS, Feed, chunks, feed, padded_batch, token_inputs
from nic_ray.bundle import METADATA, file_sha256, read_metadata
from nic_ray.config import DataConfig, Protocol, TrainConfig
from nic_ray.encoder import PACKAGED_NAMES, Encoder, Upper, load, upper
from nic_ray.errors import InputError
from nic_ray.pairs import Collection, Pair, index_pairs, read_pairs, relevant_passages
from nic_ray.retrieval import retrieval_metrics
from nic_ray.split import Part, sample_rows, split_rows


@dataclass(frozen=True)
class Comparison:
    """A model beside the base model it was made of, on the same rows."""

    model: str
    """As the user named it."""
    base_model: str
    pairs: str
    """The file."""
    split: Part | Literal["all"]
    protocol: Protocol | None
    """What was held back from training; None for all rows, where nothing was."""
    split_from: Literal["bundle", "defaults"] | None
    """Whether the split is the one that the model was trained with; None for all rows."""
    queries: int
    passages: int
    """In the corpus."""
    results: dict[str, dict[str, float]]
    """"base" and "model" -> flat metrics; "model" alone if it is the base model itself."""


def compare_with_base(model: str, pairs: Path, split: Part | Literal["all"]) -> Comparison:
    """Evaluate a model and its base model on one part of some pairs.

    Args:
        model: a bundle, another folder that Sentence Transformers loads, the packaged name or a hub id.
            A bundle names its base model, its cut of long texts and, if it was trained on these very pairs,
            their split. Others are compared with the packaged model on the default split.
        pairs: JSONL file.
        split: part of the rows that asks; the corpus is that of all parts.

    Raises:
        InputError: unusable pairs, model or metadata of a bundle.
    """
    metadata = read_metadata(Path(model)) if (Path(model) / METADATA).is_file() else {}
    rows = read_pairs(pairs)
    has_split = "split" in metadata and metadata.get("data", {}).get("sha256") == file_sha256(pairs)
    if split == "all":
        collection, chosen, data = index_pairs(rows), list(range(len(rows))), None
    else:
        data = _split_of(metadata["split"], Path(model)) if has_split else DataConfig()
        collection, parts = divide(rows, data)
        chosen = np.flatnonzero(parts == split).tolist()
    max_tokens = metadata.get("config", {}).get("max_tokens", TrainConfig().max_tokens)
    base_model = metadata.get("base_model", PACKAGED_NAMES[0])
    is_base = model == base_model or {model, base_model} <= set(PACKAGED_NAMES)
    names = {"model": model} if is_base else {"base": base_model, "model": model}
    encoders = {label: load(name) for label, name in names.items()}
    return Comparison(
        model=model,
        base_model=base_model,
        pairs=str(pairs),
        split=split,
        protocol=data.protocol if data else None,
        split_from=("bundle" if has_split else "defaults") if data else None,
        queries=len(chosen),
        passages=len(collection.corpus),
        results={
            label: evaluate_encoder(encoder, collection, chosen, max_tokens) for label, encoder in encoders.items()
        },
    )


def describe_rows(comparison: Comparison) -> str:
    """One line: which rows of which file, by which protocol, against how many passages."""
    counts = f"{comparison.queries} queries, ranked over {comparison.passages} passages"
    if comparison.protocol is None:
        return f"all rows of {comparison.pairs}, those that a model was trained on included: {counts}"
    whose = "as the model was trained" if comparison.split_from == "bundle" else "by the default split"
    protocol = comparison.protocol.replace("_", " ")
    return f"{comparison.split} part of {comparison.pairs}, {whose} ({protocol}): {counts}"


def divide(pairs: Sequence[Pair], data: DataConfig) -> tuple[Collection, NDArray[np.str_]]:
    """The rows that a run uses, and the part that each belongs to.

    Args:
        pairs: every row of the file.
        data: share of the passages to use, and how to split what they leave.

    Returns:
        the collection of the used rows, N of them, and (N,) "train", "validation" or "test".

    Raises:
        InputError: a domain has too few groups to split.
    """
    whole = index_pairs(pairs)
    kept = sample_rows(whole.positive, whole.domains, share=data.sample_share, seed=data.seed)
    collection = index_pairs([pairs[row] for row in kept])
    parts = split_rows(
        collection.query,
        collection.positive,
        collection.domains,
        validation_share=data.validation_share,
        test_share=data.test_share,
        seed=data.seed,
        protocol=data.protocol,
    )
    return collection, parts


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
    """Metrics of rows whose texts are embedded already.

    Args:
        embeddings: (n, D), of the distinct queries of the rows and of the whole corpus, at least.
        texts: (n,) ascending: which text each embedding is of.
        rows: rows of the collection, each one query.

    Returns:
        flat metrics as `retrieval.retrieval_metrics` names them.
    """
    relevant = relevant_passages(collection)
    queries = collection.query[list(rows)]
    return retrieval_metrics(
        embeddings[np.searchsorted(texts, queries)],
        embeddings[np.searchsorted(texts, collection.corpus)],
        [np.searchsorted(collection.corpus, relevant[query]) for query in queries.tolist()],
        [collection.domains[row] for row in rows],
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


def _split_of(stored: Mapping[str, Any], folder: Path) -> DataConfig:
    names = DataConfig.model_fields.keys() - {"pairs"}
    try:
        return DataConfig.model_validate({name: stored[name] for name in names & stored.keys()})
    except ValidationError as error:
        found = "; ".join(f"split.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise InputError(f"{folder / METADATA}: {found}; export the bundle again") from None
