"""New rows beside old ones: the rows that a model was tuned on keep their parts, and the new rows join them."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from nic_ray.data_config import DataConfig
from nic_ray.dataset.formats import content_sha256, files_of
from nic_ray.dataset.groups import groups_of, with_documents
from nic_ray.dataset.pairs import Collection, Pair, index_pairs
from nic_ray.dataset.split import (
    GROUPS_PER_DOMAIN,
    Part,
    hold_back_queries,
    refuse_few_groups,
    sample_rows,
    split_rows,
)
from nic_ray.dataset.synthetic import are_apart, sampled_beside, trained_beside, with_documents_of
from nic_ray.errors import InputError
from nic_ray.evidence import Metadata
from nic_ray.origin import METADATA, ReplayedPairs, StoredSplit
from nic_ray.protocol import BY_PASSAGE, by_passage, shown_name, unit_of_groups
from nic_ray.sources import Sources, as_sources, shown
from nic_ray.stored import read_object
from nic_ray.validation import setting_faults

SEVERAL = "several"
"""Stands for the part of a new row whose passage is near to old ones of several parts."""
ONE_FILE = "write old and new pairs into one file, and tune its base model without data.replay"


@dataclass(frozen=True)
class Earlier:
    """What an exported model was tuned on."""

    model: str
    """The folder, as the user names it."""
    files: tuple[DataConfig, ...]
    """Its files of pairs, the oldest first, each with the settings by which its rows were split."""
    records: tuple[ReplayedPairs, ...]
    """The files as the model's metadata describe them."""
    split_sha256: str
    """SHA-256 of the assignment of all these rows to parts."""
    saw_all: bool
    """Whether it was trained on all of these rows at last (`refit: all`)."""


@dataclass(frozen=True)
class Replay:
    """The rows of a run that its base model had been tuned on."""

    earlier: Earlier
    old: NDArray[np.bool_]
    """(N,) True for these rows, False for the new ones."""
    repeated: int
    """Number of rows of the new file that are old rows; each counts once."""
    left_out: int
    """Number of new rows that would have leaked between the parts of the old ones."""

    def rows_by_part(self, parts: NDArray[np.str_]) -> dict[str, dict[str, int]]:
        """Count the "old" and "new" rows of each part; `parts` (N,) as in `Joined`."""
        kinds = {"old": self.old, "new": ~self.old}
        return {
            part: {kind: int(np.count_nonzero(rows & (parts == part))) for kind, rows in kinds.items()}
            for part in get_args(Part)
        }


@dataclass(frozen=True)
class Joined:
    """Old rows with the new rows that have joined them."""

    pairs: list[Pair]
    """N rows, the old ones first."""
    parts: NDArray[np.str_]
    """(N,) as `split_rows` and `hold_back_queries` name them."""
    repeated: int
    """As in `Replay`."""
    left_out: int
    """As in `Replay`."""


def earlier_pairs(model: str, files: Sequence[Path], way_in: str = "with --replay (data.replay)") -> Earlier:
    """Look up how the pairs that an exported model was tuned on were split, and check that they are still the same.

    Args:
        model: the exported folder.
        files: where its files of pairs lie, the oldest first.
        way_in: how the user names them, for messages.

    Raises:
        InputError: the folder is not one that nic_ray has exported, or a file is missing, too many, or has changed.
    """
    folder = Path(model)
    metadata = read_object(
        folder / METADATA,
        Metadata,
        absent=f"{model}: holds no sound {METADATA}, so it is not known what it was tuned on; name a folder that "
        f"nic_ray has exported, or {ONE_FILE}",
        way_out="export the model again",
    )
    data, split = metadata.get("data", {}), metadata.get("split", {})
    if "sha256" not in data or "sha256" not in split:
        raise InputError(f"{folder / METADATA}: does not say what the model was tuned on; {ONE_FILE}")
    last = ReplayedPairs(pairs=data.get("pairs", "pairs"), sha256=data["sha256"], split=split)
    if "files" in data:
        last["files"] = data["files"]
    if "format" in data:
        last["format"] = data["format"]
    if "columns" in data:
        last["columns"] = data["columns"]
    records = (*data.get("replay", ()), last)
    if any(record["split"].get("splits") == "own" for record in records):
        raise InputError(
            f"{model}: was tuned by the splits that its rows came with, which new rows cannot join; {ONE_FILE}"
        )
    paths = _of_records(model, files_of(tuple(files)), records, way_in)
    for path, record in zip(paths, records, strict=True):
        _refuse_other_file(path, record, model, way_in)
    return Earlier(
        model=model,
        files=tuple(
            split_settings(record["split"], folder).model_copy(
                update={"pairs": path, "format": record.get("format"), "columns": record.get("columns", {})}
            )
            for path, record in zip(paths, records, strict=True)
        ),
        records=records,
        split_sha256=split["sha256"],
        saw_all=metadata.get("refit") == "all" or metadata.get("previous", {}).get("saw_all", False),
    )


def _of_records(model: str, files: Sequence[Path], records: Sequence[ReplayedPairs], way_in: str) -> list[Sources]:
    """Return the files of each record, which may be several that were read together."""
    counts = [len(record.get("files", ())) or 1 for record in records]
    if len(files) != sum(counts):
        listed = ", ".join(record["pairs"] for record in records)
        raise InputError(
            f"{model}: was tuned on {sum(counts)} file(s) of pairs ({listed}), got {len(files)}; name each "
            f"{way_in}, the oldest first"
        )
    left = iter(files)
    return [as_sources(itertools.islice(left, count)) for count in counts]


def _refuse_other_file(path: Sources, record: ReplayedPairs, model: str, way_in: str) -> None:
    way_out = f"name a copy of that file {way_in}"
    try:
        digest = content_sha256(path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(
            f"{shown(path)}: cannot be read ({reason}), and {model} was tuned on {record['pairs']}, whose rows are "
            f"needed again; {way_out}"
        ) from None
    if digest != record["sha256"]:
        raise InputError(
            f"{shown(path)}: is not what {model} was tuned on: its SHA-256 is {digest[:16]}..., want "
            f"{record['sha256'][:16]}... as {record['pairs']} had; {way_out}"
        )


def split_settings(stored: StoredSplit, folder: Path) -> DataConfig:
    """Return the settings by which the rows of an exported model were split, without the file of its pairs.

    Args:
        stored: "split" of its metadata.
        folder: the model, for messages.

    Raises:
        InputError: the metadata are damaged.
    """
    names = DataConfig.model_fields.keys() - {"pairs"}
    try:
        return DataConfig.model_validate({name: value for name, value in stored.items() if name in names})
    except ValidationError as error:
        faults = "; ".join(f"split.{fault}" for fault in setting_faults(error, DataConfig))
        raise InputError(f"{folder / METADATA}: {faults}; export the bundle again") from None


def refuse_other_split(earlier: Earlier, sha256: str, data: DataConfig) -> None:
    """Check that old rows are split as they were when the model was tuned, and that new ones can be split likewise.

    Args:
        sha256: SHA-256 of the assignment of the old rows to parts, as this version makes it.
        data: how the new rows are to be split.

    Raises:
        InputError: the assignment or the protocol is another one, or rows are grouped by something else.
    """
    if sha256 != earlier.split_sha256:
        raise InputError(
            f"{earlier.model}: its pairs are split differently now from when it was tuned, by another version of "
            f"nic_ray, so rows that it was trained on could be held back now; {ONE_FILE}"
        )
    then = earlier.files[-1]
    if by_passage(then.protocol) != by_passage(data.protocol):
        raise InputError(
            f"data.protocol: is {data.protocol}, and the rows of {earlier.model} were held back by {then.protocol}; "
            "set it to that"
        )
    if then.group_by != data.group_by:
        raise InputError(
            f"data.group_by: is {data.group_by}, and the rows of {earlier.model} were held back by {then.group_by}, so "
            f"parts could share what new rows are kept together by; set it to that, or {ONE_FILE}"
        )


def join(old: Collection, old_parts: NDArray[np.str_], new: Sequence[Pair], data: DataConfig) -> Joined:
    """Assign new rows to parts, beside old rows that keep theirs, so that nothing leaks between the parts.

    A new row with the query, the passage and the domain of an old row is that row, and counts once. A new row whose
    passage is an old one, exactly or nearly, or whose document is if rows are grouped by document, goes with it; with
    the protocol "unseen_queries", so does one whose query
    is an old one. The others are split by `data`, domain by domain. In a domain of the old rows, fewer than 3 such
    passages are trained on, since old passages measure it already.

    Left out are rows that belong to old rows of several parts, as those whose passage is nearly the same as one of
    each, and rows that would train on a question that was held back about a trained passage ("unseen_queries").

    Where new synthetic rows are kept apart from others, they are trained on, or left out as `trained_beside` says.

    Args:
        old: the collection of the old rows.
        old_parts: (M,) the part of each old row.
        new: the rows of the new file.
        data: settings for the new rows: which share of their passages to use, and how to split them.

    Raises:
        InputError: no row is new, or a new domain has too few passages of its own.
    """
    before = pairs_of(old)
    if any(pair.synthetic for pair in new) and are_apart([*before, *new], data):
        joined = _joined_beside(old, old_parts, new, data)
    else:
        joined = _joined(old, old_parts, with_documents(new, data.group_by), data)
    if len(joined.pairs) == len(before):
        raise InputError(
            f"{shown(data.pairs)}: holds no new row that can be used: {joined.repeated} are old rows, and "
            f"{joined.left_out} lie between the parts of old ones; name the new pairs with --data (data.pairs)"
        )
    return joined


def _joined_beside(old: Collection, old_parts: NDArray[np.str_], new: Sequence[Pair], data: DataConfig) -> Joined:
    """Join new rows, the synthetic ones of which are trained on or left out."""
    read = [pair for pair in new if not pair.synthetic]
    synthetic = with_documents_of([pair for pair in new if pair.synthetic], read, data.group_by)
    joined = _joined(old, old_parts, with_documents(read, data.group_by), data)
    known = {(pair.query, pair.positive, pair.domain) for pair in joined.pairs}
    fresh = [pair for pair in synthetic if (pair.query, pair.positive, pair.domain) not in known]
    trained = trained_beside(joined.pairs, joined.parts, fresh, data)
    if data.sample_share < 1 and fresh:
        trained &= sampled_beside(joined.pairs, np.arange(len(joined.pairs)), fresh, data)
    used = [pair for pair, kept in zip(fresh, trained.tolist(), strict=True) if kept]
    return Joined(
        [*joined.pairs, *used],
        np.concatenate([joined.parts, np.full(len(used), "train", joined.parts.dtype)]),
        joined.repeated + len(synthetic) - len(fresh),
        joined.left_out + len(fresh) - len(used),
    )


def _joined(old: Collection, old_parts: NDArray[np.str_], new: Sequence[Pair], data: DataConfig) -> Joined:
    """Join new rows without regard to which of them are synthetic."""
    before = pairs_of(old)
    known = {(pair.query, pair.positive, pair.domain) for pair in before}
    fresh = [pair for pair in new if (pair.query, pair.positive, pair.domain) not in known]
    repeated = len(new) - len(fresh)
    if data.sample_share < 1 and fresh:
        own = index_pairs(fresh)
        groups = groups_of(own, data.group_by)
        kept = sample_rows(groups, own.domains, share=data.sample_share, seed=data.seed)
        fresh = [fresh[row] for row in kept.tolist()]
    whole, read = index_pairs([*before, *fresh]), len(fresh)
    given = _parts_of_groups(whole, old_parts, data)
    if (given == SEVERAL).any():  # without these rows, what they linked falls apart again
        fresh = [pair for pair, part in zip(fresh, given.tolist(), strict=True) if part != SEVERAL]
        whole = index_pairs([*before, *fresh])
    if not fresh:
        return Joined(before, old_parts.astype("<U14"), repeated, read)
    parts = np.concatenate([old_parts.astype("<U14"), _new_parts(whole, old_parts, data)])
    held_back = whole.query[: len(before)][old_parts == "unseen_queries"]
    kept = np.ones(len(parts), np.bool_)
    kept[len(before) :] = ~((parts == "train") & np.isin(whole.query, held_back))[len(before) :]
    pairs = [pair for pair, keep in zip([*before, *fresh], kept.tolist(), strict=True) if keep]
    return Joined(pairs, parts[kept], repeated, read + len(before) - len(pairs))


def describe_replay(replay: Replay, parts: NDArray[np.str_]) -> Iterator[str]:
    """Describe to the user, line by line, the old rows of a run; `parts` (N,) the part of each row."""
    earlier, counts = replay.earlier, replay.rows_by_part(parts)
    files = ", ".join(shown(data.pairs) for data in earlier.files)
    old, new = (
        ", ".join(f"{count[kind]} {shown_name(part)}" for part, count in counts.items() if count[kind])
        for kind in ("old", "new")
    )
    yield (
        f"old rows, from {files}, which {earlier.model} was tuned on: {old}, as they were then; they are trained on "
        f"again. New rows: {new}"
    )
    if replay.repeated:
        yield f"{replay.repeated} rows of the new file are old rows, and count once"
    if replay.left_out:
        yield f"{replay.left_out} new rows are left out: with them, what one part holds would be known from another"
    if earlier.saw_all:
        yield describe_saw_all(earlier.model)


def describe_saw_all(model: str) -> str:
    """Say what the figures on old rows are worth if a model was trained on all of its rows at last."""
    return (
        f"{model} was trained on all of its rows at last (refit: all), those held back included: figures on old rows "
        "flatter it and what is tuned from it. Their difference still shows whether a domain falls; the gain is judged "
        "by passages without old rows"
    )


def pairs_of(collection: Collection) -> list[Pair]:
    """Return the rows of a collection, without their lines and sections."""
    texts, nothing = collection.texts, (None,) * len(collection.query)
    return [
        Pair(
            texts[query],
            texts[positive],
            domain,
            tuple(texts[number] for number in negatives if number >= 0),
            score=score,
            document=document,
            kind=kind,
            synthetic=synthetic,
            cut_from=whole,
        )
        for query, positive, negatives, domain, score, document, kind, synthetic, whole in zip(
            collection.query.tolist(),
            collection.positive.tolist(),
            collection.negatives.tolist(),
            collection.domains,
            [1.0] * len(collection.query) if collection.gains is None else collection.gains.tolist(),
            collection.documents or nothing,
            collection.kinds or nothing,
            [False] * len(nothing) if collection.synthetic is None else collection.synthetic.tolist(),
            collection.cut_from or nothing,
            strict=True,
        )
    ]


def _groups(whole: Collection, data: DataConfig) -> NDArray[np.int64]:
    """(N,) numbers, equal for rows that must be in one part."""
    return groups_of(whole, data.group_by) if by_passage(data.protocol) else whole.query


def _parts_of_groups(whole: Collection, old_parts: NDArray[np.str_], data: DataConfig) -> NDArray[np.str_]:
    """(n,) for each new row, the part of the old rows of its group; "" if there are none, `SEVERAL` if they differ."""
    groups = _groups(whole, data).tolist()
    # the passages of "unseen_queries" are trained on
    of_group: dict[int, str] = {}
    for group, part in zip(groups, np.where(old_parts == "unseen_queries", "train", old_parts).tolist(), strict=False):
        of_group[group] = part if of_group.get(group, part) == part else SEVERAL
    return np.array([of_group.get(group, "") for group in groups[len(old_parts) :]], dtype="<U14")


def _new_parts(whole: Collection, old_parts: NDArray[np.str_], data: DataConfig) -> NDArray[np.str_]:
    """(n,) the part of each new row, none of which lies between several."""
    count = len(old_parts)
    queries, positives, names = whole.query[count:], whole.positive[count:], np.asarray(whole.domains[count:], np.str_)
    groups = _groups(whole, data)[count:]
    parts = _parts_of_groups(whole, old_parts, data)
    known = np.unique(np.asarray(whole.domains[:count], np.str_))
    alone = _split_alone(groups, names, parts == "", known)
    parts[(parts == "") & ~alone] = "train"
    if alone.any():
        if data.group_by != BY_PASSAGE:
            refuse_few_groups(groups[alone], names[alone].tolist(), unit=unit_of_groups(data.group_by))
        parts[alone] = split_rows(
            queries[alone],
            groups[alone],
            names[alone].tolist(),
            validation_share=data.validation_share,
            test_share=data.test_share,
            seed=data.seed,
            protocol=data.protocol,
        )
    _refuse_unmeasured_domains(names, parts, known)
    if by_passage(data.protocol):
        given = (queries, positives, names.tolist(), parts)
        moved = hold_back_queries(*given, share=data.query_share, seed=data.seed)
        trained = np.isin(queries, whole.query[:count][old_parts == "train"])
        parts = np.where((moved == "unseen_queries") & trained, "train", moved)
    return parts


def _split_alone(
    groups: NDArray[np.int64], names: NDArray[np.str_], unsettled: NDArray[np.bool_], known: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """(n,) the unsettled rows that are split: those of new domains, and of old ones with groups enough to be split."""
    alone = unsettled.copy()
    while True:
        few = [
            name
            for name in np.intersect1d(names[alone], known)
            if len(np.unique(groups[alone & (names == name)])) < GROUPS_PER_DOMAIN
        ]
        if not few:
            return alone
        alone &= ~np.isin(groups, groups[alone & np.isin(names, few)])


def _refuse_unmeasured_domains(names: NDArray[np.str_], parts: NDArray[np.str_], known: NDArray[np.str_]) -> None:
    for part in ("validation", "test"):
        if missing := sorted({*names.tolist()} - {*known.tolist()} - {*names[parts == part].tolist()}):
            raise InputError(
                f'domain "{missing[0]}": no row of it is for {part}, since its passages are nearly those of old rows, '
                "whose parts they share; give it the domain of those rows, or leave it out"
            )
