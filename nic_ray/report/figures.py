"""The figures of a report, one function per figure; `html.SECTIONS` lists those that are drawn, in order."""

import html
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from nic_ray.bundle.picture import COLOURS, NAMES, cut_off, described_training, pictured_domains
from nic_ray.config import Config
from nic_ray.domains import AT_EACH_END, changes_of
from nic_ray.evidence import GuardVerdict, PathPoint, TrialRow, interval_unit, path_points, value_in
from nic_ray.metrics.table import METRICS, PRIMARY, label_of
from nic_ray.report.elements import (
    CYCLE,
    FinishedRun,
    Html,
    change_of,
    figure_html,
    judged_part,
    label,
    model_name,
    objective_name,
    sentence,
    table,
    values_of,
)
from nic_ray.results import StoredInterval
from nic_ray.run_folder import RunFolder
from nic_ray.study import trial_number

STATUS_COLOURS = {
    "finished": "#009E73",
    "stopped": "#E69F00",
    "failed": "#D55E00",
    "cut off": "#999999",
    "repeated": "#56B4E9",
}
MARKS = {
    "base": "circle",
    "best base": "pentagon",
    "first trial": "square",
    "without search": "triangle-down",
    "tuned": "diamond",
    "tuned + BM25": "triangle-up",
}
DASHES = ["solid", "dash", "dot", "dashdot"]


def recall(run: FinishedRun) -> Html:
    """Recall of every model in each domain shown, with its interval, as a figure and as a table."""
    part, results = judged_part(run.result)
    intervals = run.result.get("recall_intervals", {}) if part == "test" else {}
    domains = pictured_domains(results)
    figure = go.Figure()
    for number, model in enumerate(name for name in COLOURS if name in results):
        values = [results[model][f"{PRIMARY}/{domain}"] for domain in domains]
        reaches = [
            _reach(intervals.get(model, {}).get(domain), value) for domain, value in zip(domains, values, strict=True)
        ]
        figure.add_scatter(
            x=values,
            y=[row + 0.17 * (number - 2) for row in range(len(domains))],
            mode="markers",
            name=label(model_name(run, model)),
            marker={"color": COLOURS[model], "symbol": MARKS[model], "size": 10},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [above for _, above in reaches],
                "arrayminus": [below for below, _ in reaches],
            },
            customdata=[label(domain) for domain in domains],
            hovertemplate="%{customdata}: %{x:.3f}",
        )
    counted = f"{METRICS[PRIMARY].label}: {METRICS[PRIMARY].explained}"
    figure.update_xaxes(title="<br>".join(textwrap.wrap(counted, width=32)), range=[0, 1.02])
    figure.update_yaxes(
        tickvals=list(range(len(domains))), ticktext=[label(name) for name in domains], autorange="reversed"
    )
    yield figure_html("recall", figure, height=150 + 52 * len(domains))
    yield sentence(
        f"Measured on the {part} rows; lines are 95 % intervals over {interval_unit(run.result)}, left out where "
        "a domain has too few."
        if intervals
        else f"Measured on the {part} rows."
    )
    changes = run.result.get("intervals", {}).get("tuned minus base", {})
    passages = run.result.get("passages", {}).get(part, {})
    rows = [
        [
            domain,
            str(passages.get(domain, "–")),
            *(f"{results[m][f'{PRIMARY}/{domain}']:.3f}" for m in COLOURS if m in results),
            change_of(changes, domain),
        ]
        for domain in domains
    ]
    if left_out := len(changes_of(results)) + 1 - len(domains):
        yield sentence(
            f"Shown are the {AT_EACH_END} domains that gain least and the {AT_EACH_END} that gain most; {left_out:,} "
            f"more lie between, see {RunFolder(run.folder).domains.name} in the run folder."
        )
    header = ["domain", "passages", *(model_name(run, m) for m in COLOURS if m in results), "gain over base (95 %)"]
    yield table(header, rows)
    if described := described_training(run.result.get("trained", {}), NAMES):
        yield sentence(f"How long they were trained: {described}.")
    if warning := cut_off(run.result.get("trained", {})):
        yield f'<p class="warning">{html.escape(warning)}</p>'


def _reach(interval: StoredInterval | None, value: float) -> tuple[float, float]:
    """The distances from a value down and up to the ends of its interval; 0 and 0 if there is no interval."""
    if interval is None or interval["low"] is None or interval["high"] is None:
        return 0.0, 0.0
    return value - interval["low"], interval["high"] - value


def retention(run: FinishedRun) -> Html:
    """Gain against what is kept, for each mixture of the base model's weights and the tuned weights.

    Neighbours of general texts and the retention set have a plot each, side by side, as far as they were measured.
    """
    points = path_points(run.result.get("front", []))
    plots = list(_kept(points, run.result["guard"])) if points else []
    if not plots:
        yield sentence("What the tuning forgets was not measured; name a file of pairs under guard.retention_set.")
        return
    figure = make_subplots(cols=len(plots), shared_yaxes=True, horizontal_spacing=0.06)
    for column, (title, limit, kept) in enumerate(plots, 1):
        _draw_path(figure, column, points, kept, run.result["alpha"])
        figure.add_vline(x=limit, line={"color": "#666666", "dash": "dash", "width": 2}, opacity=1, col=column)
        lowest, highest = (end(limit, *kept) for end in (min, max))
        margin = 0.06 * (highest - lowest or 0.01)
        figure.update_xaxes(range=[lowest - margin, highest + margin], title=title, col=column)
    figure.update_yaxes(title=f"{label_of(f'{PRIMARY}/macro')}, validation rows", col=1)
    yield figure_html("retention", figure, width=380 * len(plots) if len(plots) > 1 else None)
    limits = " or ".join(f"{limit:g}" for _, limit, _ in plots)
    yield sentence(
        "Each point is a mix of weights, from the base model (0 %) to the tuned one (100 %). Up is better on the "
        f"domains, right is less forgotten; left of a dashed line ({limits}) nothing is exported."
    )


def _kept(points: Sequence[PathPoint], guard: GuardVerdict) -> Iterator[tuple[str, float, list[float]]]:
    """Yield what was measured of what mixtures keep: the title of its axis, the guard's limit, a value for each."""
    neighbours = [point.neighbours for point in points if point.neighbours is not None]
    if len(neighbours) == len(points):
        title = "share of the neighbours of general texts<br>that are the base model's (1 = nothing moved)"
        yield title, guard["min_neighbours_kept"], neighbours
    changes = [point.retention[PRIMARY] for point in points if point.retention is not None]
    if len(changes) == len(points):
        title = f"change of {METRICS[PRIMARY].label} on the<br>retention set (0 = nothing forgotten)"
        yield title, -guard["max_retention_loss"], changes


def _draw_path(
    figure: go.Figure, column: int, points: Sequence[PathPoint], kept: Sequence[float], chosen: float
) -> None:
    """Draw mixtures by what they keep and by what they gain, and the chosen one, into a column of a figure."""
    objective = f"{PRIMARY}/macro"
    figure.add_scatter(
        x=kept,
        y=[point.metrics[objective] for point in points],
        mode="lines+markers+text",
        name="mix of base and tuned weights",
        text=[f"{point.alpha:.0%}" if point.alpha in (0, 1) else "" for point in points],
        hovertext=[f"{point.alpha:.0%}" for point in points],
        textposition=["top right" if point.alpha == 1 else "bottom left" for point in points],
        cliponaxis=False,
        line={"color": "#0072B2"},
        marker={"size": 8},
        showlegend=column == 1,
        row=1,
        col=column,
    )
    figure.add_scatter(
        x=[value for point, value in zip(points, kept, strict=True) if point.alpha == chosen],
        y=[point.metrics[objective] for point in points if point.alpha == chosen],
        mode="markers",
        name=f"chosen: {chosen:.0%} of the way",
        marker={"color": "#D55E00", "symbol": "star", "size": 16},
        showlegend=column == 1,
        row=1,
        col=column,
    )


def history(run: FinishedRun) -> Html:
    """The objective of each trial, and the best so far."""
    if not values_of(run.study):
        yield sentence("No trial has a value to draw.")
        yield from _trials(run)
        return
    assert run.study is not None
    objective = run.result["objective"]
    figure = optuna.visualization.plot_optimization_history(run.study, target_name=objective)
    figure.update_traces(marker={"color": "#0072B2", "size": 9}, selector={"mode": "markers"})
    figure.update_traces(name="one trial", selector={"mode": "markers"})
    figure.update_traces(line={"color": "#D55E00", "shape": "hv"}, name="best so far", selector={"mode": "lines"})
    figure.update_xaxes(title="trial (number)", dtick=max(1, len(run.study.trials) // 12))
    figure.update_yaxes(title=objective_name(run) + ", validation rows")
    yield figure_html("history", figure.update_layout(title=None))
    yield sentence("A trial that was stopped early counts with its last value.")
    yield from _trials(run)


def _trials(run: FinishedRun) -> Html:
    objective = run.result["objective"]
    columns = {"epochs": ".3g", "best_epoch": ".3g", objective: ".3f"}
    yield table(
        ["trial", "how it ended", "epochs", "best after epoch", f"{objective_name(run)}, validation rows"],
        [
            [row["trial"], row["status"], *(_figures(row, name, form) for name, form in columns.items())]
            for row in run.result["trials"]
        ],
    )
    if any(row["status"] == "repeated" for row in run.result["trials"]):
        yield sentence(
            "Repeated: trained again with another seed for as long as the trial in its name, which was stopped early."
        )


def rungs(run: FinishedRun) -> Html:
    """The number of epochs that each trial was trained for, and the rungs at which ASHA could stop it."""
    courses = [course for course in run.courses if course.points or course.status == "failed"]
    if not courses:
        yield sentence("The study records no trial's number of epochs.")
        return
    figure = go.Figure()
    for status, colour in STATUS_COLOURS.items():
        group = [course for course in courses if course.status == status]
        if group:
            figure.add_bar(
                x=[course.points[-1][0] if course.points else 0 for course in group],
                y=[course.name for course in group],
                orientation="h",
                name=status,
                marker={"color": colour, "pattern": {"shape": "/" if status == "stopped" else ""}},
                hovertemplate="%{y}: %{x:.2f} epochs",
            )
    search, epochs = run.config.search, run.config.train.epochs
    rung = float(search.grace_period)
    while rung <= epochs:
        figure.add_vline(x=rung, line={"color": "#000000", "dash": "dash", "width": 2}, opacity=1)
        rung *= search.reduction_factor
    figure.update_xaxes(title="trained (epochs)<br>dashed: ASHA's rungs", range=[0, epochs * 1.05])
    figure.update_yaxes(categoryorder="array", categoryarray=[course.name for course in reversed(courses)], dtick=1)
    yield figure_html("rungs", figure, height=150 + 26 * len(courses))
    yield sentence(
        f"At each rung, ASHA lets about the best 1 in {search.reduction_factor:g} of the trials that have reached it "
        "continue. A trial is judged at its first evaluation at the rung or past it."
    )


def curves(run: FinishedRun) -> Html:
    """The objective of each trial at each of its evaluations."""
    courses = [course for course in run.courses if course.points]
    if not courses:
        yield sentence("The study holds no evaluation with its epoch.")
        return
    figure = go.Figure()
    for number, course in enumerate(courses):
        figure.add_scatter(
            x=[epoch for epoch, _ in course.points],
            y=[value for _, value in course.points],
            mode="lines+markers",
            name=course.name,
            line={"color": CYCLE[number % len(CYCLE)], "dash": DASHES[number // len(CYCLE) % len(DASHES)]},
        )
    figure.update_xaxes(title="trained (epochs)", rangemode="tozero")
    figure.update_yaxes(title=objective_name(run) + ", validation rows")
    yield figure_html("curves", figure, height=420 + 8 * len(courses))


def parallel(run: FinishedRun) -> Html:
    """The settings of all trials on parallel axes, each trial coloured by its objective."""
    names = list(run.config.space)
    objective = run.result["objective"]
    trials = [row for row in run.result["trials"] if all(value_in(row, key) is not None for key in [*names, objective])]
    trials = [row for row in trials if trial_number(row["trial"]) is not None]
    if len(trials) < 2:
        yield sentence("Needs at least two trials with a value.")
        return
    # drawn as lines, because plotly's parallel-coordinates figure needs WebGL, which not every browser has
    columns = [*names, objective]
    scales = {name: _scale([value_in(row, name) for row in trials], _is_log(run.config, name)) for name in columns}
    figure = go.Figure()
    values = [value_in(row, objective) for row in trials]
    low, high = min(values), max(values)
    shades = [0.5 if high == low else (value - low) / (high - low) for value in values]
    for row, shade in sorted(zip(trials, shades, strict=True), key=lambda pair: pair[1]):
        figure.add_scatter(
            x=list(range(len(columns))),
            y=[scales[name](value_in(row, name)) for name in columns],
            mode="lines+markers",
            line={"color": sample_colorscale("Cividis", [1 - shade])[0], "width": 1.5 + 2.5 * shade},
            marker={"size": 6},
            name=row["trial"],
            showlegend=False,
            text=[
                f"{row['trial']}, {_figures(row, 'epochs', '.3g')} epochs<br>"
                f"{label(name)} {label(_short(value_in(row, name)))}"
                for name in columns
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    for place, name in enumerate(columns):
        figure.add_vline(x=place, line={"color": "#999999", "width": 1}, opacity=1, layer="below")
        for at, text in scales[name].ticks:
            figure.add_annotation(
                x=place, y=at, text=label(text), showarrow=False, xanchor="left", xshift=5, font={"size": 12},
                bgcolor="rgba(255,255,255,0.75)",
            )  # fmt: skip
    figure.add_scatter(
        x=[None], y=[None], mode="markers", showlegend=False,
        marker={
            "color": [low], "cmin": low, "cmax": high, "colorscale": "Cividis_r", "showscale": True,
            "colorbar": {
                "title": {"text": label(objective_name(run)).replace(" ", "<br>")},
                "thickness": 12, "tickformat": ".3f", "nticks": 5,
            },
        },
    )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=[label(name).replace("_", "<br>") for name in names]
        + [label(objective_name(run)).replace(" ", "<br>")],
        range=[-0.45, len(columns) - 0.35],
        side="top",
        showgrid=False,
        tickangle=0,
    )
    figure.update_yaxes(visible=False, range=[-0.08, 1.08])
    yield figure_html("parallel", figure, height=480, width=140 + 105 * len(columns))
    yield sentence("A line is a trial; dark and thick is a high objective. Scroll sideways on a narrow screen.")


def importance(run: FinishedRun) -> Html:
    """The share of the objective's variance that each setting explains."""
    names = [name for name in run.config.space if len({str(value_in(row, name)) for row in run.result["trials"]}) > 1]
    if run.study is None or len(values_of(run.study)) < 4 or not names or len(set(values_of(run.study))) < 2:
        yield sentence(
            f"Needs four trials with a value, that differ in it and in their settings; this search has "
            f"{len(values_of(run.study))} with a value."
        )
        return
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    figure = optuna.visualization.plot_param_importances(run.study, evaluator=evaluator, params=names)
    figure.update_traces(marker_color="#0072B2", showlegend=False)
    figure.update_xaxes(title="share of the objective's<br>variance (fANOVA)", range=[0, 1.15])
    figure.update_yaxes(title=None)
    yield figure_html("importance", figure.update_layout(title=None), height=130 + 36 * len(names))
    yield sentence(
        f"Estimated from {len(values_of(run.study))} trials: with so few, read it as a hint, not as a finding."
    )


def timing(run: FinishedRun) -> Html:
    """The time that each trial took."""
    trials = [row for row in run.result["trials"] if row.get("seconds")]
    if not trials:
        yield sentence("No trial has a time.")
        return
    figure = go.Figure()
    for status, colour in STATUS_COLOURS.items():
        rows = [row for row in trials if row["status"] == status]
        if rows:
            figure.add_bar(
                x=[row["seconds"] for row in rows],
                y=[row["trial"] for row in rows],
                orientation="h",
                name=status,
                marker={"color": colour, "pattern": {"shape": "/" if status == "stopped" else ""}},
                hovertemplate="%{y}: %{x:.1f} s",
            )
    figure.update_xaxes(title="training and evaluation<br>(seconds)", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=[row["trial"] for row in reversed(trials)], dtick=1)
    yield figure_html("timing", figure, height=150 + 26 * len(trials))
    yield sentence(f"Together {sum(row['seconds'] for row in trials) / 60:.1f} minutes in {len(trials)} trials.")


def _figures(row: TrialRow, name: str, form: str) -> str:
    value = value_in(row, name)
    return "–" if value is None else format(value, form)


@dataclass(frozen=True)
class _Scale:
    place: Mapping[Any, float]
    ticks: tuple[tuple[float, str], ...]

    def __call__(self, value: Any) -> float:
        return self.place[str(value)]


def _scale(values: Sequence[Any], log: bool) -> _Scale:
    """The positions of values on an axis from 0 to 1, and the tick labels of that axis."""
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(distinct) == 1:
        return _Scale({str(distinct[0]): 0.5}, ((0.5, _short(distinct[0])),))
    if any(isinstance(value, str | bool) for value in distinct) or len(distinct) <= 4:
        place = {str(value): number / (len(distinct) - 1) for number, value in enumerate(distinct)}
        return _Scale(place, tuple((place[str(value)], _short(value)) for value in distinct))
    at = [math.log(value) if log and value > 0 else float(value) for value in distinct]
    place = {str(value): (position - at[0]) / (at[-1] - at[0]) for value, position in zip(distinct, at, strict=True)}
    return _Scale(place, ((0.0, _short(distinct[0])), (1.0, _short(distinct[-1]))))


def _is_log(config: Config, name: str) -> bool:
    return name in config.space and config.space[name].log_uniform is not None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
