"""From the best weights to an exported model whose numbers have been checked."""

import collections
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nic_ray import bundle
from nic_ray import encoder as encoders
from nic_ray.activations import Inputs, feed
from nic_ray.config import TrainConfig
from nic_ray.errors import InputError, RunError
from nic_ray.evaluation import embed, evaluate, evaluate_encoder, score
from nic_ray.preparation import Prepared, describe_data

AGREEMENT = {"fp32": 0.005, "bf16": 0.02}
"""How far a macro metric of the exported folder may lie from the training's, beyond one near tie, by the
precision of the training (the folder is read in fp32)."""


@dataclass(frozen=True)
class Candidate:
    """A configuration with the weights of its best evaluation."""

    name: str
    config: TrainConfig
    metrics: Mapping[str, float]
    """Of its best evaluation, on the validation rows."""
    weights: Mapping[str, Tensor]
    """Of the blocks above its cut."""
    members: tuple[str, ...] = ()
    """The trials whose weights these are the mean of; none for a trial's own."""


def new_run_folder(root: Path, name: str) -> Path:
    """Make `name`-<UTC time> under a folder. Run folders are never reused: an old study would be loaded.

    Raises:
        InputError: it cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = (root / f"{name}-{stamp}").resolve()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another place for runs") from None
    return folder


def best_of(name: str, config: TrainConfig, state: Mapping[str, Any]) -> Candidate:
    """The best evaluation in a training's last state."""
    return Candidate(name, config, state["best"]["metrics"], state["best"]["upper"])


def averaged(
    prepared: Prepared, inputs: Mapping[int, Inputs], candidates: Sequence[Candidate], objective: str
) -> Candidate:
    """The mean of the best trials' weights, as far as each of them makes it better on the validation rows.

    Trials start from the same weights and go the same way, so the mean of two is a model too, and often a
    better one than either. The best trial begins; each next one joins if the mean with it is better than
    without: by objective, then mrr/macro.

    Args:
        inputs: by depth, at least at the shallowest cut of the candidates.
        candidates: the best first.

    Returns:
        the best candidate itself if no other one helps; else a candidate whose configuration is the best
        one's with the shallowest cut of the candidates, below which none of them was trained.

    Source: greedy soup, Wortsman et al. 2022, arXiv:2203.05482, algorithm 1.
    """
    best = candidates[0]
    if len(candidates) == 1:
        return best
    depth = min(each.config.frozen_layers for each in candidates)
    upper = encoders.upper_copy(prepared.encoder, depth, from_ids=inputs[depth].are_ids).to(prepared.device)
    source, rows = feed(inputs[depth], prepared.device), prepared.rows("validation").tolist()
    members, metrics = [best], dict(best.metrics)
    mean = total = _weights_at(prepared, best, depth)
    for candidate in candidates[1:]:
        own = _weights_at(prepared, candidate, depth)
        grown = {name: value + own[name] for name, value in total.items()}
        tried = {name: value / (len(members) + 1) for name, value in grown.items()}
        upper.load_trained_state(tried)
        found = evaluate(upper, source, prepared.collection, rows, bf16=prepared.bf16)
        if (found[objective], found["mrr/macro"]) > (metrics[objective], metrics["mrr/macro"]):
            members, total, mean = [*members, candidate], grown, tried
            metrics |= found
    if len(members) == 1:
        return best
    names = tuple(each.name for each in members)
    return Candidate(" + ".join(names), best.config.model_copy(update={"frozen_layers": depth}), metrics, mean, names)


def _weights_at(prepared: Prepared, candidate: Candidate, depth: int) -> dict[str, Tensor]:
    """A candidate's weights above a cut that is no deeper than its own: those between are the base model's."""
    encoder = copy.deepcopy(prepared.encoder)
    encoders.upper(encoder, candidate.config.frozen_layers).load_trained_state(dict(candidate.weights))
    return encoders.upper(encoder, depth).trained_state()


def score_parts(
    prepared: Prepared, inputs: Inputs, frozen_layers: int, weights: Mapping[str, Tensor] | None
) -> dict[str, dict[str, float]]:
    """Metrics of the validation and of the test rows, by part.

    Args:
        inputs: at the depth of `frozen_layers`.
        weights: of the blocks above the cut; None for the base model's own.
    """
    upper = encoders.upper_copy(prepared.encoder, frozen_layers, from_ids=inputs.are_ids).to(prepared.device)
    if weights is not None:
        upper.load_trained_state(dict(weights))
    collection = prepared.collection
    texts = np.union1d(collection.query[np.flatnonzero(prepared.parts != "train")], collection.corpus)
    embeddings = embed(upper, feed(inputs, prepared.device), texts, bf16=prepared.bf16)
    if weights is None and not np.isfinite(embeddings).all():
        raise InputError(
            f"{prepared.encoder.name}: gives embeddings that are not finite, so there is nothing to tune; name "
            "another train.base_model"
        )
    return {part: score(embeddings, texts, collection, prepared.rows(part).tolist()) for part in ("validation", "test")}


def export(
    prepared: Prepared,
    winner: Candidate,
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    folder: Path,
    *,
    objective: str,
    training_log: str,
    overwrite: bool,
) -> dict[str, Any]:
    """Write the winner as a SentenceTransformer folder, after its numbers were found again from it.

    This puts the winner's weights into `prepared.encoder`.

    Args:
        results: "validation" and "test" -> model -> flat metrics, for the card.
        folder: the bundle, whole or not there at all.

    Returns:
        its metadata.

    Raises:
        RunError: the folder, loaded afresh, gives other validation metrics than the training did.
    """
    encoders.upper(prepared.encoder, winner.config.frozen_layers).load_trained_state(dict(winner.weights))
    # whoever loads the folder then reads as much of a text as the training did
    prepared.encoder.model.max_seq_length = encoders.token_limit(prepared.encoder, winner.config.max_tokens)
    metadata = {
        "name": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "base_model": prepared.encoder.name,
        "base_weights_sha256": prepared.encoder.weights_sha256,
        "trial": winner.name,
        "averaged": list(winner.members),
        "objective": objective,
        "config": winner.config.model_dump(mode="json"),
        **describe_data(prepared),
        "results": results,
        "best": {"epoch": winner.metrics["epoch"], "step": int(winner.metrics["step"])},
        "precision": "bf16" if prepared.bf16 else "fp32",
        "versions": bundle.library_versions(),
    }

    def check(written: Path) -> None:
        again = evaluate_encoder(
            encoders.load(str(written)),
            prepared.collection,
            prepared.rows("validation").tolist(),
            winner.config.max_tokens,
        )
        refuse_other_numbers(winner.metrics, again, AGREEMENT[metadata["precision"]] + _one_query(prepared))

    bundle.write_bundle(
        folder,
        prepared.encoder.model,
        metadata,
        training_log=training_log,
        overwrite=overwrite,
        check=check,
    )
    return metadata


def _one_query(prepared: Prepared) -> float:
    """What one near tie can change in a macro mean: a query of the smallest domain."""
    rows = collections.Counter(prepared.collection.domains[row] for row in prepared.rows("validation").tolist())
    return 1 / (min(rows.values()) * len(rows))


def refuse_other_numbers(expected: Mapping[str, float], found: Mapping[str, float], tolerance: float) -> None:
    """Hold two readings of the same model against each other.

    Raises:
        RunError: a macro metric of `found` lies further from `expected` than `tolerance`.
    """
    keys = [key for key in found if key.endswith("/macro")]
    apart = [key for key in keys if not abs(found[key] - expected[key]) <= tolerance]
    if apart:
        shown = ", ".join(f"{key} {found[key]:.4f} instead of {expected[key]:.4f}" for key in apart)
        raise RunError(f"the exported folder does not give the winner's numbers: {shown}; it was not kept")
