"""The one picture of a model card: Recall@5 of the test part by domain."""

import io
from collections.abc import Mapping
from typing import Any

COLOURS = {"base": "#0072B2", "first trial": "#E69F00", "tuned": "#009E73"}
"""Okabe and Ito's, told apart with any colour vision."""
MARKS = {"base": "o", "first trial": "s", "tuned": "D"}
NAMES = {"base": "base model", "first trial": "first trial", "tuned": "winner"}


def recall_png(
    results: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> bytes:
    """Draw Recall@5 of each model in each domain, with its interval where it has one.

    Args:
        results: model -> flat metrics.
        intervals: model -> domain -> `statistics.Interval` as a mapping.
    """
    # no pyplot: it keeps figures, and looks for a screen
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = [model for model in COLOURS if model in results]
    domains = domains_of(results)
    figure = Figure(figsize=(8, 1.6 + 0.55 * len(domains)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, model in enumerate(models):
        offset = 0.24 * (number - (len(models) - 1) / 2)
        own = intervals.get(model, {})
        for row, domain in enumerate(domains):
            bounds = own.get(domain, {})
            if bounds.get("low") is not None:
                axes.plot([bounds["low"], bounds["high"]], [row + offset] * 2, color=COLOURS[model], linewidth=2)
        values = [results[model][f"recall_at_5/{domain}"] for domain in domains]
        places = [row + offset for row in range(len(domains))]
        axes.plot(values, places, MARKS[model], color=COLOURS[model], label=NAMES[model], markersize=7)
    # a $ would start a formula
    axes.set_yticks(range(len(domains)), [domain.replace("$", r"\$") for domain in domains])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("Recall@5 (share of right passages among the first five)")
    axes.set_title("Recall@5 on the test part, with 95 % intervals", loc="left", fontsize=11)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(models), frameon=False)
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def domains_of(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Domains of flat metrics by name, then "macro"."""
    names = {key.partition("/")[2] for flat in results.values() for key in flat if key.startswith("recall_at_5/")}
    return [*sorted(names - {"macro", "worst"}), *(["macro"] if "macro" in names else [])]
