"""Files of JSON that runs and bundles leave, and that a user may have damaged: read with their types checked."""

import json
import shlex
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from nic_ray.errors import InputError
from nic_ray.evidence import Exported, Retrieved, StoredResult
from nic_ray.run_folder import RunFolder
from nic_ray.validation import stored_faults

Kind = TypeVar("Kind")
LISTED = 3
"""Faults of a file that a message names."""

# Here and not where the kinds are defined, which the help of a command imports: it must not wait for pydantic.
_keeping_unknown_keys = with_config(ConfigDict(extra="allow"))


def checked(content: object, kind: type[Kind], place: Path, way_out: str) -> Kind:
    """What a file holds, if it is what it must be.

    Args:
        content: as `json` has read it.
        kind: a TypedDict. Keys that it does not know are kept, in all that stands in it.
        place: the file.
        way_out: what the user can do where it is damaged.

    Raises:
        InputError: it lacks something, or holds values of other types.
    """
    try:
        return TypeAdapter(_keeping_unknown_keys(kind)).validate_python(content)
    except ValidationError as error:
        faults = list(stored_faults(error))
        more = f"; and {len(faults) - LISTED} more faults" if len(faults) > LISTED else ""
        raise InputError(f"{place}: damaged, {'; '.join(faults[:LISTED])}{more}; {way_out}") from None


def read_object(path: Path, kind: type[Kind], *, absent: str, way_out: str) -> Kind:
    """The object that a file holds.

    Args:
        kind: a TypedDict.
        absent: what to say where there is no such file, or none of JSON.
        way_out: as for `checked`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        content = _content(path)
    except (OSError, ValueError, RecursionError):
        raise InputError(absent) from None
    return checked(content, kind, path, way_out)


def read_result(run_folder: Path) -> StoredResult:
    """What a search has found.

    Raises:
        InputError: the folder holds no result of a search, or a damaged one.
    """
    path = RunFolder(run_folder).result
    try:
        content = _content(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{run_folder}: holds no result of a search ({error}); name a run that has ended") from None
    return checked(content, StoredResult, path, _again(run_folder))


def exported_bundle(run_folder: Path) -> str | None:
    """The bundle that a search says it has exported; None if it says nothing, or nothing that can be read."""
    path = RunFolder(run_folder).result
    try:
        return checked(_content(path), Exported, path, _again(run_folder))["bundle"]
    except (OSError, ValueError, RecursionError):
        return None


def read_retrieved(run_folder: Path) -> Retrieved | None:
    """What the winner of a search retrieved for each test query; None if the test rows were not read.

    Raises:
        InputError: the file is damaged.
    """
    path, way_out = RunFolder(run_folder).queries, _again(run_folder)
    if not path.exists():
        return None
    return read_object(path, Retrieved, absent=f"{path}: cannot be read as JSON; {way_out}", way_out=way_out)


def _content(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _again(run_folder: Path) -> str:
    return f"write it again with python -m nic_ray.export {shlex.quote(str(run_folder))}"
