"""Training again on other rows, as the winner was trained: on those of all parts, before the export."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.bundle.descriptions import describe_refit
from nic_ray.errors import RunError
from nic_ray.evidence import Evidence
from nic_ray.metrics.table import METRICS, PRIMARY
from nic_ray.model.activations import Inputs, upper_for
from nic_ray.model.adapters import weights_of
from nic_ray.record import LOG, logging_to, readable_state, save_state
from nic_ray.results import StoredInterval, StoredRefit
from nic_ray.selection.averaging import mean_weights
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.guard import falls, neighbours_asked_for
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
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop
from nic_ray.training.prepared import Prepared, training_data

MOST_MEMBERS = 2
"""Trials of a mean that are trained again: each costs as long as its training did, and more."""
LARGEST_LOSS = 0.01
"""Macro Recall@5 of the training rows by which the model that was trained again may be worse than the measured one."""


class Train(Protocol):
    """Trains configurations again on some rows, as `training_here` does, perhaps in other processes."""

    def __call__(
        self,
        members: Sequence[Candidate],
        rows: NDArray[np.int64],
        *,
        folder: Path | None,
        say: Callable[[str], None],
    ) -> list[dict[str, Tensor]]:
        """Return the weights of each member, trained as long as `is_trained` asks for, by the names of `weights_of`.

        Args:
            rows: numbers of the rows to train on.
            folder: receives the checkpoints, a folder for each member, from which a later call resumes; None for none.
            say: called with a line for each part of an epoch.

        Raises:
            RunError: a training fails.
        """


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
    train: Train | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Candidate, Judgement]:
    """Train the winner again on the rows of all parts, and check the result against the model that was measured.

    Only a winner to which there is no objection is trained again. No row is held back to measure the result on. So it
    is checked where it can be: it must find the answers to the training questions as well as the measured model does,
    in every domain, and it must keep as much of what the base model knows as the guard demands, and about as much as
    the measured model. It is mixed with the base model in the same proportion as the measured model, or with more of
    the base model if it would forget too much otherwise.

    Args:
        inputs: inputs by depth, for the depths of the winner and of its members.
        retention_set: the pairs to measure retention on, with inputs for the same depths; None as in `judge`.
        train: trains the members; None to do it in this process.
        folder: receives a checkpoint for each trial, from which a later call resumes; None for no checkpoints.
        say: called with a line for each intermediate result.

    Returns:
        the model to export: the one that was trained again, or the measured one if the check fails; and the judgement
        with the evidence for that.
    """
    if prepared.config.refit == "none" or judgement.evidence["guard"]["objections"]:
        return judgement.tuned, judgement
    everything = np.arange(len(prepared.parts))
    try:
        again = trained_again(prepared, inputs, judgement.winner, everything, train=train, folder=folder, say=say)
    except RunError as error:  # the measured model stands all the same
        say(f"training again on all rows failed ({error}); the model that the figures belong to is exported")
        return judgement.tuned, judgement
    depth = again.config.frozen_layers
    general = load_general_text(prepared, [depth])
    alpha, mixed, kept = _mixed(prepared, again, judgement.evidence, retention_set, general)
    training, fallen = _on_training_rows(prepared, inputs, judgement.tuned, mixed)
    evidence: StoredRefit = {
        "rows": len(everything),
        "trials": [member.name for member in again.members or (again,)],
        "alpha": alpha,
        "training": training,
        "retention": kept.retention,
        "neighbours_kept": kept.neighbours,
        "objection": _objection(alpha, training, fallen),
    }
    outcome = "none" if evidence["objection"] else "all"
    judgement = replace(judgement, evidence={**judgement.evidence, "refit": outcome, "refitted": evidence})
    say(describe_refit(evidence))
    if evidence["objection"]:
        return judgement.tuned, judgement
    return replace(mixed, metrics=judgement.tuned.metrics), judgement


def trained_again(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    winner: Candidate,
    rows: NDArray[np.int64],
    *,
    train: Train | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Candidate:
    """Train the winner's configurations on other rows, each up to the epoch of its best evaluation.

    Of a mean, the first `MOST_MEMBERS` trials of different configurations are trained. One that was trained with
    several seeds counts once, unless there are too few others: what the mean gains comes from their differences.

    Args:
        inputs: inputs by depth, for the depths of the winner and of its members.
        rows: numbers of the rows to train on.
        train: trains the members; None to do it in this process, one after another.
        folder: receives the checkpoints, a folder for each trial; None for none.
        say: called with a line for each part of an epoch.

    Returns:
        the mean of the newly trained models. Its metrics remain those of the winner, since they were not measured anew.
    """
    members = _different(winner.members or (winner,))
    trained = (train or training_here(prepared, inputs))(members, rows, folder=folder, say=say)
    again = [replace(member, weights=weights) for member, weights in zip(members, trained, strict=True)]
    depth, weights = mean_weights(prepared, again, lambda member: member)
    config = members[0].config.model_copy(update={"frozen_layers": depth})
    several = tuple(members) if len(members) > 1 else ()
    name = " + ".join(member.name for member in members)
    return replace(winner, name=name, config=config, weights=weights, members=several, measured=False)


def training_here(prepared: Prepared, inputs: Mapping[int, Inputs]) -> Train:
    """Return a function that trains configurations in this process, one after another.

    Args:
        inputs: inputs by depth, for the depths of all members.
    """

    def train(
        members: Sequence[Candidate], rows: NDArray[np.int64], *, folder: Path | None, say: Callable[[str], None]
    ) -> list[dict[str, Tensor]]:
        return [
            _trained(prepared, inputs, member, rows, None if folder is None else folder / member.name, say)
            for member in members
        ]

    return train


def settings_again(member: Candidate) -> TrainConfig:
    """Return the settings by which a configuration is trained again: there are no validation metrics to stop by."""
    return member.config.model_copy(update={"patience": None})


def is_trained(metrics: Mapping[str, float], member: Candidate) -> bool:
    """Whether a training that is repeated on other rows has come as far as the best evaluation of the first one.

    Evaluations follow whole steps: with more rows the same one comes at a slightly different part of the epoch.

    Args:
        metrics: those of an evaluation, with its "epoch".
    """
    return metrics["epoch"] > member.metrics["epoch"] - 0.5 / member.config.evaluations_per_epoch


def describe_training(member: Candidate, rows: int) -> str:
    """Say that a configuration is trained again."""
    return f"training {member.name} again on {rows:,} rows, up to epoch {member.metrics['epoch']:.3g}"


def describe_evaluation(member: Candidate, metrics: Mapping[str, float]) -> str:
    """Say how far a training has come."""
    return f"{member.name}: epoch {metrics['epoch']:.2f}  loss {metrics['loss']:.3f}"


def _different(members: Sequence[Candidate]) -> list[Candidate]:
    """Return the members that are trained again, in their order."""
    configurations = [member.config.model_copy(update={"seed": 0}) for member in members]
    repeats = [config in configurations[:place] for place, config in enumerate(configurations)]
    taken = sorted(range(len(members)), key=lambda place: repeats[place])[:MOST_MEMBERS]
    return [members[place] for place in sorted(taken)]


def _trained(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    member: Candidate,
    rows: NDArray[np.int64],
    folder: Path | None,
    say: Callable[[str], None],
) -> dict[str, Tensor]:
    """Train one configuration, from its newest checkpoint if there is one."""
    config = settings_again(member)
    at_depth = inputs[config.frozen_layers]
    upper = upper_for(prepared.encoder, at_depth).to(prepared.device)
    state = None if folder is None else readable_state(folder)
    if state is not None and is_trained(state["metrics"], member):
        return loop.weights_in(state, upper, config)
    say(describe_training(member, len(rows)))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with nullcontext() if folder is None else logging_to(folder / LOG):
        for evaluation in loop.fit(config, upper, training_data(prepared, at_depth, rows), loop.UNJUDGED, state=state):
            if folder is not None:
                save_state(evaluation.state, folder)
            say(describe_evaluation(member, evaluation.metrics))
            if is_trained(evaluation.metrics, member):
                break
    return weights_of(upper)


def _mixed(
    prepared: Prepared,
    again: Candidate,
    evidence: Evidence,
    retention_set: RetentionSet | None,
    general: GeneralText | None,
) -> tuple[float | None, Candidate, Kept]:
    """Mix the weights with the base model's, by as large a share up to the measured model's as is allowed.

    The guard's limits hold, and on the retention set it may lose no more against the measured model than a domain may.

    Args:
        evidence: that of the measured model.

    Returns:
        the share, None if no share is small enough; the mixture, and what it keeps.
    """
    limits, alpha, measured = prepared.config.guard, evidence["alpha"], evidence.get("retention") or {}
    asked_for = neighbours_asked_for(limits.min_neighbours_kept, synthetic=prepared.is_synthetic("validation"))
    least = max(-limits.max_retention_loss, measured.get("tuned", {}).get(PRIMARY, -1.0) - limits.max_domain_drop)
    for share in sorted({alpha, *(each for each in ALPHAS if each < alpha)}, reverse=True):
        mixed = replace(again, weights=interpolated(prepared, again, share))
        retention = None if retention_set is None else retention_of(prepared, retention_set, mixed)
        neighbours = None if general is None else neighbours_kept(prepared, general, mixed)
        kept = Kept(retention, neighbours)
        if (retention is None or retention[PRIMARY] >= least) and (neighbours is None or neighbours >= asked_for):
            return share, mixed, kept
    return None, mixed, kept


def _on_training_rows(
    prepared: Prepared, inputs: Mapping[int, Inputs], tuned: Candidate, again: Candidate
) -> tuple[StoredInterval, list[str]]:
    """Compare the two models on the rows that both were trained on: the macro difference, and domains that fall."""
    rows, queries = prepared.rows("train"), queries_of(prepared, "train")
    new, old = (
        Scorer(prepared, inputs[model.config.frozen_layers]).scores(model.weights, rows)[PRIMARY]
        for model in (again, tuned)
    )
    fallen = falls(new, old, queries, max_domain_drop=prepared.config.guard.max_domain_drop)
    return stored_intervals(new, old, queries)["macro"], fallen


def _objection(alpha: float | None, training: StoredInterval, fallen: Sequence[str]) -> str:
    if alpha is None:
        return "it forgets more than is allowed, however much of the base model is mixed in"
    if not training["difference"] >= -LARGEST_LOSS:
        return (
            f"it finds less on the training rows than the measured model: {training['difference']:+.3f} macro "
            f"{METRICS[PRIMARY].label}"
        )
    return f"on the training rows, {'; '.join(fallen)}" if fallen else ""
