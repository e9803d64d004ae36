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

    An anomaly detector that was fitted to it is checked too. The base model is checked if it is on this machine: the
    packaged one, or a folder. Exit code 0: sound; 1: not.
    """
    import json

    from nic_ray.bundle.detector import detector_faults, has_detector
    from nic_ray.bundle.files import find_faults, read_metadata
    from nic_ray.errors import RunError
    from nic_ray.model.base import base_faults

    metadata = read_metadata(bundle)
    faults = find_faults(bundle) + detector_faults(bundle)
    allowed = bool(metadata.get("config", {}).get("trust_remote_code"))
    base = base_faults(metadata["base_model"], metadata.get("base_weights_sha256"), trust_remote_code=allowed)
    faults += base or []
    if as_json:
        print(json.dumps({"bundle": str(bundle), "faults": faults, "base_model_checked": base is not None}))
        raise typer.Exit(1 if faults else 0)
    if faults:
        raise RunError("\n  ".join([f"{bundle}: {len(faults)} fault{'s' if len(faults) > 1 else ''}", *faults]))
    files = f"{len(metadata['files'])} files"
    where = (
        f"{metadata['base_model']}, which has the weights it was made of"
        if base is not None
        else (f"{metadata['base_model']}, which is not on this machine and was not checked")
    )
    detector = "; anomaly detector sound" if has_detector(bundle) else ""
    print(f"{bundle}: sound, {files}; base model {where}{detector}")


if __name__ == "__main__":
    console.run(main)
