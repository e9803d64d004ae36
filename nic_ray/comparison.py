"""An exported model beside the base model that it was made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from nic_ray.bundle import METADATA, file_sha256, read_metadata
from nic_ray.config import DataConfig, Protocol, TrainConfig
from nic_ray.encoder import load
from nic_ray.errors import InputError
from nic_ray.evaluation import evaluate_encoder
from nic_ray.pairs import index_pairs, read_pairs
from nic_ray.preparation import divide
from nic_ray.split import Part
from nic_ray.tokens import PACKAGED_NAMES


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
    refit: bool
    """Whether the exported weights were trained again on the rows of all parts."""
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
        refit=metadata.get("refit") == "all",
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
    if comparison.refit and comparison.split_from == "bundle":
        return (
            f"{comparison.split} part of {comparison.pairs}: {counts}. The exported weights were trained again on the "
            "rows of all parts (refit: all), these included; what the configuration is worth on rows that it never saw "
            "stands in the model card"
        )
    whose = "as the model was trained" if comparison.split_from == "bundle" else "by the default split"
    protocol = comparison.protocol.replace("_", " ")
    return f"{comparison.split} part of {comparison.pairs}, {whose} ({protocol}): {counts}"


def _split_of(stored: Mapping[str, Any], folder: Path) -> DataConfig:
    names = DataConfig.model_fields.keys() - {"pairs"}
    try:
        return DataConfig.model_validate({name: stored[name] for name in names & stored.keys()})
    except ValidationError as error:
        found = "; ".join(f"split.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise InputError(f"{folder / METADATA}: {found}; export the bundle again") from None
