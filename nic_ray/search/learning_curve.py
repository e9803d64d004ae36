"""A search's winner trained on growing shares of the training passages, to tell what more pairs would bring."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray import hardware
from nic_ray.errors import InputError
from nic_ray.evidence import CurvePoint, StoredCurve, StoredResult, value_in
from nic_ray.metrics.learning_curve import fit_curve, shares_of_passages
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import METRICS, PRIMARY, metrics_in
from nic_ray.model.activations import Inputs, upper_for
from nic_ray.model.adapters import weights_of
from nic_ray.model.cache import budget, inputs_by_depth, opened, run_here
from nic_ray.progress import View
from nic_ray.readings import note_reading
from nic_ray.record import locked
from nic_ray.run_folder import RunFolder
from nic_ray.search.run import reopened_settings
from nic_ray.selection.reading import as_stored, stored_intervals
from nic_ray.selection.scoring import Scorer, Weights, queries_of
from nic_ray.stored import read_result
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop
from nic_ray.training.prepared import Prepared, prepare, training_data, with_fixed_passages
from nic_ray.training.start import describe_data, refuse_other_start


def learning_curve(run_folder: Path, shares: Sequence[float], *, view: View) -> StoredCurve:
    """Train the winner's configuration on growing shares of the training passages; score each on the test rows.

    Every training is as long as the configuration says, and its last weights count, so that nothing is chosen by
    rows that are held back. The result is kept in the run folder, and stands in its report from then on.

    Args:
        run_folder: the folder of a search that has ended.
        shares: shares of each domain's training passages, in (0, 1], at least two.
        view: shows the progress.

    Raises:
        InputError: fewer than two shares, or one out of range; no such run, or its pairs have changed.
        RunError: a training diverged.
    """
    shares = sorted(set(shares))
    if len(shares) < 2 or not all(0 < share <= 1 for share in shares):
        listed = ", ".join(f"{share:g}" for share in shares)
        raise InputError(f"--shares: want two or more, each > 0 and <= 1, got {listed}")
    result = read_result(run_folder)
    config, started = reopened_settings(run_folder)
    settings = _winners_settings(result)
    kind = {"base_model": settings.base_model, "trains": settings.trains}
    train = config.train.model_copy(update=kind)
    of_winner = config.model_copy(update={"train": train})
    prepared = prepare(of_winner, on_gpu=True, guarded=False, runs=run_folder.parent)
    refuse_other_start(prepared, started, run_folder)
    hardware.keep_freed_memory()
    with locked(run_folder):
        inputs = _inputs_at(prepared, settings.frozen_layers, run_folder, view)
        note_reading(
            run_folder,
            command="curve",
            part="test",
            rows=len(prepared.rows("test")),
            model=f"{result['winner']['trial']} at {len(shares)} shares",
            split=describe_data(prepared)["split"]["sha256"],
        )
        curve = _measured(prepared, inputs, settings, shares, view)
        RunFolder(run_folder).curve.write_text(json.dumps(curve, indent=2), encoding="utf-8")
    return curve


def _winners_settings(result: StoredResult) -> TrainConfig:
    """The configuration of the winner, or of the first trial of a mean, as it was trained.

    Raises:
        InputError: the run is of a version that did not keep it.
    """
    winner = result["winner"]
    if not winner.get("config"):
        raise InputError("result.json holds no configuration of the winner; export the run again, with this version")
    first = (winner.get("averaged") or [winner["trial"]])[0]
    row = next((row for row in result["trials"] if row["trial"] == first), None)
    # the configuration of a mean is as shallow as its shallowest member
    own = None if row is None else value_in(row, "frozen_layers")
    depth = {} if own is None else {"frozen_layers": int(own)}
    return TrainConfig.model_validate({**winner["config"], **depth, "patience": None})


def _inputs_at(prepared: Prepared, depth: int, run_folder: Path, view: View) -> Inputs:
    room, chain = budget(prepared.config.activations, run_folder.parent), run_here(prepared.device, bf16=prepared.bf16)
    outputs = inputs_by_depth(
        prepared.encoder, prepared.tokens, [depth], room, bf16=prepared.bf16, chain=chain, view=view
    )
    return opened(with_fixed_passages(prepared, outputs)[depth])


def _measured(
    prepared: Prepared, inputs: Inputs, settings: TrainConfig, shares: Sequence[float], view: View
) -> StoredCurve:
    """Train and score at each share."""
    train, collection = prepared.rows("train"), prepared.collection
    names = [collection.domains[row] for row in train.tolist()]
    parts = shares_of_passages(prepared.groups[train], names, shares, seed=settings.seed)
    queries, scorer, test = queries_of(prepared, "test"), Scorer(prepared, inputs), prepared.rows("test")
    points: list[CurvePoint] = []
    scores = {}
    for share in (0.0, *shares):
        rows, began = train[parts[share]] if share else train[:0], time.monotonic()
        found = scorer.scores(_trained(prepared, inputs, settings, rows) if share else None, test, of_all=True)
        flat = flat_metrics(found, queries.domains)
        own = stored_intervals(found[PRIMARY], np.zeros_like(found[PRIMARY]), queries)["macro"]
        points.append(
            {
                "share": share,
                "passages": len(np.unique(prepared.passages[rows])),
                "rows": len(rows),
                "metrics": {f"{name}/macro": flat[f"{name}/macro"] for name in metrics_in(flat)},
                "interval": own,
            }
        )
        if share:
            scores[share] = found[PRIMARY]
            value, took = flat[f"{PRIMARY}/macro"], time.monotonic() - began
            view.say(
                f"{share:.0%} of the training {queries.unit}: macro {METRICS[PRIMARY].label} {value:.4f} ({took:.0f} s)"
            )
    fitted = fit_curve(scores, queries)
    return {"points": points, "at_one": fitted.at_one, "doubling": as_stored(fitted.doubling)}


def _trained(prepared: Prepared, inputs: Inputs, settings: TrainConfig, rows: NDArray[np.int64]) -> Weights:
    upper = upper_for(prepared.encoder, inputs).to(prepared.device)
    for _ in loop.fit(settings, upper, training_data(prepared, inputs, rows), loop.UNJUDGED):
        pass
    return weights_of(upper)
