"""`python -m nic_ray.anomaly`: flag queries that are unlike the questions that a model was tuned for."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nic_ray import console, options


def fit(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder")],
    pairs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PAIRS...", help="file of pairs that it was tuned on, or several; else the reference set"
        ),
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="share of normal questions that may be flagged")
    ] = 0.05,
    detector: Annotated[
        Literal["mahalanobis", "nearest", "components", "autoencoder", "outlier-factor", "forest"],
        typer.Option(help="detector of embeddings that is combined with surface features and the classifier"),
    ] = "mahalanobis",
    as_json: options.AsJson = False,
    device: options.Device = "auto",
) -> None:
    """Fit a detector to the training questions, calibrate it on the validation questions, store it in the bundle.

    The test questions are read for the false alarms alone, and generated abnormal queries for the share that is
    flagged. Fit again whenever the model or its domains change.
    """
    import json

    from nic_ray.bundle.detector_fit import fit_detector
    from nic_ray.hardware import pick_device
    from nic_ray.report.anomaly import show_detector
    from nic_ray.sources import named_or_reference

    place = pick_device(device, "--device")
    say, warnings = (lambda _: None) if as_json else console.say, list[str]()
    files = named_or_reference(pairs)
    fitted = fit_detector(
        bundle, files, name=detector, false_alarms=false_alarms, say=say, warn=warnings.append, device=place
    )
    if as_json:
        stored = {name: value for name, value in fitted.record.items() if name != "questions"}
        print(json.dumps({**stored, "warnings": warnings}))
        return
    show_detector(fitted.record)
    for line in warnings:
        console.say(f"warning: {line}")


def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder with a detector")],
    queries: Annotated[
        Path | None,
        typer.Argument(
            metavar="ABNORMAL", help="JSON lines with query and kind, or a query a line; without it, the stored figures"
        ),
    ] = None,
    as_json: options.AsJson = False,
    device: options.Device = "auto",
) -> None:
    """Print the share of queries that a bundle's detector flags, by kind, beside its figures from when it was fitted.

    Its classifier has seen generated queries of the kinds that the first table lists; what it finds in a file with
    queries of such kinds tells nothing of kinds that nobody has thought of.
    """
    import json

    from nic_ray.bundle.assessed import shares_by_kind
    from nic_ray.bundle.detector import read_detector
    from nic_ray.bundle.query_files import read_queries
    from nic_ray.hardware import pick_device
    from nic_ray.report.anomaly import show_detector, show_shares

    place = pick_device(device, "--device")
    record = read_detector(bundle).record
    shares = [] if queries is None else shares_by_kind(bundle, read_queries(queries), place)
    if as_json:
        print(json.dumps({"normal": record["normal"], "abnormal": record["abnormal"], "file": shares}))
        return
    show_detector(record)
    if shares:
        console.say(f"\n{queries}:")
        show_shares(shares)


def score(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder with a detector")],
    queries: Annotated[list[str] | None, typer.Argument(metavar="QUERY...", help="queries to assess")] = None,
    file: Annotated[Path | None, typer.Option(help="file of queries, one a line, or JSON lines with query")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON object a query instead")] = False,
    device: options.Device = "auto",
) -> None:
    """Assess queries: p-value, flag, what objects, and the nearest normal question. Advice: it blocks nothing."""
    import json
    from dataclasses import asdict

    from nic_ray.bundle.assessed import assess_with, describe
    from nic_ray.bundle.query_files import read_queries
    from nic_ray.errors import InputError
    from nic_ray.hardware import pick_device

    if bool(queries) == (file is not None):
        raise InputError("name either a QUERY or several, or a --file of them")
    place = pick_device(device, "--device")
    texts = queries or [line.query for line in read_queries(file or Path())]
    for verdict in assess_with(bundle, place)(texts):
        console.say(json.dumps(asdict(verdict), ensure_ascii=False) if as_json else describe(verdict))


def watch(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder with a detector")],
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="queries in their order, one a line, or JSON lines as of score --json")
    ],
    as_json: options.AsJson = False,
    device: options.Device = "auto",
) -> None:
    """Say when the share of flagged queries in a log leaves the band of chance, and what the flagged ones share.

    Exit code 0: within the band; 1: more are flagged than chance allows.
    """
    import json
    from dataclasses import asdict

    from nic_ray.bundle.assessed import watch_log
    from nic_ray.bundle.query_files import read_queries
    from nic_ray.hardware import pick_device
    from nic_ray.report.anomaly import show_drift

    found = watch_log(bundle, read_queries(log), pick_device(device, "--device"))
    drifts = any(band.drifts for band in found.bands)
    if as_json:
        print(json.dumps({**asdict(found), "drifts": drifts}))
    else:
        show_drift(found)
    raise typer.Exit(1 if drifts else 0)


def main() -> None:
    """Flag queries that are unlike the questions that a model was tuned for."""
    console.run_verbs(console.Verbs(main.__doc__ or "", (fit, evaluate, score, watch)))


if __name__ == "__main__":
    main()
