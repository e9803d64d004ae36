"""`python -m nic_ray.convert`: convert an exported model to a format for services without PyTorch."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nic_ray import console, options


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder")],
    form: Annotated[
        Literal["onnx", "int8"], typer.Option("--format", help="ONNX in fp32, or with matrices in 8 bits")
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="folder to write [default: BUNDLE-FORMAT]", show_default=False)
    ] = None,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PAIRS",
            help="file of pairs, or several, on whose validation rows model and graph are compared; the reference set "
            "if omitted",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an older folder")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Convert an exported model to ONNX; needs `pip install -c constraints.txt -e '.[onnx]'`.

    The graph is compared with the model and kept only if it passes: in fp32, the cosine of the two embeddings must be
    at least 0.9999 for every text, in 8 bits at least 0.999 for the golden texts; macro Recall@5 may differ by 0.005.
    Latency is that of one query on one core, tokenization included.
    """
    import json
    from dataclasses import asdict

    from nic_ray.bundle.onnx import convert
    from nic_ray.sources import named_or_reference

    files = named_or_reference(pairs)
    folder = out or bundle.with_name(f"{bundle.name}-{form}")
    say = (lambda _: None) if as_json else console.say
    parity = convert(bundle, folder, form, files, overwrite=overwrite, say=say)
    if as_json:
        print(json.dumps({"folder": str(folder), "format": form} | asdict(parity)))
        return
    rows = [
        [
            name,
            f"{parity.recall[key]:.4f}",
            f"{parity.milliseconds[key]['p50']:.1f} ms",
            f"{parity.milliseconds[key]['p95']:.1f} ms",
            f"{parity.bytes[key] / 1e6:.0f} MB",
        ]
        for name, key in (("Sentence Transformers", "model"), (f"ONNX ({form})", "graph"))
    ]
    console.show(console.table(["model", "macro Recall@5", "p50 a query", "p95 a query", "weights"], rows))
    console.say(f"lowest cosine between the two embeddings of {parity.texts} texts: {parity.lowest_cosine:.6f}")
    console.say(f"lowest cosine with a golden vector: {parity.lowest_golden:.6f}")
    console.say(f"written to {folder}; its README.md shows how to run it")


if __name__ == "__main__":
    console.run(main)
