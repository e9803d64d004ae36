"""The output of the anomaly detector in the terminal."""

from collections.abc import Sequence

from nic_ray import console
from nic_ray.anomaly.assessor import REASONS
from nic_ray.bundle.assessed import Drift
from nic_ray.bundle.detector import StoredDetector, StoredShare

REFIT = (
    "Questions of a domain, or of a form, that it was not fitted to may be flagged far more often: fit it again with "
    "every new domain, and after every tuning."
)


def show_detector(record: StoredDetector) -> None:
    """Print what a detector was fitted to, its false alarms and what it detects."""
    rows, share = record["rows"], record["false_alarms"]
    console.say(
        f"\n{record['detector']}, fitted to {rows['train']:,} questions of {record['pairs']['name']} "
        f"({', '.join(record['domains'])}), calibrated on {rows['validation']:,} others for {share:.1%} false alarms"
    )
    console.say("\nfalse alarms on the test questions, with the 95 % interval over their passages:")
    show_shares(record["normal"], intervals=True)
    console.say(
        "\nshare of generated abnormal queries that is flagged; each kind by a classifier that was fitted without it:"
    )
    show_shares(record["abnormal"])
    if record["caution"] is not None:
        console.say(f"\n{record['caution']}")
    console.say(f"\n{REFIT}")


def show_shares(shares: Sequence[StoredShare], *, intervals: bool = False) -> None:
    """Print shares of flagged queries as a table, a kind a row."""
    models = [*shares[0]["shares"]]
    heads = ["kind", "queries", models[0], *(["95 % interval"] if intervals else []), *models[1:]]
    rows = []
    for each in shares:
        low, high = each.get("low"), each.get("high")
        cells = ["too few" if low is None or high is None else f"{low:.3f} to {high:.3f}"] if intervals else []
        first, *others = (f"{each['shares'][model]:.3f}" for model in models)
        rows.append([each["kind"], f"{each['queries']:,}", first, *cells, *others])
    console.show(console.table(heads, rows))


def show_drift(found: Drift) -> None:
    """Print how a log compares with normal questions."""
    console.say(
        f"{found.flagged:,} of {found.queries:,} queries are flagged, {found.flagged / found.queries:.1%}; of normal "
        f"questions about {found.expected:.1%} are"
    )
    rows = [
        [
            f"{band.first:,} to {band.first + band.queries - 1:,}",
            str(band.flagged),
            f"{band.low} to {band.high}",
            "more than chance allows" if band.drifts else "fewer" if band.flagged < band.low else "",
        ]
        for band in found.bands
    ]
    console.show(console.table(["queries", "flagged", "band", ""], rows))
    for signal, count in found.objections:
        console.say(f"{count:5,} flagged: {REASONS.get(signal, signal)}")
    if found.words:
        words = ", ".join(f"{word} ({flagged} flagged, {others} not)" for word, flagged, others in found.words)
        console.say(f"words that flagged queries share: {words}")
    if any(band.drifts for band in found.bands):
        console.say(
            "\nThe queries have changed: by an attack, by a new domain, or by another way of asking. If they are real "
            "questions, add such ones to the pairs, tune, and fit the detector again."
        )
