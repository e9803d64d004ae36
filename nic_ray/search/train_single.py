"""One configuration, trained in this process: no search, no Ray, one checkpoint per epoch."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from nic_ray import hardware
from nic_ray.bundle.question_kinds import caution_of
from nic_ray.config import Config
from nic_ray.config_file import changed_settings, dump_config, load_config, started_settings
from nic_ray.errors import InputError
from nic_ray.evidence import StoredReading, StoredStart
from nic_ray.model.activations import Inputs, feed, upper_for
from nic_ray.model.cache import budget, inputs_by_depth, opened, run_here
from nic_ray.model.evaluation import evaluate
from nic_ray.progress import View, headline
from nic_ray.readings import describe_readings, note_reading
from nic_ray.record import LOG, TrainingState, locked, logging_to, readable_state, save_state
from nic_ray.run_folder import RunFolder
from nic_ray.selection.candidates import best_of
from nic_ray.selection.export import export, new_run_folder
from nic_ray.selection.scoring import Scorer, asked_passages
from nic_ray.stored import read_object
from nic_ray.training import loop
from nic_ray.training.prepared import Prepared, held_texts, prepare, with_fixed_passages
from nic_ray.training.start import describe_data, describe_run, describe_start, refuse_other_start


@dataclass(frozen=True)
class TrainedModel:
    """The files and results that a training run leaves behind."""

    run_folder: Path
    folder: Path
    """The bundle with the weights of the best evaluation."""
    results: dict[str, dict[str, dict[str, float]]]
    """part ("validation", "test") -> model ("base", "tuned") -> flat metrics."""
    passages: dict[str, dict[str, int]]
    """part -> domain -> number of passages that its rows ask about."""
    caution: str | None = None
    """What figures of synthetic questions are worth; None where people asked all questions that were measured."""


def train_one(config: Config, *, out: Path, view: View) -> TrainedModel:
    """Train the configuration under `train` in a new run folder.

    Args:
        out: folder that receives the run folder, train-<UTC time>.
        view: shows the progress.

    Raises:
        InputError: unusable config, pairs, model or device.
        RunError: the training diverged.
    """
    prepared = prepare(config, on_gpu=True, guarded=False, runs=out, view=view)
    run_folder = new_run_folder(out, "train")
    RunFolder(run_folder).config.write_text(dump_config(config), encoding="utf-8")
    RunFolder(run_folder).training_start.write_text(json.dumps(describe_start(prepared), indent=2), encoding="utf-8")
    with locked(run_folder):
        return _train_on(prepared, run_folder, None, view)


def resume(run_folder: Path, config: Config | None, *, view: View) -> TrainedModel:
    """Resume a training from the last checkpoint in its run folder, up to the same end.

    Args:
        config: must equal the config that the run was started with; None uses that config.

    Raises:
        InputError: there is no such run, or its config or its pairs have changed.
    """
    if not RunFolder(run_folder).config.is_file():
        raise InputError(f"{run_folder}: no run of nic_ray.train (holds no config.yaml); name one in runs/")
    started_with = load_config(RunFolder(run_folder).config)
    if config is not None and config != started_with:
        raise InputError(
            f"{run_folder}: was started with other settings than the given ones; omit CONFIG and --data "
            "to go on with its own, or start anew without --resume"
        )
    if RunFolder(run_folder).study.exists():
        raise InputError(f"{run_folder}: is the run of a search; name one of nic_ray.train, runs/train-...")
    start = RunFolder(run_folder).training_start
    absent = f"{run_folder}: no run of nic_ray.train (no sound data.json); name one in runs/"
    started = read_object(start, StoredStart, absent=absent, way_out="start anew")
    settings = started.get("settings", started_with.model_dump(mode="json"))
    try:
        changed = changed_settings(started_with, started_settings(settings))
    except InputError as error:
        raise InputError(f"{start}: {error}, so the training cannot go on; start anew") from None
    if changed:
        file = RunFolder(run_folder).config
        raise InputError(
            f"{file}: differs from the settings at the start ({'; '.join(changed)}), and its checkpoints go with "
            "those. Put the old values back to go on, or start anew with the new ones: "
            f"python -m nic_ray.train {shlex.quote(str(file))}"
        )
    paths = RunFolder(run_folder).checkpoints.glob("epoch-*/state.pt")
    checkpoints = sorted((path.parent for path in paths), reverse=True)
    # a checkpoint that was cut off while it was written is skipped
    sound = ((folder, state) for folder in checkpoints if (state := readable_state(folder)))
    newest, state = next(sound, (None, None))
    view.say(f"going on from {newest}" if newest else "no checkpoint yet: starting at the beginning")
    prepared = prepare(started_with, on_gpu=True, guarded=False, runs=run_folder.parent, view=view)
    refuse_other_start(prepared, started, run_folder)
    with locked(run_folder):
        return _train_on(prepared, run_folder, state, view)


def _train_on(prepared: Prepared, run_folder: Path, state: TrainingState | None, view: View) -> TrainedModel:
    """Train from a state, if given, evaluate the best weights on the test rows, and write them as a bundle."""
    config, objective = prepared.config, prepared.config.search.objective
    train = config.train.of_base(config.train.base_model, prepared.encoder.blocks)
    depth = train.frozen_layers
    for line in describe_run(prepared):
        view.say(line)
    view.say(
        f"run folder: {run_folder}; if it is cut off: python -m nic_ray.train --resume {shlex.quote(str(run_folder))}"
    )
    hardware.keep_freed_memory()
    outputs = inputs_by_depth(
        prepared.encoder,
        prepared.tokens,
        [depth],
        budget(config.activations, run_folder.parent),
        bf16=prepared.bf16,
        chain=run_here(prepared.device, bf16=prepared.bf16),
        view=view,
    )
    inputs = opened(with_fixed_passages(prepared, outputs)[depth])
    scorer = Scorer(prepared, inputs)
    before = scorer.metrics(None, prepared.rows("validation"))
    view.say(f"base model: {objective} {before[objective]:.4f} on validation")
    best = best_of("train", train, _last_state(prepared, inputs, run_folder, state, view))
    readings = _note_reading(prepared, run_folder, view)
    results = {
        part: {
            model: scorer.metrics(weights, prepared.rows(part), of_all=part == "test")
            for model, weights in (("base", None), ("tuned", best.weights))
        }
        for part in ("validation", "test")
    }
    passages = {part: asked_passages(prepared, part) for part in results}
    export(
        prepared,
        best,
        {"results": results, "passages": passages, "readings": readings, "run": str(run_folder.resolve())},
        RunFolder(run_folder).trained,
        training_log=(run_folder / LOG).read_text(encoding="utf-8", errors="replace"),
        overwrite=True,
        view=view,
    )
    described = describe_data(prepared)
    caution = caution_of(described["data"], described["split"])
    return TrainedModel(run_folder, RunFolder(run_folder).trained, results, passages, caution)


def _last_state(
    prepared: Prepared, inputs: Inputs, run_folder: Path, state: TrainingState | None, view: View
) -> TrainingState:
    """Train to the end, from a state if there is one, with one checkpoint per epoch; return the final state."""
    config, collection, bf16 = prepared.config, prepared.collection, prepared.bf16
    source, validation_rows = feed(inputs, prepared.device), prepared.rows("validation").tolist()
    upper = upper_for(prepared.encoder, inputs)
    with logging_to(run_folder / LOG):
        if state is not None and state["finished"]:
            return state
        for evaluation in loop.fit(
            config.train,
            upper.to(prepared.device),
            loop.TrainingData(
                collection, prepared.rows("train"), source, bf16, held_texts(prepared, inputs), prepared.others
            ),
            loop.Validation(
                lambda model: evaluate(
                    model, source, collection, validation_rows, bf16=bf16, objective=config.search.objective
                ),
                config.search.objective,
            ),
            state=state,
        ):
            state = evaluation.state
            view.say(headline(evaluation.metrics) + ("  best so far" if evaluation.is_best else ""))
            if evaluation.metrics["epoch"].is_integer() or state["finished"]:
                folder = RunFolder(run_folder).checkpoints / f"epoch-{round(evaluation.metrics['epoch']):03d}"
                folder.mkdir(parents=True, exist_ok=True)
                save_state(state, folder)
    assert state is not None  # there is an evaluation at the end of every epoch
    return state


def _note_reading(prepared: Prepared, run_folder: Path, view: View) -> list[StoredReading]:
    """Record that the test rows are about to be read, and return all their readings."""
    split = describe_data(prepared)["split"]
    readings = note_reading(
        run_folder,
        command="train",
        part="test",
        rows=split["rows"]["test"],
        model="its best evaluation",
        split=split["sha256"],
    )
    if warning := describe_readings(readings):
        view.say(warning)
    return readings
