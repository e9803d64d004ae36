"""The sections of a report on deployment: what quality costs in time and size, for an index, in dimensions."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nic_ray.bundle.deployment import (
    BASES,
    KINDS,
    cells_of_bases,
    cells_of_kinds,
    describe_costs,
    describe_kinds,
    describe_sizes,
    short_name,
    table_of_sizes,
)
from nic_ray.report.elements import CYCLE, FinishedRun, Html, figure_html, label, objective_name, sentence, table
from nic_ray.results import StoredBase


def bases(run: FinishedRun) -> Html:
    """Quality against latency and size, untuned and tuned, for each base model; nothing if the search has one."""
    found = run.result.get("bases")
    if not found:
        return
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for column, (title, costs) in enumerate(
        (
            ("milliseconds to embed a query", [base["ms_per_query"] for base in found]),
            ("size of the weights in MiB", [base["mib"] for base in found]),
        ),
        1,
    ):
        for number, (base, cost) in enumerate(zip(found, costs, strict=True)):
            _draw(figure, column, base, cost, CYCLE[number % len(CYCLE)])
        figure.update_xaxes(title=title, rangemode="tozero", col=column)
    figure.update_yaxes(title=f"{objective_name(run)},<br>validation rows", col=1)
    yield figure_html("bases", figure, width=760)
    yield table(BASES, cells_of_bases(found))
    yield sentence(
        f"{describe_costs(run.result['objective'])} A hollow mark is the base model itself, a filled one its best "
        "trial: up is better, left is cheaper. A larger base model pays for itself where its filled mark is higher."
    )


def index(run: FinishedRun) -> Html:
    """The best trial that keeps the passages' embeddings beside the best that does not; nothing without both."""
    if kinds := run.result.get("kinds"):
        yield table(KINDS, cells_of_kinds(kinds))
        yield sentence(describe_kinds(run.result["objective"]))


def dimensions(run: FinishedRun) -> Html:
    """The metrics of shorter embeddings; nothing for a model that was not trained for them."""
    if sizes := run.result.get("truncate_dim"):
        yield table(*table_of_sizes(sizes))
        yield sentence(describe_sizes(sizes))


def _draw(figure: go.Figure, column: int, base: StoredBase, cost: float, colour: str) -> None:
    """Draw a base model and its best trial, joined by a line, into a column of a figure."""
    values = [base["base"], *([] if base["best"] is None else [base["best"]])]
    figure.add_scatter(
        x=[cost] * len(values),
        y=values,
        mode="lines+markers",
        name=label(short_name(base["base_model"])),
        line={"color": colour, "width": 2},
        marker={"color": colour, "size": 12, "symbol": ["circle-open", "circle"][: len(values)]},
        text=["untuned", base["trial"] or ""][: len(values)],
        hovertemplate="%{text}: %{y:.3f} at %{x:.1f}",
        showlegend=column == 1,
        row=1,
        col=column,
    )
