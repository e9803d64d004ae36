"""The evidence for a model's results, in the form in which runs and bundles store it.

Writers and readers of the evidence share these types, so that a key that is renamed in one place only is a type error.
`stored.checked` reads them from files: keys that an earlier version did not write may be missing, and keys of a later
version are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Required, cast

from typing_extensions import TypedDict  # before Python 3.12, pydantic refuses the one in `typing`

from nic_ray.origin import StoredData, StoredGeneralTexts, StoredSplit
from nic_ray.results import (
    Flat,
    Intervals,
    Results,
    ShorterEmbeddings,
    StoredBase,
    StoredFolds,
    StoredInterval,
    StoredKind,
    StoredQuestionKind,
    StoredRefit,
)

JsonObject = dict[str, Any]
"""A JSON object without fixed keys: settings, hyperparameters or metrics."""


class TrainedTrial(TypedDict):
    """How long a trial was trained: results of trainings of different length partly reflect that difference."""

    trial: str
    epochs: float | None
    """None where the number is not known."""
    of: int
    """Number of epochs in its configuration."""
    best_epoch: float
    finished: bool
    """Whether it was trained to its planned end, without being stopped or cut off before."""


TrainedTrials = Mapping[str, Sequence[TrainedTrial]]
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
    """The verdict of the guard, which decides whether a model may be exported."""

    objections: list[str]
    overridden: bool
    """Whether the model was exported despite the objections."""
    max_retention_loss: float
    min_neighbours_kept: float
    max_domain_drop: float
    least_gain: float
    """What the lower bounds must exceed; absent where that is 0."""
    lower_bounds: Mapping[str, float | None]
    """Part -> lower confidence bound of the macro difference."""


class IntervalRule(TypedDict):
    """How intervals were computed."""

    confidence: float
    min_passages: int
    unit: NotRequired[str]
    """What the sample consists of, if not of passages: "documents" or the like, which passages then stands for in all
    counts of intervals."""


class RetentionSetFile(TypedDict):
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


class PathRow(TypedDict, total=False):
    """A `PathPoint` as it is stored, with its metrics under their names."""

    alpha: Required[float]
    retention: Required[Mapping[str, float] | None]
    neighbours: float | None


class StoredFusion(TypedDict):
    """A `fusion.Fusion` of a model with a search by words (BM25)."""

    form: Literal["vectors", "scores", "ranks"]
    weight: float
    """The factor of BM25, by scores; otherwise 0."""


class WordSearch(TypedDict):
    """What a search by words adds to the models."""

    chosen: Mapping[str, StoredFusion]
    """Model ("base", "tuned") -> its fusion, chosen on the validation rows."""
    helps: bool
    """Whether the tuned model finds surely more with its fusion than alone, on the validation rows."""
    gain: StoredInterval
    """The macro mean of the tuned model with its fusion minus that of the tuned model alone, on the validation rows."""
    figures: dict[str, Mapping[str, Flat]]
    """Part -> ranking, such as "tuned, similarity + 0.03 BM25" -> macro metrics."""


class ReliabilityRow(TypedDict):
    """Queries with similar chances."""

    chance: float
    """The mean chance that was stated."""
    right: float
    """The share of right first hits."""
    queries: int


class CalibrationReading(TypedDict):
    """What a calibration stated of first hits, against what they were."""

    queries: int
    right: float
    """Share of the queries whose first hit is right."""
    brier: float
    """Brier score of the stated chances."""
    brier_of_the_mean: float
    """Brier score of stating `right` for every query."""
    right_below: float
    """Share of the right first hits that fall below the threshold."""
    recognised: float
    """Share of the queries whose first hit would fall below the threshold if the corpus held no answer."""
    reliability: list[ReliabilityRow]


class StoredCalibration(TypedDict):
    """The chance that a first hit answers its query, as a function of its score; see `calibration.Calibration`."""

    ranking: StoredFusion
    """How passages are scored."""
    scores: list[float]
    chances: list[float]
    threshold: float
    """A first hit with a lower score counts as nothing found."""
    readings: dict[str, CalibrationReading]
    """Part -> how well it is calibrated there."""


class PreviousModel(TypedDict):
    """The base model of a search that had been tuned before: what it and the tuned model find on old and new rows."""

    model: str
    saw_all: bool
    """Whether it was trained on all of its rows at last (`refit: all`), those that it had held back included."""
    rows: Mapping[str, Mapping[str, int]]
    """Part -> "old", the rows that it had been tuned on, and "new" -> their number."""
    results: Mapping[str, Mapping[str, Mapping[str, Flat]]]
    """Part -> "old", "new" -> model ("base", "tuned") -> macro metrics; without an entry where there are no rows."""


class Evidence(TypedDict, total=False):
    """The evidence for the results of a model that a search or a training has exported."""

    results: Results
    alpha: float
    """Position of the weights between those of the base model (0) and the tuned ones (1)."""
    retention: Mapping[str, Mapping[str, float]] | None
    """Model -> macro metrics on the retention set minus the base model's; None without a retention set."""
    neighbours_kept: Mapping[str, float] | None
    """Model -> share of the base model's neighbours on general texts that it keeps; None if not measured."""
    general_texts: StoredGeneralTexts
    front: list[PathRow]
    """Rows written by `path_row` and read by `path_points`."""
    confirmed: list[Confirmed]
    trained: TrainedTrials
    leaks: Mapping[str, Mapping[str, int]]
    """Way in which rows share something with the training rows -> part -> number of rows."""
    passages: Mapping[str, Mapping[str, int]]
    """Part -> domain -> number of passages that its rows ask about; "macro" -> their sum."""
    refit: str
    """"all" if the weights were trained again on the rows of all parts, otherwise "none"."""
    refitted: StoredRefit
    """Missing where no model was trained again."""
    folds: StoredFolds
    """Missing where not every passage was held out once."""
    readings: list[StoredReading]
    intervals: Intervals
    recall_intervals: Intervals
    interval_rule: IntervalRule
    guard: GuardVerdict
    retention_set: RetentionSetFile
    averaging: Mapping[int, float]
    """Number of trials -> the objective of the mean of the best ones on validation passages that did not choose them;
    empty if none was tried."""
    word_search: WordSearch
    calibration: StoredCalibration
    truncate_dim: list[ShorterEmbeddings]
    """The values of `truncate_dim` that the model was trained for, the largest first; absent if there are none."""
    kinds: list[StoredKind]
    """Absent unless trials of both kinds have evaluations."""
    bases: list[StoredBase]
    """Absent where a search has one base model."""
    best_base: str
    """The base model that finds most on the validation rows; absent if the winner was tuned from it."""
    question_kinds: list[StoredQuestionKind]
    """The test questions by kind, the most frequent one first; absent where no row names its kind."""
    previous: PreviousModel
    """Absent unless the base model had been tuned before."""
    run: str
    """Folder of the run."""


@dataclass(frozen=True)
class PathPoint:
    """The results of one mixture of the base model's weights and the tuned weights."""

    alpha: float
    metrics: Flat
    """Metrics on the validation rows: macro means, and the worst domain for metrics that report it."""
    retention: Mapping[str, float] | None
    """Macro metrics on the retention set minus the base model's; None without a retention set."""
    neighbours: float | None = None
    """Share of the base model's neighbours on general texts that are kept; None if not measured."""


def path_row(point: PathPoint) -> PathRow:
    """A point in the form in which it is stored."""
    return cast(
        PathRow, {"alpha": point.alpha, **point.metrics, "retention": point.retention, "neighbours": point.neighbours}
    )


def path_points(rows: Iterable[PathRow]) -> list[PathPoint]:
    """Read points back from the rows of `path_row`."""
    return [
        PathPoint(
            row["alpha"],
            {name: value for name, value in cast(JsonObject, row).items() if "/" in name},
            row["retention"],
            row.get("neighbours"),
        )
        for row in rows
    ]


class CurvePoint(TypedDict):
    """A configuration trained on a share of the training passages."""

    share: float
    """0 is the base model."""
    passages: int
    rows: int
    metrics: Flat
    """Macro metrics on the test rows."""
    interval: StoredInterval
    """The interval of the first metric's macro mean."""


class StoredCurve(TypedDict):
    """curve.json of a run; see `learning_curve.FittedCurve`."""

    points: list[CurvePoint]
    at_one: float
    doubling: StoredInterval


class StoredStart(TypedDict, total=False):
    """data.json of a training: its starting point, which must be unchanged when it is resumed."""

    settings: object
    """All settings; `config_file.started_settings` reads them."""
    data: StoredData
    split: StoredSplit
    general_texts: StoredGeneralTexts
    base_weights_sha256: str
    other_base_weights_sha256: dict[str, str]
    """Further base models -> hash of their weights; absent where there are none."""


class StoredRun(StoredStart):
    """run.json of a search: its starting point and its target."""

    bundle: str
    """Folder of the bundle."""
    overwrite: bool
    export_anyway: bool


class Winner(TypedDict):
    """The model that a search selected."""

    trial: str
    averaged: NotRequired[list[str]]
    config: NotRequired[JsonObject]
    metrics: NotRequired[Flat]


class Exported(TypedDict):
    """Whether a search has exported its winner."""

    bundle: str | None
    """Folder of the bundle; None if it was not exported."""


class TrialRow(TypedDict, total=False):
    """A row of trials.csv and of the trials in result.json.

    Besides these keys it holds the trial's hyperparameters, and its objective and tie-breaking metric, each under its
    name; `value_in` reads them.
    """

    trial: Required[str]
    status: Required[str]
    """"finished", "stopped", "repeated", "failed" or "cut off"."""
    error: str
    """Why it failed; empty if it did not."""
    retention: float
    """The first metric's macro mean on the retention set, minus the base model's."""
    best_epoch: float
    """Epoch of the best evaluation."""
    micro_batch_tokens: int
    """Largest number of tokens that were computed at once, which may have been lowered where memory was short."""
    epochs: float | None
    """Number of epochs that it was trained for."""
    seconds: float


def value_in(row: TrialRow, name: str) -> Any:
    """Return a hyperparameter or a metric of a trial; None if it has none of that name."""
    return cast(JsonObject, row).get(name)


class StoredResult(Evidence, Exported):
    """result.json of a search."""

    objective: str
    winner: Winner
    trials: list[TrialRow]
    data: StoredData
    split: StoredSplit


class BestStep(TypedDict):
    """The evaluation whose weights were exported."""

    epoch: float
    step: int


class Metadata(Evidence, total=False):
    """The description of an exported model."""

    name: str
    created: str
    base_model: str
    base_weights_sha256: str | None
    """None for a converted model whose original does not record it."""
    base_revision: str | None
    """Commit of the hub that the base model was loaded from; None for a folder."""
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
    """Path in the folder -> SHA-256, for every other file."""


class RetrievedQuery(TypedDict):
    """A test query, and the passages that the tuned model retrieved for it."""

    query: str
    domain: str
    passage: int
    rank: int
    """Rank of its best answer; 1 is the first."""
    retrieved: list[list[Any]]
    """Pairs of a passage's number and its cosine, the nearest first."""
    recall: Mapping[str, float]
    """Model -> Recall@5 of this query."""


class ShownPassage(TypedDict):
    """A passage that is shown for a query: as its answer, or as one that was retrieved."""

    text: str
    domains: list[str]


class Retrieved(TypedDict):
    """queries.json of a run."""

    queries: list[RetrievedQuery]
    passages: Mapping[str, ShownPassage]
    """Passages by number; the keys are text, as JSON requires."""


def interval_unit(evidence: Evidence) -> str:
    """What the sample of the intervals consists of: "passages", or "documents" where those are held back together."""
    return evidence.get("interval_rule", {}).get("unit", "passages")
