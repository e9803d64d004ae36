"""Where the pairs of a run come from: a file or folder, several of them, or a data set of the hub."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from nic_ray.errors import is_utf8
from nic_ray.packaged import packaged
from nic_ray.validation import shown_value

Sources: TypeAlias = Path | tuple[Path, ...]
"""A single file, folder or hub id as a path; two or more as a tuple, in the order in which their rows are read."""
REFERENCE = Path("data/reference/pairs.jsonl")
HUB = "hub:"
"""Beginning of the id of a data set of the hub, where a path could stand."""


def listed(sources: Path | Sequence[Path]) -> tuple[Path, ...]:
    """Return the paths that are named, be it one or several."""
    return (sources,) if isinstance(sources, Path) else tuple(sources)


def as_sources(paths: Iterable[Path]) -> Sources:
    """Return a single path as itself, and several as a tuple."""
    several = tuple(paths)
    return several[0] if len(several) == 1 else several


def named_or_reference(paths: Sequence[Path] | None) -> Sources:
    """Return the pairs that a command is given, packaged ones where they lie; the reference set if there are none."""
    return as_sources(map(packaged, paths or [REFERENCE]))


def shown(sources: Path | Sequence[Path]) -> str:
    """Return the paths as the user named them, by commas, for a message."""
    return ", ".join(map(str, listed(sources)))


def names_of(sources: Path | Sequence[Path]) -> str:
    """Return the names of the files without their folders, by commas, for records."""
    return ", ".join(str(path) if is_hub(path) else path.name for path in listed(sources))


def is_hub(path: Path) -> bool:
    """Whether a path stands for a data set of the hub, which is read by its id."""
    return str(path).startswith(HUB)


def parse_sources(value: object) -> Sources:
    """Check the value of a setting that names a file of pairs, or a list of files.

    Raises:
        ValueError: it is neither.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    if not parts:
        raise ValueError("must name a file of pairs, or a list of files, got []")
    for part in parts:
        if not isinstance(part, str | Path):
            raise ValueError(f"must be a path, or a list of paths, got {shown_value(value)}")
        if "\0" in str(part) or not is_utf8(str(part)):
            raise ValueError(f"must be text without null characters and halves of characters, got {shown_value(part)}")
    return as_sources(map(Path, parts))


def _as_text(sources: Sources) -> str | list[str]:
    return str(sources) if isinstance(sources, Path) else [str(path) for path in sources]


_PATH = {"type": "string", "format": "path"}
PairsSetting = Annotated[
    Sources,
    PlainValidator(parse_sources),
    PlainSerializer(_as_text, when_used="json"),
    WithJsonSchema({"anyOf": [_PATH, {"type": "array", "items": _PATH, "minItems": 1}]}),
]
"""The type of a setting that names pairs."""
