"""`python -m nic_ray.evaluate`: evaluate how well a model retrieves the right passage, beside its base model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="exported folder, other model folder, or all-MiniLM-L6-v2")
    ],
    pairs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PAIRS...|FOLDER", help="files of pairs, or a BEIR folder; else the reference set"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="test|validation|train|all",
            help="part of PAIRS whose queries are used (default validation; all: every row; use of test rows is noted "
            "in the run's folder), or name of the qrels of FOLDER (default test)",
        ),
    ] = None,
    dimensions: Annotated[
        str | None,
        typer.Option(help="numbers of leading dimensions, such as 256,128, at which embeddings are cut off as well"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="formats that embeddings are kept in as well, int8,binary, as Sentence Transformers makes them"
        ),
    ] = None,
    metrics: options.Metrics = None,
    corpus: options.Corpus = None,
    run: Annotated[Path | None, typer.Option(metavar="FILE", help="TREC run to write, qrels beside it")] = None,
    beir: Annotated[Path | None, typer.Option(metavar="FILE", help="results to write in BEIR's form")] = None,
    as_json: options.AsJson = False,
    device: options.Device = "auto",
) -> None:
    """Evaluate a model: Recall@5, MRR and other metrics of each domain, with those of its base model.

    For every query, the passages of all parts are ranked. An exported model is evaluated on the split that it was
    trained with if PAIRS is the file that it was trained on; otherwise the default split applies. Keep the test rows
    for the end: once you choose a model by them, no rows are left that tell how good it really is.

    A FOLDER is in BEIR format, with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, and counts as one domain. If its
    subject has nothing to do with the training, the result shows how much a model has forgotten.

    --run writes the first 1,000 passages of each query, --beir nDCG, MAP, recall, precision and MRR at several depths.
    """
    import json
    from dataclasses import asdict

    from nic_ray.bundle import compressed, run_files
    from nic_ray.bundle.comparison import compare
    from nic_ray.bundle.wanted import Wanted
    from nic_ray.hardware import pick_device
    from nic_ray.metrics.table import parse_metrics
    from nic_ray.model.evaluation import Asked
    from nic_ray.progress import view
    from nic_ray.report.terminal import show_comparison
    from nic_ray.sources import named_or_reference

    files = named_or_reference(pairs)
    place = pick_device(device, "--device")
    sizes, formats = compressed.parse_dimensions(dimensions), compressed.parse_precisions(precision)
    run_files.refuse_existing(run, None if run is None else run_files.qrels_of(run), beir)
    kept: list[Asked] = []
    wanted = Wanted(parse_metrics(metrics, "--metrics"), corpus, kept.append)
    with view(quiet=as_json or not sys.stdout.isatty()) as progress:
        comparison = compare(model, files, split, view=progress, device=place, wanted=wanted)
    run_files.write_files(kept[0], run, beir)
    smaller = compressed.results_by_size(kept[0], sizes, formats) if sizes or len(formats) > 1 else []
    if as_json:
        print(json.dumps(asdict(comparison) | ({"smaller": list(map(asdict, smaller))} if smaller else {})))
        return
    show_comparison(comparison, smaller)


if __name__ == "__main__":
    console.run(main)
