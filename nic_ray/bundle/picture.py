"""The picture of a model card, which shows Recall@5 on the test part by domain, and the names of models for display."""

import io
from collections.abc import Mapping, Sequence

from nic_ray.domains import AT_EACH_END, changes_of, shown_domains
from nic_ray.evidence import TrainedTrial, TrainedTrials
from nic_ray.metrics.table import METRICS, OVER_ALL, PRIMARY
from nic_ray.results import Intervals

COLOURS = {
    "base": "#0072B2",
    "best base": "#D55E00",
    "first trial": "#E69F00",
    "without search": "#56B4E9",
    "tuned": "#009E73",
    "tuned + BM25": "#CC79A7",
}
"""Colours of Okabe and Ito, distinguishable with any colour vision."""
MARKS = {"base": "o", "best base": "p", "first trial": "s", "without search": "v", "tuned": "D", "tuned + BM25": "^"}
NAMES = {
    "base": "base model",
    "best base": "best base model",
    "first trial": "first trial",
    "without search": "without search",
    "tuned": "winner",
    "tuned + BM25": "winner + BM25",
}


def with_epochs(name: str, model: str, trained: TrainedTrials) -> str:
    """A model's name for tables and figures, followed by the number of epochs of its training where that is known.

    Args:
        name: the name to show.
        model: the model's key in `trained`.
    """
    epochs = epochs_of(model, trained)
    return f"{name} ({epochs})" if epochs else name


def epochs_of(model: str, trained: TrainedTrials) -> str:
    """The number of epochs that a model was trained for, with the unit; empty where it is not known."""
    return _epochs(trained.get(model, ()))


def described_training(trained: TrainedTrials, names: Mapping[str, str] | None = None) -> str:
    """Describe in one line how long each trial of the models was trained.

    Args:
        names: names to show for the models; a model without one keeps its key in `trained`.
    """
    return "; ".join(
        f"{(names or {}).get(model, model)}: "
        + " + ".join(f"{trial['trial']} {_epochs([trial])}, best after {trial['best_epoch']:g}" for trial in trials)
        for model, trials in trained.items()
        if all(trial["epochs"] is not None for trial in trials)
    )


def cut_off(trained: TrainedTrials) -> str | None:
    """A warning about a first trial that was not trained to its end; None if it was."""
    short = [trial for trial in trained.get("first trial", ()) if not trial["finished"]]
    if not short:
        return None
    return (
        f"The first trial was cut off after {_epochs(short)}: what the winner gains over it is partly what it was not "
        "trained."
    )


def _epochs(trials: Sequence[TrainedTrial]) -> str:
    """The epochs of some trials, with the planned number unless all trials finished; empty where none is known."""
    known = [(trial["epochs"], trial) for trial in trials if trial["epochs"] is not None]
    if not known:
        return ""
    low, high = min(epochs for epochs, _ in known), max(epochs for epochs, _ in known)
    extent = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    whole = all(trial["finished"] for _, trial in known)
    planned = "" if whole else f" of {known[0][1]['of']}"
    return f"{extent}{planned} epoch{'' if extent == '1' and whole else 's'}"


def recall_png(
    results: Mapping[str, Mapping[str, float]],
    intervals: Intervals,
    trained: TrainedTrials | None = None,
) -> bytes:
    """Draw the primary metric of each model in each domain with its interval, as a PNG.

    Of many domains, those that gain least and most are drawn.

    Args:
        results: model -> flat metrics.
        intervals: the interval of each model's value; a domain may have none.
        trained: how long the models were trained, for the legend.
    """
    # pyplot is not used, since it keeps figures in memory and looks for a screen
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = [model for model in COLOURS if model in results]
    domains = pictured_domains(results)
    figure = Figure(figsize=(8, 1.6 + 0.55 * len(domains)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, model in enumerate(models):
        offset = 0.17 * (number - (len(models) - 1) / 2)
        by_domain = intervals.get(model, {})
        for row, domain in enumerate(domains):
            bounds = by_domain.get(domain)
            if bounds is not None and bounds["low"] is not None and bounds["high"] is not None:
                axes.plot([bounds["low"], bounds["high"]], [row + offset] * 2, color=COLOURS[model], linewidth=2)
        values = [results[model][f"{PRIMARY}/{domain}"] for domain in domains]
        places = [row + offset for row in range(len(domains))]
        axes.plot(
            values,
            places,
            MARKS[model],
            color=COLOURS[model],
            label=with_epochs(NAMES[model], model, trained or {}),
            markersize=7,
        )
    # a $ would start a formula
    axes.set_yticks(range(len(domains)), [domain.replace("$", r"\$") for domain in domains])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(f"{METRICS[PRIMARY].label}: {METRICS[PRIMARY].explained}")
    ends = f", the {AT_EACH_END} domains that gain least and most" if len(domains) < len(domains_of(results)) else ""
    axes.set_title(f"{METRICS[PRIMARY].label} on the test part, with 95 % intervals{ends}", loc="left", fontsize=11)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(models), frameon=False)
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def pictured_domains(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The domains of `domains_of` that are drawn: of many, those that gain least and most; then "macro"."""
    names = domains_of(results)
    return [*filter(None, shown_domains(changes_of(results))), *(["macro"] if "macro" in names else [])]


def domains_of(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The domains of flat metrics, sorted by name, then "macro"."""
    names = {key.partition("/")[2] for flat in results.values() for key in flat if key.startswith(f"{PRIMARY}/")}
    return [*sorted(names - {*OVER_ALL}), *(["macro"] if "macro" in names else [])]
