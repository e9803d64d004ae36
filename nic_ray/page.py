"""report.html of a run folder: what a search has found, in one file that opens without a network."""

import html
import json
import logging
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.offline import get_plotlyjs

from nic_ray.bundle import file_sha256
from nic_ray.config import Config, load_config
from nic_ray.domains import ENDS, MANY, between, changes_of, shown_domains
from nic_ray.errors import InputError
from nic_ray.lint import lint_pairs, texts_of
from nic_ray.pairs import read_pairs
from nic_ray.picture import COLOURS, NAMES, cut_off, described_training, pictured_domains, with_epochs
from nic_ray.readings import describe_readings
from nic_ray.record import DOMAINS_FILE, PAGE_FILE, QUERIES_FILE, STUDY_FILE, study_url
from nic_ray.tokens import count_tokens
from nic_ray.words import count_words

log = logging.getLogger("nic_ray.page")

WORST = 10
"""Queries of each domain that are shown."""
SHOWN = 400
"""Characters of a passage that are shown."""
STATUS_COLOURS = {
    "finished": "#009E73",
    "stopped": "#E69F00",
    "failed": "#D55E00",
    "cut off": "#999999",
    "repeated": "#56B4E9",
}
MARKS = {"base": "circle", "first trial": "square", "tuned": "diamond"}
CYCLE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]
DASHES = ["solid", "dash", "dot", "dashdot"]
QUESTION = re.compile(r"^(what|how|why|when|where|which|who|is|are|do|does|can|should|my|i)\b", re.IGNORECASE)
# The marks of all scripts; Greek has one that looks like a semicolon. Japanese, Chinese and Thai ask without one, too.
QUESTION_MARK = re.compile(
    r"[?\uff1f]\W*$|[\u00bf\u061f\u055e\u1367\u037e]|(?<=[α-ωά-ώ]);\W*$"
    r"|か[。\s]*$|[吗呢][。\s]*$|อย่างไร|ยังไง|อะไร|ทำไม|ไหม|ไหน|เมื่อไ|เท่าไ|ใคร|กี่"
)
LENGTHS = ((6, "up to 6 words"), (9, "7 to 9 words"), (12, "10 to 12 words"), (10**9, "13 words or more"))


@dataclass(frozen=True)
class Course:
    """How a trial went."""

    name: str
    status: str
    points: tuple[tuple[float, float], ...]
    """(epoch, objective) of its evaluations."""


@dataclass(frozen=True)
class Found:
    """What a run folder tells."""

    folder: Path
    config: Config
    result: Mapping[str, Any]
    queries: Mapping[str, Any] | None
    """None if the test rows were not read."""
    study: optuna.Study | None
    """Every trial that has a value counts as complete in it; None if there is none."""
    courses: tuple[Course, ...]


Part = Iterator[str]
"""HTML, in pieces."""


def write_page(run_folder: Path) -> Path:
    """Write report.html into a run folder that has a result.json.

    A section that cannot be drawn says so in its place.

    Raises:
        InputError: the folder holds no result of a search.
    """
    found = read_run(run_folder)
    path = run_folder / PAGE_FILE
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(page(found), encoding="utf-8")
    unfinished.replace(path)
    return path


def read_run(run_folder: Path) -> Found:
    """Read what a search has left.

    Raises:
        InputError: there is no sound result.json.
    """
    try:
        result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run_folder}: holds no result of a search ({error}); name a run that has ended") from None
    queries = run_folder / QUERIES_FILE
    study, courses = _read_study(run_folder / STUDY_FILE, result)
    return Found(
        run_folder,
        load_config(run_folder / "config.yaml"),
        result,
        json.loads(queries.read_text(encoding="utf-8")) if queries.exists() else None,
        study,
        courses,
    )


def page(found: Found) -> str:
    """The whole file."""
    sections: list[tuple[str, str, Callable[[Found], Part]]] = [
        ("recall", "Recall@5 in each domain, before and after", _recall),
        ("retention", "What was gained, against what was forgotten", _retention),
        ("history", "How the search got better, trial by trial", _history),
        ("rungs", "Which trial was stopped where", _rungs),
        ("curves", "How each trial learned", _curves),
        ("parallel", "Which settings go with a high objective", _parallel),
        ("importance", "Which settings mattered most", _importance),
        ("lost", "Where recall is lost: lengths and kinds of queries", _lost),
        ("worst", "The queries that went worst", _worst),
        ("data", "What the data check says", _data),
        ("split", "How rows were held back, and what they share with training", _split),
        ("timing", "How long each trial took", _timing),
    ]
    title = html.escape(found.folder.name)
    links = "".join(f'<a href="#{key}">{html.escape(heading)}</a>' for key, heading, _ in sections)
    body = "\n".join(
        f'<section id="{key}"><h2>{html.escape(heading)}</h2>\n{_drawn(draw, found)}\n</section>'
        for key, heading, draw in sections
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script></head>\n"
        f"<body><header><h1>{title}</h1>\n{_drawn(_summary, found)}</header>\n<nav>{links}</nav>\n"
        f"{body}\n</body></html>\n"
    )


def _drawn(draw: Callable[[Found], Part], found: Found) -> str:
    try:
        return "\n".join(draw(found))
    except Exception as error:  # an older or a half-written run must not cost the other sections
        log.warning("%s: %s", found.folder / PAGE_FILE, draw.__name__, exc_info=True)
        return _sentence(f"This cannot be shown ({type(error).__name__}: {error}).")


def _summary(found: Found) -> Part:
    result, objective = found.result, found.result["objective"]
    part, results = _judged(result)
    gain = results["tuned"][objective] - results["base"][objective]
    yield _sentence(
        f"The winner is {result['winner']['trial']}. On the {part} rows its {_named(objective)} is "
        f"{results['tuned'][objective]:.3f}, {gain:+.3f} against the base model."
    )
    if told := describe_readings(result.get("readings", [])):
        yield f'<div class="warning"><p>{html.escape(told[0].upper() + told[1:])}.</p></div>'
    guard = result.get("guard", {})
    if guard.get("objections"):
        verdict = "Exported over these objections" if guard["overridden"] else "Not exported"
        listed = "".join(f"<li>{html.escape(each)}</li>" for each in guard["objections"])
        yield f'<div class="warning"><p>{verdict}:</p><ul>{listed}</ul></div>'
    elif result.get("bundle"):
        yield _sentence(f"Exported to {result['bundle']}.")


def _recall(found: Found) -> Part:
    part, results = _judged(found.result)
    intervals = found.result.get("recall_intervals", {}) if part == "test" else {}
    domains = pictured_domains(results)
    figure = go.Figure()
    for number, model in enumerate(each for each in COLOURS if each in results):
        values = [results[model][f"recall_at_5/{domain}"] for domain in domains]
        bounds = [intervals.get(model, {}).get(domain, {}) for domain in domains]
        sure = [each.get("low") is not None for each in bounds]
        figure.add_scatter(
            x=values,
            y=[row + 0.22 * (number - 1) for row in range(len(domains))],
            mode="markers",
            name=_label(_model(found, model)),
            marker={"color": COLOURS[model], "symbol": MARKS[model], "size": 10},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [b["high"] - v if ok else 0 for b, v, ok in zip(bounds, values, sure, strict=True)],
                "arrayminus": [v - b["low"] if ok else 0 for b, v, ok in zip(bounds, values, sure, strict=True)],
            },
            customdata=[_label(domain) for domain in domains],
            hovertemplate="%{customdata}: %{x:.3f}",
        )
    figure.update_xaxes(title="Recall@5 (share of right<br>passages in the first five)", range=[0, 1.02])
    figure.update_yaxes(
        tickvals=list(range(len(domains))), ticktext=[_label(name) for name in domains], autorange="reversed"
    )
    yield _figure("recall", figure, height=150 + 52 * len(domains))
    yield _sentence(
        f"Measured on the {part} rows; lines are 95 % intervals over passages, left out where a domain has too few."
        if intervals
        else f"Measured on the {part} rows."
    )
    changes = found.result.get("intervals", {}).get("tuned minus base", {})
    passages = found.result.get("passages", {}).get(part, {})
    rows = [
        [
            domain,
            str(passages.get(domain, "–")),
            *(f"{results[m][f'recall_at_5/{domain}']:.3f}" for m in COLOURS if m in results),
            _interval(changes, domain),
        ]
        for domain in domains
    ]
    if left_out := len(changes_of(results)) + 1 - len(domains):
        yield _sentence(
            f"Shown are the {ENDS} domains that gain least and the {ENDS} that gain most; {left_out:,} more lie "
            f"between, see {DOMAINS_FILE} in the run folder."
        )
    header = ["domain", "passages", *(_model(found, m) for m in COLOURS if m in results), "gain over base (95 %)"]
    yield _table(header, rows)
    if described := described_training(found.result.get("trained", {}), NAMES):
        yield _sentence(f"How long they were trained: {described}.")
    if warning := cut_off(found.result.get("trained", {})):
        yield f'<p class="warning">{html.escape(warning)}</p>'


def _retention(found: Found) -> Part:
    points = found.result.get("front", [])
    if not points or any(point["retention"] is None for point in points):
        yield _sentence("What the tuning forgets was not measured; name a file of pairs under guard.probe.")
        return
    chosen = found.result["alpha"]
    figure = go.Figure()
    figure.add_scatter(
        x=[point["retention"]["recall_at_5"] for point in points],
        y=[point["recall_at_5/macro"] for point in points],
        mode="lines+markers+text",
        name="mix of base and tuned weights",
        text=[f"{point['alpha']:.0%}" if point["alpha"] in (0, 1) else "" for point in points],
        hovertext=[f"{point['alpha']:.0%}" for point in points],
        textposition=["top right" if point["alpha"] == 1 else "bottom left" for point in points],
        cliponaxis=False,
        line={"color": "#0072B2"},
        marker={"size": 8},
    )
    kept = [point for point in points if point["alpha"] == chosen]
    figure.add_scatter(
        x=[point["retention"]["recall_at_5"] for point in kept],
        y=[point["recall_at_5/macro"] for point in kept],
        mode="markers",
        name=f"chosen: {chosen:.0%} of the way",
        marker={"color": "#D55E00", "symbol": "star", "size": 16},
    )
    limit = -found.result["guard"]["max_retention_loss"]
    figure.add_vline(x=limit, line={"color": "#666666", "dash": "dash", "width": 2}, opacity=1)
    lowest, highest = (end(limit, *(p["retention"]["recall_at_5"] for p in points)) for end in (min, max))
    margin = 0.06 * (highest - lowest or 0.01)
    figure.update_xaxes(range=[lowest - margin, highest + margin])
    figure.update_xaxes(title="change of Recall@5 on the<br>probe (0 = nothing forgotten)")
    figure.update_yaxes(title="macro Recall@5, validation rows")
    yield _figure("retention", figure)
    yield _sentence(
        "Each point is a mix of weights, from the base model (0 %) to the tuned one (100 %). Up is better on the "
        f"domains, right is less forgotten; left of the dashed line ({limit:+.3f}) nothing is exported."
    )


def _history(found: Found) -> Part:
    if not _values(found):
        yield _sentence("No trial has a value to draw.")
        yield from _trials(found)
        return
    assert found.study is not None
    objective = found.result["objective"]
    figure = optuna.visualization.plot_optimization_history(found.study, target_name=objective)
    figure.update_traces(marker={"color": "#0072B2", "size": 9}, selector={"mode": "markers"})
    figure.update_traces(name="one trial", selector={"mode": "markers"})
    figure.update_traces(line={"color": "#D55E00", "shape": "hv"}, name="best so far", selector={"mode": "lines"})
    figure.update_xaxes(title="trial (number)", dtick=max(1, len(found.study.trials) // 12))
    figure.update_yaxes(title=_named(objective) + ", validation rows")
    yield _figure("history", figure.update_layout(title=None))
    yield _sentence("A trial that was stopped early counts with its last value.")
    yield from _trials(found)


def _trials(found: Found) -> Part:
    objective = found.result["objective"]
    shown = {"epochs": ".3g", "best_epoch": ".3g", objective: ".3f"}
    yield _table(
        ["trial", "how it ended", "epochs", "best after epoch", f"{_named(objective)}, validation rows"],
        [
            [row["trial"], row["status"], *(_figures(row, name, form) for name, form in shown.items())]
            for row in found.result["trials"]
        ],
    )
    if any(row["status"] == "repeated" for row in found.result["trials"]):
        yield _sentence(
            "Repeated: trained again with another seed for as long as the trial in its name, which was stopped early."
        )


def _rungs(found: Found) -> Part:
    courses = [each for each in found.courses if each.points or each.status == "failed"]
    if not courses:
        yield _sentence("The study says of no trial how many epochs it was trained.")
        return
    figure = go.Figure()
    for status, colour in STATUS_COLOURS.items():
        own = [each for each in courses if each.status == status]
        if own:
            figure.add_bar(
                x=[each.points[-1][0] if each.points else 0 for each in own],
                y=[each.name for each in own],
                orientation="h",
                name=status,
                marker={"color": colour, "pattern": {"shape": "/" if status == "stopped" else ""}},
                hovertemplate="%{y}: %{x:.2f} epochs",
            )
    search, epochs = found.config.search, found.config.train.epochs
    rung = float(search.grace_period)
    while rung <= epochs:
        figure.add_vline(x=rung, line={"color": "#000000", "dash": "dash", "width": 2}, opacity=1)
        rung *= search.reduction_factor
    figure.update_xaxes(title="trained (epochs)<br>dashed: ASHA's rungs", range=[0, epochs * 1.05])
    figure.update_yaxes(categoryorder="array", categoryarray=[each.name for each in reversed(courses)], dtick=1)
    yield _figure("rungs", figure, height=150 + 26 * len(courses))
    yield _sentence(
        f"At each rung, ASHA lets about the best 1 in {search.reduction_factor:g} of those that have come there go on. "
        "A trial is judged at its first evaluation at the rung or past it."
    )


def _curves(found: Found) -> Part:
    courses = [each for each in found.courses if each.points]
    if not courses:
        yield _sentence("The study holds no evaluation with its epoch.")
        return
    figure = go.Figure()
    for number, each in enumerate(courses):
        figure.add_scatter(
            x=[epoch for epoch, _ in each.points],
            y=[value for _, value in each.points],
            mode="lines+markers",
            name=each.name,
            line={"color": CYCLE[number % len(CYCLE)], "dash": DASHES[number // len(CYCLE) % len(DASHES)]},
        )
    figure.update_xaxes(title="trained (epochs)", rangemode="tozero")
    figure.update_yaxes(title=_named(found.result["objective"]) + ", validation rows")
    yield _figure("curves", figure, height=420 + 8 * len(courses))


def _parallel(found: Found) -> Part:
    names = list(found.config.space)
    objective = found.result["objective"]
    trials = [row for row in found.result["trials"] if all(row.get(name) is not None for name in [*names, objective])]
    trials = [row for row in trials if re.fullmatch(r"trial-\d+", row["trial"])]
    if len(trials) < 2:
        yield _sentence("Needs at least two trials with a value.")
        return
    # drawn as lines, not by plotly's own kind of figure: that one needs WebGL, which not every browser has
    columns = [*names, objective]
    scales = {name: _scale([row[name] for row in trials], _is_log(found.config, name)) for name in columns}
    figure = go.Figure()
    values = [row[objective] for row in trials]
    low, high = min(values), max(values)
    shades = [0.5 if high == low else (value - low) / (high - low) for value in values]
    for row, shade in sorted(zip(trials, shades, strict=True), key=lambda pair: pair[1]):
        figure.add_scatter(
            x=list(range(len(columns))),
            y=[scales[name](row[name]) for name in columns],
            mode="lines+markers",
            line={"color": sample_colorscale("Cividis", [1 - shade])[0], "width": 1.5 + 2.5 * shade},
            marker={"size": 6},
            name=row["trial"],
            showlegend=False,
            text=[
                f"{row['trial']}, {_figures(row, 'epochs', '.3g')} epochs<br>{_label(name)} {_label(_short(row[name]))}"
                for name in columns
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    for place, name in enumerate(columns):
        figure.add_vline(x=place, line={"color": "#999999", "width": 1}, opacity=1, layer="below")
        for at, text in scales[name].ticks:
            figure.add_annotation(
                x=place, y=at, text=_label(text), showarrow=False, xanchor="left", xshift=5, font={"size": 12},
                bgcolor="rgba(255,255,255,0.75)",
            )  # fmt: skip
    figure.add_scatter(
        x=[None], y=[None], mode="markers", showlegend=False,
        marker={
            "color": [low], "cmin": low, "cmax": high, "colorscale": "Cividis_r", "showscale": True,
            "colorbar": {
                "title": {"text": _label(_named(objective)).replace(" ", "<br>")},
                "thickness": 12, "tickformat": ".3f", "nticks": 5,
            },
        },
    )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=[_label(name).replace("_", "<br>") for name in names]
        + [_label(_named(objective)).replace(" ", "<br>")],
        range=[-0.45, len(columns) - 0.35],
        side="top",
        showgrid=False,
        tickangle=0,
    )
    figure.update_yaxes(visible=False, range=[-0.08, 1.08])
    yield _figure("parallel", figure, height=480, width=140 + 105 * len(columns))
    yield _sentence("A line is a trial; dark and thick is a high objective. Scroll sideways on a narrow screen.")


def _importance(found: Found) -> Part:
    names = [name for name in found.config.space if len({str(row.get(name)) for row in found.result["trials"]}) > 1]
    if found.study is None or len(_values(found)) < 4 or not names or len(set(_values(found))) < 2:
        yield _sentence(
            f"Needs four trials with a value, that differ in it and in their settings; this search has "
            f"{len(_values(found))} with a value."
        )
        return
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    figure = optuna.visualization.plot_param_importances(found.study, evaluator=evaluator, params=names)
    figure.update_traces(marker_color="#0072B2", showlegend=False)
    figure.update_xaxes(title="share of the objective's<br>variance (fANOVA)", range=[0, 1.15])
    figure.update_yaxes(title=None)
    yield _figure("importance", figure.update_layout(title=None), height=130 + 36 * len(names))
    yield _sentence(f"Estimated from {len(_values(found))} trials: with so few, read it as a hint, not as a finding.")


def _lost(found: Found) -> Part:
    if found.queries is None:
        yield _sentence(
            "This run kept no rankings of single test queries; they are read only for what the guard lets pass."
        )
        return
    queries = found.queries["queries"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for _, name in LENGTHS:
        groups[name] = [each for each in queries if _length(each["query"]) == name]
    groups["asks a question"] = [each for each in queries if _asks(each["query"])]
    groups["keywords or a statement"] = [each for each in queries if not _asks(each["query"])]
    groups["with a number or code"] = [each for each in queries if re.search(r"\d", each["query"])]
    groups["without one"] = [each for each in queries if not re.search(r"\d", each["query"])]
    groups = {name: own for name, own in groups.items() if own}
    figure = go.Figure()
    for model in ("base", "tuned"):
        means = [sum(each["recall"][model] for each in own) / len(own) for own in groups.values()]
        figure.add_bar(
            x=means,
            y=[f"{name} ({len(own)})" for name, own in groups.items()],
            orientation="h",
            name=_label(_model(found, model)),
            marker={"color": COLOURS[model]},
            hovertemplate="%{y}: %{x:.3f}",
        )
    figure.update_xaxes(title="mean Recall@5<br>of the test queries", range=[0, 1.02])
    figure.update_yaxes(autorange="reversed")
    yield _figure("lost", figure.update_layout(barmode="group"), height=150 + 48 * len(groups))
    yield _sentence(
        "In brackets: the number of queries. A query belongs to one length and to one of each pair of kinds."
    )


def _worst(found: Found) -> Part:
    if found.queries is None:
        yield _sentence(
            "This run kept no rankings of single test queries; they are read only for what the guard lets pass."
        )
        return
    passages = found.queries["passages"]
    yield _sentence(
        f"Up to {WORST} test queries of each domain whose best answer stands lowest in the winner's ranking of all "
        "passages, and what came first instead. Read them to understand the model, not to change it: whatever is tuned "
        "by them can no longer be measured on the test rows."
    )
    by_domain: dict[str, list[Mapping[str, Any]]] = {}
    for each in found.queries["queries"]:
        by_domain.setdefault(each["domain"], []).append(each)
    names = sorted(by_domain)
    if len(names) > MANY:
        found_of = {name: sum(each["recall"]["tuned"] for each in own) / len(own) for name, own in by_domain.items()}
        names = sorted(names, key=lambda name: (found_of[name], name))[: 2 * ENDS]
        yield _sentence(f"Of {len(by_domain):,} domains, the {len(names)} in which the winner finds least:")
    for domain in names:
        own = [each for each in by_domain[domain] if each["rank"] > 1]
        own = sorted(own, key=lambda each: (-each["rank"], each["query"]))[:WORST]
        items = "".join(_miss(each, passages) for each in own) or "<li>Every query finds its passage first.</li>"
        yield f"<details><summary>{html.escape(domain)}</summary><ol>{items}</ol></details>"


def _miss(query: Mapping[str, Any], passages: Mapping[str, Mapping[str, Any]]) -> str:
    def shown(number: int) -> str:
        text = passages[str(number)]["text"]
        return html.escape(text if len(text) <= SHOWN else text[:SHOWN] + " …")

    instead = "".join(
        f'<li><span class="tag">{html.escape(", ".join(passages[str(number)]["domains"]) or "answer of no row")}, '
        f"cosine {cosine:.3f}</span> {shown(number)}</li>"
        for number, cosine in query["retrieved"][: min(3, query["rank"] - 1)]
        if number != query["passage"]
    )
    return (
        f'<li><p class="query">{html.escape(query["query"])}</p><p><span class="tag">its passage; the best answer '
        f"stands at rank {query['rank']}</span> {shown(query['passage'])}</p>"
        f"<p>Retrieved instead:</p><ol>{instead}</ol></li>"
    )


def _data(found: Found) -> Part:
    data, file = found.result["data"], found.config.data.pairs
    yield _sentence(f"{data['pairs']}: {data['rows']:,} rows and {data['passages']:,} passages were used.")
    sizes = {name: float(rows) for name, rows in data["domains"].items()}
    yield _table(
        ["domain", "rows"],
        [
            [between(sizes), ""] if name is None else [name, f"{data['domains'][name]:,}"]
            for name in shown_domains(sizes)
        ],
    )
    if not file.exists() or file_sha256(file) != data["sha256"]:
        yield _sentence("The file is no longer there as it was, so it cannot be checked here.")
        return
    rows = read_pairs(file)
    train = found.config.train
    findings = lint_pairs(rows, *count_tokens(train.base_model, texts_of(rows), train.max_tokens))
    if not findings:
        yield _sentence(f"The check finds no fault in the {len(rows):,} rows of the file.")
        return
    yield _table(
        ["finding", "rows", "what it does"], [[each.code, f"{len(each.lines):,}", each.effect] for each in findings]
    )
    yield _sentence(f"Single rows: python -m nic_ray.check {shlex.quote(str(file))}")


def _split(found: Found) -> Part:
    split = found.result["split"]
    yield _sentence(f"Protocol {split['protocol'].replace('_', ' ')}, seed {split['seed']}.")
    yield _table(["part", "rows"], [[part.replace("_", " "), f"{rows:,}"] for part, rows in split["rows"].items()])
    if readings := found.result.get("readings"):
        yield _sentence(
            "Readings of the test rows, those of other runs beside this one that hold back the same included:"
        )
        shown = ["when", "command", "part", "rows", "model", "run"]
        yield _table(shown, [[str(row[name]) for name in shown] for row in readings])
    leaks = found.result.get("leaks")
    if not leaks:
        yield _sentence("This run holds no leak report.")
        return
    parts = list(dict.fromkeys(part for own in leaks.values() for part in own))
    yield _sentence("Rows that share something with the training rows:")
    yield _table(
        ["shared", *(part.replace("_", " ") for part in parts)],
        [[name, *(f"{own.get(part, 0):,}" for part in parts)] for name, own in leaks.items()],
    )
    if "unseen_queries" in parts:
        yield _sentence(
            "Unseen queries are new questions about trained passages, so they share their passages on purpose."
        )


def _timing(found: Found) -> Part:
    trials = [row for row in found.result["trials"] if row.get("seconds")]
    if not trials:
        yield _sentence("No trial has a time.")
        return
    figure = go.Figure()
    for status, colour in STATUS_COLOURS.items():
        own = [row for row in trials if row["status"] == status]
        if own:
            figure.add_bar(
                x=[row["seconds"] for row in own],
                y=[row["trial"] for row in own],
                orientation="h",
                name=status,
                marker={"color": colour, "pattern": {"shape": "/" if status == "stopped" else ""}},
                hovertemplate="%{y}: %{x:.1f} s",
            )
    figure.update_xaxes(title="training and evaluation<br>(seconds)", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=[row["trial"] for row in reversed(trials)], dtick=1)
    yield _figure("timing", figure, height=150 + 26 * len(trials))
    yield _sentence(f"Together {sum(row['seconds'] for row in trials) / 60:.1f} minutes in {len(trials)} trials.")


def _read_study(path: Path, result: Mapping[str, Any]) -> tuple[optuna.Study | None, tuple[Course, ...]]:
    """The study of a run, and how its trials went."""
    if not path.exists():
        return None, ()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    try:
        storage = optuna.storages.RDBStorage(study_url(path))
        summaries = optuna.get_all_study_names(storage)
        trials = optuna.load_study(study_name=summaries[0], storage=storage).trials if summaries else []
    except Exception as error:  # damage has many faces, and costs the figures of the study only
        log.warning("%s: cannot be read (%s)", path, " ".join(str(error).split())[:200])
        return None, ()
    finally:
        if storage is not None:
            storage.engine.dispose()
    status = {row["trial"]: row["status"] for row in result["trials"]}
    states = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed"}
    courses = []
    # Optuna draws no trial that was stopped early, and nearly all of them are
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        name = f"trial-{trial.number:03d}"
        points = [
            (float(trial.user_attrs[f"epoch at {step}"]), value)
            for step, value in sorted(trial.intermediate_values.items())
            if f"epoch at {step}" in trial.user_attrs
        ]
        courses.append(Course(name, status.get(name, states.get(trial.state.name, "cut off")), tuple(points)))
        usable = trial.value is not None and trial.state.is_finished()
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if usable else optuna.trial.TrialState.FAIL,
                value=trial.value if usable else None,
                params=trial.params,
                distributions=trial.distributions,
            )
        )
    return study, tuple(courses)


def _values(found: Found) -> list[float]:
    if found.study is None:
        return []
    return [trial.value for trial in found.study.trials if trial.value is not None]


def _judged(result: Mapping[str, Any]) -> tuple[str, Mapping[str, Mapping[str, float]]]:
    """The part that the winner is to be quoted by."""
    part = "test" if result["results"].get("test") else "validation"
    return part, result["results"][part]


def _model(found: Found, model: str) -> str:
    return with_epochs(NAMES[model], model, found.result.get("trained", {}))


def _figures(row: Mapping[str, Any], name: str, form: str) -> str:
    return "–" if row.get(name) is None else format(row[name], form)


def _named(objective: str) -> str:
    metric, _, domain = objective.partition("/")
    return f"{domain} {({'recall_at_5': 'Recall@5', 'mrr': 'MRR'}).get(metric, metric)}"


@dataclass(frozen=True)
class _Scale:
    place: Mapping[Any, float]
    ticks: tuple[tuple[float, str], ...]

    def __call__(self, value: Any) -> float:
        return self.place[str(value)]


def _scale(values: Sequence[Any], log: bool) -> _Scale:
    """Where values stand on an axis from 0 to 1, and what is written at it."""
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(distinct) == 1:
        return _Scale({str(distinct[0]): 0.5}, ((0.5, _short(distinct[0])),))
    if any(isinstance(value, str | bool) for value in distinct) or len(distinct) <= 4:
        place = {str(value): number / (len(distinct) - 1) for number, value in enumerate(distinct)}
        return _Scale(place, tuple((place[str(value)], _short(value)) for value in distinct))
    at = [math.log(value) if log and value > 0 else float(value) for value in distinct]
    place = {str(value): (own - at[0]) / (at[-1] - at[0]) for value, own in zip(distinct, at, strict=True)}
    return _Scale(place, ((0.0, _short(distinct[0])), (1.0, _short(distinct[-1]))))


def _is_log(config: Config, name: str) -> bool:
    return name in config.space and config.space[name].log_uniform is not None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _length(query: str) -> str:
    return next(name for most, name in LENGTHS if count_words(query) <= most)


def _asks(query: str) -> bool:
    return bool(QUESTION_MARK.search(query) or QUESTION.match(query.strip()))


def _interval(changes: Mapping[str, Mapping[str, Any]], domain: str) -> str:
    if domain not in changes:
        return "no interval"
    own = changes[domain]
    sure = "too few passages" if own["low"] is None else f"{own['low']:+.3f} to {own['high']:+.3f}"
    return f"{own['difference']:+.3f} ({sure})"


def _label(text: str) -> str:
    """Text for a figure, which would read tags."""
    return html.escape(text)


def _sentence(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(each)}</th>" for each in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    """Figures and names stay on one line; sentences take several."""
    kind = ' class="long"' if len(text) > 40 else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _figure(name: str, figure: go.Figure, *, height: int = 420, width: int | None = None) -> str:
    """A figure as HTML; one with a width of its own is scrolled sideways where the screen is narrower."""
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


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1100px; margin: 0 auto; padding: 0 16px 48px; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .9rem; } a { color: #0060a0; }
p, li, summary { overflow-wrap: anywhere; } .wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #666; } td { border-bottom: 1px solid #ddd; white-space: nowrap; }
td.long { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #D55E00; padding-left: 12px; } .query { font-weight: 600; margin-bottom: .2rem; }
.tag { background: #eef2f6; border-radius: 3px; padding: 0 .3rem; font-size: .9rem; }
details { margin: .5rem 0; border-top: 1px solid #ddd; }
summary { cursor: pointer; font-weight: 600; padding: .4rem 0; }
details ol { padding-left: 1.4rem; } details li { margin-bottom: .7rem; }
"""
