"""`python -m nic_ray.tune`: search for the best configuration, and export its model."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of settings [default: tune_configs/cpu.yaml]", show_default=False)
    ] = None,
    data: console.PairsOption = None,
    corpus: options.Corpus = None,
    from_model: Annotated[
        Path | None,
        typer.Option("--from", metavar="MODEL", help="exported model to tune further, its own pairs included"),
    ] = None,
    replay: Annotated[list[Path] | None, typer.Option(help="file of that model's pairs, if it was moved")] = None,
    out: Annotated[Path, typer.Option(help="folder that receives the exported model's folder")] = Path("models"),
    name: Annotated[str, typer.Option(help="name and version of the exported model")] = "nic-embeddings-v1.0",
    trials: Annotated[int | None, typer.Option(help="number of trials in all, instead of the config's")] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(metavar="30m", help="time after which no trial continues; the results so far are judged"),
    ] = None,
    run_dir: Annotated[Path, typer.Option(help="folder that receives the run's folder")] = Path("runs"),
    export_anyway: Annotated[
        bool, typer.Option("--export-anyway", help="export even what the guard objects to; the model card says so")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN_DIR", help="run folder of a search to resume, with its own settings; more trials with --trials"
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="shared folder or URI (s3://...) that receives runs/ and models/, on a cluster")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join, instead of RAY_ADDRESS")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an exported model of that name")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print only the result")] = False,
) -> None:
    """Search for the configuration whose model retrieves best in every domain, and export that model."""
    from nic_ray.config_file import load_config
    from nic_ray.dataset.ahead import refuse_faulty_pairs
    from nic_ray.progress import view
    from nic_ray.search.session import ray_begun

    chosen = config or Path("tune_configs/cpu.yaml")
    amount: dict[str, object] = {"search.trials": trials, "search.time_budget": time_budget}
    given: dict[str, object] = {"data.pairs": data or None, "data.corpus": corpus, "storage": storage, **amount}
    settings = None if resume is not None or from_model or replay else load_config(chosen, given)
    with view(quiet=quiet) as progress, ray_begun(address):
        refuse_faulty_pairs(settings)  # now, since the imports take seconds
        from nic_ray.report.terminal import show_result
        from nic_ray.search.continuing import continued_settings
        from nic_ray.search.run import refuse_new_settings
        from nic_ray.search.search import resume_search, run_search

        allowed = {"overwrite": overwrite, "export_anyway": export_anyway}
        if resume is not None:
            fixed = {"--data": data or None, "--corpus": corpus, "--from": from_model, "--storage": storage}
            refuse_new_settings(resume, config, fixed | {"--replay": next(iter(replay or []), None)})
            result = resume_search(resume, runs_trials=True, further=amount, view=progress, **allowed)
        else:
            settings = settings or load_config(chosen, given | continued_settings(from_model, replay or []))
            result = run_search(settings, out=out, name=name, run_root=run_dir, view=progress, **allowed)
    show_result(result)


if __name__ == "__main__":
    console.run(main)
