"""Data sets of the hub, read by the library `datasets` where a user names one as hub:OWNER/NAME/CONFIG:SPLIT."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nic_ray.errors import InputError, in_one_line
from nic_ray.evidence import JsonObject
from nic_ray.sources import HUB

WANT = f"want {HUB}OWNER/NAME, with /CONFIG for one of its configurations and :SPLIT for one of its splits"


def splits_on_hub(path: Path) -> Mapping[str, "_Table"]:
    """Load a data set of the hub: all of its splits by name, or the one that is named.

    Raises:
        InputError: the id is none, `datasets` is not installed, or the hub does not give the data set.
    """
    name, config, split = _parsed(path)
    return _loaded(name, config, split)


def rows_of_split(table: "_Table") -> Iterator[JsonObject]:
    """Yield the rows of a split, without the values that are missing."""
    for row in table:
        yield {column: value for column, value in row.items() if value is not None}


def rows_sha256(path: Path) -> str:
    """Compute the SHA-256 of the texts, numbers and lists in the rows of a data set, with the names of its splits.

    Raises:
        InputError: as `splits_on_hub`.
    """
    digest = hashlib.sha256()
    for split, table in splits_on_hub(path).items():
        for row in rows_of_split(table):
            # a picture or a sound counts by its kind: how it is printed changes with every run
            line = json.dumps([split, row], sort_keys=True, default=lambda value: type(value).__name__)
            digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def columns_of(tables: Sequence["_Table"]) -> list[str]:
    """Return the names of all columns of some splits, in their order."""
    return list(dict.fromkeys(name for table in tables for name in table.column_names))


def _parsed(path: Path) -> tuple[str, str | None, str | None]:
    """Return name, configuration and split of an id; of three parts between slashes, the last is a configuration."""
    place, *split = str(path).removeprefix(HUB).split(":")
    parts = place.split("/")
    if len(split) > 1 or len(parts) > 3 or not all([*parts, *split]):
        raise InputError(f"{path}: is no id of a data set; {WANT}")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split[0] if split else None


@functools.lru_cache(maxsize=8)
def _loaded(name: str, config: str | None, split: str | None) -> Mapping[str, "_Table"]:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{HUB}{name}: is read by datasets, which is not installed; pip install -c constraints.txt -e '.[hub]', or "
            "name a file"
        ) from None
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # connections, names, configurations, splits: each library below has errors of its own
        raise InputError(
            f"{HUB}{name}: the hub does not give it ({type(error).__name__}: {in_one_line(error)}); look at its name, "
            f"its configuration, its split and the network; {WANT}"
        ) from None
    return {split: loaded} if split is not None else dict(loaded)


_Table = Any
"""A data set of one split: iterable over its rows, with `column_names`."""
