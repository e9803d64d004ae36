"""Searches with a tiny model, for tests that start Ray."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors
from ray.util.state.common import ActorState

from nic_ray.config import Config
from nic_ray.progress import Lines
from nic_ray.search.search import run_search
from nic_ray.selection.selection import SearchResult

MARKS = [
    pytest.mark.ray,
    # Ray leaves sockets and log files of its own to the garbage collector, and warns of its own future
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

said: list[str] = []
"""What the last search has said."""


def say(line: str) -> None:
    said.append(line)


def settings(model: Path, pairs: Path, trials: int = 2, **changes: dict[str, object]) -> dict[str, dict[str, object]]:
    sections: dict[str, dict[str, object]] = {
        "data": {"pairs": str(pairs), "validation_share": 0.25, "test_share": 0.25},
        "train": {
            "base_model": str(model),
            "epochs": 2,
            "evaluations_per_epoch": 2,
            "frozen_layers": 1,
            "batch_size": 8,
            "learning_rate": 1e-3,
        },
        "space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}, "frozen_layers": {"choice": [0, 1, 2]}},
        "search": {"trials": trials, "reduction_factor": 2},
        "confirm": {"seeds": 0},
        "guard": {"retention_set": None, "min_neighbours_kept": 0},
    }
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values}
    return sections


def search(
    model: Path,
    pairs: Path,
    folder: Path,
    *,
    trials: int = 2,
    name: str = "tiny",
    export_anyway: bool = True,  # rows so few convince no guard
    say: Callable[[str], None] = say,
    **changes: dict[str, object],
) -> SearchResult:
    sections = settings(model, pairs, trials, **changes)
    said.clear()
    config = Config.model_validate(sections)
    return run_search(
        config,
        out=folder / "models",
        name=name,
        run_root=folder / "runs",
        overwrite=False,
        export_anyway=export_anyway,
        view=Lines(say),
    )


def tune_command(folder: Path, sections: dict[str, dict[str, object]], runs: Path | None = None) -> list[str]:
    """The command of a search, whose settings are written into a folder, as its runs are unless another is named."""
    (folder / "config.yaml").write_text(json.dumps(sections))
    places = ["--out", folder / "models", "--run-dir", runs or folder / "runs", "--name", "tiny", "--export-anyway"]
    return [sys.executable, "-m", "nic_ray.tune", str(folder / "config.yaml"), *map(str, places)]


def actor_names() -> set[str]:
    return {actor.repr_name for actor in actors() if actor.repr_name}


def actors() -> list[ActorState]:
    # by address: another cluster may run on this machine
    return list_actors(ray.get_runtime_context().gcs_address, limit=1000, detail=True)
