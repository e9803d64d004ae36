"""The building blocks of a report's sections: the contents of a run folder, and pieces of HTML."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import plotly.graph_objects as go

from nic_ray.bundle.picture import NAMES, with_epochs
from nic_ray.config import Config
from nic_ray.config_file import load_config
from nic_ray.evidence import Retrieved, StoredCurve, StoredResult
from nic_ray.metrics.table import label_of
from nic_ray.results import Flat, StoredInterval
from nic_ray.run_folder import RunFolder
from nic_ray.stored import read_curve, read_result, read_retrieved
from nic_ray.study import Course, read_courses

CYCLE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]


@dataclass(frozen=True)
class FinishedRun:
    """The contents of the run folder of a finished search."""

    folder: Path
    config: Config
    result: StoredResult
    queries: Retrieved | None
    """Rankings of the test queries; None if the run kept none."""
    curve: StoredCurve | None
    """The winner at growing shares of the training passages; None if that was not measured."""
    study: optuna.Study | None
    """The study, with every trial that ended with a value marked as complete; None if there is no readable study."""
    courses: tuple[Course, ...]


Html = Iterator[str]
"""HTML, in pieces."""


def read_run(run_folder: Path) -> FinishedRun:
    """Read the files that a search has left in its run folder.

    Raises:
        InputError: there is no sound result.json, queries.json or config.yaml.
    """
    files, result = RunFolder(run_folder), read_result(run_folder)
    statuses = {row["trial"]: row["status"] for row in result["trials"]}
    study, courses = read_courses(files.study, statuses, result["objective"])
    retrieved, curve = read_retrieved(run_folder), read_curve(run_folder)
    return FinishedRun(run_folder, load_config(files.config), result, retrieved, curve, study, courses)


def judged_part(result: StoredResult) -> tuple[str, Mapping[str, Flat]]:
    """The part of the rows whose results are to be quoted for the winner, and the results: model -> flat metrics."""
    part = "test" if result["results"].get("test") else "validation"
    return part, result["results"][part]


def values_of(study: optuna.Study | None) -> list[float]:
    """The objective of each trial that has one."""
    return [] if study is None else [trial.value for trial in study.trials if trial.value is not None]


def model_name(run: FinishedRun, model: str) -> str:
    """The display name of a model, with the number of epochs that it was trained for."""
    return with_epochs(NAMES[model], model, run.result.get("trained", {}))


def objective_name(run: FinishedRun) -> str:
    """The display name of the objective that the search maximised."""
    return label_of(run.result["objective"])


def change_of(changes: Mapping[str, StoredInterval], domain: str) -> str:
    """A domain's change with its interval, as short text."""
    if domain not in changes:
        return "no interval"
    interval = changes[domain]
    sure = "too few passages" if interval["low"] is None else f"{interval['low']:+.3f} to {interval['high']:+.3f}"
    return f"{interval['difference']:+.3f} ({sure})"


def label(text: str) -> str:
    """Text escaped for a figure, which would otherwise interpret tags."""
    return html.escape(text)


def sentence(text: str) -> str:
    """A paragraph of HTML."""
    return f"<p>{html.escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table, which scrolls sideways where the screen is narrower."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    """A table cell: figures and names stay on one line; long text may wrap."""
    kind = ' class="long"' if len(text) > 40 else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def figure_html(name: str, figure: go.Figure, *, height: int = 420, width: int | None = None) -> str:
    """A figure as HTML; with a given width, in pixels, it scrolls sideways where the screen is narrower."""
    figure.update_layout(
        template="simple_white",
        colorway=CYCLE,
        font={"size": 14, "family": "system-ui, sans-serif"},
        height=height,
        autosize=True,
        margin={"l": 8, "r": 12, "t": 40, "b": 8},
        showlegend=True,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "xanchor": "left", "title": None},
    )
    figure.update_xaxes(automargin=True, title_font_size=14)
    figure.update_yaxes(automargin=True, title_font_size=14)
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{name}",
        config={"responsive": True, "displaylogo": False, "displayModeBar": False},
    )
    inner = f'<div style="min-width:{width}px">{drawn}</div>' if width else drawn
    return f'<div class="wide">{inner}</div>'
