"""The rows of a file of pairs that a model is evaluated on: a part of the split that it was trained with, or others."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from nic_ray.bundle.files import read_metadata
from nic_ray.data_config import DataConfig
from nic_ray.dataset.division import divide
from nic_ray.dataset.form import AS_FOUND, Form, column_of_groups
from nic_ray.dataset.formats import content_sha256, files_of
from nic_ray.dataset.groups import groups_of, with_documents
from nic_ray.dataset.pairs import Collection, Pair, index_pairs, read_pairs
from nic_ray.dataset.replay import split_settings
from nic_ray.dataset.split import Part
from nic_ray.errors import InputError
from nic_ray.evidence import Metadata
from nic_ray.metrics.intervals import Queries
from nic_ray.origin import METADATA, ReplayedPairs, StoredData, StoredSplit
from nic_ray.protocol import BY_PASSAGE, unit_of_groups
from nic_ray.sources import Sources, names_of
from nic_ray.train_config import TrainConfig
from nic_ray.training.prepared import split_sha256


def part_named(split: str | None) -> Part | Literal["all"]:
    """The part of the pairs that a user names; the validation rows if the user names none.

    Raises:
        InputError: there is no such part.
    """
    parts: tuple[Part | Literal["all"], ...] = ("test", "validation", "train", "all")
    named = next((part for part in parts if part == (split or "validation")), None)
    if named is None:
        raise InputError(f"--split: {split!r} is not one of {', '.join(parts)}")
    return named


def metadata_of(model: str) -> Metadata:
    """The metadata of a bundle; empty for any other model."""
    return read_metadata(Path(model)) if (Path(model) / METADATA).is_file() else {}


def domains_of(metadata: Metadata) -> set[str]:
    """The domains of the pairs that a model was trained on."""
    return {*metadata.get("data", {}).get("domains", ())}


def form_on(metadata: Metadata, pairs: Sources) -> Form:
    """How a file of pairs is to be read: as the model's training was told, if these are its pairs."""
    data = metadata.get("data", {})
    forms = {old["sha256"]: _form_then(old, old["split"]) for old in data.get("replay", [])}
    forms[data.get("sha256", "")] = replace(_form_then(data, metadata.get("split", {})), domain=_only_domain(data))
    if all(form == AS_FOUND for form in forms.values()):
        return AS_FOUND
    try:
        return forms.get(content_sha256(pairs), AS_FOUND)
    except OSError:  # which reading them describes
        return AS_FOUND


def _only_domain(data: StoredData) -> str | None:
    """The domain of a file that may have been renamed since, if all of its rows were of one."""
    names = [*data.get("domains", ())]
    return names[0] if len(names) == 1 and "files" not in data and "replay" not in data else None


def _form_then(record: StoredData | ReplayedPairs, split: StoredSplit) -> Form:
    columns = {**record.get("columns", {}), **column_of_groups(split.get("group_by", BY_PASSAGE))}
    return Form(record.get("format"), columns, own_splits=split.get("splits") == "own")


def is_ranked_as_folder(metadata: Metadata, pairs: Sources) -> bool:
    """Whether pairs are a folder in BEIR form whose whole corpus is ranked for the queries of one of its qrels.

    If a model was trained by the splits of this very folder, its rows are read as they were in training.
    """
    if not isinstance(pairs, Path) or not pairs.is_dir() or files_of(pairs) != (pairs,):
        return False
    return not form_on(metadata, pairs).own_splits


def split_on(metadata: Metadata, pairs: Sources) -> StoredSplit | None:
    """How the pairs of a file were split where a model was trained on them; None if it was not.

    The oldest file of a model that was tuned further was split alone, its later ones beside it.
    """
    if "split" not in metadata:
        return None
    digest, data = content_sha256(pairs), metadata.get("data", {})
    replay = data.get("replay", [])
    if replay and replay[0]["sha256"] == digest:
        return replay[0]["split"]
    return metadata["split"] if digest in (data.get("sha256"), *(old["sha256"] for old in replay)) else None


def trained_on_some(metadata: Metadata, pairs: Sources) -> str | None:
    """Return the files that a model was trained on, by commas, if some of them are among others that are not."""
    if "split" not in metadata or split_on(metadata, pairs) is not None:
        return None
    data = metadata.get("data", {})
    records = [data, *data.get("replay", [])]
    known = {file["sha256"] for record in records for file in record.get("files", [])}
    known |= {record["sha256"] for record in records if "sha256" in record}
    if known.isdisjoint(map(content_sha256, files_of(pairs))):
        return None
    return ", ".join(str(record.get("pairs")) for record in records)


def split_sha256_on(metadata: Metadata, pairs: Sources) -> str | None:
    """SHA-256 of the split of a file's pairs where a model was trained on them; None if it was not."""
    stored = split_on(metadata, pairs)
    return None if stored is None else stored.get("sha256")


def max_tokens_of(metadata: Metadata) -> int:
    """The number of tokens that texts were cut off at in a model's training, or by default."""
    return int(metadata.get("config", {}).get("max_tokens", TrainConfig().max_tokens))


def rows_of_model(metadata: Metadata, pairs: Sources, split: Part | Literal["all"]) -> tuple[Collection, list[int]]:
    """The texts of the pairs, and the rows of a part: by the split of the model if it was trained on these pairs.

    For a model that was trained on other pairs, the default split is used.

    Raises:
        InputError: the pairs or the metadata cannot be used.
    """
    read = read_pairs(pairs, form=form_on(metadata, pairs))
    data = data_for(metadata, pairs, split, Path(metadata["name"]))
    return chosen_rows(read, split, data, split_sha256_on(metadata, pairs))


def data_for(metadata: Metadata, pairs: Sources, split: Part | Literal["all"], folder: Path) -> DataConfig | None:
    """The split of the model if it was trained on the pairs, else the default split; None for all rows."""
    if split == "all":
        return None
    if trained := trained_on_some(metadata, pairs):
        raise InputError(
            f"{folder}: was trained on {trained}, and its split is that of all of them in that order, got "
            f"{names_of(pairs)}; name these files so, or read --split all"
        )
    stored, replay = split_on(metadata, pairs), metadata.get("data", {}).get("replay")
    if replay and stored is metadata.get("split"):
        raise InputError(
            f"{folder}: its rows of {names_of(pairs)} were split beside those of {replay[0]['pairs']}, so they cannot "
            f"be told apart here; its card has its figures on them. Name {replay[0]['pairs']}, or read --split all"
        )
    return DataConfig() if stored is None else split_settings(stored, folder)


def chosen_rows(
    read: Sequence[Pair], split: Part | Literal["all"], data: DataConfig | None, sha256: str | None
) -> tuple[Collection, list[int]]:
    """The texts, and the rows whose queries are asked; all rows if there is no split.

    Args:
        sha256: SHA-256 of the split that a model was trained with; None where it is not known.

    Raises:
        InputError: this version splits the rows differently.
    """
    if data is None:
        return index_pairs(with_documents(read, BY_PASSAGE)), list(range(len(read)))
    collection, parts = divide(read, data)
    if sha256 not in (None, split_sha256(collection, parts)):
        raise InputError(
            "the pairs are split differently from when the model was trained, by another version of nic_ray: rows that "
            "it was trained on may be among those held back now; train and export it again, or read --split all"
        )
    return collection, np.flatnonzero(parts == split).tolist()


def groups_on(collection: Collection, rows: Sequence[int], group_by: str) -> Queries:
    """The queries of some rows with the groups that rows stay together in, by `data.group_by`."""
    groups = groups_of(collection, group_by)[list(rows)]
    return Queries(groups, [collection.domains[row] for row in rows], unit_of_groups(group_by))


def queries_of(collection: Collection, rows: Sequence[int]) -> Queries:
    """The queries of some rows with their passages; nearly identical passages count as one."""
    return Queries(collection.near_group[collection.positive[list(rows)]], [collection.domains[row] for row in rows])
