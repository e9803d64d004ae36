"""Training again on other rows, as the winner was trained: on those of all parts, before the export."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.bundle.descriptions import describe_refit
from nic_ray.config import TrainConfig
from nic_ray.metrics.table import METRICS, PRIMARY
from nic_ray.model.activations import Inputs, upper_for
from nic_ray.record import readable_state, save_state
from nic_ray.results import StoredInterval, StoredRefit
from nic_ray.selection.averaging import weights_of
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.interpolation import ALPHAS, interpolated
from nic_ray.selection.reading import stored_intervals
from nic_ray.selection.retention import (
    GeneralText,
    RetentionSet,
    load_general_text,
    neighbours_kept,
    retention_of,
)
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.selection.selection import Judgement
from nic_ray.training import loop
from nic_ray.training.prepared import Prepared, training_data

MOST_MEMBERS = 2
"""Trials of a mean that are trained again, the first ones: each costs as long as its training did, and more."""
LARGEST_LOSS = 0.01
"""Macro Recall@5 of the training rows by which the model that was trained again may be worse than the measured one."""


@dataclass(frozen=True)
class Kept:
    """What a model has kept of what the base model knows, as far as that is measured."""

    retention: Mapping[str, float] | None
    neighbours: float | None


def refit(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    judgement: Judgement,
    retention_set: RetentionSet | None,
    *,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Candidate, Judgement]:
    """Train the winner again on the rows of all parts, and check the result against the model that was measured.

    No row is held back to measure the result on. So it is checked where it can be: it must find the answers to the
    training questions as well as the measured model does, and it must keep as much of what the base model knows as the
    guard demands. It is mixed with the base model in the same proportion as the measured model, or with more of the
    base model if it would forget too much otherwise.

    Args:
        inputs: inputs by depth, for the depths of the winner and of its members.
        retention_set: the pairs to measure retention on, with inputs for the same depths; None as in `judge`.
        folder: receives a checkpoint for each trial, from which a later call resumes; None for no checkpoints.
        say: called with a line for each intermediate result.

    Returns:
        the model to export: the one that was trained again, or the measured one if the check fails; and the judgement
        with the evidence for that.
    """
    if prepared.config.refit == "none":
        return judgement.tuned, judgement
    everything = np.arange(len(prepared.parts))
    again = trained_again(prepared, inputs, judgement.winner, everything, folder=folder, say=say)
    depth = again.config.frozen_layers
    general = load_general_text(prepared, [depth])
    alpha, weights, kept = _mixed(prepared, again, judgement.evidence["alpha"], retention_set, general)
    training = _on_training_rows(prepared, inputs, judgement.tuned, replace(again, weights=weights))
    evidence: StoredRefit = {
        "rows": len(everything),
        "trials": [member.name for member in again.members or (again,)],
        "alpha": alpha,
        "training": training,
        "retention": kept.retention,
        "neighbours_kept": kept.neighbours,
        "objection": _objection(alpha, training),
    }
    outcome = "none" if evidence["objection"] else "all"
    judgement = replace(judgement, evidence={**judgement.evidence, "refit": outcome, "refitted": evidence})
    say(describe_refit(evidence))
    if evidence["objection"]:
        return judgement.tuned, judgement
    config = judgement.tuned.config.model_copy(update={"frozen_layers": depth})
    return replace(judgement.tuned, config=config, weights=weights, measured=False), judgement


def trained_again(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    winner: Candidate,
    rows: NDArray[np.int64],
    *,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Candidate:
    """Train the winner's configurations on other rows, each up to the epoch of its best evaluation.

    Of a mean, the first `MOST_MEMBERS` configurations are trained.

    Args:
        inputs: inputs by depth, for the depths of the winner and of its members.
        rows: numbers of the rows to train on.
        folder: receives the checkpoints, a folder for each trial; None for none.
        say: called with a line for each part of an epoch.

    Returns:
        the mean of the newly trained models. Its metrics remain those of the winner, since they were not measured anew.
    """
    members = [*(winner.members or (winner,))][:MOST_MEMBERS]
    depth = min(member.config.frozen_layers for member in members)
    total: dict[str, Tensor] = {}
    for member in members:
        weights = _trained(prepared, inputs, member, rows, None if folder is None else folder / member.name, say)
        for name, value in weights_of(prepared, replace(member, weights=weights), depth).items():
            total[name] = total.get(name, 0) + value / len(members)
    config: TrainConfig = members[0].config.model_copy(update={"frozen_layers": depth})
    several = tuple(members) if len(members) > 1 else ()
    return replace(winner, config=config, weights=total, members=several, measured=False)


def _trained(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    member: Candidate,
    rows: NDArray[np.int64],
    folder: Path | None,
    say: Callable[[str], None],
) -> dict[str, Tensor]:
    """Train one configuration, from its newest checkpoint if there is one."""
    config = member.config.model_copy(update={"patience": None})  # there are no validation metrics to stop by
    at_depth = inputs[config.frozen_layers]
    # evaluations follow whole steps: with more rows the same one comes at a slightly different part of the epoch
    enough = member.metrics["epoch"] - 0.5 / config.evaluations_per_epoch
    upper = upper_for(prepared.encoder, at_depth).to(prepared.device)
    state = None if folder is None else readable_state(folder)
    if state is not None and state["metrics"]["epoch"] > enough:
        return state["upper"]
    say(f"training {member.name} again on {len(rows):,} rows, up to epoch {member.metrics['epoch']:.3g}")
    for evaluation in loop.fit(config, upper, training_data(prepared, at_depth, rows), loop.UNJUDGED, state=state):
        metrics = evaluation.metrics
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_state(evaluation.state, folder)
        say(f"{member.name}: epoch {metrics['epoch']:.2f}  loss {metrics['loss']:.3f}")
        if metrics["epoch"] > enough:
            break
    return upper.trained_state()


def _mixed(
    prepared: Prepared,
    again: Candidate,
    alpha: float,
    retention_set: RetentionSet | None,
    general: GeneralText | None,
) -> tuple[float | None, dict[str, Tensor], Kept]:
    """Mix the weights with the base model's, by as large a share up to `alpha` as the limits of the guard allow.

    Returns:
        the share, None if no share is small enough; the mixture, and what it keeps.
    """
    limits = prepared.config.guard
    for share in sorted({alpha, *(each for each in ALPHAS if each < alpha)}, reverse=True):
        mixed = replace(again, weights=interpolated(prepared, again, share))
        retention = None if retention_set is None else retention_of(prepared, retention_set, mixed)
        neighbours = None if general is None else neighbours_kept(prepared, general, mixed)
        kept = Kept(retention, neighbours)
        if (retention is None or retention[PRIMARY] >= -limits.max_retention_loss) and (
            neighbours is None or neighbours >= limits.min_neighbours_kept
        ):
            return share, dict(mixed.weights), kept
    return None, dict(mixed.weights), kept


def _on_training_rows(
    prepared: Prepared, inputs: Mapping[int, Inputs], tuned: Candidate, again: Candidate
) -> StoredInterval:
    """Compare the two models on the rows that both were trained on."""
    rows = prepared.rows("train")
    new, old = (
        Scorer(prepared, inputs[model.config.frozen_layers]).scores(model.weights, rows)[PRIMARY]
        for model in (again, tuned)
    )
    return stored_intervals(new, old, queries_of(prepared, "train"))["macro"]


def _objection(alpha: float | None, training: StoredInterval) -> str:
    if alpha is None:
        return "it forgets more than the guard allows, however much of the base model is mixed in"
    if not training["difference"] >= -LARGEST_LOSS:
        return (
            f"it finds less on the training rows than the measured model: {training['difference']:+.3f} macro "
            f"{METRICS[PRIMARY].label}"
        )
    return ""
