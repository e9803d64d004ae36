"""The output in the terminal at the end of a search, and of an evaluation."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from nic_ray import console
from nic_ray.bundle import question_kinds
from nic_ray.bundle.comparison import Comparison, describe_rows
from nic_ray.bundle.compressed import Compressed
from nic_ray.bundle.deployment import (
    BASES,
    KINDS,
    cells_of_bases,
    cells_of_kinds,
    describe_sizes,
    table_of_sizes,
)
from nic_ray.bundle.descriptions import (
    describe_averaging,
    describe_calibration,
    describe_refit,
    describe_word_search,
)
from nic_ray.bundle.picture import cut_off, described_training, epochs_of, with_epochs
from nic_ray.bundle.previous import describe_previous, table_of
from nic_ray.domains import MAX_SHOWN, omitted_domains, shown_domains
from nic_ray.errors import RunError
from nic_ray.evidence import Evidence, interval_unit, path_points
from nic_ray.metrics.table import METRICS, PRIMARY, macro_cells, metrics_in
from nic_ray.readings import describe_readings
from nic_ray.results import CROSS_FIT, IN_DOMAIN, Intervals
from nic_ray.run_folder import RunFolder
from nic_ray.selection.selection import SearchResult

PARTS = {
    "validation": "validation: the rows that picked the model",
    "test": "test: each question ranked against all passages",
    IN_DOMAIN: "test, each question ranked against the passages that rows of its own domain name",
    CROSS_FIT: "all rows, each answered by a model that was trained without its passage",
    "unseen_queries": "new questions about passages that were trained on: the easier protocol",
}


def show_result(result: SearchResult) -> None:
    """Print the results of a search.

    Raises:
        RunError: the model was not exported because of the guard's objections.
    """
    judgement = result.judgement
    trained = judgement.evidence["trained"]
    if result.caution is not None:
        console.say(f"\n{result.caution}")
    if result.ranked is not None:
        console.say(f"\n{result.ranked}")
    for part, results in judgement.results.items():
        console.say(f"\n{describe_part(part)}")
        # without the brackets of `with_epochs`: headers wrap at a width of six characters
        alone = {model: flat for model, flat in results.items() if "BM25" not in model}
        models = {f"{model} {epochs_of(model, trained)}": flat for model, flat in alone.items()}
        console.show_metrics(models, passages_of(judgement.evidence, part))
    if kinds := judgement.evidence.get("question_kinds"):
        console.say("\ntest: by kind of question, means over the questions of a kind")
        console.show(console.table(*question_kinds.table_of(kinds, interval_unit(judgement.evidence))))
    if previous := judgement.evidence.get("previous"):
        console.say(f"\n{describe_previous(previous)}")
        console.show(console.table(*table_of(previous)))
    _show_deployment(result)
    for line in describe_evidence(judgement.evidence):
        console.say(line)
    files = RunFolder(result.run_folder)
    console.say(f"all trials: {files.trials}; all domains: {files.domains}")
    if files.report.exists():
        console.say(f"report, for any browser: {files.report}")
    if result.folder is None:
        listed = "\n  ".join(judgement.evidence["guard"]["objections"])
        raise RunError(
            f"not exported:\n  {listed}\nthe run is kept; to export it all the same, with these objections in its "
            f"model card: python -m nic_ray.export {shlex.quote(str(result.run_folder))} --export-anyway"
        )
    console.say_how_to_load(result.folder)


def _show_deployment(result: SearchResult) -> None:
    """Print what base models, an index that stays valid and fewer dimensions cost, as far as the search tells."""
    evidence = result.judgement.evidence
    if bases := evidence.get("bases"):
        console.say("\nbase models, on the validation rows:")
        console.show(console.table(BASES, cells_of_bases(bases)))
    if kinds := evidence.get("kinds"):
        console.say("\nwhat an index that stays valid costs, on the validation rows:")
        console.show(console.table(KINDS, cells_of_kinds(kinds)))
    if sizes := evidence.get("truncate_dim"):
        console.say(f"\n{describe_sizes(sizes)}")
        console.show(console.table(*table_of_sizes(sizes)))


def describe_part(part: str) -> str:
    """The heading of the metrics table of a part."""
    return PARTS[part]


def passages_of(evidence: Evidence, part: str) -> Mapping[str, int]:
    """The number of passages that the rows of a part ask about, by domain."""
    counted: Mapping[str, int] = evidence["passages"].get("test" if part == IN_DOMAIN else part, {})
    return counted


def describe_evidence(evidence: Evidence) -> list[str]:
    """The text that is printed after the tables, as a list of lines; `evidence` is that of a `selection.Judgement`."""
    return [
        *_training(evidence),
        *_confirmed(evidence),
        *_averaging(evidence),
        *_intervals(evidence),
        *_retention(evidence),
        *_front(evidence),
        *_words(evidence),
        *_refit(evidence),
        *_leaks(evidence),
        *_readings(evidence),
    ]


def _training(evidence: Evidence) -> Iterator[str]:
    if described := described_training(evidence["trained"]):
        yield f"\ntrained: {described}"
    if warning := cut_off(evidence["trained"]):
        yield warning


def _confirmed(evidence: Evidence) -> Iterator[str]:
    if evidence["confirmed"]:
        yield "\nthe best of the search, trained again with other seeds, on the validation rows:"
    for candidate in evidence["confirmed"]:
        values = ", ".join(f"{value:.3f} with {seed}" for seed, value in candidate["by_seed"].items())
        epochs = "" if candidate["epochs"] is None else f", {candidate['epochs']:.3g} epochs"
        yield f"  {candidate['trial']}: {candidate['mean']:.3f} over {candidate['seeds']} seed(s){epochs} ({values})"


def _averaging(evidence: Evidence) -> Iterator[str]:
    if crossed := evidence.get("averaging"):
        yield f"\n{describe_averaging(crossed)}"


def _intervals(evidence: Evidence) -> Iterator[str]:
    yield from _interval_lines(evidence.get("intervals", {}), "the test rows", evidence)
    if "folds" in evidence:
        yield from _interval_lines(evidence["folds"]["intervals"], "all rows", evidence)


def _interval_lines(intervals: Intervals, rows_named: str, evidence: Evidence) -> Iterator[str]:
    unit = interval_unit(evidence)
    for difference, domains in intervals.items():
        below = difference.partition(" minus ")[2]
        title = with_epochs(difference, below, evidence["trained"])
        yield f"\n{title}, {METRICS[PRIMARY].label} on {rows_named}, with 95 % intervals over {unit}:"
        changes = {domain: interval["difference"] for domain, interval in domains.items() if domain != "macro"}
        for domain in (*shown_domains(changes), "macro"):
            if domain is None:
                yield f"  {omitted_domains(changes)}"
                continue
            interval = domains[domain]
            sure = f"too few {unit} for an interval"
            if interval["low"] is not None and interval["high"] is not None:
                sure = f"{interval['low']:+.3f} to {interval['high']:+.3f}"
            yield (
                f"  {domain}: {interval['difference']:+.3f} ({sure}; {interval['queries']} questions about "
                f"{interval['passages']} {unit})"
            )


def _retention(evidence: Evidence) -> Iterator[str]:
    if evidence["retention"]:
        changes = "; ".join(
            f"{with_epochs(model, model, evidence['trained'])} {_changes(retention)}"
            for model, retention in evidence["retention"].items()
        )
        yield f"\nretention (change on the retention set against the base model): {changes}"
    if kept := evidence.get("neighbours_kept"):
        shares = "; ".join(
            f"{with_epochs(model, model, evidence['trained'])} {share:.1%}" for model, share in kept.items()
        )
        yield f"neighbours of general texts that are the base model's still: {shares}"


def _changes(retention: Mapping[str, float]) -> str:
    return ", ".join(f"{change:+.3f} {METRICS[name].label}" for name, change in retention.items())


def _front(evidence: Evidence) -> Iterator[str]:
    label = METRICS[PRIMARY].label
    yield f"\nbetween the base model (0) and the tuned one (1), validation {label} against retention:"
    for point in path_points(evidence["front"]):
        kept = "" if point.retention is None else f"  {point.retention[PRIMARY]:+.3f}"
        kept += "" if point.neighbours is None else f"  {point.neighbours:.1%} of neighbours kept"
        chosen = "  <- chosen" if point.alpha == evidence["alpha"] else ""
        yield f"  {point.alpha:.1f}: {point.metrics[f'{PRIMARY}/macro']:.3f}{kept}{chosen}"


def _words(evidence: Evidence) -> Iterator[str]:
    found = evidence.get("word_search")
    if found is None:
        return
    part = "test" if "test" in found["figures"] else "validation"
    labels = " and ".join(metric.label for metric in metrics_in(*found["figures"][part].values()).values())
    yield f"\nwith and without a search by words, macro {labels} on the {part} rows:"
    width = max(map(len, found["figures"][part]))
    for ranking, flat in found["figures"][part].items():
        yield f"  {ranking.ljust(width)}  {'  '.join(macro_cells(flat))}"
    yield describe_word_search(found)
    if "calibration" in evidence:
        yield describe_calibration(evidence["calibration"])


def _refit(evidence: Evidence) -> Iterator[str]:
    if "refitted" in evidence:
        yield f"\n{describe_refit(evidence['refitted'])}"


def _leaks(evidence: Evidence) -> Iterator[str]:
    shared = [
        f"{count} {part} row{'s' if count > 1 else ''} ({name})"
        for name, parts in evidence["leaks"].items()
        for part, count in parts.items()
        if count and not (part == "unseen_queries" and ("passage" in name or name == "document"))
    ]
    yield f"shared with the training rows: {', '.join(shared) or 'nothing'}"


def _readings(evidence: Evidence) -> Iterator[str]:
    if warning := describe_readings(evidence.get("readings", [])):
        yield f"warning: {warning}"


def show_comparison(comparison: Comparison, smaller: Sequence[Compressed]) -> None:
    """Print the metrics of a model beside its base model's, and those of smaller embeddings if there are any."""
    if said := question_kinds.caution(comparison.synthetic, comparison.queries):
        console.say(said)
    print(f"{comparison.model}: {describe_rows(comparison)}")
    for line in comparison.warnings:
        console.say(f"warning: {line}")
    console.show_metrics(comparison.results, comparison.asked)
    if len(comparison.asked) - 1 > MAX_SHOWN:
        print("every domain: --json")
    if comparison.kinds:
        console.say("\nby kind of question, means over the questions of a kind:")
        console.show(console.table(*question_kinds.table_of(comparison.kinds)))
    console.say("\nwith and without a search by words (BM25):")
    console.show(console.rankings_table(comparison.rankings))
    if smaller:
        console.say("\nsmaller embeddings, by the model alone:")
        sizes = [(each.dimensions, each.precision, each.bytes, each.metrics) for each in smaller]
        console.show(console.sizes_table(sizes))
