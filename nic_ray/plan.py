"""`python -m nic_ray.plan`: predict what a search will take, before it is started."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nic_ray import console, options


def main(
    config: Annotated[Path, typer.Argument(help="YAML file of settings")] = Path("tune_configs/cpu.yaml"),
    data: console.PairsOption = None,
    corpus: options.Corpus = None,
    trials: Annotated[int | None, typer.Option(help="number of trials, instead of the config's")] = None,
    time_budget: Annotated[str | None, typer.Option(metavar="30m", help="as for nic_ray.tune")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="train.device, instead of the config's; auto keeps the config's"),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, seconds and bytes")] = False,
) -> None:
    """Train for about a minute on the data of the trials, and predict the time, memory and disk space of the search.

    If the trials are to train on GPUs and this machine has none, only memory and disk space are predicted.
    """
    import dataclasses
    import json

    from nic_ray.config_file import load_config
    from nic_ray.search.forecast import forecast

    overrides = {
        "data.pairs": data or None,
        "data.corpus": corpus,
        "search.trials": trials,
        "search.time_budget": time_budget,
    }
    settings = load_config(config, overrides | {"train.device": None if device == "auto" else device})
    costs = forecast(settings)
    if as_json:
        console.say(json.dumps(dataclasses.asdict(costs)))
        return
    minutes = {
        "the first trial, all epochs": costs.first_trial_s,
        "a trial on average, all epochs": costs.mean_trial_s,
        "frozen activations, once": costs.activations_s,
        f"{costs.trials} trials, {costs.concurrent} at a time, {costs.epochs:.0f} epochs in all": costs.search_s,
        "the best again with other seeds": costs.confirm_s,
        "interpolation, guard, test, export": costs.end_s,
        "training again for the export": costs.refit_s,
        "in all": costs.total_s,
    }
    rows = [[name, f"{seconds / 60:.1f} min"] for name, seconds in minutes.items() if seconds is not None]
    if not rows:
        console.say(
            "trials are to train on GPUs, and PyTorch sees none here: the time on one cannot be predicted on this "
            "machine; --device cpu predicts the search on its CPUs"
        )
    room = {
        "memory": costs.memory,
        "of it or on disk: activations": costs.activations,
        "disk: activations and checkpoints": costs.disk,
    }
    rows += [*([[]] if rows else []), *([name, f"{size / 2**30:.2f} GiB"] for name, size in room.items())]
    console.show(console.table(["", "predicted"], rows))
    if wider := costs.every_depth:
        budget, trials_s = settings.search.time_budget, (wider.search_s or 0.0) + (wider.confirm_s or 0.0)
        fits = "" if budget is None else f", {'within' if trials_s <= budget else 'beyond'} the time budget"
        console.say(
            f"with every depth under space.frozen_layers, the same trials would take {trials_s / 60:.1f} min{fits}"
        )


if __name__ == "__main__":
    console.run(main)
