"""`python -m nic_ray.train`: train one configuration, without a search."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of settings; those under `train` are trained with")
    ] = None,
    data: console.PairsOption = None,
    corpus: options.Corpus = None,
    out: Annotated[Path, typer.Option(help="folder that receives the run's folder")] = Path("runs"),
    resume: Annotated[
        Path | None,
        typer.Option(help="run folder to resume from its last checkpoint, with its own settings"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="print only the result")] = False,
) -> None:
    """Train one configuration, with a checkpoint per epoch, and store the best model in the run's folder."""
    from nic_ray.config_file import load_config
    from nic_ray.errors import InputError
    from nic_ray.progress import view
    from nic_ray.search.train_single import resume as go_on
    from nic_ray.search.train_single import train_one

    if config is None and resume is None:
        raise InputError("name a CONFIG, such as tune_configs/cpu.yaml, or a run folder to --resume")
    if resume is not None and config is None and (data or corpus):
        named, own = ("--data", "pairs") if data else ("--corpus", "corpus")
        raise InputError(f"{named}: a resumed run goes on with its own {own}; leave it out, or start anew")
    settings = None if config is None else load_config(config, {"data.pairs": data or None, "data.corpus": corpus})
    with view(quiet=quiet) as progress:
        if resume is not None:
            trained = go_on(resume, settings, view=progress)
        else:
            assert settings is not None
            trained = train_one(settings, out=out, view=progress)
    if trained.caution is not None:
        console.say(f"\n{trained.caution}")
    for part, results in trained.results.items():
        console.say(f"\n{part}")
        console.show_metrics(results, trained.passages[part])
    console.say_how_to_load(trained.folder)


if __name__ == "__main__":
    console.run(main)
