"""Shows how well a model finds the right passage in each domain, beside its base model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nic_ray import console


def main(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="exported folder, other model folder, or all-MiniLM-L6-v2")
    ],
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="JSONL file of pairs")] = Path(
        "data/reference/pairs.jsonl"
    ),
    split: Annotated[
        Literal["test", "validation", "train", "all"],
        typer.Option(help="rows that ask; all: every row. A reading of test rows is noted in the run's folder"),
    ] = "validation",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
) -> None:
    """Evaluate a model: Recall@5 and MRR of each domain, with those of its base model.

    Every query is ranked over the passages of all parts. An exported model is read on the split that it was
    trained with, if PAIRS is the file that it was trained on; otherwise the default split applies. The test rows are
    for the end: once you choose by them, nothing is left that tells what the choice is worth.
    """
    import json
    from dataclasses import asdict

    from nic_ray.comparison import compare_with_base, describe_rows

    comparison = compare_with_base(model, pairs, split)
    if as_json:
        print(json.dumps(asdict(comparison)))
        return
    print(f"{model}: {describe_rows(comparison)}")
    for line in comparison.warnings:
        console.say(f"warning: {line}")
    console.show(console.metrics_table(comparison.results))


if __name__ == "__main__":
    console.run(main)
