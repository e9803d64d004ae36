"""The base models of a search: each prepared for its data once, those that cannot be deployed left out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nic_ray.config import Config, ConstraintConfig
from nic_ray.errors import InputError
from nic_ray.model.footprint import TIMED, Footprint, footprint
from nic_ray.space import Dimension
from nic_ray.train_config import Kind
from nic_ray.training.prepared import Prepared, prepare, tokens_of, usable_base


@dataclass(frozen=True)
class Bases:
    """The base models of a search."""

    prepared: Mapping[str, Prepared]
    """Name -> the run's data and settings for this base model, that of the first trial first. The settings name it
    under `train`, and their space holds no base model that was left out."""
    footprints: Mapping[str, Footprint]
    """Name -> what it costs; empty where a search has one base model and no constraint."""
    left_out: Mapping[str, str]
    """Name -> why it cannot be deployed."""

    @property
    def first(self) -> Prepared:
        """The data and settings for the first trial's base model."""
        return next(iter(self.prepared.values()))


def prepare_bases(config: Config, *, on_gpu: bool, constrained: bool = True, runs: Path | None = None) -> Bases:
    """Prepare a search for each of its base models; errors as for `prepare`.

    Args:
        on_gpu, runs: as for `prepare`.
        constrained: whether `search.constraint` is applied; not in a search that is resumed, whose space has been
            narrowed by it before.

    Raises:
        InputError: the constraint leaves out the first trial's base model.
    """
    first = prepare(config, on_gpu=on_gpu, runs=runs)
    names = base_models(config)
    prepared = {name: first if name == config.train.base_model else _for_base(first, name) for name in names}
    limits = config.search.constraint
    if len(names) == 1 and limits == ConstraintConfig():
        return Bases(prepared, {}, {})
    queries = [first.collection.texts[number] for number in first.collection.query[:TIMED].tolist()]
    footprints = {name: footprint(own.encoder, queries) for name, own in prepared.items()}
    broken = {name: "; ".join(_broken(limits, cost)) for name, cost in footprints.items()}
    left_out = {name: why for name, why in broken.items() if why and constrained}
    if config.train.base_model in left_out:
        raise InputError(
            f"search.constraint: leaves out {config.train.base_model}, the base model of the first trial "
            f"({left_out[config.train.base_model]}); name another one under train.base_model, or widen the constraint"
        )
    kept = {name: own for name, own in prepared.items() if name not in left_out}
    return Bases(
        {name: replace(own, config=_narrowed(own.config, list(kept))) for name, own in kept.items()},
        {name: footprints[name] for name in kept},
        left_out,
    )


def base_models(config: Config) -> list[str]:
    """Return the base models of a search, that of the first trial first."""
    searched = map(str, config.space["base_model"].ends()) if "base_model" in config.space else ()
    return list(dict.fromkeys([config.train.base_model, *searched]))


def kinds_of(prepared: Prepared) -> dict[Kind, Prepared]:
    """Return a base model's data and settings for each kind of model that trials may train, that of `train` first."""
    config = prepared.config
    searched = config.space["trains"].ends() if "trains" in config.space else ()
    kinds = {}
    for trains in dict.fromkeys([config.train.trains, *searched]):
        train = config.train.model_copy(update={"trains": trains})
        kinds[train.kind] = replace(prepared, config=config.model_copy(update={"train": train}))
    return kinds


def describe_bases(bases: Bases) -> Iterator[str]:
    """Describe to the user, line by line, what the base models of a search cost."""
    for name, cost in bases.footprints.items():
        yield (
            f"base model {name}: {cost.parameters / 1e6:.1f} million parameters, {cost.blocks} blocks, "
            f"{cost.dimensions} dimensions, {cost.mib:.0f} MiB, {cost.ms_per_query:.1f} ms a query"
        )
    for name, why in bases.left_out.items():
        yield f"base model {name}: left out by search.constraint ({why})"


def _for_base(first: Prepared, name: str) -> Prepared:
    """Return what is prepared for one base model with another one in its place."""
    train = first.config.train.model_copy(update={"base_model": name})
    config = first.config.model_copy(update={"train": train})
    encoder = usable_base(config)
    tokens = tokens_of(encoder, first.collection, first.general, train.max_tokens)
    return replace(first, config=config, encoder=encoder, tokens=tokens)


def _narrowed(config: Config, names: list[str]) -> Config:
    """Leave out of the space all base models but some; starts that name others, too."""
    if "base_model" not in config.space:
        return config
    space = {**config.space, "base_model": Dimension(choice=tuple(names))}
    starts = tuple(start for start in config.search.starts if start.get("base_model", names[0]) in names)
    search = config.search.model_copy(update={"starts": starts})
    return config.model_copy(update={"space": space, "search": search})


def _broken(limits: ConstraintConfig, cost: Footprint) -> Iterator[str]:
    if limits.max_parameters is not None and cost.parameters > limits.max_parameters:
        yield f"{cost.parameters:,} parameters, more than max_parameters {limits.max_parameters:,}"
    if limits.max_ms_per_query is not None and cost.ms_per_query > limits.max_ms_per_query:
        yield f"{cost.ms_per_query:.1f} ms a query, more than max_ms_per_query {limits.max_ms_per_query:g}"
    if limits.dimensions is not None and cost.dimensions != limits.dimensions:
        yield f"{cost.dimensions} dimensions, not the {limits.dimensions} of constraint.dimensions"
