"""`python -m nic_ray.export`: export the best model that a search has found so far, finished or not."""

from typing import Annotated

import typer

from nic_ray import console


def main(
    run_folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="run folder of a search")],
    export_anyway: Annotated[
        bool, typer.Option("--export-anyway", help="export even what the guard objects to; the model card says so")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an exported model of that name")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print only the result")] = False,
) -> None:
    """Export the best model of a search so far, by the same rules as at its end, the guard included.

    No trial goes on; the winner is trained again on all rows, as at the end of a search, and the test rows are read,
    so do this only once.
    """
    from nic_ray.progress import view
    from nic_ray.report.terminal import show_result
    from nic_ray.search.search import resume_search

    with view(quiet=quiet) as progress:
        result = resume_search(
            run_folder, runs_trials=False, overwrite=overwrite, export_anyway=export_anyway, view=progress
        )
    show_result(result)


if __name__ == "__main__":
    console.run(main)
