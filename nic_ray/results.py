"""Figures of models in the form in which runs and bundles store them; `evidence` says what surrounds them."""

from collections.abc import Mapping, Sequence
from typing import Literal

from typing_extensions import TypedDict  # before Python 3.12, pydantic refuses the one in `typing`

Flat = Mapping[str, float]
"""Metrics such as "recall_at_5/macro": metric, then domain."""
Results = Mapping[str, Mapping[str, Flat]]
"""Part of the rows -> model ("base", "BM25", "first trial", "tuned", "tuned + BM25") -> flat metrics."""
CROSS_FIT = "cross_fit"
"""The key in results of all rows, each evaluated by a model that was trained without its passage."""
IN_DOMAIN = "test in domain"
"""The key in results of the test rows with each query ranked only against the passages of its own domain."""


class StoredInterval(TypedDict):
    """A `intervals.Interval`; low and high are None where there are too few passages for an interval."""

    difference: float
    low: float | None
    high: float | None
    queries: int
    passages: int


Intervals = Mapping[str, Mapping[str, StoredInterval]]
"""A model, or a difference such as "tuned minus base" -> domain -> its interval."""


class StoredRefit(TypedDict):
    """A model that was trained again on the rows of all parts, compared with the model that the figures belong to."""

    rows: int
    trials: Sequence[str]
    """The trials whose configurations were trained again; their mean is the model."""
    alpha: float | None
    """Position of the weights between those of the base model (0) and the trained ones (1); None if none of them kept
    enough of what the base model knows."""
    training: StoredInterval
    """Recall@5 of the training rows: macro mean, the model minus the one that was measured."""
    retention: Mapping[str, float] | None
    """Macro metrics on the retention set minus the base model's; None without a retention set."""
    neighbours_kept: float | None
    """Share of the base model's neighbours on general texts that it keeps; None if not measured."""
    objection: str
    """Why the measured model was exported instead; empty if it was not."""


class StoredFolds(TypedDict):
    """What the winner's configuration is worth if every passage is held out once."""

    folds: int
    intervals: Intervals
    """A difference such as "tuned minus base" -> domain -> its interval, Recall@5, over the passages of all folds."""


class StoredBase(TypedDict):
    """A base model of a search with several: what it costs, and what it and its trials find."""

    base_model: str
    parameters: int
    dimensions: int
    blocks: int
    mib: float
    """Size of its weights in MiB."""
    ms_per_query: float
    """Median time in milliseconds to embed a query alone, on the CPUs of the machine that ran the search."""
    base: float
    """Objective of the base model itself on the validation rows."""
    trial: str | None
    """Its best trial; None if none of its trials has an evaluation."""
    best: float | None
    """Objective of that trial on the validation rows."""
    trials: int


class StoredKind(TypedDict):
    """The trials of a search that train both sides, or queries alone."""

    trains: Literal["both", "queries"]
    trial: str
    """The best one."""
    best: float
    """Its objective on the validation rows."""
    trials: int


class StoredQuestionKind(TypedDict):
    """The test questions of one kind."""

    kind: str
    queries: int
    passages: int
    """Passages that they ask about, or documents where those are held back together."""
    recall: Mapping[str, float]
    """Model, the base model first -> Recall@5, the mean over these questions."""
    gain: StoredInterval | None
    """The last model's minus the first's; None for one model."""


class ShorterEmbeddings(TypedDict):
    """What embeddings are worth that are cut off at a number of dimensions which the model was trained for."""

    dimensions: int
    results: Mapping[str, Flat]
    """"base", "tuned" -> macro metrics on the test rows."""
