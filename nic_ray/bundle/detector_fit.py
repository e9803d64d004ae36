"""Fitting, calibrating and reading a bundle's anomaly detector on the rows of its own split."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from nic_ray import hardware
from nic_ray.anomaly import assessor, conformal, detectors, ensemble, surface
from nic_ray.anomaly.abnormal import FAMILIES, KINDS, PER_KIND, Abnormal, generate
from nic_ray.anomaly.assessor import Alone, Assessor
from nic_ray.anomaly.embedded import Embed, Embedded, embedded
from nic_ray.anomaly.ensemble import Known, Normal
from nic_ray.bundle import files as bundles
from nic_ray.bundle.detector import BundleDetector, StoredDetector, StoredShare, weights_sha256, write_detector
from nic_ray.bundle.noted import noted_reading
from nic_ray.bundle.rows import chosen_rows, data_for, form_on, split_on, split_sha256_on
from nic_ray.dataset import split
from nic_ray.dataset.formats import content_sha256, files_of
from nic_ray.dataset.pairs import Collection, read_pairs
from nic_ray.dataset.replay import earlier_pairs, refuse_other_split
from nic_ray.errors import InputError
from nic_ray.evidence import StoredMetadata
from nic_ray.metrics.intervals import paired_intervals
from nic_ray.metrics.kinds import NAMELESS
from nic_ray.model.cut import placed
from nic_ray.sources import Sources, names_of, shown
from nic_ray.training.prepared import divide_again, split_sha256

BATCH = 64
SEED = 0
COMPARED = "autoencoder"
"""The detector whose figures by itself always stand beside the others."""
FITTED_PER_KIND = 60
"""Number of generated queries of each kind that the classifier is fitted to."""
READ_PER_KIND = PER_KIND
"""Number of generated queries of each kind that figures are read on."""
PARTS: tuple[split.Part, ...] = ("train", "validation", "test")
ALL = "all questions"
NOT_FITTED = ("injection_inside", "near_domain")
"""Kinds that are mostly a real question, or like one: a classifier that is fitted to them rejects real questions."""
SAW_ALL = (
    "the model was trained again on the rows of all parts, those included that the detector is calibrated on: real "
    "questions lie farther from what it knows, so expect more false alarms than this, and watch a log of real ones"
)

OTHER_PAIRS = (
    "the model was tuned on other pairs than these, so it may have trained on questions or passages that the detector "
    "is calibrated on or read on: expect more false alarms than this, and watch a log of real ones"
)


@dataclass(frozen=True)
class Part:
    """The rows of a part."""

    queries: Embedded
    groups: NDArray[np.integer]
    """(Q,) number of the passage of each; nearly identical ones have one number."""
    kinds: Sequence[str | None]
    domains: Sequence[str]


def embed_with(folder: Path, device: str) -> tuple[Embed, Embed]:
    """Load a bundle's model, verified, and return what embeds queries with it, and what embeds passages.

    Raises:
        InputError: the folder is a damaged bundle or no bundle.
    """
    hardware.keep_to_usable_cpus()
    model: SentenceTransformer = placed(bundles.load(folder), device)

    def queries(texts: list[str]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model.encode_query(texts, batch_size=BATCH, show_progress_bar=False)
        return found.astype(np.float32)

    def passages(texts: list[str]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model.encode_document(texts, batch_size=BATCH, show_progress_bar=False)
        return found.astype(np.float32)

    return queries, passages


def fit_detector(
    folder: Path,
    pairs: Sources,
    *,
    name: str,
    false_alarms: float,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    device: str = "cpu",
) -> BundleDetector:
    """Fit a detector to a bundle's training rows, calibrate it on the validation rows, and store it in the bundle.

    The test rows, and the generated queries of the half that is held back, are read for the figures alone; the reading
    of rows that the model's run has held back is recorded there.

    Args:
        folder: the bundle; it is verified first.
        pairs: the file of pairs, which is split as the model's training did if it was trained on it.
        name: of the detector of embeddings, in `detectors.DETECTORS`.
        false_alarms: share of normal queries that may be flagged, in (0, 1).
        say: called with a line that describes each step.
        warn: called with each warning about earlier readings of the test rows.

    Raises:
        InputError: the bundle is not sound, or the pairs cannot be used.
        RunError: the detector cannot be written.
    """
    metadata = bundles.read_metadata(folder)
    queries, passages = embed_with(folder, device)
    collection, rows = rows_by_part(metadata, pairs, folder)
    _refuse_few(len(np.unique(collection.near_group[collection.positive[rows["validation"]]])), false_alarms)
    held_back = "split" not in metadata or is_split_known(metadata, pairs)
    if "split" in metadata and held_back:
        for warning in noted_reading(str(folder), metadata, "test", "anomaly fit"):
            warn(warning)
    say(f"embedding the questions of {shown(pairs)}")
    parts = {part: part_of(collection, own, queries) for part, own in rows.items()}
    train, validation = parts["train"], parts["validation"]
    normal = normal_of(collection, rows["train"], train, passages)
    say(f"fitting {name} to {len(rows['train']):,} questions about {len(normal.passages):,} passages")
    known = known_queries([*train.queries.texts], queries)
    fitted = ensemble.fit(normal, known, name=name, seed=SEED)

    def calibrated(one: ensemble.Ensemble) -> Assessor:
        return assessor.calibrated(
            one, validation.queries, validation.groups, validation.kinds, false_alarms=false_alarms
        )

    own = calibrated(fitted)
    alone = {each: _alone(each, fitted, normal, validation, false_alarms) for each in dict.fromkeys((name, COMPARED))}
    say("reading the test questions, and generated abnormal ones with each kind left out of the fit in turn")
    made = generate(parts["test"].queries.texts, "held_back", per_kind=READ_PER_KIND, seed=SEED)
    abnormal = embedded([each.query for each in made], queries)
    flags = np.zeros(len(made), dtype=np.bool_)
    for kind in KINDS:
        without = ensemble.with_classifier(fitted, normal, known.without(left_out(kind)), seed=SEED)
        here = np.array([each.kind == kind for each in made])
        flags[here] = assessor.flags(abnormal, calibrated(without))[here]
    record: StoredDetector = {
        "weights_sha256": weights_sha256(metadata),
        "sha256": "",
        "detector": name,
        "false_alarms": false_alarms,
        "pairs": {"name": names_of(pairs), "sha256": content_sha256(pairs)},
        "domains": sorted({*train.domains}),
        "rows": {part: len(own_rows) for part, own_rows in rows.items()},
        "normal": normal_shares(parts["test"], own, alone),
        "abnormal": abnormal_shares(made, flags, _flags_alone(abnormal, alone)),
        "questions": [*train.queries.texts],
        "caution": SAW_ALL if metadata.get("refit") == "all" else None if held_back else OTHER_PAIRS,
    }
    detector = BundleDetector(own, record, detectors.unit(train.queries.whole))
    write_detector(folder, detector)
    return detector


def left_out(kind: str) -> tuple[str, ...]:
    """The kinds that a classifier must not have been fitted to if it is read on one: it, and those that are like it."""
    return (kind, *FAMILIES.get(kind, ()))


def normal_shares(part: Part, own: Assessor, alone: Mapping[str, Alone]) -> list[StoredShare]:
    """The shares of normal queries that are flagged: of all, and of each kind, with an interval over passages."""
    flags = {"detector": assessor.flags(part.queries, own)} | _flags_alone(part.queries, alone)
    kinds = np.array([NAMELESS if kind is None else kind for kind in part.kinds], dtype=object)
    named = sorted({*kinds.tolist()}) if any(kind is not None for kind in part.kinds) else []
    shares: list[StoredShare] = []
    for name, here in [(ALL, np.full(len(kinds), True)), *((kind, kinds == kind) for kind in named)]:
        rate = flags["detector"][here].astype(np.float64)
        interval = paired_intervals(rate, np.zeros_like(rate), part.groups[here], [""] * len(rate))[""]
        shares.append(
            {
                "kind": name,
                "queries": len(rate),
                "shares": {key: float(values[here].mean()) for key, values in flags.items()},
                "low": None if interval.low is None else max(interval.low, 0.0),
                "high": None if interval.high is None else min(interval.high, 1.0),
            }
        )
    return shares


def abnormal_shares(
    made: Sequence[Abnormal], flags: NDArray[np.bool_], alone: Mapping[str, NDArray[np.bool_]]
) -> list[StoredShare]:
    """The shares of abnormal queries that are flagged, by kind in the order in which they come."""
    kinds = np.array([each.kind for each in made], dtype=object)
    everything = {"detector": flags, **alone}
    return [
        {
            "kind": kind,
            "queries": int((kinds == kind).sum()),
            "shares": {key: float(values[kinds == kind].mean()) for key, values in everything.items()},
        }
        for kind in dict.fromkeys(kinds.tolist())
    ]


def _flags_alone(queries: Embedded, alone: Mapping[str, Alone]) -> dict[str, NDArray[np.bool_]]:
    return {f"{name} alone": assessor.flags_alone(queries, each) for name, each in alone.items()}


def is_split_known(metadata: StoredMetadata, pairs: Sources) -> bool:
    """Whether a model was tuned on these very pairs, so that its split of them is known."""
    return bool(metadata.get("data", {}).get("replay")) or split_on(metadata, pairs) is not None


def rows_by_part(metadata: StoredMetadata, pairs: Sources, folder: Path) -> tuple[Collection, dict[str, list[int]]]:
    """The rows of the three parts, by the split of the model if it was trained on these pairs.

    For a model that was tuned further, the pairs are all files that it was trained on, the oldest first.

    Raises:
        InputError: the pairs cannot be used, or are some of the files that the model was trained on.
    """
    if metadata.get("data", {}).get("replay"):
        earlier = earlier_pairs(str(folder), files_of(pairs), way_in="behind the bundle")
        collection, parts = divide_again(earlier)
        refuse_other_split(earlier, split_sha256(collection, parts), earlier.files[-1])
        return collection, {part: np.flatnonzero(parts == part).tolist() for part in PARTS}
    read = read_pairs(pairs, form=form_on(metadata, pairs))
    data, sha256 = data_for(metadata, pairs, "validation", folder), split_sha256_on(metadata, pairs)
    collection, validation = chosen_rows(read, "validation", data, sha256)
    return collection, {
        part: validation if part == "validation" else chosen_rows(read, part, data, sha256)[1] for part in PARTS
    }


def part_of(collection: Collection, rows: Sequence[int], embed: Embed) -> Part:
    """Embed the queries of some rows, and their parts."""
    return Part(
        embedded([collection.texts[collection.query[row]] for row in rows], embed),
        collection.near_group[collection.positive[list(rows)]],
        [collection.kinds[row] if collection.kinds else None for row in rows],
        [collection.domains[row] for row in rows],
    )


def normal_of(collection: Collection, rows: Sequence[int], train: Part, embed: Embed) -> Normal:
    """Put the training queries beside the embeddings of the passages that they ask about."""
    numbers = np.unique(collection.positive[list(rows)])
    embeddings = embed([collection.texts[number] for number in numbers.tolist()])
    return Normal(train.queries, train.groups, train.kinds, embeddings, collection.near_group[numbers])


def known_queries(questions: Sequence[str], embed: Embed) -> Known:
    """Generate the abnormal queries that the classifier is fitted to."""
    kinds = [kind for kind in KINDS if kind not in NOT_FITTED]
    made = generate(questions, "development", per_kind=FITTED_PER_KIND, seed=SEED, kinds=kinds)
    texts = [each.query for each in made]
    return Known(embed(texts), surface.features(texts), [each.kind for each in made])


def _refuse_few(passages: int, false_alarms: float) -> None:
    """Refuse to calibrate on so few passages that nothing could be flagged.

    Raises:
        InputError: they are too few.
    """
    wanted = conformal.groups_wanted(false_alarms)
    if passages < wanted:
        raise InputError(
            f"--false-alarms: {false_alarms:g} takes validation questions about {wanted} passages or more, got "
            f"{passages}; allow {math.ceil(100 / (passages + 1)) / 100:g} or more, or name more pairs"
        )


def _alone(name: str, fitted: ensemble.Ensemble, normal: Normal, validation: Part, false_alarms: float) -> Alone:
    detector = (
        fitted.detector
        if name == fitted.detector.name
        else detectors.fit(name, normal.queries.whole, normal.passages, seed=SEED)
    )
    return assessor.alone(detector, validation.queries, validation.groups, validation.kinds, false_alarms=false_alarms)
