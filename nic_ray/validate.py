"""`python -m nic_ray.validate`: test an exported model, beside its base model, through the service that serves it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder")],
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PAIRS", help="pairs whose test rows are asked; the reference set if the model was trained on it"
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="the service that is tested; one is started on this machine if omitted"),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="with --endpoint: the name that it serves the model by")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html|FOLDER", help="page to write, or folder for page and JSON")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Test an exported model through the path on which it is served, and say whether it passes.

    Quality with intervals and what was forgotten, both beside the base model; latency, flagged queries, hashes and
    golden vectors. Without --endpoint the service is started on a free port of this machine, and once more with a
    damaged copy, to see that the base model takes over. The test rows are read, which is noted in the run's folder. A
    token is taken from NIC_RAY_SERVE_TOKEN or OPENAI_API_KEY. Exit code 0: all passes; 1: something failed.
    """
    from nic_ray.progress import view
    from nic_ray.questions.endpoint import refuse_without_httpx2
    from nic_ray.sources import named_or_reference

    refuse_without_httpx2("validate", "serve")
    from nic_ray.acceptance.starting import serve_command, started_by
    from nic_ray.acceptance.trial import validate
    from nic_ray.report import acceptance as report

    report.refuse_place(out)
    corpus = named_or_reference(pairs)
    start = started_by(serve_command(corpus)) if endpoint is None else None
    with view(quiet=as_json) as progress:
        found = validate(
            bundle, corpus if pairs else None, endpoint=endpoint, served_model=served_model, start=start, view=progress
        )
    written = report.write_acceptance(found, out) if out is not None else []
    if as_json:
        print(report.as_json(found))
    else:
        report.show_acceptance(found)
        for path in written:
            console.say(f"written to {path}")
    sys.stdout.flush()
    raise typer.Exit(1 if found.failed else 0)


if __name__ == "__main__":
    console.run(main)
