"""`python -m nic_ray.curve`: tell what more pairs would bring, from trainings on a part of the pairs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="run folder of a search that has ended")],
    shares: Annotated[
        str, typer.Option(metavar="0.25,0.5,1", help="shares of the training passages to train on")
    ] = "0.25,0.5,1",
    as_json: options.AsJson = False,
) -> None:
    """Train the winner of a search again on growing shares of its training passages, and say what doubling brings.

    Every model is scored on the test rows of the search, and this reading of them is noted in the run's folder. The
    curve is kept there, and stands in its report from then on.
    """
    import json

    from nic_ray.bundle.descriptions import describe_curve
    from nic_ray.errors import InputError
    from nic_ray.metrics.table import macro_cells
    from nic_ray.progress import view
    from nic_ray.report.html import write_page
    from nic_ray.search.learning_curve import learning_curve

    try:
        asked = [float(share) for share in shares.split(",")]
    except ValueError:
        raise InputError(f"--shares: want numbers separated by commas, such as 0.25,0.5,1, got {shares!r}") from None
    with view(quiet=as_json or not sys.stdout.isatty()) as progress:
        curve = learning_curve(run_folder, asked, view=progress)
    if as_json:
        print(json.dumps(curve))
        return
    rows = [
        [
            "base model" if not point["share"] else f"{point['share']:.0%}",
            f"{point['passages']:,}",
            f"{point['rows']:,}",
            *macro_cells(point["metrics"]),
        ]
        for point in curve["points"]
    ]
    labels = console.macro_columns(*(point["metrics"] for point in curve["points"]))
    console.show(console.table(["trained on", "pas-sages", "rows", *labels], rows))
    console.say(describe_curve(curve))
    console.say(f"report: {write_page(run_folder)}")


if __name__ == "__main__":
    console.run(main)
