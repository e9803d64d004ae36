"""The exported folder: a model that plain Sentence Transformers loads, and the record of its origin."""

import hashlib
import json
import logging
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from nic_ray import __version__
from nic_ray.bundle.card import model_card, pictured
from nic_ray.bundle.golden import write_golden
from nic_ray.bundle.names import CARD, DETECTOR_ARRAYS, DETECTOR_RECORD, LOG, PICTURE
from nic_ray.bundle.picture import recall_png
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import Metadata, StoredMetadata
from nic_ray.model import base
from nic_ray.model.encoder import Encoder, for_queries
from nic_ray.origin import METADATA
from nic_ray.stored import checked
from nic_ray.train_config import PromptsConfig

log = logging.getLogger("nic_ray.bundle")

OWN_KEYS = {"name", "base_model", "files"}
LIBRARIES = ("torch", "transformers", "sentence-transformers", "ray", "optuna", "numpy")


def refuse_existing(folder: Path, overwrite: bool, way_out: str = "choose another --name") -> None:
    """Refuse a place that `write_bundle` could not or must not write to. Nothing is changed.

    Args:
        folder: where the bundle will be written.
        overwrite: whether an older bundle, or an empty folder, may be there and be replaced.
        way_out: what the user can do instead, for the message.

    Raises:
        InputError: the place holds something that must stay, or the folder cannot be made.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a link" if folder.is_symlink() else "a file"
        raise InputError(f"{folder}: is {kind}, and a bundle is a folder; {way_out}")
    if folder.exists() and not overwrite:
        raise InputError(f"{folder}: exists already; {way_out}, or replace it with --overwrite")
    if folder.exists() and any(folder.iterdir()):
        try:
            read_metadata(folder)
        except InputError as error:
            raise InputError(
                f"{folder}: --overwrite replaces only what was exported before, and this is no bundle "
                f"({error}); {way_out}, or remove it yourself"
            ) from None
    parent = next(place for place in folder.absolute().parents if place.exists())
    if not parent.is_dir():
        raise InputError(f"{folder}: cannot be made, {parent} is a file; name another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be made, {parent} is not writable; name another folder")


def write_bundle(
    folder: Path,
    model: SentenceTransformer,
    metadata: Metadata,
    *,
    training_log: str,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Export a model, completely or not at all, without using the network.

    Everything is written to a temporary folder beside `folder`, which is then renamed to `folder`. A bundle that is
    replaced stays until then, and is restored if the renaming fails.

    Args:
        folder: where the bundle is written.
        model: saved as it is, with its `max_seq_length`, at which plain Sentence Transformers cuts texts off.
        metadata: where the model comes from, as JSON values. The model card is made from it, and it is stored as
            metadata.json together with "files": the SHA-256 of every other file by its path in the folder.
        training_log: text of training.log.
        overwrite: whether an older bundle may be replaced.
        check: called with the finished folder before that gets its final name; an exception from it stops the export.

    Raises:
        InputError: as for `refuse_existing`.
        RunError: the files cannot be written, or the model's embeddings are not finite.
    """

    def fill(unfinished: Path) -> None:
        _save_model(model, unfinished)
        write_golden(unfinished, model)
        (unfinished / CARD).write_text(model_card(metadata), encoding="utf-8")
        if tested := pictured(metadata):
            picture = recall_png(tested, metadata.get("recall_intervals", {}), metadata.get("trained"))
            (unfinished / PICTURE).write_bytes(picture)
        (unfinished / LOG).write_text(training_log, encoding="utf-8")

    write_files(folder, fill, metadata, overwrite=overwrite, check=check)


def write_files(
    folder: Path,
    fill: Callable[[Path], None],
    metadata: Mapping[str, object],
    *,
    overwrite: bool,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a folder whose files `find_faults` can verify, in the way that `write_bundle` does.

    Args:
        folder: where the finished folder is placed.
        fill: writes the files into the folder that it is called with.
        metadata: stored together with the SHA-256 of all the files.
        overwrite: whether an older folder may be replaced.
        check: called with the finished folder before that gets its final name; an exception from it stops the writing.

    Raises:
        InputError: as for `refuse_existing`.
        RunError: the files cannot be written.
    """
    refuse_existing(folder, overwrite)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        _write_metadata(temporary, metadata)
        if check is not None:
            check(temporary)
        _sync([*temporary.rglob("*"), temporary])
        refuse_existing(folder, overwrite)
        _move(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{folder}: cannot be written ({error}); make room or choose another place, and export again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_metadata(folder: Path) -> StoredMetadata:
    """Read the metadata that `write_bundle` stored with a bundle, "files" included.

    Raises:
        InputError: the folder is not a bundle, or its metadata is damaged.
    """
    path = folder / METADATA
    way_out = "name a folder that was exported to models/"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        fault = f"holds no {METADATA}" if folder.is_dir() else "no such folder"
        raise InputError(f"{folder}: {fault}; {way_out}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {way_out}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); {way_out}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a JSON object, got {type(content).__name__}; {way_out}")
    if missing := sorted(OWN_KEYS - content.keys()):
        raise InputError(f"{path}: not that of a bundle, lacks {', '.join(missing)}; {way_out}")
    # the value of "files" is not checked here but in `find_faults`
    return cast(StoredMetadata, checked(content, Metadata, path, "export the bundle again"))


def find_faults(folder: Path) -> list[str]:
    """List the faults in the files of a bundle, one line each; empty if the files are those that were exported.

    Every file except metadata.json must have the SHA-256 that metadata.json states; no file may be missing, be a link
    or be extra. The hashes reveal damaged and exchanged files, not forgery: whoever can write the folder can also
    write metadata.json.

    Raises:
        InputError: the folder is not a bundle.
    """
    expected = read_metadata(folder)["files"]
    if not isinstance(expected, dict) or not all(isinstance(digest, str) for digest in expected.values()):
        return [f"{METADATA}: files must give a SHA-256 for each path; export the model again"]
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    present |= {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_symlink()}
    faults = [f"{name}: is missing" for name in sorted(expected.keys() - present.keys())]
    for name, path in sorted(present.items()):
        if path.is_symlink() or not path.is_file():
            faults.append(f"{name}: is a link or no file")
        elif name in (METADATA, DETECTOR_ARRAYS, DETECTOR_RECORD):
            continue
        elif name not in expected:
            faults.append(f"{name}: was not exported")
        elif (digest := file_sha256(path)) != expected[name]:
            faults.append(f"{name}: SHA-256 is {digest[:16]}..., want {expected[name][:16]}...")
    return faults


def load(folder: Path, fallback: str | None = None) -> SentenceTransformer:
    """Load a verified model for a service: the bundle's or else the fallback's, never a damaged one.

    Args:
        folder: the bundle.
        fallback: base model to load instead, with a warning in the log; with None, an error is raised instead.

    Raises:
        InputError: the folder is a damaged bundle or no bundle, and there is no fallback; or the fallback cannot be
            loaded.
    """
    try:
        faults = find_faults(folder)
        if not faults:
            encoder = base.load(str(folder))
            return (
                encoder.model if encoder.passages is None else for_queries(encoder, encoder.model.max_seq_length or 0)
            )
    except InputError as error:
        faults = [str(error)]
    if fallback is None:
        raise InputError(f"{folder}: not loaded: {'; '.join(faults[:3])}; export the model again")
    log.warning("%s: not loaded: %s; using %s instead", folder, "; ".join(faults[:3]), fallback)
    return base.load(fallback).model


def load_base_of(metadata: Metadata) -> Encoder:
    """Load the base model of a bundle as it was loaded for the training, with the same prompts.

    Raises:
        InputError: it is not available.
    """
    stored = metadata.get("prompts")
    prompts = base.STORED if stored is None else PromptsConfig(query=stored["query"], document=stored["passage"])
    return base.load(
        metadata["base_model"],
        prompts=prompts,
        revision=metadata.get("base_revision"),
        trust_remote_code=bool(metadata.get("config", {}).get("trust_remote_code")),
    )


def library_versions() -> dict[str, str]:
    """Versions, by name, of Python, of this package and of the installed libraries that determine the results."""
    versions = {"python": platform.python_version(), "nic_ray": __version__}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # without a search, a model is trained and exported without Ray
            versions[name] = version(name)
    return versions


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save_model(model: SentenceTransformer, folder: Path) -> None:
    # The tokenizer is saved with the truncation and padding of its last call, so one with the usual ones comes first.
    model.preprocess([""])
    model.save(str(folder), create_model_card=False, safe_serialization=True)
    for path in _files(folder):
        # Safetensors makes its file readable by the owner only, whatever the umask is.
        shutil.copymode(folder / "modules.json", path)


def _write_metadata(folder: Path, metadata: Mapping[str, object]) -> None:
    hashes = {path.relative_to(folder).as_posix(): file_sha256(path) for path in _files(folder)}
    content = json.dumps({**metadata, "files": hashes}, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / METADATA).write_text(content + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _move(temporary: Path, folder: Path) -> None:
    aside = temporary.with_suffix(".old")
    replaces = folder.exists()
    if replaces:
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except BaseException:
        if replaces:
            aside.rename(folder)
        raise
    if replaces:
        shutil.rmtree(aside, ignore_errors=True)
    _sync([folder.parent])
