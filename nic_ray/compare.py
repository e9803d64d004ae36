"""`python -m nic_ray.compare`: compare how often models retrieve the right passage, with intervals for each domain."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nic_ray import console, options


def main(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL MODEL...", help="run folders, exported folders, other models")
    ],
    pairs: Annotated[
        list[Path] | None,
        typer.Option(metavar="PAIRS", help="file or folder of pairs, or several; the reference set if omitted"),
    ] = None,
    split: Annotated[
        Literal["test", "validation", "train", "all"],
        typer.Option(help="part whose queries are used; all: every row. Use of test rows is noted in the run's folder"),
    ] = "validation",
    corpus: options.Corpus = None,
    as_json: options.AsJson = False,
    device: options.Device = "auto",
) -> None:
    """Compare models on the same rows: Recall@5 of each domain, and each model's difference from the first.

    The differences are paired by query, with 95 % intervals over passages. Rows that a model was trained on favour
    it; a warning says where that may be the case. Keep the test rows for the end: once you choose a model by them,
    no rows are left that tell how good it really is.
    """
    import json
    from dataclasses import asdict

    from nic_ray.bundle.comparison import compare_models, verdict
    from nic_ray.bundle.wanted import Wanted
    from nic_ray.domains import MAX_SHOWN, omitted_domains, shown_domains
    from nic_ray.hardware import pick_device
    from nic_ray.metrics.table import METRICS, PRIMARY
    from nic_ray.sources import named_or_reference, shown

    files = named_or_reference(pairs)
    say = (lambda _: None) if as_json else console.say
    place, wanted = pick_device(device, "--device"), Wanted(corpus=corpus)
    ranking = compare_models(models, files, split, say=say, device=place, wanted=wanted)
    if as_json:
        print(json.dumps(asdict(ranking)))
        return
    whose = f"as {ranking.split_from} was trained" if ranking.split_from else "by the default split"
    rows = f"all rows of {shown(files)}" if split == "all" else f"{split} part of {shown(files)}, {whose}"
    console.say(f"\n{rows}: {ranking.queries} queries, ranked over {ranking.passages} passages")
    for line in ranking.warnings:
        console.say(f"warning: {line}")
    first, heading = models[0], f"{METRICS[PRIMARY].label} of A"
    for other, intervals in ranking.intervals.items():
        console.say(f"\n{heading} = {first}\n{'B'.rjust(len(heading))} = {other}")
        changes = {domain: interval.difference for domain, interval in intervals.items() if domain != "macro"}
        lines = []
        for domain in (*shown_domains(changes), "macro"):
            if domain is None:
                lines.append([omitted_domains(changes)])
                continue
            interval = intervals[domain]
            values = (f"{ranking.results[model][f'{PRIMARY}/{domain}']:.3f}" for model in (first, other))
            sure = f"too few {ranking.unit}" if interval.low is None else f"{interval.low:+.3f} to {interval.high:+.3f}"
            lines.append([domain, str(interval.passages), *values, f"{interval.difference:+.3f}", sure])
        console.show(console.table(["domain", ranking.unit, "A", "B", "B - A", "95 % interval"], lines))
        if len(changes) > MAX_SHOWN:
            console.say("every domain: --json")
        console.say(verdict(intervals["macro"]))
    console.say("\nwith and without a search by words (BM25):")
    console.show(console.rankings_table(ranking.rankings))


if __name__ == "__main__":
    console.run(main)
