"""The run of a search: its folder, its bundle and their copies elsewhere; created, or opened again."""

import contextlib
import itertools
import json
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nic_ray.bundle.files import refuse_existing
from nic_ray.config import Config
from nic_ray.config_file import StartedSettings, changed_settings, dump_config, load_config, started_settings
from nic_ray.errors import InputError, RunError, is_disk_full
from nic_ray.evidence import StoredRun
from nic_ray.record import is_full
from nic_ray.remote import Mirror, exists, is_uri, local_folder, mirror_at, pull, push
from nic_ray.run_folder import RunFolder
from nic_ray.selection.export import new_run_folder
from nic_ray.space import Dimension
from nic_ray.stored import read_object
from nic_ray.training.bases import Bases
from nic_ray.training.start import describe_start

RUNS, MODELS = "runs", "models"
"""Folders inside `storage`."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for a command that `ray job submit` starts."""
log = logging.getLogger("nic_ray.progress")


@dataclass(frozen=True)
class Destination:
    """Where a search should leave its run and its bundle."""

    bundle: Path
    run_root: Path
    """Folder that receives the run folder."""
    store: Mirror | None
    """The mirror at `storage`, if that is a URI."""


@dataclass(frozen=True)
class Run:
    """The places where a search keeps its run and its bundle, and its permissions."""

    folder: Path
    bundle: Path
    overwrite: bool
    export_anyway: bool
    mirror: Mirror | None
    """Mirror of the run folder, if `storage` is a URI."""
    bundle_mirror: Mirror | None
    command: str
    """The command that works on the run, as recorded in the ledger of readings."""

    @property
    def files(self) -> RunFolder:
        """The paths of the files in the run folder."""
        return RunFolder(self.folder)

    @property
    def resume_command(self) -> str:
        """The command that a user enters to resume the run."""
        return f"python -m nic_ray.tune --resume {shlex.quote(str(self.folder))}"


def destination(config: Config, *, out: Path, name: str, run_root: Path, overwrite: bool) -> Destination:
    """Return where a new search leaves its results, after checking these places; nothing is created yet.

    Args:
        out: folder that receives `name`/, the bundle; replaced by models/ in `storage` if that names a folder.
        run_root: folder that receives the run folder; likewise replaced by runs/.
        overwrite: whether an existing bundle may be replaced.

    Raises:
        InputError: a name that is not one folder's, a place that cannot be written to, or a bundle that exists already.
    """
    if name in ("", "..") or Path(name).name != name or not name.isprintable():
        raise InputError(f"--name {name!r}: must be the name of one folder, without a slash and printable")
    out, run_root = places(config.storage, out, run_root)
    if config.data.replay and Path(os.path.realpath(config.train.base_model)) == Path(os.path.realpath(out / name)):
        raise InputError(
            f"--name {name}: is the model that the search goes on from, and is compared with; name another"
        )
    refuse_existing(out / name, overwrite)
    refuse_unwritable(out, run_root)
    store = mirror_at(config.storage) if config.storage and is_uri(config.storage) else None
    if store and exists(store / MODELS / name) and not overwrite:
        raise InputError(
            f"{store / MODELS / name}: exists already; choose another --name, or replace it with --overwrite"
        )
    return Destination(out / name, run_root, store)


def begin_run(bases: Bases, where: Destination, *, overwrite: bool, export_anyway: bool) -> Run:
    """Create the folder of a new run, with its settings and a description of what it starts from."""
    prepared, *others = bases.prepared.values()
    name = where.bundle.name
    folder = new_run_folder(where.run_root, name)
    run = Run(
        folder=folder,
        bundle=Path(os.path.realpath(where.bundle)),
        overwrite=overwrite,
        export_anyway=export_anyway,
        mirror=where.store / RUNS / folder.name if where.store else None,
        bundle_mirror=where.store / MODELS / name if where.store else None,
        command="tune",
    )
    RunFolder(folder).config.write_text(dump_config(prepared.config), encoding="utf-8")
    start: StoredRun = {
        "bundle": str(run.bundle),
        "overwrite": overwrite,
        "export_anyway": export_anyway,
        **describe_start(prepared),
    }
    if others:
        start["other_base_weights_sha256"] = {own.encoder.name: own.encoder.weights_sha256 for own in others}
    RunFolder(folder).start.write_text(json.dumps(start, indent=2), encoding="utf-8")
    if run.mirror:
        for file in (RunFolder(folder).config, RunFolder(folder).start):
            push(file, run.mirror / file.name)
    return run


def reopen_run(
    where: str,
    command: str,
    *,
    overwrite: bool,
    export_anyway: bool,
    further: Mapping[str, object] | None = None,
) -> tuple[Run, Config, StoredRun]:
    """A run that was begun before, with its settings and with what it was started from.

    Args:
        where: run folder of the search, or the URI of its mirror, which is copied to runs/ first.
        command: the command that works on the run now.
        overwrite, export_anyway: permissions in addition to what the search was started with.
        further: settings that replace those of the run, by dotted name: "search.trials", the number of trials in all,
            and "search.time_budget". None is skipped.

    Raises:
        InputError: there is no such run, its settings have changed, it has more trials than it is to have in all, or
            its bundle exists already.
    """
    mirror = mirror_at(where) if is_uri(where) else None
    folder = (Path(RUNS, mirror.path.rpartition("/")[2]) if mirror else Path(where)).resolve()
    if mirror:
        pull(mirror, folder)
    config, start = reopened_settings(folder, where)
    bundle, granted = Path(start["bundle"]), (overwrite or start["overwrite"], export_anyway or start["export_anyway"])
    replaced = load_config(RunFolder(folder).config, further)
    if mirror is None and config.storage and is_uri(config.storage):
        mirror = mirror_at(config.storage) / RUNS / folder.name
    bundle_mirror = None
    if mirror:
        bundle = Path(MODELS, bundle.name).resolve()
        store = Mirror(mirror.filesystem, mirror.path.removesuffix(f"/{RUNS}/{folder.name}"))
        bundle_mirror = store / MODELS / bundle.name
    run = Run(folder, bundle, *granted, mirror, bundle_mirror, command)
    refuse_existing(run.bundle, run.overwrite, "move it away")
    refuse_unwritable(run.bundle.parent, folder)
    if replaced != config:
        _refuse_fewer_trials(folder, config.search.trials, replaced.search.trials)
    return run, replaced, start


def keep_trials(run: Run, trials: int) -> None:
    """Keep the number of trials that a run is to have from now on in its settings."""
    config = load_config(run.files.config)
    if trials != config.search.trials:
        search = config.search.model_copy(update={"trials": trials})
        run.files.config.write_text(dump_config(config.model_copy(update={"search": search})), encoding="utf-8")
        if run.mirror:
            push(run.files.config, run.mirror / run.files.config.name)


def reopened_settings(folder: Path, where: str | None = None) -> tuple[Config, StoredRun]:
    """Read the settings of a run, and what it was started from.

    Args:
        folder: the run folder.
        where: how the user names it, for messages; None for its path.

    Raises:
        InputError: there is no such run, or its settings have changed.
    """
    start = read_object(
        RunFolder(folder).start,
        StoredRun,
        absent=f"{where or folder}: no run of a search (holds no sound run.json); name a folder in runs/",
        way_out="start the search anew",
    )
    if not RunFolder(folder).config.is_file():
        raise InputError(f'{folder}: its config.yaml is gone; write it again, from "settings" in its run.json')
    config = load_config(RunFolder(folder).config)
    try:
        noted = None if start.get("settings") is None else started_settings(start["settings"])
    except InputError as error:
        raise InputError(f"{RunFolder(folder).start}: {error}, so the search cannot go on; start anew") from None
    refuse_other_settings(folder, config, noted)
    return config, start


def _refuse_fewer_trials(folder: Path, before: int, now: int) -> None:
    if now < before:
        raise InputError(
            f"--trials {now}: {folder} was started for {before} trials in all; name a larger number to add some, or "
            f"export the best so far: python -m nic_ray.export {shlex.quote(str(folder))}"
        )


def refuse_new_settings(resumed: str, config: Path | None, options: Mapping[str, object]) -> None:
    """Check that no settings are given along with a run to resume.

    Args:
        resumed: the run folder, or the URI of its mirror.
        config: file of settings, if one was given as well.
        options: other options by name; None for those that were not given.

    Raises:
        InputError: some are given.
    """
    others = {
        name: [str(part) for part in (value if isinstance(value, list) else [value])]
        for name, value in options.items()
        if value is not None
    }
    if config is None and not others:
        return
    file = config or ("CONFIG" if is_uri(resumed) else RunFolder(Path(resumed)).config)
    anew = shlex.join([str(file), *itertools.chain(*([name, *values] for name, values in others.items()))])
    raise InputError(
        f"{', '.join([*(['CONFIG'] if config else []), *others])}: --resume goes on with the settings of the "
        "run; omit it. More trials are had with --trials. For other settings start a new search; the output of the "
        f"frozen blocks is kept for it: python -m nic_ray.tune {anew} --name NAME"
    )


def refuse_other_settings(run_folder: Path, config: Config, started: StartedSettings | None) -> None:
    """Check that the existing trials were run with these settings: other trials cannot be compared with new ones.

    Args:
        config: the settings in the run folder now.
        started: the settings that the search was started with; None if they were not recorded; then the
            study knows at least its space.

    Raises:
        InputError: the space, the objective or the training differs; the message names each difference.
    """
    now = _described(config.space)
    if started is None:
        differences, drawn = [], _space_in_study(run_folder) or now
    else:
        differences = changed_settings(config, started)
        drawn = _described(started.space)
    differences += [
        f"space.{name} is {now.get(name, 'left out')}, was {drawn.get(name, 'left out')}"
        for name in {**drawn, **now}
        if now.get(name) != drawn.get(name)
    ]
    if differences:
        file = RunFolder(run_folder).config
        raise InputError(
            f"{file}: differs from the settings at the start ({'; '.join(differences)}), and trials of both cannot be "
            f"compared. Put the old values back to go on, or start a new search with the new ones: "
            f"python -m nic_ray.tune {shlex.quote(str(file))}"
        )


def _described(space: Mapping[str, Dimension]) -> dict[str, str]:
    forms = {name: dimension.model_dump(mode="json", exclude_none=True).items() for name, dimension in space.items()}
    return {name: " ".join(f"{kind} {values}" for kind, values in form) for name, form in forms.items()}


def _space_in_study(run_folder: Path) -> dict[str, str]:
    """Return the space that a study's trials were drawn from; empty if it cannot be read, or there is none."""
    from nic_ray.study import open_study, space_of  # Optuna is not needed if the settings were recorded

    with contextlib.suppress(InputError):
        if study := open_study(RunFolder(run_folder).study):
            return _described(space_of(study))
    return {}


def places(storage: str | None, out: Path, run_root: Path) -> tuple[Path, Path]:
    """Return the folders that receive the bundle and the run.

    Raises:
        InputError: `storage` is not an absolute folder, or both would be deleted with a Ray job's working folder.
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


def refuse_unwritable(*folders: Path) -> None:
    """Check that folders can be written to, or created, without creating them.

    Raises:
        InputError: one of them cannot.
    """
    for folder in folders:
        place = _existing(folder.absolute())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            fault = f"{place} cannot be written" if place.is_dir() else f"{place} is not a folder"
            raise InputError(f"{folder}: nothing can be kept there ({fault}); name others with --out and --run-dir")


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


@contextlib.contextmanager
def explaining_a_full_disk(run: Run) -> Iterator[None]:
    """Turn any error that a full disk causes into one message with the free space of each place and how to resume.

    Raises:
        RunError: there is no space left.
    """
    try:
        yield
    except Exception as error:
        # Ray may fail on something that it could not write before, and report another error
        full = is_full(run.folder) and not isinstance(error, InputError | RunError)
        if not (full or is_disk_full(error)):
            raise
        log.error("no room", exc_info=True)
        raise RunError(_describe_want_of_room(run)) from None


def _describe_want_of_room(run: Run) -> str:
    looked_at = {"run": run.folder, "bundle": _existing(run.bundle), "temporary files": Path(tempfile.gettempdir())}
    free = {what: shutil.disk_usage(place).free for what, place in looked_at.items()}
    listed = ", ".join(f"{looked_at[what]} ({what}) has {free[what] / 2**20:,.0f} MiB left" for what in looked_at)
    return (
        f"no space left on a disk: {listed}; what has ended is kept. Make room, then go on with: "
        f"{run.resume_command} (python -m nic_ray.plan predicts what a search needs)"
    )


@contextlib.contextmanager
def explaining_an_interrupt(run: Run) -> Iterator[None]:
    """Have Ctrl-C say how to resume, or to export the best so far."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; go on with: {run.resume_command}\n"
            f"or export the best so far: python -m nic_ray.export {shlex.quote(str(run.folder))}"
        ) from None
