"""What the base model itself makes of texts: kept beside the activations, for further searches."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nic_ray.model.activations import Inputs
from nic_ray.model.cache import budget, kept
from nic_ray.selection.bases import Base
from nic_ray.selection.scoring import Scorer, Weights, deepest
from nic_ray.training.batches import GeneralTexts
from nic_ray.training.prepared import Prepared, held_texts


@dataclass(frozen=True)
class KeptScorer(Scorer):
    """A `Scorer` that keeps the embeddings by the base model for further searches."""

    folder: Path | None = None
    """Where they are kept; None to keep nothing."""

    def embeddings(self, weights: Weights | None, texts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings (n, D) of texts, given by their numbers (n,)."""
        if weights is not None:
            return super().embeddings(weights, texts)
        computed = super().embeddings
        return kept(self.folder, _key(self.prepared, self.inputs, texts), lambda: computed(None, texts))


def untuned_metrics(base: Base, runs: Path) -> dict[str, float]:
    """Return what `Base.untuned` does: the flat metrics of the base model itself on the validation rows.

    Args:
        runs: folder of the run folders, beside which activations are kept.

    Raises:
        InputError: an embedding is not finite.
    """
    scorer = KeptScorer(base.prepared, deepest(base.inputs), folder=folder_of(base.prepared, runs))
    return scorer.metrics(None, base.prepared.rows("validation"))


def kept_general_texts(prepared: Prepared, inputs: Inputs, runs: Path) -> GeneralTexts:
    """Return what `held_texts` does."""
    if not prepared.general:
        return held_texts(prepared, inputs)
    first = len(prepared.collection.texts)
    numbers = np.arange(first, first + len(prepared.general))
    key = _key(prepared, inputs, numbers)
    return GeneralTexts(numbers, kept(folder_of(prepared, runs), key, lambda: held_texts(prepared, inputs).embeddings))


def folder_of(prepared: Prepared, runs: Path) -> Path | None:
    """Return the folder where activations are kept on disk; None if none are."""
    config = prepared.config.activations
    return budget(config, runs).folder if config.disk_budget_gib else None


def _key(prepared: Prepared, inputs: Inputs, texts: NDArray[np.int64]) -> str:
    """Name all that the embeddings of texts depend on, to their last bit."""
    tokens, encoder = hashlib.sha256(), prepared.encoder
    for values in (prepared.tokens.values, prepared.tokens.offsets, prepared.tokens.unpooled, texts):
        tokens.update(b"" if values is None else np.ascontiguousarray(values).tobytes())
    # the same weights give other embeddings with another pooling, or activation function
    model = [encoder.weights_sha256, repr(encoder.model), repr(getattr(encoder.transformer, "config", None))]
    computed = [prepared.device, prepared.bf16, torch.get_num_threads(), torch.__version__]
    fixed = None if inputs.fixed is None else hashlib.sha256(inputs.fixed.tobytes()).hexdigest()
    return json.dumps(["base embeddings", *model, inputs.depth, inputs.are_ids, tokens.hexdigest(), fixed, *computed])
