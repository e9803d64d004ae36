"""The section of the model card that says how far its figures can be trusted."""

from collections.abc import Iterator, Mapping

from nic_ray.bundle import deployment, previous, question_kinds
from nic_ray.bundle.descriptions import (
    describe_averaging,
    describe_calibration,
    describe_refit,
    describe_word_search,
)
from nic_ray.bundle.markdown import gap, table
from nic_ray.bundle.picture import with_epochs
from nic_ray.domains import shown_domains
from nic_ray.evidence import Metadata, interval_unit, path_points
from nic_ray.metrics.table import METRICS, PRIMARY, macro_cells, metrics_in
from nic_ray.origin import METADATA
from nic_ray.results import Intervals, StoredInterval


def evidence_section(metadata: Metadata) -> str:
    """The section on how far the figures can be trusted; empty for a model that did not come from a search."""
    if "guard" not in metadata:
        return ""
    lines = ["## How far to trust them"]
    if objections := metadata["guard"]["objections"]:
        listed = "\n".join(f"- {objection}" for objection in objections)
        lines.append(f"**This model was exported over objections** (`--export-anyway`):\n\n{listed}")
    if metadata.get("refit") == "all":
        but = ", save those of all rows" if "folds" in metadata else ""
        lines.append(
            f"**The figures here are those of a model that was trained on the training part{but}.** The weights in "
            "this folder were trained again on the rows of all parts, once the figures stood; nothing is left to "
            "measure them on. The chances of first hits and the weight of a search by words are those of the measured "
            "model."
        )
    if "folds" in metadata:
        lines.append(
            f"The figures of all rows are those of {metadata['folds']['folds']} models of the same configurations, "
            "each trained without one fold of the passages, as the model that is trained on all rows is trained."
        )
    if "refitted" in metadata:
        lines.append(describe_refit(metadata["refitted"]))
    lines += _interval_lines(metadata.get("intervals", {}), "the test part", metadata)
    if "folds" in metadata:
        lines += _interval_lines(metadata["folds"]["intervals"], "all rows", metadata)
    if "interval_rule" in metadata:
        how, unit = metadata["interval_rule"], interval_unit(metadata)
        lines.append(
            f"Intervals hold {how['confidence']:.0%}, by Student's t over {unit}, each with all of its queries. "
            f"Under {how['min_passages']} {unit} there is none; such domains count in `macro` all the same."
        )
    lines += [
        *deployment.card_lines(metadata),
        *question_kinds.card_lines(metadata),
        *previous.card_lines(metadata),
        *_word_search_lines(metadata),
        *_calibration_lines(metadata),
        *_retention_lines(metadata),
        *_confirmation_lines(metadata),
        *_averaging_lines(metadata),
        *_leak_lines(metadata),
    ]
    return "\n\n".join(lines)


def _interval_lines(intervals: Intervals, rows_named: str, metadata: Metadata) -> Iterator[str]:
    """A heading and a table for each difference, over the rows that are named."""
    header = ["domain", "difference", "interval", "queries", interval_unit(metadata)]
    for difference, domains in intervals.items():
        changes = {domain: span["difference"] for domain, span in domains.items() if domain != "macro"}
        rows = []
        for domain in (*shown_domains(changes), *(["macro"] if "macro" in domains else [])):
            if domain is None:
                rows.append(gap(changes, header))
                continue
            span = domains[domain]
            rows.append(
                [domain, f"{span['difference']:+.3f}", _interval(span), str(span["queries"]), str(span["passages"])]
            )
        yield f"### {_difference(difference, metadata)}: {METRICS[PRIMARY].label} on {rows_named}"
        yield table(header, rows)


def _difference(name: str, metadata: Metadata) -> str:
    """A heading for "tuned minus" a model."""
    above, _, below = name.partition(" minus ")
    return f"{above[0].upper()}{above[1:]} minus {with_epochs(below, below, metadata.get('trained', {}))}"


def _interval(interval: StoredInterval) -> str:
    return "–" if interval["low"] is None else f"{interval['low']:+.3f} to {interval['high']:+.3f}"


def _word_search_lines(metadata: Metadata) -> Iterator[str]:
    found = metadata.get("word_search")
    if found is None:
        return
    yield "### With and without a search by words"
    yield describe_word_search(found)
    for part, figures in found["figures"].items():
        yield table(
            [f"ranked by, macro, {part} part", *(metric.label for metric in metrics_in(*figures.values()).values())],
            [[ranking, *macro_cells(flat)] for ranking, flat in figures.items()],
        )
    yield (
        "`similarity + w BM25` adds w times the BM25 score of a passage (Lucene's form, k1 1.5, b 0.75; the words of "
        "the package bm25s, without English stop words) to its cosine; reciprocal rank fusion adds 1 / (60 + rank) "
        "by either search."
    )


def _calibration_lines(metadata: Metadata) -> Iterator[str]:
    found = metadata.get("calibration")
    if found is None:
        return
    yield "### How sure a first hit is"
    yield f"{describe_calibration(found)} The chances by score and the threshold stand in {METADATA}."
    for part, read in found["readings"].items():
        yield table(
            [f"queries of the {part} part", "chance that was stated", "share of right first hits"],
            [[str(row["queries"]), f"{row['chance']:.2f}", f"{row['right']:.2f}"] for row in read["reliability"]],
        )


def _retention_lines(metadata: Metadata) -> Iterator[str]:
    alpha, labels = metadata["alpha"], [metric.label for metric in METRICS.values()]
    points = path_points(metadata["front"])
    which = "measured weights" if metadata.get("refit") == "all" else "weights"
    yield (
        f"### Between the base model and the tuned one\n\nThe {which} are "
        f"base + {alpha:g} * (tuned - base), with {alpha:g} chosen by the validation part and the retention set. "
        + (
            f"Retention is measured on pairs of other fields ({metadata['retention_set']['pairs']}): macro "
            f"{' and '.join(labels)} there, minus the base model's."
            if "retention_set" in metadata
            else "Questions of other fields were not asked."
        )
        + _neighbours_note(metadata)
    )
    rows = [
        [
            f"{point.alpha:g}",
            *macro_cells(point.metrics),
            *_kept(point.retention),
            "–" if point.neighbours is None else f"{point.neighbours:.1%}",
        ]
        for point in points
    ]
    first, *others = (metric.label for metric in metrics_in(*(point.metrics for point in points)).values())
    kept = [f"retention {label}" for label in labels]
    yield table(["alpha", f"{first} macro, validation", *others, *kept, "neighbours kept"], rows)
    if retention := metadata.get("retention"):
        trained = metadata.get("trained", {})
        rows = [[with_epochs(model, model, trained), *_kept(changes)] for model, changes in retention.items()]
        yield table(["model", *kept], rows)


def _neighbours_note(metadata: Metadata) -> str:
    kept = metadata.get("neighbours_kept")
    if not kept:
        return ""
    least = metadata["guard"]["min_neighbours_kept"]
    return (
        " How far the model has moved is measured on general texts, by the share of each text's ten nearest neighbours "
        f"that are the base model's: {kept['tuned']:.1%}, where at least {least:.0%} are asked for. That tells how "
        "much has changed, not whether for the worse."
    )


def _kept(retention: Mapping[str, float] | None) -> list[str]:
    return ["–"] * len(METRICS) if retention is None else [f"{retention[name]:+.3f}" for name in METRICS]


def _confirmation_lines(metadata: Metadata) -> Iterator[str]:
    if confirmed := metadata.get("confirmed"):
        yield (
            "### Tried with several seeds\n\nThe best configurations of the search were trained again, as long as they "
            "had been; the best mean over the seeds that are known won. "
            f"{metadata.get('objective', 'objective')} on the validation part:"
        )
        rows = [
            [
                setup["trial"],
                ", ".join(f"{value:.3f} ({seed})" for seed, value in setup["by_seed"].items()),
                str(len(setup["by_seed"])),
                "–" if setup.get("epochs") is None else f"{setup['epochs']:.3g}",
                f"{setup['mean']:.3f}",
                f"{setup['spread']:.3f}",
            ]
            for setup in confirmed
        ]
        yield table(["configuration", "value (seed)", "seeds", "epochs", "mean", "spread"], rows)


def _averaging_lines(metadata: Metadata) -> Iterator[str]:
    if crossed := metadata.get("averaging"):
        yield f"### The mean of several trials\n\n{describe_averaging(crossed)}"


def _leak_lines(metadata: Metadata) -> Iterator[str]:
    if leaks := metadata.get("leaks"):
        parts = list(next(iter(leaks.values())))
        yield "### Rows that share something with a training row"
        yield table(["what", *parts], [[name, *(str(rows[part]) for part in parts)] for name, rows in leaks.items()])
