"""What the base model itself makes of texts: kept beside the activations, for further searches."""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nic_ray.model.activations import Inputs
from nic_ray.model.cache import kept
from nic_ray.model.evaluation import texts_to_score
from nic_ray.selection.bases import Base
from nic_ray.training.batches import GeneralTexts
from nic_ray.training.prepared import Prepared, folder_kept_in, held_texts, numbers_of_general


def untuned_metrics(base: Base, runs: Path) -> dict[str, float]:
    """Return what `Base.untuned` does: the flat metrics of the base model itself on the validation rows.

    Args:
        runs: folder of the run folders, beside which activations are kept.

    Raises:
        InputError: an embedding is not finite.
    """
    prepared, scorer, folder = base.prepared, base.scorer, folder_kept_in(base.prepared.config, runs)

    def read_or_computed(texts: NDArray[np.int64]) -> NDArray[np.float32]:
        return kept(folder, _key(prepared, scorer.inputs, texts), functools.partial(scorer.computed, None, texts))

    needed = texts_to_score(prepared.collection, prepared.rows("validation").tolist())
    prepared.known.of(scorer.inputs, None, needed, read_or_computed)
    return base.untuned()


def kept_general_texts(prepared: Prepared, inputs: Inputs, runs: Path) -> GeneralTexts:
    """Return what `held_texts` does."""
    if not prepared.general:
        return held_texts(prepared, inputs)
    numbers, folder = numbers_of_general(prepared), folder_kept_in(prepared.config, runs)
    key = _key(prepared, inputs, numbers)
    return GeneralTexts(numbers, kept(folder, key, lambda: held_texts(prepared, inputs).embeddings))


def _key(prepared: Prepared, inputs: Inputs, texts: NDArray[np.int64]) -> str:
    """Name all that the embeddings of texts depend on; with another number of threads their last bits may differ."""
    tokens, encoder = hashlib.sha256(), prepared.encoder
    for values in (prepared.tokens.values, prepared.tokens.offsets, prepared.tokens.unpooled, texts):
        tokens.update(b"" if values is None else np.ascontiguousarray(values).tobytes())
    # the same weights give other embeddings with another pooling, or activation function
    model = [encoder.weights_sha256, repr(encoder.model), repr(getattr(encoder.transformer, "config", None))]
    computed = [prepared.device, prepared.bf16, torch.__version__, torch.backends.cpu.get_cpu_capability()]
    fixed = None if inputs.fixed is None else hashlib.sha256(inputs.fixed.tobytes()).hexdigest()
    return json.dumps(["base embeddings", *model, inputs.depth, inputs.are_ids, tokens.hexdigest(), fixed, *computed])
