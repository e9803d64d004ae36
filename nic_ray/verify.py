"""`python -m nic_ray.verify`: verify that an exported model has not changed since its export."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder")],
    as_json: options.AsJson = False,
) -> None:
    """Verify an exported model: the SHA-256 of every file, no missing or extra files, and its base model's weights.

    An anomaly detector that was fitted to it is checked too, and the model must give, on this machine and with these
    libraries, the vectors that it gave of the golden texts when it was exported. The base model is checked if it is on
    this machine: the packaged one, or a folder. Exit code 0: sound; 1: not.
    """
    import json

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
