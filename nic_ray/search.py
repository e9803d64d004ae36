"""The search: Ray Tune runs the trials, Optuna proposes them, ASHA stops the weak ones."""

import contextlib
import csv
import functools
import itertools
import json
import logging
import math
import os
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nic_ray import hardware
from nic_ray.bundle import refuse_existing
from nic_ray.cache import Budget, Chain, StoredInputs, budget, inputs_by_depth, is_kept, opened
from nic_ray.candidates import Candidate, Confirmation, best_first, best_of, confirm
from nic_ray.config import (
    DEFAULT_PROBE,
    Config,
    Dimension,
    TrainConfig,
    changed_settings,
    dump_config,
    load_config,
    trial_config,
)
from nic_ray.domains import as_csv
from nic_ray.errors import InputError, RunError, wants_room
from nic_ray.evaluation import texts_to_score
from nic_ray.judgement import Judgement, final, judge
from nic_ray.mirror import Mirror, exists, folders, is_uri, local_folder, mirror_at, pull, push, remove
from nic_ray.outcome import export, new_run_folder
from nic_ray.pairs import Collection, index_pairs, read_pairs
from nic_ray.placement import Placement, place, trains_on_gpus
from nic_ray.preparation import (
    Prepared,
    depths,
    describe_data,
    describe_run,
    describe_start,
    prepare,
    refuse_other_start,
)
from nic_ray.progress import Round, View
from nic_ray.readings import READINGS, note_reading
from nic_ray.record import (
    DOMAINS_FILE,
    PAGE_FILE,
    QUERIES_FILE,
    STUDY_FILE,
    checkpoints,
    held,
    is_full,
    last_state,
    logging_to,
    read_ended,
    training_log,
)
from nic_ray.retention import Probe, load_probe, retention_of
from nic_ray.retrieval import flat_metrics
from nic_ray.scoring import Scorer, base_scores, deepest, queries_of
from nic_ray.session import import_ray, joins_a_cluster, ray_session, refuse_what_ray_cannot_use

NOTED = ("nic_ray.progress", "nic_ray.tracking", "nic_ray.page", "ray", "optuna", "mlflow", "alembic", "py.warnings")
"""Loggers whose messages go to the run's log, and not to the terminal."""
RUN, SEARCH_LOG = "run.json", "search.log"
EXPERIMENT, CONFIRMING = "ray", "confirm"  # Tune's folders in a run's
RUNS, MODELS = "runs", "models"  # folders in `storage`
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for what `ray job submit` starts


@dataclass(frozen=True)
class Run:
    """What a search was started for."""

    folder: Path
    bundle: Path
    overwrite: bool
    export_anyway: bool
    mirror: Mirror | None
    """Of the run folder, where `storage` is a URI."""
    bundle_mirror: Mirror | None
    command: str
    """That works on it, as it stands in the ledger of readings."""


@dataclass(frozen=True)
class Outcome:
    """What a search found."""

    folder: Path | None
    """The bundle; None if the guard refused it."""
    run_folder: Path
    judgement: Judgement
    first: Candidate | None
    """The first trial; None if it failed."""
    trials: list[dict[str, Any]]


def run_search(
    config: Config,
    *,
    out: Path,
    name: str,
    run_root: Path,
    overwrite: bool,
    export_anyway: bool = False,
    view: View,
) -> Outcome:
    """Search, try the best again, average, draw back towards the base, judge, read the test rows once, export.

    Args:
        out: folder that receives `name`/, the bundle; models/ in `storage` where that names a folder.
        run_root: folder that receives the run folder, `name`-<UTC time>; likewise runs/.
        overwrite: whether a bundle that is there already may be replaced, at the very end.
        export_anyway: export what the guard objects to, too; the model card then says so.
        view: is shown what goes on.

    Raises:
        InputError: before anything is trained: unusable config, pairs, probe, model, device or output folder.
        RunError: no trial produced a model, or the exported folder does not give the winner's numbers.
    """
    if name in ("", "..") or Path(name).name != name or not name.isprintable():
        raise InputError(f"--name {name!r}: must be the name of one folder, without a slash and printable")
    out, run_root = _places(config.storage, out, run_root)
    folder = out / name
    refuse_existing(folder, overwrite)
    _refuse_unwritable(out, run_root)
    store = mirror_at(config.storage) if config.storage and is_uri(config.storage) else None
    if store and exists(store / MODELS / name) and not overwrite:
        raise InputError(
            f"{store / MODELS / name}: exists already; choose another --name, or replace it with --overwrite"
        )
    if not config.space:
        raise InputError(
            "space: names nothing to search; add a hyperparameter, or train one configuration with "
            "python -m nic_ray.train"
        )
    trains_on_gpus(config)  # or says why it cannot
    _refuse_what_is_of_no_use(config)
    probe = _read_probe(config)
    prepared = prepare(config, on_gpu=_may_use_a_gpu_here(config))
    run_folder = new_run_folder(run_root, name)
    mirror, bundle_mirror = (store / RUNS / run_folder.name, store / MODELS / name) if store else (None, None)
    run = Run(run_folder, Path(os.path.realpath(folder)), overwrite, export_anyway, mirror, bundle_mirror, "tune")
    (run.folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    asked = {
        "bundle": str(run.bundle),
        "overwrite": overwrite,
        "export_anyway": export_anyway,
        **describe_start(prepared),
    }
    (run.folder / RUN).write_text(json.dumps(asked, indent=2), encoding="utf-8")
    if run.mirror:
        for name_of_file in ("config.yaml", RUN):
            push(run.folder / name_of_file, run.mirror / name_of_file)
    return _go_on(prepared, run, probe, search_on=True, view=view)


def resume_search(where: str, *, search_on: bool, overwrite: bool, export_anyway: bool, view: View) -> Outcome:
    """Go on with a search that was cut off, to the end that it was started for.

    What has ended stays as it is; trials that were cut off go on from their last checkpoints.

    Args:
        where: run folder of the search, or the URI of its mirror; that is copied to runs/ first.
        search_on: whether trials go on and new ones are started; if not, the best so far is judged and exported.
        overwrite: as in `run_search`, in addition to what the search was started with.
        export_anyway: likewise.

    Raises:
        InputError: no such run, or its settings or its pairs have changed, or its bundle is there already.
        RunError: as `run_search`.
    """
    mirror = mirror_at(where) if is_uri(where) else None
    run_folder = (Path(RUNS, mirror.path.rpartition("/")[2]) if mirror else Path(where)).resolve()
    if mirror:
        pull(mirror, run_folder)
    try:
        asked = json.loads((run_folder / RUN).read_text(encoding="utf-8"))
        bundle = Path(asked["bundle"])
        granted = (overwrite or asked["overwrite"], export_anyway or asked["export_anyway"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{where}: no run of a search (holds no sound {RUN}); name a folder in runs/") from None
    if not (run_folder / "config.yaml").is_file():
        raise InputError(f'{run_folder}: its config.yaml is gone; write it again, from "settings" in its {RUN}')
    config = load_config(run_folder / "config.yaml")
    try:
        _refuse_other_settings(run_folder, config, asked.get("settings"))
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{run_folder / RUN}: its settings are damaged, so the search cannot go on; start anew"
        ) from None
    if mirror is None and config.storage and is_uri(config.storage):
        mirror = mirror_at(config.storage) / RUNS / run_folder.name
    bundle_mirror = None
    if mirror:
        bundle = Path(MODELS, bundle.name).resolve()
        bundle_mirror = Mirror(mirror.filesystem, mirror.path.removesuffix(f"/{RUNS}/{run_folder.name}")) / MODELS
        bundle_mirror /= bundle.name
    command = "tune --resume" if search_on else "export"
    run = Run(run_folder, bundle, *granted, mirror, bundle_mirror, command)
    refuse_existing(run.bundle, run.overwrite, "to move it away")
    _refuse_unwritable(run.bundle.parent, run_folder)
    _refuse_what_is_of_no_use(config)
    probe = _read_probe(config)
    prepared = prepare(config, on_gpu=_may_use_a_gpu_here(config))
    refuse_other_start(prepared, asked, run_folder)
    return _go_on(prepared, run, probe, search_on=search_on, view=view)


def _refuse_other_settings(run_folder: Path, config: Config, started: Mapping[str, Any] | None) -> None:
    """Look whether the trials that are there are those of these settings: others cannot stand beside them.

    Args:
        config: as the run folder says it now.
        started: the settings that the search was started with; None if they were not noted: then the study knows its
            space at least.

    Raises:
        InputError: another space, objective or training; names each difference.
    """
    own = _described(config.space)
    if started is None:
        found, drawn = [], _space_in_study(run_folder) or own
    else:
        found = changed_settings(config, started)
        drawn = _described({name: Dimension.model_validate(each) for name, each in started["space"].items()})
    found += [
        f"space.{name} is {own.get(name, 'left out')}, was {drawn.get(name, 'left out')}"
        for name in {**drawn, **own}
        if own.get(name) != drawn.get(name)
    ]
    if found:
        file = run_folder / "config.yaml"
        raise InputError(
            f"{file}: not those of the start ({'; '.join(found)}), and trials of both cannot be compared. "
            f"Put the old values back to go on, or start a new search with the new ones: "
            f"python -m nic_ray.tune {shlex.quote(str(file))}"
        )


def _described(space: Mapping[str, Dimension]) -> dict[str, str]:
    given = {name: each.model_dump(mode="json", exclude_none=True).items() for name, each in space.items()}
    return {name: " ".join(f"{kind} {values}" for kind, values in each) for name, each in given.items()}


def _space_in_study(run_folder: Path) -> dict[str, str]:
    """What the trials of a study were drawn from; empty if it cannot be read, or has none."""
    import_ray()
    from nic_ray import tuning

    with contextlib.suppress(InputError):
        if study := tuning.open_study(run_folder / STUDY_FILE):
            return _described(tuning.space_of(study))
    return {}


def _places(storage: str | None, out: Path, run_root: Path) -> tuple[Path, Path]:
    """Where bundle and run go.

    Raises:
        InputError: `storage` is no absolute folder, or the folder of a job would take both with it when it ends.
    """
    if storage is not None and not is_uri(storage):
        folder = local_folder(storage)
        if not folder.is_absolute():
            raise InputError(
                f"storage: want an absolute folder or a URI, got {storage}; each node has its own working folder"
            )
        return folder / MODELS, folder / RUNS
    if storage is None and JOB in os.environ and not (out.is_absolute() and run_root.is_absolute()):
        raise InputError(
            f"--out {out}, --run-dir {run_root}: the working folder of a Ray job is deleted after it; name a shared "
            "folder or a URI with --storage, or absolute folders"
        )
    return out, run_root


def _refuse_unwritable(*folders: Path) -> None:
    """Look whether folders can be written, or made, without making them.

    Raises:
        InputError: one cannot.
    """
    for folder in folders:
        place = _existing(folder.absolute())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            fault = f"{place} cannot be written" if place.is_dir() else f"{place} is no folder"
            raise InputError(f"{folder}: nothing can be kept there ({fault}); name others with --out and --run-dir")


def _refuse_what_is_of_no_use(config: Config) -> None:
    """Try what Ray needs, and the tracker if one is named, before pairs and model are read."""
    refuse_what_ray_cannot_use()
    if config.trackers.mlflow is not None:
        import_ray()
        from nic_ray import tracking

        tracking.trackers(config.trackers, "")


def _may_use_a_gpu_here(config: Config) -> bool:
    """Whether what this process computes may run on a GPU; of a cluster, only the nodes may have any."""
    return trains_on_gpus(config) and (not joins_a_cluster() or torch.cuda.is_available())


def _read_probe(config: Config) -> Collection | None:
    path = config.guard.probe
    # whoever works in another folder, and names none, has not asked for it
    if path is None or (path == DEFAULT_PROBE and not path.exists()):
        return None
    return index_pairs(read_pairs(path))


def _go_on(prepared: Prepared, run: Run, probe: Collection | None, *, search_on: bool, view: View) -> Outcome:
    """Search as far as that has not been done, judge, export."""
    with held(run.folder), logging_to(run.folder / SEARCH_LOG, NOTED), _warnings_logged():
        try:
            return _carry_on(prepared, run, probe, search_on=search_on, view=view)
        except Exception as error:
            # Ray may stumble over what it could not write before, and say something else
            full = is_full(run.folder) and not isinstance(error, InputError | RunError)
            if not (full or wants_room(error)):
                raise
            logging.getLogger(NOTED[0]).error("no room", exc_info=True)
            raise RunError(_describe_want_of_room(run)) from None


def _describe_want_of_room(run: Run) -> str:
    places = {"run": run.folder, "bundle": _existing(run.bundle), "temporary files": Path(tempfile.gettempdir())}
    free = {what: shutil.disk_usage(place).free for what, place in places.items()}
    listed = ", ".join(f"{places[what]} ({what}) has {free[what] / 2**20:,.0f} MiB left" for what in places)
    return (
        f"no space left on a disk: {listed}; what has ended is kept. Make room, then go on with: "
        f"{_resume_command(run)} (python -m nic_ray.plan predicts what a search needs)"
    )


def _resume_command(run: Run) -> str:
    return f"python -m nic_ray.tune --resume {shlex.quote(str(run.folder))}"


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _carry_on(prepared: Prepared, run: Run, probe: Collection | None, *, search_on: bool, view: View) -> Outcome:
    config = prepared.config
    for line in describe_run(prepared):
        view.say(line)
    if probe is None:
        view.say("no probe: what the tuning forgets is not measured; name a file of pairs under guard.probe")
    view.say(f"run folder: {run.folder}; if it is cut off: {_resume_command(run)}")
    hardware.keep_freed_memory()
    objective = config.search.objective
    try:
        import_ray()
        from nic_ray import tracking

        trackers = tracking.trackers(config.trackers, run.folder.name)
        # behind the trials, none of which needs it
        probing = functools.cache(lambda: None if probe is None else load_probe(prepared, probe, depths(config)))
        room = budget(config.activations, run.folder.parent)
        before, joined = prepared, joins_a_cluster()
        with _beside(lambda over: _read_early(before, room, over, view)) as early, ray_session(view):
            placement = _placed(config)
            prepared, found = _settled(before, placement, joined=joined), early.result()
            if prepared.bf16 != before.bf16:  # of no use to trials that compute in another format
                found = None
            inputs, embeddings = found or _inputs_and_base(prepared, room, _chain_on_cluster(prepared, placement), view)
            base = flat_metrics(
                base_scores(prepared, embeddings, prepared.rows("validation"), prepared.collection),
                queries_of(prepared, "validation").domains,
            )
            view.say(f"base model {prepared.encoder.name}: {objective} {base[objective]:.4f} on validation")
            first, best, confirmations, trials = _find_best(
                prepared, placement, inputs, base, probing, run, trackers, search_on=search_on, view=view
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; go on with: {_resume_command(run)}\n"
            f"or export the best so far: python -m nic_ray.export {shlex.quote(str(run.folder))}"
        ) from None
    _write_trials(run.folder / "trials.csv", trials)
    at = {depth: opened(each) for depth, each in inputs.items()}
    if len(best) > 1 and config.search.averaged_trials != 1:
        view.say(f"averaging: trying whether the mean with any of {len(best) - 1} other trials is better than the best")
    weighed = (_with_weights(run.folder, each) for each in best)
    judgement = judge(
        prepared,
        at,
        first,
        weighed,
        confirmations,
        probing(),
        export_anyway=run.export_anyway,
        say=view.say,
        note_reading=functools.partial(_note_reading, run, prepared),
    )
    outcome = Outcome(run.bundle if judgement.may_be_exported else None, run.folder, judgement, first, trials)
    _write_result(outcome, prepared, bundle=None)
    if outcome.folder is None:
        _write_page(run, view.say)
        _copy_results(run)
        return outcome
    if config.refit == "all":
        view.say(f"training {judgement.winner.name} again on all {len(prepared.parts)} rows")
    view.say(f"exporting {judgement.winner.name} to {run.bundle}")
    members = judgement.winner.members or (judgement.winner,)
    export(
        prepared,
        final(prepared, at, judgement),
        {"results": judgement.results, **judgement.evidence, "run": str(run.folder)},
        run.bundle,
        training_log="".join(training_log(run.folder, each.name) for each in members),
        overwrite=run.overwrite,
        view=view,
    )
    _write_result(outcome, prepared, bundle=run.bundle)
    if run.bundle_mirror:
        view.say(f"copying it to {run.bundle_mirror}")
        remove(run.bundle_mirror)
        push(run.bundle, run.bundle_mirror)
    _write_page(run, view.say)
    _copy_results(run)
    return outcome


def _note_reading(run: Run, prepared: Prepared, model: str) -> list[dict[str, Any]]:
    """Write down that the test rows are about to be read; gives all their readings."""
    found = note_reading(
        run.folder,
        command=run.command,
        part="test",
        rows=len(prepared.rows("test")),
        model=model,
        split=describe_data(prepared)["split"]["sha256"],
    )
    if run.mirror:
        push(run.folder / READINGS, run.mirror / READINGS)
    return found


class _NotKept(Exception):
    """Activations have to be computed."""


def _read_early(
    prepared: Prepared, room: Budget, over: threading.Event, view: View
) -> tuple[dict[int, Any], NDArray[np.float32]] | None:
    """`_inputs_and_base` while Ray starts, which takes as long; None where it needs Ray.

    Only torch computes here: a product of NumPy's in one thread, and a process that is started by another, can wait for
    each other for ever.

    Args:
        over: set when nobody wants it any more.
    """
    if not is_kept(prepared.encoder, prepared.tokens, depths(prepared.config), room, bf16=prepared.bf16):
        return None

    def chain(*_: Any) -> Any:
        raise _NotKept

    def go_on(_: int) -> None:
        if over.is_set():
            raise CancelledError

    try:
        return _inputs_and_base(prepared, room, chain, view, done=go_on)
    except _NotKept:  # a file is damaged
        return None


def _inputs_and_base(
    prepared: Prepared, room: Budget, chain: Chain, view: View, *, done: Callable[[int], None] = lambda _: None
) -> tuple[dict[int, Any], NDArray[np.float32]]:
    """What the trials read at each depth, and the base model's embeddings of what scoring the validation rows needs."""
    wanted = depths(prepared.config)
    inputs = inputs_by_depth(
        prepared.encoder, prepared.tokens, wanted, room, bf16=prepared.bf16, chain=chain, view=view
    )
    at = {depth: opened(each) for depth, each in inputs.items()}
    texts = texts_to_score(prepared.collection, prepared.rows("validation").tolist())
    return inputs, Scorer(prepared, deepest(at)).embeddings(None, texts, done=done)


@contextlib.contextmanager
def _beside(function: Callable[[threading.Event], Any]) -> Iterator["Future[Any]"]:
    """Run a function in a thread of its own. It is handed an event, which is set at the end of the block."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        try:
            yield thread.submit(function, over)
        finally:
            over.set()  # a thread that is still in torch when Python ends would abort the process


@contextlib.contextmanager
def _warnings_logged() -> Iterator[None]:
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)


def _write_page(run: Run, say: Callable[[str], None]) -> None:
    """Draw what the run has found. A search is worth more than its pictures, so nothing that fails here ends it."""
    from nic_ray.page import write_page  # plotly costs every start a second, and is needed at the end only

    try:
        say(f"report: {write_page(run.folder)}")
    except Exception as error:
        say(f"{run.folder / PAGE_FILE}: not written ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def _copy_results(run: Run) -> None:
    if run.mirror:
        for file in ("trials.csv", "result.json", DOMAINS_FILE, QUERIES_FILE, PAGE_FILE):
            if (run.folder / file).exists():
                push(run.folder / file, run.mirror / file)


def _placed(config: Config) -> Placement:
    """The layout of the trials on the cluster that Ray has."""
    import ray

    return place(
        config,
        ray.cluster_resources().get("CPU", 1),
        [node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]],
    )


def _settled(prepared: Prepared, placement: Placement, *, joined: bool) -> Prepared:
    """`prepared` with the number format of the place where the trials compute, which need not be this machine.

    Args:
        joined: whether Ray was there before the search, perhaps on other machines.

    Raises:
        InputError: Ray and PyTorch do not see the same GPUs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from nic_ray import worker

    config = prepared.config
    if not placement.gpus_per_worker:
        if trains_on_gpus(config) and torch.cuda.is_available() and not joined:
            raise InputError(
                f"resources.gpus_per_worker: PyTorch sees {torch.cuda.device_count()} GPU(s) on this machine, and Ray "
                "sees none that it could give to trials; look at nvidia-smi, or train on CPUs with train.device: cpu"
            )
        return replace(prepared, bf16=hardware.computes_in_bf16(config.train.precision, "cpu"))
    here, native = ray.get_runtime_context().get_node_id(), []
    for node in ray.nodes():
        if not node["Alive"] or not node["Resources"].get("GPU"):
            continue
        if node["NodeID"] == here:
            seen = worker.look_for_gpus(config.train.precision)
        else:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = ray.remote(num_cpus=0)(worker.look_for_gpus).options(scheduling_strategy=there)
            seen = ray.get(look.remote(config.train.precision))
        if seen.missing:
            raise InputError(
                f"node {node['NodeManagerAddress']}: Ray gives trials {node['Resources']['GPU']:g} GPU(s) there, and "
                f"{seen.missing}; or train on CPUs with train.device: cpu"
            )
        native.append(seen.bf16)
    return replace(prepared, bf16=all(native))


def _chain_on_cluster(prepared: Prepared, placement: Placement) -> Chain:
    """Frozen blocks on whatever the trials will train on: as Ray tasks, a shard each; or a process a GPU for all."""

    def chain(blocks: Sequence[Any], shards: Sequence[Any]) -> Iterator[list[Any]]:
        import ray

        from nic_ray.worker import run_shard, run_shard_on_gpu

        given = ray.put(list(blocks))
        gpus = int(ray.cluster_resources().get("GPU", 0)) if placement.gpus_per_worker else 0
        if gpus:
            work = functools.partial(run_shard_on_gpu, given, prepared.bf16)
            yield from _on_gpus(work, shards, min(gpus, len(shards)))
            return
        task = ray.remote(num_cpus=1)(run_shard)
        # no more in flight than are worked on and waiting: their outputs would fill the object store
        most = 1 + max(1, int(ray.cluster_resources().get("CPU", 1)))
        pending: list[Any] = []
        for shard in shards:
            pending.append(task.remote(given, shard, "cpu", prepared.bf16))
            if len(pending) == most:
                yield ray.get(pending.pop(0))
        while pending:
            yield ray.get(pending.pop(0))

    return chain


def _on_gpus(work: Callable[[Any], Any], shards: Iterable[Any], gpus: int) -> Iterator[Any]:
    """What a function gives for each shard, in order, computed by one process a GPU.

    Ray would start a process for each task on a GPU, which costs seconds, for work of milliseconds. These stay to the
    end, and take their memory on the device with them.
    """
    import ray

    from nic_ray.worker import Hand

    hands = [ray.remote(num_cpus=0, num_gpus=1)(Hand).remote() for _ in range(gpus)]
    try:
        # only those that have been given their GPU are handed shards: others may be in use
        busy = {hand.__ray_ready__.remote(): hand for hand in hands}
        pending: list[Any] = []
        for shard in shards:
            done, _ = ray.wait(list(busy), num_returns=1)
            hand = busy.pop(done[0])
            pending.append(hand.work.remote(work, shard))
            busy[pending[-1]] = hand
            if len(pending) > gpus:
                yield ray.get(pending.pop(0))
        while pending:
            yield ray.get(pending.pop(0))
    finally:
        for hand in hands:
            ray.kill(hand)


def _find_best(
    prepared: Prepared,
    placement: Placement,
    inputs: Mapping[int, Any],
    base: Mapping[str, float],
    probing: Callable[[], Probe | None],
    run: Run,
    trackers: list[Any],
    *,
    search_on: bool,
    view: View,
) -> tuple[Candidate | None, list[Candidate], list[Confirmation], list[dict[str, Any]]]:
    """Run the trials that are left, then the best of them again with other seeds.

    Args:
        base: flat validation metrics of the base model.
        probing: gives the probe, if there is one.
        trackers: callbacks that record trials elsewhere.

    Returns:
        the first trial, with its weights; every trial's best evaluation, without them: the winner's, then the others,
        the best first; the configurations that were tried again; and a row for each trial, of both runs.
    """
    from nic_ray import tuning

    config, run_folder = prepared.config, run.folder
    objective, again = config.search.objective, config.confirm
    if placement.note:
        view.say(placement.note)
    _refuse_unshared_places(run, inputs)
    plan = _plan(prepared, inputs, placement, run)
    backup = [tuning.Backup(run_folder, run.mirror)] if run.mirror else []
    recorded = [tuning.Ledger(run_folder), *backup, *trackers]
    study_file = run_folder / STUDY_FILE
    study = _study_of(run_folder, config, view.say)
    if study is not None:
        tuning.note_forgotten(study, run_folder, read_ended(run_folder))
    before = [] if study is None else study.trials
    cut_off = {
        each.number: _start(run_folder, tuning.numbered(each.number)) for each in before if each.state.name == "RUNNING"
    }
    left = config.search.trials - sum(each.state.is_finished() for each in before)
    deadline = time.monotonic() + (config.search.time_budget or math.inf)
    if search_on and left > 0:
        done = f"{config.search.trials - left} of {config.search.trials} trials are done; " if before else ""
        view.say(
            f"{done}{left} trials, {placement.concurrent} at a time, each with {placement.workers} worker(s) of "
            f"{placement.threads} thread(s)"
            f"{f' and {placement.gpus_per_worker:g} GPU' if placement.gpus_per_worker else ''}"
        )
        earlier = _best_before(run_folder, before)
        view.begin(Round("search", left, config.train.epochs, objective, base, deadline, earlier))
        _run_trials(
            plan,
            placement,
            [*recorded, tuning.Told(view)],
            experiment=EXPERIMENT,
            search_alg=tuning.searcher(config, study_file, cut_off),
            scheduler=tuning.scheduler(config.search, config.train.epochs, study),
            num_samples=left,
            deadline=deadline,
        )
        view.over()
        study = tuning.open_study(study_file)
        if study is not None and time.monotonic() >= deadline:
            view.say("the time budget is used up")
            tuning.end_unfinished(study, run_folder, "out of time")
            study = tuning.open_study(study_file)
    _fetch_checkpoints(run)
    samples = {tuning.numbered(each.number): each.params for each in ([] if study is None else study.trials)}
    best, trials = _collect(run_folder, samples, prepared, probing())
    if not best:
        reasons = sorted({row["error"] for row in trials if row["error"]}) or ["none has come to its first evaluation"]
        raise RunError("no trial produced a model:\n  " + "\n  ".join(reasons))
    first = next((each for each in best if each.name == tuning.numbered(0)), None)
    chosen = best[: again.trials]
    named = {} if len(chosen) < 2 else _samples_again(chosen, prepared)
    ended = read_ended(run_folder)
    missing = [
        sample | {tuning.START: _start(run_folder, name)}
        for name, sample in named.items()
        if ended.get(name, {}).get("status") not in (*tuning.WHOLE, "failed")
    ]
    if search_on and missing and time.monotonic() < deadline:
        view.say(f"training the best again with other seeds: {', '.join(sample[tuning.NAME] for sample in missing)}")
        longest = max(sample[tuning.UNTIL] for sample in missing)
        view.begin(Round("again", len(missing), longest, objective, base, deadline))
        _run_trials(
            plan,
            placement,
            [*recorded, tuning.Told(view)],
            experiment=CONFIRMING,
            search_alg=tuning.Listed(missing),
            num_samples=len(missing),
            deadline=deadline,
            stop=tuning.has_run_long_enough,
        )
        view.over()
    _fetch_checkpoints(run)
    if run.mirror:
        tuning.back_up(run_folder, run.mirror)
    # those of an earlier end of this search too, whose configurations are no longer the best
    once = {name: end["sample"] for name, end in ended.items() if "-seed-" in name}
    repeated, more = _collect(run_folder, once | named, prepared, probing())
    # one that was cut off, or has failed, says nothing about its configuration
    whole = [name for name, end in read_ended(run_folder).items() if end["status"] in tuning.WHOLE]
    known = [each for each in repeated if each.name in whole]
    tried = [[each, *(other for other in known if other.name.startswith(f"{each.name}-"))] for each in chosen]
    winner, confirmations = confirm(tried, objective)
    for each in confirmations if known else []:
        values = ", ".join(f"{value:.4f} with seed {seed}" for seed, value in each.values.items())
        view.say(f"{each.trial}: {objective} {each.mean:.4f} over {len(each.values)} seed(s) ({values})")
    others = best_first([each for each in [*best, *repeated] if each is not winner], objective)
    first = None if first is None else _with_weights(run_folder, first)
    return first, [winner, *others], confirmations if known else [], trials + more


def _with_weights(run_folder: Path, candidate: Candidate) -> Candidate:
    """A candidate of `_find_best` with what its trial has left."""
    state = last_state(run_folder, candidate.name)
    assert state is not None  # it has been read before
    return replace(candidate, weights=state["best"]["upper"])


def _refuse_unshared_places(run: Run, inputs: Mapping[int, Any]) -> None:
    """Look from every node for what its trials will read and write.

    Raises:
        InputError: a node does not see a folder of this one.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from nic_ray import worker

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    here = ray.get_runtime_context().get_node_id()
    wanted = [] if run.mirror else [str(run.folder / "config.yaml")]
    wanted += [str(each.path) for each in inputs.values() if isinstance(each, StoredInputs)]
    task = ray.remote(num_cpus=0)(worker.missing_files)
    for node in nodes:
        if node["NodeID"] == here or not wanted:
            continue
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        if missing := ray.get(task.options(scheduling_strategy=there).remote(wanted)):
            raise InputError(
                f"{missing[0]}: is not to be seen from node {node['NodeManagerAddress']}; name a folder that all nodes "
                "share, or a URI, with --storage (what does not fit activations.memory_budget_gib lies in its runs/)"
            )


def _start(run_folder: Path, trial: str) -> str | None:
    """The newest checkpoint of a trial, in the run folder."""
    found = checkpoints(run_folder, trial)
    return str(found[0].relative_to(run_folder)) if found else None


def _best_before(run_folder: Path, trials: Sequence[Any]) -> tuple[str, Mapping[str, float]] | None:
    """The best of a study's trials and its metrics, for the view; None if none is known."""
    from nic_ray import tuning

    values = {
        tuning.numbered(each.number): max(each.intermediate_values.values())
        for each in trials
        if each.intermediate_values
    }
    # of that one only: a checkpoint is as large as what trains, several times over
    best = max(values, key=values.__getitem__, default=None)
    state = None if best is None else last_state(run_folder, best)
    return None if best is None or state is None else (best, state["best"]["metrics"])


def _fetch_checkpoints(run: Run) -> None:
    """With a mirror the trials have written there, perhaps from other machines."""
    if run.mirror:
        for name in folders(run.mirror):
            pull(run.mirror / name, run.folder / name)


def _study_of(run_folder: Path, config: Config, say: Callable[[str], None]) -> Any:
    """The study of an earlier run, made anew where it is damaged or lost; None at the beginning."""
    from nic_ray import tuning

    ended = read_ended(run_folder)
    try:
        study = tuning.open_study(run_folder / STUDY_FILE)
        if study is not None or not ended:
            return study
        fault = f"{run_folder / STUDY_FILE}: is not there, or empty"
    except InputError as error:
        fault = str(error)
    say(f"{fault}; it is made anew from the trials that have ended")
    tuning.rebuild_study(run_folder / STUDY_FILE, config, ended)
    return tuning.open_study(run_folder / STUDY_FILE)


def _samples_again(candidates: Sequence[Candidate], prepared: Prepared) -> dict[str, dict[str, Any]]:
    """For each candidate and further seed a sample that trains it as long as it was, and not longer; by its name."""
    from nic_ray import tuning

    config = prepared.config
    found = {}
    for each in candidates:
        for further in range(1, config.confirm.seeds + 1):
            seed = each.config.seed + further
            name = f"{each.name}-seed-{seed}"
            sample = {setting: getattr(each.config, setting) for setting in config.space}
            found[name] = sample | {"seed": seed, tuning.NAME: name, tuning.UNTIL: each.epochs}
    return found


def _plan(prepared: Prepared, inputs: Mapping[int, Any], placement: Placement, run: Run) -> Any:
    import ray

    from nic_ray import worker
    from nic_ray.activations import upper_for

    config = prepared.config
    return worker.Plan(
        base=config.train,
        objective=config.search.objective,
        train_rows=prepared.rows("train"),
        validation_rows=prepared.rows("validation"),
        collection=ray.put(prepared.collection),
        inputs={depth: ray.put(each) for depth, each in inputs.items()},
        uppers={depth: ray.put(upper_for(prepared.encoder, opened(each))) for depth, each in inputs.items()},
        workers=placement.workers,
        gpus_per_worker=placement.gpus_per_worker,
        concurrent=placement.concurrent,
        threads=placement.threads,
        run_folder=run.folder,
        mirror=run.mirror,
    )


def _run_trials(
    plan: Any,
    placement: Placement,
    callbacks: list[Any],
    *,
    experiment: str,
    search_alg: Any,
    scheduler: Any = None,
    num_samples: int,
    deadline: float,
    stop: Any = None,
) -> None:
    """Let Tune run trials until they have ended, or until a time, by the monotonic clock, is reached."""
    from ray import tune

    from nic_ray import tuning, worker

    interruptible = tuning.Interruptible()
    trainable = tuning.named_trainable(tune.with_parameters(worker.run_trial, plan=plan))
    tuner = tune.Tuner(
        tune.with_resources(trainable, _trial_resources(placement)),
        tune_config=tune.TuneConfig(
            num_samples=num_samples,
            time_budget_s=None if math.isinf(deadline) else max(1.0, deadline - time.monotonic()),
            max_concurrent_trials=placement.concurrent,
            search_alg=search_alg,
            scheduler=scheduler,
            trial_name_creator=tuning.trial_name,
            trial_dirname_creator=tuning.trial_name,
        ),
        run_config=tune.RunConfig(
            name=_free_name(plan, experiment),  # Tune would add to an older one
            **worker.storage_of(plan.run_folder, plan.mirror),
            verbose=0,
            stop=stop,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=worker.RETRIES),
            callbacks=[interruptible, *callbacks],
        ),
    )
    with interruptible:
        tuner.fit()
    interruptible.end_if_asked()


def _trial_resources(placement: Placement) -> dict[str, float]:
    """What Tune books for a trial. Workers of a distributed trial book for themselves, beside it."""
    if placement.workers > 1:
        return {"CPU": 0.01}
    gpu = {"GPU": placement.gpus_per_worker} if placement.gpus_per_worker else {}
    return {"CPU": 1.0, **gpu}


def _free_name(plan: Any, name: str) -> str:
    tried = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(
        each
        for each in tried
        if not (plan.run_folder / each).exists() and not (plan.mirror and exists(plan.mirror / each))
    )


def _collect(
    run_folder: Path, samples: Mapping[str, Mapping[str, Any]], prepared: Prepared, probe: Probe | None
) -> tuple[list[Candidate], list[dict[str, Any]]]:
    """The best evaluations of some trials without their weights, the best first, and a row for each trial that began.

    Args:
        samples: hyperparameters of each trial, by name.
    """
    config, objective = prepared.config, prepared.config.search.objective
    ended = read_ended(run_folder)
    candidates: list[Candidate] = []
    rows = []
    for name, given in samples.items():
        sample = {key: value for key, value in given.items() if key in TrainConfig.model_fields}
        state, end = last_state(run_folder, name), ended.get(name, {})
        if state is None and not end:
            continue
        row: dict[str, Any] = {"trial": name, "status": end.get("status", "cut off"), **sample}
        if state is not None:
            found = best_of(name, trial_config(config.train, sample), state)
            epochs = end.get("epoch", found.epochs)
            candidates.append(replace(found, weights={}, epochs=epochs))
            row |= {
                objective: found.metrics[objective],
                "mrr/macro": found.metrics["mrr/macro"],
                **({} if probe is None else {"retention": retention_of(prepared, probe, found)["recall_at_5"]}),
                "best_epoch": found.metrics["epoch"],
                "micro_batch_tokens": state.get("micro_batch_tokens", found.config.micro_batch_tokens),
                "epochs": epochs,
                "seconds": end.get("seconds", 0.0),
            }
        rows.append(row | {"error": end.get("error", "")})
    return best_first(candidates, objective), rows


def _write_trials(path: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in trials for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(trials)


def _write_result(outcome: Outcome, prepared: Prepared, bundle: Path | None) -> None:
    judgement = outcome.judgement
    content = {
        "bundle": None if bundle is None else str(bundle),
        "objective": prepared.config.search.objective,
        "winner": {
            "trial": judgement.tuned.name,
            "averaged": [member.name for member in judgement.tuned.members],
            "config": judgement.tuned.config.model_dump(mode="json"),
            "metrics": dict(judgement.tuned.metrics),
        },
        "results": judgement.results,
        **judgement.evidence,
        "trials": outcome.trials,
        **describe_data(prepared),
    }
    path = outcome.run_folder / "result.json"
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    counted, intervals = judgement.evidence["passages"], judgement.evidence.get("intervals", {})
    every = as_csv(judgement.results, counted, intervals)
    (outcome.run_folder / DOMAINS_FILE).write_text(every, encoding="utf-8")
    if judgement.queries is None:
        (outcome.run_folder / QUERIES_FILE).unlink(missing_ok=True)  # of an earlier judgement of this run
    else:
        (outcome.run_folder / QUERIES_FILE).write_text(json.dumps(judgement.queries), encoding="utf-8")
