"""The base models of a search: each prepared for its data once, those that cannot be deployed left out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nic_ray.config import Config, ConstraintConfig
from nic_ray.errors import InputError
from nic_ray.model.base import load_base
from nic_ray.model.encoder import Encoder
from nic_ray.model.footprint import TIMED, Footprint, footprint
from nic_ray.progress import View
from nic_ray.space import Dimension
from nic_ray.train_config import Kind
from nic_ray.training.prepared import Prepared, prepare, refuse_unusable_base, tokens_of
from nic_ray.training.start import describe_base


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


def prepare_bases(
    config: Config,
    *,
    on_gpu: bool,
    constrained: bool = True,
    runs: Path | None = None,
    view: View | None = None,
    roughly: bool = False,
) -> Bases:
    """Prepare a search for each of its base models; errors as for `prepare`.

    Args:
        on_gpu, runs, view, roughly: as for `prepare`.
        constrained: whether `search.constraint` is applied; not in a search that is resumed, whose space has been
            narrowed by it before.

    Raises:
        InputError: the constraint leaves out the first trial's base model.
    """
    limits, names = config.search.constraint, base_models(config)
    if len(names) == 1 and limits == ConstraintConfig():
        only = prepare(config, on_gpu=on_gpu, runs=runs, view=view, roughly=roughly)
        return Bases({names[0]: only}, {}, {})
    first = prepare(config, on_gpu=on_gpu, runs=runs, view=view, roughly=roughly)
    queries = [first.collection.texts[number] for number in first.collection.query[:TIMED].tolist()]
    prepared, footprints, left_out = {}, {}, {}
    for name in names:
        own = _settings_of(first.config, name)
        encoder = first.encoder if name == names[0] else load_base(own.train)
        footprints[name] = footprint(encoder, queries)
        if constrained and (why := "; ".join(_broken(limits, footprints[name]))):
            left_out[name] = why
            del footprints[name]
            continue
        prepared[name] = first if name == names[0] else _for_base(first, own, encoder)
    if names[0] in left_out:
        raise InputError(
            f"search.constraint: leaves out {names[0]}, the base model of the first trial ({left_out[names[0]]}); name "
            "another one under train.base_model, or widen the constraint"
        )
    kept = {name: replace(own, config=_narrowed(own.config, list(prepared))) for name, own in prepared.items()}
    return Bases(kept, footprints, left_out)


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
    for prepared in list(bases.prepared.values())[1:]:
        yield from describe_base(prepared)
    for name, why in bases.left_out.items():
        yield f"base model {name}: left out by search.constraint ({why})"


def _settings_of(config: Config, base_model: str) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"base_model": base_model})})


def _for_base(first: Prepared, config: Config, encoder: Encoder) -> Prepared:
    """Return what is prepared for one base model with another one in its place."""
    refuse_unusable_base(encoder, config)
    tokens = tokens_of(encoder, first.collection, first.general, config.train.max_tokens)
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
