"""Which domains a table or a picture shows, and all of them for other programs."""

import csv
import io
from collections.abc import Mapping

from nic_ray.evidence import Intervals
from nic_ray.metrics.table import METRICS, PRIMARY

MANY = 24
"""So many domains are shown, each. Of more, the worst and the best."""
ENDS = 10
"""Domains at each end of many."""


def shown_domains(changes: Mapping[str, float], *, many: int = MANY, ends: int = ENDS) -> list[str | None]:
    """All domains as they come; of more than `many` those at both ends, the worst first.

    Args:
        changes: domain -> what it gains, or another number by which the ends are told.
        many: at least 2 * `ends`.

    Returns:
        names; None stands for those between the ends.
    """
    if len(changes) <= many:
        return [*changes]
    ranked = sorted(changes, key=lambda name: (changes[name], name))
    return [*ranked[:ends], None, *ranked[-ends:]]


def between(changes: Mapping[str, float], *, many: int = MANY, ends: int = ENDS) -> str:
    """What stands in the place of None."""
    left_out = len(changes) - 2 * ends if len(changes) > many else 0
    return f"… {left_out:,} more"


def changes_of(results: Mapping[str, Mapping[str, float]], metric: str = PRIMARY) -> dict[str, float]:
    """Domain -> what the last model finds minus what the first does; what it finds, of one model; by name.

    Args:
        results: model -> flat metrics.
    """
    models = [*results.values()]
    names = dict.fromkeys(key.partition("/")[2] for flat in models for key in flat if key.startswith(f"{metric}/"))
    return {
        name: models[-1].get(f"{metric}/{name}", 0.0) - (models[0].get(f"{metric}/{name}", 0.0) if models[1:] else 0.0)
        for name in sorted(names)
        if name not in ("macro", "worst")
    }


def names_of(domains: Mapping[str, object], *, many: int = MANY) -> str:
    """Domains in a sentence: all of them, or their number and the first few."""
    if len(domains) <= many:
        return ", ".join(domains)
    return f"{len(domains):,} domains, such as {', '.join(list(domains)[:3])}"


def as_csv(
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    passages: Mapping[str, Mapping[str, int]],
    intervals: Intervals,
) -> str:
    """All domains of all parts: a line each, with the passages that were asked about, metrics and intervals.

    Args:
        results: part -> model -> flat metrics.
        passages: part -> domain -> passages; "test in domain" has those of "test".
        intervals: "tuned minus base" and the like -> domain -> `bootstrap.Interval` on the test rows.
    """
    rows = []
    for part, models in results.items():
        counted = passages.get(part.removesuffix(" in domain"), {})
        for name in (*changes_of(models), "macro"):
            row: dict[str, object] = {"part": part, "domain": name, "passages": counted.get(name, "")}
            for model, flat in models.items():
                row |= {f"{metric} {model}": flat.get(f"{metric}/{name}", "") for metric in METRICS}
            for difference, own in intervals.items() if part == "test" else ():
                if name in own:
                    change, low, high = own[name]["difference"], own[name]["low"], own[name]["high"]
                    row |= {f"{difference}, difference": change, f"{difference}, low": low, f"{difference}, high": high}
            rows.append(row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
