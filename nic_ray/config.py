"""The settings of a run, with their types, units, defaults and checks, which report all faults at once."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from nic_ray.data_config import DataConfig
from nic_ray.errors import InputError
from nic_ray.metrics.table import FAMILIES, METRICS, OVER_ALL, PRIMARY, checked_objective, key_of, metric_of
from nic_ray.space import Dimension, Value
from nic_ray.train_config import METHOD_OF, SAME_FOR_ALL_TRIALS, TrainConfig, drawn
from nic_ray.validation import Section, setting_fault, setting_faults, shown_value, suggestion

METRIC_SCHEMA = {"type": "string", "pattern": f"^({'|'.join(FAMILIES)})((@|_at_)[1-9][0-9]{{0,5}})?$"}
Objective = Annotated[
    str,
    AfterValidator(checked_objective),
    WithJsonSchema({"type": "string", "pattern": f"{METRIC_SCHEMA['pattern'][:-1]}/({'|'.join(OVER_ALL)})$"}),
]


def _metric(name: str) -> str:
    key = key_of(name)
    metric_of(key)
    return key


MetricName = Annotated[str, AfterValidator(_metric), WithJsonSchema(METRIC_SCHEMA)]


DURATION = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\s*\d+(\.\d+)?[smhd]\s*$"},
        {"type": "null"},
    ]
}


def _seconds(value: Any) -> Any:
    """Convert a duration such as "30m" to seconds; numbers are already in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", value.strip()) if isinstance(value, str) else None
    if match:
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    if isinstance(value, str):
        raise ValueError(f"must be a duration such as 90s, 30m or 2h, got {shown_value(value)}")
    return value


class ConstraintConfig(Section):
    """The base models that can be deployed; others are left out of the space."""

    max_parameters: int | None = Field(None, ge=1, description="most parameters of a base model; null: any number")
    max_ms_per_query: float | None = Field(
        None,
        gt=0,
        description="longest time, in milliseconds, that a base model may take to embed a single query on this "
        "machine's CPUs, in the median of 20; null: any time",
    )
    dimensions: int | None = Field(
        None, ge=1, description="number of dimensions that embeddings must have, such as an index's; null: any number"
    )


class SearchConfig(Section):
    """How many trials are run, how they are judged, and when they are stopped."""

    trials: int = Field(12, ge=1, description="configurations tried, the default one included")
    objective: Objective = Field(f"{PRIMARY}/macro", description="validation metric that is maximised")
    grace_period: int = Field(1, ge=1, description="epochs that every trial gets before it can be stopped")
    reduction_factor: int = Field(3, ge=2, description="one in this many trials at a rung continues (ASHA)")
    starts: tuple[dict[str, Value], ...] = Field(
        (),
        description="configurations tried right after the first trial, by the hyperparameters of the space in which "
        "they differ from it; never stopped; the first of them is what the winner is compared with, as the model to be "
        "had without a search",
    )
    warm_start: Path | None = Field(
        None,
        description="run folder of an earlier search, of these or other pairs, whose best three configurations are "
        "tried after `starts`; null: none",
    )
    startup_trials: int = Field(4, ge=1, description="random trials before TPE models the results")
    averaged_trials: int | None = Field(
        None,
        ge=1,
        description="largest number of trials whose best weights are averaged, the best ones; null: as many as "
        "cross-fitting on the validation passages shows to be best; 1: the winner's weights alone",
    )
    constraint: ConstraintConfig = Field(
        ConstraintConfig(),
        description="`{max_parameters: ..., max_ms_per_query: ..., dimensions: ...}`: what a base model may cost, and "
        "the dimensions that it must have; others are left out of the space",
    )
    time_budget: Annotated[float | None, BeforeValidator(_seconds), WithJsonSchema(DURATION)] = Field(
        None,
        gt=0,
        description="time in seconds, or as 30m or 2h, after which no trial continues and none is trained again; null: "
        "no limit",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="seed of the sampler")


class EvaluationConfig(Section):
    """What a model's ranking of passages is described by."""

    metrics: tuple[MetricName, ...] = Field(
        tuple(METRICS),
        description="metrics that are shown: recall@k, precision@k, hit_rate@k, ndcg@k, mrr@k, map@k, for any k; ndcg, "
        "mrr and map also without. recall@5 and mrr are always among them, since the guard decides by the first "
        "and the second decides between equal ones",
    )
    exact_up_to: int = Field(
        10_000,
        ge=0,
        description="passages of `data.corpus` that every evaluation ranks; of more, trials rank a fixed sample of "
        "that many, half of them the hardest for the base model, and the test rows all of them",
    )


class ResourcesConfig(Section):
    """The resources that a trial uses."""

    workers: int = Field(1, ge=1, description="processes that train one trial together")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs per process; a fraction lets trials share one")
    concurrent_trials: int | None = Field(
        None,
        ge=1,
        description="trials at a time, at most; null: as many as fit. With 1 a search on a CPU can be repeated exactly",
    )

    @model_validator(mode="after")
    def _is_a_fraction_or_whole(self) -> Self:
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(f"gpus_per_worker must be at most 1, or a whole number, got {self.gpus_per_worker}")
        return self


class ActivationsConfig(Section):
    """Where the outputs of the frozen blocks are kept."""

    memory_budget_gib: float = Field(4.0, ge=0, description="GiB of outputs in shared memory; the rest goes to disk")
    disk_budget_gib: float = Field(20.0, ge=0, description="GiB of outputs on disk; other depths are not cached")


class TrackersConfig(Section):
    """Where trials are recorded, besides the TensorBoard files in every run folder."""

    mlflow: str | None = Field(
        None,
        min_length=1,
        description="MLflow tracking URI, such as sqlite:///mlflow.db or http://host:5000, that receives settings and "
        "metrics of each trial; null: none",
    )
    experiment: str = Field("nic_ray", min_length=1, description="name of the MLflow experiment")


class ConfirmConfig(Section):
    """How the best configurations are trained again, since the best of many results is partly luck."""

    trials: int = Field(2, ge=2, description="configurations trained again, the best of the search")
    seeds: int = Field(1, ge=0, description="number of further seeds that each is trained with; 0: none")


DEFAULT_RETENTION_SET = Path("data/retention/pairs.jsonl")
FORMER_RETENTION_SET = Path("data/probe/pairs.jsonl")


def _moved(path: object) -> object:
    """Replace the former default retention set, which configurations of earlier versions name, unless it exists."""
    if not isinstance(path, str | Path) or Path(path).exists():
        return path
    return DEFAULT_RETENTION_SET if Path(path).parts[-3:] == FORMER_RETENTION_SET.parts else path


class GuardConfig(Section):
    """The conditions that a tuned model must meet before it is exported."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, content: object) -> object:
        """Read `retention_set` also under its former name and with its former default, wherever that was packaged.

        If both names are given, the last one counts.
        """
        if not isinstance(content, dict):
            return content
        return dict(
            ("retention_set", _moved(value)) if name == "probe" else (name, value) for name, value in content.items()
        )

    retention_set: Path | None = Field(
        DEFAULT_RETENTION_SET,
        description="file of pairs from other fields, to measure what tuning forgets; null: not measured",
    )
    max_retention_loss: float = Field(
        0.05, ge=0, le=1, description="largest loss of Recall@5 on the retention set, compared with the base model"
    )
    min_neighbours_kept: float = Field(
        0.8,
        ge=0,
        le=1,
        description="least share of the ten nearest neighbours of general texts that must be the base model's, 0.05 "
        "more where all questions are synthetic; 0: not measured",
    )
    max_domain_drop: float = Field(
        0.02,
        ge=0,
        le=1,
        description="largest loss of Recall@5 in a domain; a larger one is refused where chance does not explain it: "
        "by its interval, by the mean of all domains with fewer than 8 passages, or by more of its passages than "
        "others lose by chance",
    )


def _searchable(name: str) -> str:
    if name not in TrainConfig.model_fields:
        raise ValueError(f"no such hyperparameter{suggestion(name, TrainConfig.model_fields)}")
    if name in SAME_FOR_ALL_TRIALS:
        raise ValueError("is the same for every trial; set it under train")
    return name


class Config(Section):
    """All settings of a run, as in its YAML file."""

    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    space: dict[Annotated[str, AfterValidator(_searchable)], Dimension] = Field(
        {},
        description="hyperparameters that are searched, by name",
        json_schema_extra={
            "propertyNames": {"enum": [name for name in TrainConfig.model_fields if name not in SAME_FOR_ALL_TRIALS]}
        },
    )
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    resources: ResourcesConfig = ResourcesConfig()
    activations: ActivationsConfig = ActivationsConfig()
    confirm: ConfirmConfig = ConfirmConfig()
    guard: GuardConfig = GuardConfig()
    trackers: TrackersConfig = TrackersConfig()
    storage: str | None = Field(
        None,
        description="folder that all nodes share, or a URI such as s3://bucket/folder, that receives runs/ and "
        "models/; null: where the command says",
    )
    general_texts: Path | None = Field(
        None,
        description="file of pairs, or folder of .txt and .md files, with passages on other subjects: every second one "
        "measures what is forgotten (guard.min_neighbours_kept), the others hold the model (train.anchor); null: "
        "paragraphs of Python's language reference, which come with the interpreter",
    )
    export_dtype: Literal["base", "fp32", "bf16", "fp16"] = Field(
        "base",
        description="number format of the exported weights, which are trained in fp32; base: that of the base model",
    )
    refit: Literal["none", "all"] = Field(
        "all",
        description="all: once the figures stand and the guard has passed, the winner is trained again on the rows of "
        "all parts, and that model is exported if it is no worse on the training rows and forgets no more than the "
        "guard allows; none: the model that the figures belong to is exported",
    )

    @field_validator("space")
    @classmethod
    def _holds_legal_values(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        _refuse(fault for name, dimension in space.items() for fault in _faults(name, dimension))
        return space

    @model_validator(mode="after")
    def _space_goes_with_train(self) -> Self:
        _refuse(self._mismatches())
        return self

    def further_metrics(self) -> tuple[str, ...]:
        """Return the metrics besides `table.METRICS` that are computed: those named, and that of the objective."""
        names = dict.fromkeys((*self.evaluation.metrics, self.search.objective.partition("/")[0]))
        return tuple(name for name in names if name not in METRICS)

    def _mismatches(self) -> Iterator[str]:
        if self.search.grace_period > self.train.epochs:
            period = self.search.grace_period
            yield f"search.grace_period: must be at most train.epochs, {self.train.epochs}, got {period}"
        smallest = min(self.space["batch_size"].ends() if "batch_size" in self.space else (self.train.batch_size,))
        if smallest < self.resources.workers:
            yield (
                f"resources.workers: must be at most the smallest batch_size, {smallest}, got "
                f"{self.resources.workers}: each needs texts to embed"
            )
        for name, dimension in self.space.items():
            default = getattr(self.train, name)
            if not dimension.contains(default):
                yield f"space.{name}: must hold train.{name}, the first trial's value {shown_value(default)}"
            method = METHOD_OF.get(name, self.train.method)
            if "method" not in self.space and method != self.train.method:
                yield (
                    f"space.{name}: must go with train.method, which is {self.train.method}, and counts with {method} "
                    "only; leave it out, or search method as well"
                )
        if "queries" in (self.train.trains, *(self.space["trains"].ends() if "trains" in self.space else ())):
            if "anchor" in self.space:
                yield "space.anchor: must be left out with trains: queries, where general texts keep their embeddings"
            elif "trains" in self.space and self.train.anchor:
                yield (
                    f"train.anchor: must be 0 with queries among space.trains, got {self.train.anchor:g}: general "
                    "texts keep their embeddings there"
                )
        for number, start in enumerate(self.search.starts):
            yield from (f"search.starts[{number}].{fault}" for fault in self._faults_of_start(start))
        yield from self._repeated_starts()
        yield from self._mismatched_bases()
        together = {
            name: self.space[name].ends() if name in self.space else (getattr(self.train, name),)
            for name in ("batch_size", "queries_per_passage")
        }
        for values in itertools.product(*together.values()):
            try:
                TrainConfig.model_validate(self.train.model_dump() | dict(zip(together, values, strict=True)))
            except ValidationError as error:
                yield from (f"space: {setting_fault(fault, TrainConfig)}" for fault in error.errors())

    def _mismatched_bases(self) -> Iterator[str]:
        """Find settings that belong to one base model where several are searched, and two ways to freeze at once."""
        if "base_model" in self.space:
            if self.train.revision is not None:
                yield "train.revision: must be null where base_model is searched, since it belongs to one; name folders"
            if self.data.replay:
                yield "space.base_model: must be left out with data.replay, whose rows belong to one base model"
        shares = self.space["frozen_share"].ends() if "frozen_share" in self.space else (self.train.frozen_share,)
        if "frozen_layers" in self.space and None not in shares:
            yield "space.frozen_layers: must be left out with frozen_share, which takes its place"

    def _repeated_starts(self) -> Iterator[str]:
        """Find starts that would not be trials of their own: what is compared must be what is named."""
        default = {name: getattr(self.train, name) for name in self.space}
        seen = [drawn(self.space, default, self.train.method)]
        for number, start in enumerate(self.search.starts):
            if any(self._faults_of_start(start)):
                continue
            whole = drawn(self.space, {**default, **start}, self.train.method)
            if whole in seen:
                yield (
                    f"search.starts[{number}]: must differ from the first trial and from the starts before it, by what "
                    f"counts with its other values, got {shown_value(start)}; change it, or leave it out"
                )
            seen.append(whole)

    def _faults_of_start(self, start: Mapping[str, object]) -> Iterator[str]:
        for name, value in start.items():
            if name not in self.space:
                yield f"{name}: is no hyperparameter of the space{suggestion(name, self.space)}"
            elif not self.space[name].contains(value):
                yield f"{name}: must be a value that space.{name} holds, got {shown_value(value)}"


def _faults(name: str, dimension: Dimension) -> Iterator[str]:
    """Yield what is wrong with the values of one hyperparameter, regardless of the other settings."""
    if TrainConfig.model_fields[name].annotation is not float and dimension.choice is None:
        yield f"space.{name}: does not take every number of a range; want choice: [...]"
        return
    for value in dimension.ends():
        try:
            TrainConfig.model_validate({name: value})
        except ValidationError as error:
            yield from (
                f"space.{name}: {setting_fault(fault, TrainConfig)}" for fault in error.errors() if fault["loc"]
            )


def _refuse(faults: Iterable[str]) -> None:
    if listed := "\n".join(faults):
        raise ValueError(listed)


def trial_config(base: TrainConfig, sample: Mapping[str, object]) -> TrainConfig:
    """The complete configuration of one trial: `base` with the sampled values filled in.

    Raises:
        InputError: a sampled value is not legal together with the other settings.
    """
    try:
        return Config.model_validate({"train": {**base.model_dump(), **sample}}).train
    except ValidationError as error:
        raise InputError("; ".join(setting_faults(error, Config))) from None
