"""What other models make of the texts of a training: a guide that rules out negatives, a teacher to learn from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.pairs import Collection
from nic_ray.errors import InputError, in_one_line
from nic_ray.model.activations import token_inputs
from nic_ray.model.base import hash_of_weights, load
from nic_ray.model.cache import kept
from nic_ray.model.encoder import Encoder
from nic_ray.model.whole_models import encoder_embeddings
from nic_ray.tokens import model_folder, only_here
from nic_ray.train_config import TrainConfig
from nic_ray.training.batches import OtherModels

TEACHER_SCALE = 20.0
"""Factor of a teacher's cosines, which makes them logits; the scores of a cross-encoder are logits already."""


def other_models(config: TrainConfig, collection: Collection, device: str, folder: Path | None = None) -> OtherModels:
    """Compute once what a training needs from `train.guide` and `train.teacher`.

    Args:
        device: where the models run.
        folder: keeps what was computed for the next run with the same texts; None to keep nothing.

    Raises:
        InputError: one of them is no model, or a teacher that is a cross-encoder has no negatives to score.
    """
    guide = None if config.guide is None else _unit_embeddings("guide", config, collection, device, folder)
    if config.teacher is None:
        return OtherModels(guide)
    if _is_cross_encoder(config.teacher):
        return OtherModels(guide, pair_scores=_pair_scores(config, collection, device, folder))
    teacher = _unit_embeddings("teacher", config, collection, device, folder)
    return OtherModels(guide, teacher=teacher * np.float32(TEACHER_SCALE**0.5))


def _unit_embeddings(
    role: Literal["guide", "teacher"], config: TrainConfig, collection: Collection, device: str, folder: Path | None
) -> NDArray[np.float32]:
    """(texts, D) embeddings of the collection's texts by another model, with its own prompts."""
    try:
        encoder = load(str(getattr(config, role)), trust_remote_code=config.trust_remote_code)
    except InputError as error:
        raise InputError(f"train.{role}: {error}") from None

    def compute() -> NDArray[np.float32]:
        texts = np.arange(len(collection.texts))
        embeddings = encoder_embeddings(encoder, collection, texts, config.max_tokens, device=device)
        unit: NDArray[np.float32] = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return unit

    return kept(folder, _key_of(encoder, collection, config.max_tokens), compute)


def _key_of(encoder: Encoder, collection: Collection, max_tokens: int) -> str:
    """Return a text that differs where embeddings do: by weights, modules, prompts, token ids, passages' model."""
    parts = [encoder] if encoder.passages is None else [encoder, encoder.passages]
    ids = [token_inputs(part, collection.texts, max_tokens, collection.is_query) for part in parts]
    return json.dumps(
        [
            [
                part.weights_sha256,
                repr(part.model),
                asdict(part.prompts),
                tokens.values.tolist(),
                tokens.offsets.tolist(),
            ]
            for part, tokens in zip(parts, ids, strict=True)
        ]
    )


def _is_cross_encoder(model: str) -> bool:
    """Whether a folder or a hub id holds a model that scores pairs; others are refused where they are loaded."""
    from transformers import AutoConfig

    place = str(model_folder(model) or model)
    try:
        names = AutoConfig.from_pretrained(place, local_files_only=only_here(model)).architectures
    except Exception:  # of many kinds, among them folders of Sentence Transformers without a transformer
        return False
    return any(str(name).endswith("ForSequenceClassification") for name in names or ())


def _pair_scores(config: TrainConfig, collection: Collection, device: str, folder: Path | None) -> NDArray[np.float32]:
    """(N, 1 + H) logits of each row's passage and of its hard negatives; NaN where there is none."""
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    negatives = collection.negatives[:, : config.hard_negatives]
    if not (negatives >= 0).any():
        raise InputError(
            f"train.teacher: {config.teacher} is a cross-encoder, which scores the hard negatives of the rows, and "
            "there are none; find some with python -m nic_ray.mine, raise train.hard_negatives, or name a model that "
            "embeds texts"
        )
    try:
        teacher = CrossEncoder(
            str(config.teacher),
            device=device,
            local_files_only=only_here(str(config.teacher)),
            max_length=config.max_tokens,
            trust_remote_code=config.trust_remote_code,
        )
    except Exception as error:  # as for base models, from any of four libraries
        raise InputError(f"train.teacher: {config.teacher}: cannot be loaded ({in_one_line(error)})") from None
    passages = np.column_stack([collection.positive, negatives])
    known = passages >= 0
    queries = np.broadcast_to(collection.query[:, None], passages.shape)
    numbers = list(zip(queries[known].tolist(), passages[known].tolist(), strict=True))
    pairs = [(collection.texts[query], collection.texts[passage]) for query, passage in numbers]

    def compute() -> NDArray[np.float32]:
        scores = np.full(passages.shape, np.nan, dtype=np.float32)
        scores[known] = teacher.predict(pairs, activation_fn=Identity(), show_progress_bar=False)
        return scores

    key = [hash_of_weights(teacher), repr(teacher.config), config.max_tokens, pairs, known.tolist()]
    return kept(folder, json.dumps(key), compute)
