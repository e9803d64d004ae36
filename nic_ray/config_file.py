"""Settings in files: reading and checking YAML, writing it, and comparing settings with those of a run's start.

All faults in a file are reported at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from nic_ray.config import Config
from nic_ray.errors import InputError
from nic_ray.packaged import packaged
from nic_ray.sources import as_sources, listed
from nic_ray.space import Dimension
from nic_ray.train_config import CHANGEABLE_ON_RESUME
from nic_ray.validation import setting_faults, shown_value


class _Search(BaseModel):
    objective: str


class StartedSettings(BaseModel):
    """The part of a run's original settings with which the settings of a resumed run must agree."""

    train: dict[str, object]
    search: _Search
    space: dict[str, Dimension] = {}


def started_settings(stored: object) -> StartedSettings:
    """Validate the settings that were recorded when a run was started.

    Args:
        stored: the settings as read from the file, not yet validated.

    Raises:
        InputError: the settings are damaged.
    """
    try:
        return StartedSettings.model_validate(stored)
    except ValidationError:
        raise InputError("its settings are damaged") from None


def changed_settings(config: Config, started: StartedSettings) -> list[str]:
    """List the changed settings that training results depend on; the search space is not compared.

    Args:
        config: the settings now.
        started: the settings when the run was started.

    Returns:
        one phrase per changed setting, such as "train.epochs is 3, was 2". Settings that did not exist when the run
        was started do not count as changed.
    """
    now, then = _decisive(StartedSettings.model_validate(config.model_dump(mode="json"))), _decisive(started)
    return [f"{name} is {now[name]}, was {then[name]}" for name in now if then.get(name, now[name]) != now[name]]


def _decisive(settings: StartedSettings) -> dict[str, str]:
    train = {f"train.{name}": str(value) for name, value in settings.train.items() if name not in CHANGEABLE_ON_RESUME}
    return {"search.objective": settings.search.objective, **train}


def load_config(path: Path, overrides: Mapping[str, object] | None = None) -> Config:
    """Read and check a YAML file.

    Args:
        path: the file, or the name of a packaged one, such as tune_configs/cpu.yaml. An empty file means that every
            setting has its default.
        overrides: values by dotted name ("search.trials", "storage") that replace the file's; None is skipped. Messages
            say of them that an option gave them.

    Raises:
        InputError: no such file, not YAML, or settings that are unknown, mistyped, out of range or
            contradictory; the message lists all of them.
    """
    path = packaged(path)
    content = _read_yaml(path)
    for name, value in (overrides or {}).items():
        section, _, key = name.partition(".")
        values = content.get(section) or {}
        if value is None:
            continue
        if not key:
            content[section] = value
        elif isinstance(values, dict):
            content[section] = {**values, key: value}
    try:
        return _with_packaged_files(Config.model_validate(content))
    except ValidationError as error:
        problems = [_with_origin(fault, overrides or {}) for fault in setting_faults(error, Config)]
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise InputError("\n  ".join([f"{path}: {count}", *problems])) from None


def _with_origin(fault: str, overrides: Mapping[str, object]) -> str:
    """Say of a fault whether its value is not the file's."""
    place, colon, message = fault.partition(": ")
    return f"{place}, given as an option: {message}" if colon and overrides.get(place) is not None else fault


def _with_packaged_files(config: Config) -> Config:
    """The settings with the paths of packaged files resolved, so that any working folder finds them."""
    replay = tuple(map(packaged, config.data.replay))
    pairs = as_sources(map(packaged, listed(config.data.pairs)))
    data = config.data.model_copy(update={"pairs": pairs, "replay": replay})
    path = config.guard.retention_set
    guard = config.guard.model_copy(update={"retention_set": None if path is None else packaged(path)})
    return config.model_copy(update={"data": data, "guard": guard})


def dump_config(config: Config) -> str:
    """The settings as YAML text, which `load_config` reads back as an equal config."""
    content = config.model_dump(mode="json", exclude_none=True)
    # for every other setting that can be null, null is the default
    if config.guard.retention_set is None:
        content["guard"]["retention_set"] = None
    if config.train.prompts is None:
        content["train"]["prompts"] = None
    return yaml.safe_dump(content, sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the configurations that are included are in tune_configs/") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a YAML file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: not YAML: {_yaml_fault(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: want settings by name, such as `search: {{trials: 4}}`, got {shown_value(content)}")
    return content


def _yaml_fault(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
