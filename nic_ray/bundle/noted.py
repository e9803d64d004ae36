"""The note that is made where a command reads the test rows of a bundle's run."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from nic_ray.dataset.split import Part
from nic_ray.evidence import Metadata
from nic_ray.readings import describe_readings, merged, note_reading
from nic_ray.run_folder import RunFolder


def noted_reading(
    model: str, metadata: Metadata, split: Part | Literal["all"], command: str, when: datetime | None = None
) -> Iterator[str]:
    """Record, in the folder of the run that made a model, that its test rows are about to be read.

    Yields:
        warnings for the user, one line each.
    """
    if split not in ("test", "all"):
        return
    run, known = Path(metadata.get("run", "")), metadata.get("readings", [])
    try:
        if not RunFolder(run).config.is_file():
            raise FileNotFoundError
        recorded = note_reading(
            run,
            command=command,
            part=split,
            rows=metadata["split"].get("rows", {}).get("test", 0),
            model=model,
            split=metadata["split"].get("sha256"),
            when=when,
        )
    except OSError:
        before = f" (readings that it brings along: {len(known)})" if known else ""
        yield (
            f"{model}: this reading of its test rows{before} is not recorded, the folder of its run "
            f"({metadata.get('run', 'unknown')}) is not there or cannot be written"
        )
        return
    if warning := describe_readings(merged(known, recorded)):
        yield f"{model}: {warning}"
