"""Reading of the JSON files of runs and bundles, with a check of all types, since a user may have damaged them."""

import json
import shlex
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from nic_ray.errors import InputError
from nic_ray.evidence import Exported, Retrieved, StoredCurve, StoredResult
from nic_ray.run_folder import RunFolder
from nic_ray.validation import stored_faults

Kind = TypeVar("Kind")
MAX_LISTED = 3
"""Number of a file's faults that a message lists."""

# Applied here and not where the types are defined: the help of a command imports those, and must not wait for pydantic.
_keeping_unknown_keys = with_config(ConfigDict(extra="allow"))


def checked(content: object, kind: type[Kind], place: Path, way_out: str) -> Kind:
    """Return the content of a file if it has the given type.

    Args:
        content: the content as read by `json`.
        kind: a TypedDict. Unknown keys are kept, at every level.
        place: the file, for messages.
        way_out: what the user can do if the file is damaged, for messages.

    Raises:
        InputError: a key is missing, or a value has another type.
    """
    try:
        return TypeAdapter(_keeping_unknown_keys(kind)).validate_python(content)
    except ValidationError as error:
        faults = list(stored_faults(error))
        more = f"; and {len(faults) - MAX_LISTED} more faults" if len(faults) > MAX_LISTED else ""
        raise InputError(f"{place}: damaged, {'; '.join(faults[:MAX_LISTED])}{more}; {way_out}") from None


def read_object(path: Path, kind: type[Kind], *, absent: str, way_out: str) -> Kind:
    """Read the JSON object in a file.

    Args:
        kind: a TypedDict.
        absent: the message if the file does not exist or is not JSON.
        way_out: as for `checked`.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        content = _content(path)
    except (OSError, ValueError, RecursionError):
        raise InputError(absent) from None
    return checked(content, kind, path, way_out)


def read_result(run_folder: Path) -> StoredResult:
    """Read the result of a search.

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
    """Read which bundle a search has exported; None if it has exported none, or its result cannot be read."""
    path = RunFolder(run_folder).result
    try:
        return checked(_content(path), Exported, path, _again(run_folder))["bundle"]
    except (OSError, ValueError, RecursionError):
        return None


def read_retrieved(run_folder: Path) -> Retrieved | None:
    """Read the passages that the winner of a search retrieved for each test query; None if the test rows were not read.

    Raises:
        InputError: the file is damaged.
    """
    path, way_out = RunFolder(run_folder).queries, _again(run_folder)
    if not path.exists():
        return None
    return read_object(path, Retrieved, absent=f"{path}: cannot be read as JSON; {way_out}", way_out=way_out)


def read_curve(run_folder: Path) -> StoredCurve | None:
    """Read the learning curve of a search's winner; None if none was measured.

    Raises:
        InputError: the file is damaged.
    """
    path = RunFolder(run_folder).curve
    if not path.exists():
        return None
    way_out = f"measure it again with python -m nic_ray.curve {shlex.quote(str(run_folder))}"
    return read_object(path, StoredCurve, absent=f"{path}: cannot be read as JSON; {way_out}", way_out=way_out)


def _content(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _again(run_folder: Path) -> str:
    return f"write it again with python -m nic_ray.export {shlex.quote(str(run_folder))}"
