"""What vouches for a model's numbers, in the form in which runs and bundles store it.

Each of these is written by the function that finds it out and read by whoever shows it; a key that is renamed in one
place only is an error of types. `stored.checked` reads them from files: keys that an earlier version did not write may
be missing, and keys of a later one are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from typing_extensions import TypedDict  # before Python 3.12 pydantic refuses that of `typing`

JsonObject = dict[str, Any]
"""What JSON holds that has no fixed keys: settings, hyperparameters, metrics."""
Flat = Mapping[str, float]
"""Metrics such as "recall_at_5/macro": metric, then domain."""
Results = Mapping[str, Mapping[str, Flat]]
"""Part of the rows -> model ("base", "first trial", "tuned") -> flat metrics."""


class StoredInterval(TypedDict):
    """A `bootstrap.Interval`; without low and high where there are too few passages for one."""

    difference: float
    low: float | None
    high: float | None
    queries: int
    passages: int


Intervals = Mapping[str, Mapping[str, StoredInterval]]
"""A model, or "tuned minus base" and the like -> domain -> its interval."""


class TrainedTrial(TypedDict):
    """How long a trial was trained: figures of unlike length say something about their length too."""

    trial: str
    epochs: float | None
    """None where that is not known."""
    of: int
    """Epochs that its configuration asks for."""
    best_epoch: float
    finished: bool
    """Whether it came to its own end, and was not stopped or cut off before."""


Trained = Mapping[str, Sequence[TrainedTrial]]
"""Model -> the trials that it is made of."""


class Confirmed(TypedDict):
    """A configuration that was trained with several seeds."""

    trial: str
    epochs: NotRequired[float | None]
    by_seed: Mapping[int, float]
    """Seed -> objective on the validation rows."""
    seeds: NotRequired[int]
    mean: float
    spread: float
    """The highest value minus the lowest."""


class GuardVerdict(TypedDict, total=False):
    """What the guard had to say."""

    objections: list[str]
    overridden: bool
    """Whether it was exported all the same."""
    max_retention_loss: float
    max_domain_drop: float
    lower_bounds: Mapping[str, float | None]
    """Part -> what the macro difference exceeds for sure enough."""


class IntervalRule(TypedDict):
    """How intervals were made."""

    confidence: float
    min_passages: int


class ProbeFile(TypedDict):
    """The pairs of other fields that retention was measured on."""

    pairs: str
    sha256: str


class StoredReading(TypedDict):
    """One reading of test rows; see `readings`."""

    when: str
    command: str
    part: str
    rows: int
    model: str
    run: str


class Evidence(TypedDict, total=False):
    """What vouches for the numbers of a model that a search or a training has exported."""

    results: Results
    alpha: float
    """How far the weights lie on the way from the base model's, 0, to the tuned ones, 1."""
    retention: Mapping[str, Mapping[str, float]] | None
    """Model -> macro metrics on the probe minus the base model's; None without a probe."""
    front: list[JsonObject]
    """From `front_row`; `front_points` reads it."""
    confirmed: list[Confirmed]
    trained: Trained
    leaks: Mapping[str, Mapping[str, int]]
    """Way in which rows share something with the training rows -> part -> rows."""
    passages: Mapping[str, Mapping[str, int]]
    """Part -> domain -> passages that its rows ask about; "macro" -> their sum."""
    refit: str
    readings: list[StoredReading]
    intervals: Intervals
    recall_intervals: Intervals
    interval_rule: IntervalRule
    guard: GuardVerdict
    probe: ProbeFile
    run: str
    """Folder of the run."""


@dataclass(frozen=True)
class FrontPoint:
    """What a mix of the base model's and the tuned weights is worth."""

    alpha: float
    metrics: Flat
    """Of the validation rows: macro means, and the worst domain where the metric shows it."""
    retention: Mapping[str, float] | None
    """Macro metrics on the probe minus the base model's; None without a probe."""


def front_row(point: FrontPoint) -> JsonObject:
    """A point as it is stored."""
    return {"alpha": point.alpha, **point.metrics, "retention": point.retention}


def front_points(rows: Iterable[JsonObject]) -> list[FrontPoint]:
    """Points that were stored by `front_row`."""
    return [
        FrontPoint(row["alpha"], {name: value for name, value in row.items() if "/" in name}, row["retention"])
        for row in rows
    ]


class StoredData(TypedDict, total=False):
    """The pairs of a run."""

    pairs: str
    """Name of the file."""
    sha256: str
    rows: int
    passages: int
    domains: Mapping[str, int]
    """Domain -> rows."""


class StoredSplit(TypedDict, total=False):
    """How the pairs of a run were split."""

    protocol: str
    seed: int
    sample_share: float
    validation_share: float
    test_share: float
    query_share: float
    rows: Mapping[str, int]
    """Part -> rows."""
    sha256: str
    """Of which row is in which part."""


class DataAndSplit(TypedDict):
    """The pairs of a run, and how they were split."""

    data: StoredData
    split: StoredSplit


class StoredStart(TypedDict, total=False):
    """data.json of a training: what a run starts with and must find again when it is resumed."""

    settings: object
    """All of them; `config_file.started_settings` reads them."""
    data: StoredData
    split: StoredSplit
    base_weights_sha256: str


class StoredRun(StoredStart):
    """run.json of a search: what it was started with, and for."""

    bundle: str
    """Folder of the bundle."""
    overwrite: bool
    export_anyway: bool


class Winner(TypedDict):
    """The model that a search ended with."""

    trial: str
    averaged: NotRequired[list[str]]
    config: NotRequired[JsonObject]
    metrics: NotRequired[Flat]


class Exported(TypedDict):
    """Whether a search has exported its winner."""

    bundle: str | None
    """Folder of the bundle; None if it was not exported."""


class StoredResult(Evidence, Exported):
    """result.json of a search."""

    objective: str
    winner: Winner
    trials: list[JsonObject]
    data: StoredData
    split: StoredSplit


class BestStep(TypedDict):
    """The evaluation whose weights were exported."""

    epoch: float
    step: int


class Metadata(Evidence, total=False):
    """What is known of an exported model."""

    name: str
    created: str
    base_model: str
    base_weights_sha256: str | None
    """None in that of a graph whose model did not say it."""
    base_stored_in: str
    base_similarity: str
    stored_in: str
    prompts: Mapping[str, str]
    trial: str
    averaged: list[str]
    objective: str
    config: JsonObject
    data: StoredData
    split: StoredSplit
    best: BestStep
    precision: str
    versions: Mapping[str, str]


class StoredMetadata(Metadata):
    """metadata.json of a bundle."""

    files: Mapping[str, str]
    """Path in the folder -> SHA-256, of every other file."""


class RetrievedQuery(TypedDict):
    """What the tuned model retrieved for a test query."""

    query: str
    domain: str
    passage: int
    rank: int
    """Of its best answer; 1 is the first."""
    retrieved: list[list[Any]]
    """Pairs of a passage and its cosine, the nearest first."""
    recall: Mapping[str, float]
    """Model -> Recall@5 of this query."""


class ShownPassage(TypedDict):
    """A passage that some query names."""

    text: str
    domains: list[str]


class Retrieved(TypedDict):
    """queries.json of a run."""

    queries: list[RetrievedQuery]
    passages: Mapping[str, ShownPassage]
    """By number, as text."""
