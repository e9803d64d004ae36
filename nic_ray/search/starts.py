"""The configurations that a search tries first, before its sampler proposes any."""

from pathlib import Path

from nic_ray.config import Config
from nic_ray.config_file import load_config
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.record import read_ended
from nic_ray.run_folder import RunFolder
from nic_ray.study import trial_number
from nic_ray.train_config import drawn

WARM_STARTS = 3
"""Number of configurations, the best ones, that are taken over from an earlier search."""


def starting_points(config: Config) -> list[JsonObject]:
    """Return samples of the search space, each once: those that are tried before the sampler proposes any.

    They are that under `train`, `search.starts`, those of a warm start, and, for each base model that none of these
    names, the first of `search.starts`, or that under `train` if there are none.

    Raises:
        InputError: `search.warm_start` names no folder of a search with trials.
    """
    first: JsonObject = {name: getattr(config.train, name) for name in config.space}
    points = [first, *({**first, **start} for start in config.search.starts)]
    if config.search.warm_start is not None:
        points += [{**first, **sample} for sample in _best_samples(config, config.search.warm_start)]
    known = points[1 if config.search.starts else 0]
    bases = config.space["base_model"].ends() if "base_model" in config.space else ()
    points += [{**known, "base_model": name} for name in bases if all(name != each["base_model"] for each in points)]
    points = [drawn(config.space, point, config.train.method) for point in points]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def _best_samples(config: Config, run_folder: Path) -> list[JsonObject]:
    """Return the best samples of an earlier search, of any data set, as far as the space holds their values."""
    ended = [row for name, row in read_ended(run_folder).items() if trial_number(name) is not None]
    ended = sorted((row for row in ended if "objective" in row), key=lambda row: row["objective"], reverse=True)
    if not ended:
        raise InputError(
            f"search.warm_start: {run_folder} holds no search with a trial that has ended; name a folder in runs/"
        )
    earlier = _settings_of(run_folder)
    found = []
    for row in ended[:WARM_STARTS]:
        whole = {name: value for name, value in earlier.items() if name in config.space} | row["sample"]
        if "frozen_layers" in row["sample"] and row["sample"].get("frozen_share") is None:
            whole["frozen_share"] = None  # the depth was a count
        sample = {name: whole[name] for name in config.space if name in whole}
        found.append({name: value for name, value in sample.items() if config.space[name].contains(value)})
    return found


def _settings_of(run_folder: Path) -> JsonObject:
    """Return the settings under `train` of an earlier search, which its trials had besides their samples."""
    try:
        return load_config(RunFolder(run_folder).config).train.model_dump()
    except InputError:  # of a version with other settings
        return {}
