"""`python -m nic_ray.verify`: verify that an exported model has not changed since its export."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder")],
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="compare what this OpenAI-compatible endpoint serves with the folder"),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="with --endpoint: the name that it serves the model by")
    ] = None,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PAIRS",
            help="with --endpoint: pairs whose test rows are asked; the reference set if the model was trained on it",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Verify an exported model: the SHA-256 of every file, no missing or extra files, and its base model's weights.

    An anomaly detector that was fitted to it is checked too, and the model must give, on this machine and with these
    libraries, the vectors that it gave of the golden texts when it was exported. The base model is checked if it is on
    this machine: the packaged one, or a folder.

    With --endpoint, what a server gives is compared in place of that: the golden vectors (cosine at least 0.9999 in
    fp32, 0.999 in 8 bits), and Recall@5 of the test rows. How it handles prompts and long texts is told. A token is
    taken from NIC_RAY_SERVE_TOKEN or OPENAI_API_KEY. Exit code 0: sound; 1: not.
    """
    import json

    if endpoint is not None:
        from dataclasses import asdict

        from nic_ray.progress import view
        from nic_ray.questions.endpoint import refuse_without_httpx2
        from nic_ray.sources import named_or_reference

        refuse_without_httpx2("--endpoint", "serve")
        from nic_ray.bundle.served_verification import verified_endpoint
        from nic_ray.report.served import show_served

        with view(quiet=as_json or not sys.stdout.isatty()) as progress:
            served = verified_endpoint(
                bundle, endpoint, served_model, named_or_reference(pairs) if pairs else None, view=progress
            )
        print(json.dumps(asdict(served))) if as_json else show_served(served, bundle)
        raise typer.Exit(1 if served.faults else 0)

    from nic_ray.bundle.detector import has_detector
    from nic_ray.bundle.verification import verified
    from nic_ray.errors import RunError

    found = verified(bundle)
    if as_json:
        shown = {"bundle": str(bundle), "faults": found.faults, "base_model_checked": found.base_checked}
        print(json.dumps(shown | {"golden_texts": found.golden}))
        raise typer.Exit(1 if found.faults else 0)
    if found.faults:
        number = len(found.faults)
        raise RunError("\n  ".join([f"{bundle}: {number} fault{'s' if number > 1 else ''}", *found.faults]))
    where = (
        f"{found.base_model}, which has the weights it was made of"
        if found.base_checked
        else f"{found.base_model}, which is not on this machine and was not checked"
    )
    golden = f"; embeds {found.golden} golden texts as when it was exported" if found.golden else ""
    detector = "; anomaly detector sound" if has_detector(bundle) else ""
    print(f"{bundle}: sound, {found.files} files; base model {where}{golden}{detector}")


if __name__ == "__main__":
    console.run(main)
