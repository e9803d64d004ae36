"""`python -m nic_ray.tune`: search, pick the winner, export it."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console


def main(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; tune_configs/ holds some")] = Path(
        "tune_configs/cpu.yaml"
    ),
    data: Annotated[Path | None, typer.Option(help="JSONL file of pairs, instead of the config's")] = None,
    out: Annotated[Path, typer.Option(help="folder that receives the exported model's folder")] = Path("models"),
    name: Annotated[str, typer.Option(help="name and version of the exported model")] = "nic-embeddings-v1.0",
    trials: Annotated[int | None, typer.Option(help="number of trials, instead of the config's")] = None,
    run_dir: Annotated[Path, typer.Option(help="folder that receives the run's folder")] = Path("runs"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an exported model of that name")] = False,
) -> None:
    """Search for the configuration whose model retrieves best in every domain, and export that model."""
    from nic_ray.config import load_config
    from nic_ray.search import run_search

    settings = load_config(config, {"data.pairs": data, "search.trials": trials})
    outcome = run_search(settings, out=out, name=name, run_root=run_dir, overwrite=overwrite, say=console.say)
    for part, results in outcome.results.items():
        console.say(f"\n{part}, {settings.data.protocol}")
        console.show(console.metrics_table(results))
    console.say(f"winner: {outcome.winner.name} of {len(outcome.trials)}; all trials: {outcome.run_folder}/trials.csv")
    console.say(f'load it with: SentenceTransformer("{outcome.folder}")')


if __name__ == "__main__":
    console.run(main)
