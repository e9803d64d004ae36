"""The choice of domains that a table or a picture shows, and a CSV file of all domains for other programs."""

import csv
import io
from collections.abc import Mapping

from nic_ray.metrics.table import OVER_ALL, PRIMARY, metrics_in
from nic_ray.results import Intervals

MAX_SHOWN = 24
"""Largest number of domains that are all shown. Of more, only the worst and the best are shown."""
AT_EACH_END = 10
"""Number of domains shown at each end when there are more than `MAX_SHOWN`."""


def shown_domains(changes: Mapping[str, float], *, many: int = MAX_SHOWN, ends: int = AT_EACH_END) -> list[str | None]:
    """All domains in their given order; if there are more than `many`, those at both ends, the worst first.

    Args:
        changes: domain -> its gain, or another number by which the domains are ranked.
        many: at least 2 * `ends`.

    Returns:
        the names of the domains; None marks the place of the domains between the ends.
    """
    if len(changes) <= many:
        return [*changes]
    ranked = sorted(changes, key=lambda name: (changes[name], name))
    return [*ranked[:ends], None, *ranked[-ends:]]


def omitted_domains(changes: Mapping[str, float], *, many: int = MAX_SHOWN, ends: int = AT_EACH_END) -> str:
    """The text to show in the place of the None in `shown_domains`."""
    left_out = len(changes) - 2 * ends if len(changes) > many else 0
    return f"… {left_out:,} more"


def changes_of(results: Mapping[str, Mapping[str, float]], metric: str = PRIMARY) -> dict[str, float]:
    """Domain -> the last model's value minus the first's, sorted by name; of a single model, its value.

    Args:
        results: model -> flat metrics.
    """
    models = [*results.values()]
    names = dict.fromkeys(key.partition("/")[2] for flat in models for key in flat if key.startswith(f"{metric}/"))
    return {
        name: models[-1].get(f"{metric}/{name}", 0.0) - (models[0].get(f"{metric}/{name}", 0.0) if models[1:] else 0.0)
        for name in sorted(names)
        if name not in OVER_ALL
    }


def names_of(domains: Mapping[str, object], *, many: int = MAX_SHOWN) -> str:
    """Domains for use in a sentence: all of them, or their number and the first three."""
    if len(domains) <= many:
        return ", ".join(domains)
    return f"{len(domains):,} domains, such as {', '.join(list(domains)[:3])}"


def as_csv(
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    passages: Mapping[str, Mapping[str, int]],
    intervals: Mapping[str, Intervals],
) -> str:
    """All domains of all parts as CSV: one line per domain and part, with its passages, metrics and intervals.

    Args:
        results: part -> model -> flat metrics.
        passages: part -> domain -> number of passages that are asked about; "test in domain" has those of "test".
        intervals: part -> a difference such as "tuned minus base" -> domain -> `intervals.Interval`.
    """
    rows = []
    for part, models in results.items():
        counted = passages.get(part.removesuffix(" in domain"), {})
        for name in (*changes_of(models), "macro"):
            row: dict[str, object] = {"part": part, "domain": name, "passages": counted.get(name, "")}
            for model, flat in models.items():
                row |= {
                    f"{metric} {model}": flat.get(f"{metric}/{name}", "") for metric in metrics_in(*models.values())
                }
            for difference, by_domain in intervals.get(part, {}).items():
                if name in by_domain:
                    change, low, high = by_domain[name]["difference"], by_domain[name]["low"], by_domain[name]["high"]
                    row |= {f"{difference}, difference": change, f"{difference}, low": low, f"{difference}, high": high}
            rows.append(row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
