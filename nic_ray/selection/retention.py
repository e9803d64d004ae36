"""Retention: how well a tuned model still answers questions from other fields, compared with the base model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.pairs import Collection
from nic_ray.metrics.neighbours import nearest_neighbours, share_kept
from nic_ray.metrics.table import METRICS
from nic_ray.model.activations import Inputs, frozen_inputs, token_inputs
from nic_ray.model.cache import opened
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.scoring import Scorer, Weights, deepest
from nic_ray.training.prepared import Prepared, with_fixed_passages


@dataclass(frozen=True)
class RetentionSet:
    """Questions from other fields, whose results show what a model has forgotten by its tuning."""

    collection: Collection
    inputs: Mapping[int, Inputs]
    """Inputs of the texts, by depth."""
    base: Mapping[str, float]
    """Metric -> macro mean of the base model on these questions."""


@dataclass(frozen=True)
class GeneralText:
    """General texts, whose neighbourhoods show how far a model has moved by its tuning."""

    inputs: Mapping[int, Inputs]
    """Inputs of the texts, by depth."""
    neighbours: NDArray[np.int64]
    """(n, k) nearest neighbours of each text by the base model."""


def load_general_text(prepared: Prepared, depths: Sequence[int]) -> GeneralText | None:
    """Run general texts through the frozen blocks, and find their neighbours by the base model.

    Args:
        depths: the values of frozen_layers of the models that are to be evaluated.

    Returns:
        None if the guard does not ask for them.
    """
    if not prepared.measuring:
        return None
    inputs = _inputs_at(prepared, prepared.measuring, np.zeros(len(prepared.measuring), dtype=np.bool_), depths)
    return GeneralText(inputs, _neighbours(prepared, deepest(inputs), None))


def neighbours_kept(prepared: Prepared, general: GeneralText, candidate: Candidate) -> float:
    """Compute the share of the base model's neighbours on general texts that are the candidate's too."""
    inputs = general.inputs[candidate.config.frozen_layers]
    return share_kept(_neighbours(prepared, inputs, candidate.weights), general.neighbours)


def _neighbours(prepared: Prepared, inputs: Inputs, weights: Weights | None) -> NDArray[np.int64]:
    texts = np.arange(len(inputs.offsets) - 1)
    return nearest_neighbours(Scorer(prepared, inputs).embeddings(weights, texts))


def _inputs_at(
    prepared: Prepared, texts: Sequence[str], is_query: NDArray[np.bool_], depths: Sequence[int]
) -> dict[int, Inputs]:
    """Return the inputs of some texts at some depths; a model that cannot be cut gets those of depth 0 everywhere."""
    encoder = prepared.encoder
    tokens = token_inputs(encoder, texts, prepared.config.train.max_tokens, is_query)
    wanted = sorted(set(depths)) if encoder.can_be_cut else []
    cut_inputs = frozen_inputs(encoder, tokens, wanted, device=prepared.device, bf16=prepared.bf16)
    inputs = {depth: cut_inputs.get(depth, replace(tokens, depth=depth)) for depth in depths}
    return {depth: opened(at_depth) for depth, at_depth in with_fixed_passages(prepared, inputs, is_query).items()}


def load_retention_set(prepared: Prepared, collection: Collection, depths: Sequence[int]) -> RetentionSet:
    """Run the texts of a retention set through the frozen blocks, and evaluate the base model on it.

    Args:
        collection: the pairs of the retention set.
        depths: the values of frozen_layers of the models that are to be evaluated.

    Raises:
        InputError: an embedding by the base model is not finite.
    """
    inputs = _inputs_at(prepared, collection.texts, collection.is_query, depths)
    return RetentionSet(collection, inputs, _macro_metrics(prepared, collection, deepest(inputs), None))


def retention_of(prepared: Prepared, retention_set: RetentionSet, candidate: Candidate) -> dict[str, float]:
    """Compute the macro mean of each metric on the retention set, the candidate's minus the base model's."""
    inputs = retention_set.inputs[candidate.config.frozen_layers]
    metrics = _macro_metrics(prepared, retention_set.collection, inputs, candidate.weights)
    return {name: value - retention_set.base[name] for name, value in metrics.items()}


def _macro_metrics(
    prepared: Prepared, collection: Collection, inputs: Inputs, weights: Weights | None
) -> dict[str, float]:
    metrics = Scorer(prepared, inputs, collection).metrics(weights, np.arange(len(collection.query)))
    return {name: metrics[f"{name}/macro"] for name in METRICS}
