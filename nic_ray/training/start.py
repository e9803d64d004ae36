"""What a run starts from, described for the user and for its records, and refused where a resumed run has another."""

import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nic_ray.dataset.cut_passages import ranked_for
from nic_ray.dataset.form import form_of
from nic_ray.dataset.formats import content_sha256, files_of
from nic_ray.dataset.groups import describe_groups_of
from nic_ray.dataset.pairs import read_file
from nic_ray.dataset.replay import describe_replay
from nic_ray.dataset.synthetic import describe_synthetic
from nic_ray.errors import InputError
from nic_ray.evidence import StoredStart
from nic_ray.origin import DataAndSplit, StoredGeneralTexts
from nic_ray.protocol import BY_PASSAGE, OWN_SPLITS, shown_name
from nic_ray.sources import listed, names_of, shown
from nic_ray.training.distractors import describe_corpus
from nic_ray.training.prepared import PARTS, Prepared, export_dtype, leaks, split_sha256

SHARED = ("passage", "query")
"""The kinds of overlap with training rows that are said at the start, of those in `leaks`."""


def describe_run(prepared: Prepared) -> Iterator[str]:
    """Describe to the user, line by line, the data and the base model of a run."""
    rows, data = {part: len(prepared.rows(part)) for part in PARTS}, prepared.config.data
    files = shown((*data.replay, *listed(data.pairs)))
    yield (
        f"{files}: {len(prepared.collection.query)} pairs, {named_passages(prepared)} passages; "
        f"{rows['train']} train, {rows['validation']} validation, {rows['test']} test"
        f"{f', {new} with new questions about trained passages' if (new := rows['unseen_queries']) else ''} "
        f"({data.protocol if data.splits == 'made' else shown_name(OWN_SPLITS)})"
    )
    found = read_file(data.pairs, form_of(data))
    yield from found.notes
    if data.splits == "own":
        yield _describe_leaks(prepared)
    yield from describe_groups_of(prepared.collection, prepared.groups, data, found.pairs)
    yield from describe_synthetic(prepared.collection, prepared.parts, found.pairs, data)
    if prepared.replay is not None:
        yield from describe_replay(prepared.replay, prepared.parts)
    if prepared.corpus is not None:
        yield describe_corpus(prepared.corpus, named_passages(prepared))
    yield from describe_base(prepared)


def named_passages(prepared: Prepared) -> int:
    """Count the distinct passages that the rows of a run name, and that its test queries are ranked over."""
    collection = prepared.collection
    return len(ranked_for(collection, prepared.rows("test")).corpus) - collection.distractors


def _describe_leaks(prepared: Prepared) -> str:
    """Say how many held-back rows share a passage or a query with training rows, where the splits are the rows' own."""
    counts = {name: parts for name, parts in leaks(prepared).items() if name in SHARED}
    shares = [
        f"{count:,} of {len(prepared.rows(part)):,} {part} rows share their {name}"
        for name, parts in counts.items()
        for part, count in parts.items()
        if count
    ]
    if not shares:
        return "own splits: no validation or test row has a passage or a query of a training row"
    return (
        f"own splits: {', '.join(shares)} with training rows; they stay where they are, so that figures can be "
        "compared with those of others, and the leak report counts them"
    )


def describe_base(prepared: Prepared) -> Iterator[str]:
    """Describe to the user, line by line, what is special about the base model of a run."""
    encoder = prepared.encoder
    if encoder.prompts:
        asked = prepared.config.train.prompts
        given = asked is not None and (asked.query, asked.document) != (None, None)
        yield (
            f"{encoder.name} is used with {'prompts as configured' if given else 'the prompts stored with it'}: "
            f"{encoder.prompts.query!r} before a query, {encoder.prompts.passage!r} before a passage"
            f"{', both left out of the pooling' if any(encoder.unpooled) else ''}"
        )
    if encoder.similarity != "cosine":
        yield (
            f"{encoder.name} is meant for similarity {encoder.similarity} and scored by it; what is tuned is trained, "
            "scored and exported for cosine, with embeddings of length 1, which rank alike by dot product and distance"
        )
    if (exported := export_dtype(prepared)) != "fp32" or encoder.stored_in != "fp32":
        yield f"{encoder.name} is stored in {encoder.stored_in}; it is trained in fp32, and exported in {exported}"
    if not encoder.can_be_cut:
        yield f"{encoder.name} cannot be cut at a block: its frozen blocks run again in every step"


def describe_start(prepared: Prepared) -> StoredStart:
    """Describe what a run starts with and must match when it is resumed: settings, data, base model, general texts."""
    described = describe_data(prepared)
    start: StoredStart = {
        "settings": prepared.config.model_dump(mode="json"),
        "data": described["data"],
        "split": described["split"],
        "base_weights_sha256": prepared.encoder.weights_sha256,
    }
    if "general_texts" in described:
        start["general_texts"] = described["general_texts"]
    return start


def refuse_other_start(prepared: Prepared, started: StoredStart, run_folder: Path) -> None:
    """Refuse to resume a run whose data, split, base model or general texts differ from those it was started with.

    Args:
        started: `describe_start` of then, as far as it was noted.

    Raises:
        InputError: the data, the split, the base model's weights or the general texts are different.
    """
    start, pairs = describe_start(prepared), shown(prepared.config.data.pairs)
    name, weights = prepared.encoder.name, start["base_weights_sha256"]
    others = started.get("other_base_weights_sha256", {})
    if (others[name] if name in others else started.get("base_weights_sha256", weights)) != weights:
        raise InputError(
            f"{prepared.encoder.name}: has other weights than at the start of {run_folder}, and its trials go with "
            "those; put the old ones back, or start anew"
        )
    _refuse_other_general_texts(prepared, started, run_folder)
    if "synthetic" not in started.get("data", {}):  # a version that did not count synthetic rows has started it
        start["data"].pop("synthetic", None)
    if (started.get("data"), started.get("split")) == (start["data"], start["split"]):
        return
    then, now = started.get("data", {}).get("corpus"), start["data"].get("corpus")
    if then != now:
        raise InputError(
            f"{prepared.config.data.corpus}: has changed since {run_folder} was started, and its passages are ranked; "
            "put the old corpus back, or start anew"
        )
    if started.get("data") == start["data"]:
        raise InputError(
            f"{pairs}: is split differently from the start of {run_folder}, by other settings or another version of "
            "nic_ray; go on with those, or start anew"
        )
    raise InputError(
        f"{pairs}: has changed since {run_folder} was started, and its split with it; put the old file back, or start "
        "anew"
    )


def _refuse_other_general_texts(prepared: Prepared, started: StoredStart, run_folder: Path) -> None:
    now, then = _describe_general_texts(prepared), started.get("general_texts")
    if now is None or then is None:  # none are read, or they were not noted
        return
    if all(then["sha256"].get(use, digest) == digest for use, digest in now["sha256"].items()):
        return
    if named := prepared.config.general_texts:
        changed, way_out = f"{named}: has changed since {run_folder} was started", "put the old texts back"
    else:
        changed = (
            f"general_texts: the language reference of this Python ({now['source']}) has other paragraphs than that "
            f"which {run_folder} was started with ({then['source']})"
        )
        way_out = "go on with the same versions of Python and nic_ray"
    raise InputError(f"{changed}, and its models go with the old texts; {way_out}, or start anew")


def _describe_general_texts(prepared: Prepared) -> StoredGeneralTexts | None:
    """Describe the general texts of a run by their source and their hashes; None if it reads none."""
    texts = {"measuring": prepared.measuring, "held": prepared.general}
    digests = {use: hashlib.sha256(json.dumps(own).encode()).hexdigest() for use, own in texts.items() if own}
    named = prepared.config.general_texts
    source = f"Python {platform.python_version()}" if named is None else named.name
    return {"source": source, "sha256": digests} if digests else None


def describe_data(prepared: Prepared) -> DataAndSplit:
    """Describe data, split and general texts by numbers and hashes, for the records of a run."""
    collection, data, replay = prepared.collection, prepared.config.data, prepared.replay
    domains = sorted(set(collection.domains))
    described: DataAndSplit = {
        "data": {
            "pairs": names_of(data.pairs),
            "sha256": prepared.pairs_sha256,
            "rows": len(collection.query),
            "passages": named_passages(prepared),
            "domains": {domain: collection.domains.count(domain) for domain in domains},
        },
        "split": {
            "protocol": data.protocol,
            "seed": data.seed,
            "sample_share": data.sample_share,
            "validation_share": data.validation_share,
            "test_share": data.test_share,
            "query_share": data.query_share,
            "rows": {part: len(prepared.rows(part)) for part in PARTS},
            "sha256": split_sha256(collection, prepared.parts),
        },
    }
    if len(files := files_of(data.pairs)) > 1:
        described["data"]["files"] = [{"name": names_of(file), "sha256": content_sha256(file)} for file in files]
    if data.splits != "made":
        described["split"]["splits"] = data.splits
    if (synthetic := collection.synthetic) is not None:
        counts = {part: int(np.count_nonzero(synthetic[prepared.rows(part)])) for part in PARTS}
        described["data"]["synthetic"] = counts
        if data.synthetic != "train_only":
            described["split"]["synthetic"] = data.synthetic
    if data.group_by != BY_PASSAGE:
        described["split"]["group_by"] = data.group_by
    if data.format is not None:
        described["data"]["format"] = data.format
    if data.columns:
        described["data"]["columns"] = {str(name): column for name, column in data.columns.items()}
    if (corpus := prepared.corpus) is not None:
        described["data"]["corpus"] = {
            "path": corpus.path.name,
            "sha256": corpus.sha256,
            "passages": corpus.count,
            "sampled": corpus.sampled,
        }
    if replay is not None:
        described["data"]["replay"] = list(replay.earlier.records)
    general = _describe_general_texts(prepared)
    return described if general is None else {**described, "general_texts": general}
