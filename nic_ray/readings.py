"""The record of a run's test readings: which command read its test rows, when, and for which model.

A result on the test rows can be trusted because nothing was chosen by them. From the second reading on, any choice may
have been made in the knowledge of the first.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from nic_ray.errors import InputError
from nic_ray.evidence import StoredReading
from nic_ray.record import add_line, read_lines
from nic_ray.run_folder import RunFolder
from nic_ray.stored import checked

COLUMNS = ["when", "command", "part", "rows", "model", "run"]
MAX_LISTED = 3
"""Number of earlier readings that a sentence lists."""


def note_reading(
    run_folder: Path, *, command: str, part: str, rows: int, model: str, split: str | None, when: datetime | None = None
) -> list[StoredReading]:
    """Record that test rows are about to be read.

    Args:
        run_folder: folder of the run that has held the rows back.
        command: the command that reads them.
        part: the part that it reads: "test", or "all" where the test rows are read among others.
        rows: number of test rows.
        model: the model that is evaluated.
        split: SHA-256 of the assignment of rows to parts. Runs with the same value hold back the same rows.
        when: time of the reading; None means now. A command that evaluates several models makes one reading, with one
            time.

    Returns:
        all readings of these rows that are recorded in this run and in the runs beside it, the new one last.

    Raises:
        OSError: the record cannot be written.
    """
    # to the microsecond: `merged` treats two equal rows as one reading
    now = (when or datetime.now(UTC)).isoformat(timespec="microseconds")
    row = StoredReading(when=now, command=command, part=part, rows=rows, model=model, run=run_folder.name)
    known = readings_of(run_folder, split)
    add_line(RunFolder(run_folder).readings, {**row, "split": split})
    return [*known, row]


def readings_of(run_folder: Path, split: str | None) -> list[StoredReading]:
    """The readings of a split's test rows that are recorded in a run and in the runs beside it, the oldest first."""
    file = RunFolder(run_folder).readings
    rows = _rows_of(file, split)
    if split is not None:
        for path in sorted(run_folder.resolve().parent.glob(f"*/{file.name}")):
            if path.parent != run_folder.resolve():
                with suppress(OSError):
                    rows += _rows_of(path, split)
    return sorted(rows, key=_when)


def _rows_of(path: Path, split: str | None) -> list[StoredReading]:
    """Read the readings of a split's test rows from a file; damaged and incomplete rows are skipped."""
    readings = []
    for row in read_lines(path):
        if row.pop("split", None) == split:
            with suppress(InputError):
                readings.append(checked(row, StoredReading, path, "leave the line out"))
    return readings


def _when(reading: StoredReading) -> str:
    return reading["when"]


def merged(*known: Sequence[StoredReading]) -> list[StoredReading]:
    """Merge readings from several sources without duplicates, the oldest first."""
    once: list[StoredReading] = []
    for reading in (reading for readings in known for reading in readings):
        if reading not in once:
            once.append(reading)
    return sorted(once, key=_when)


def describe_readings(readings: Sequence[StoredReading]) -> str | None:
    """A warning that the test rows had been read before the last reading; None if they had not."""
    if not readings:
        return None
    # one reading for all models that a command evaluated at once
    *earlier, last = {(row["when"], row["command"]): row for row in readings}.values()
    if not earlier:
        return None
    listed = "; ".join(described(row) for row in earlier[-MAX_LISTED:])
    more = f", of which the last {MAX_LISTED} were" if len(earlier) > MAX_LISTED else ""
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    return (
        f"the {last['rows']} test rows had been read {times} before{more}: {listed}. What was chosen since may have "
        "been chosen by them, and a figure of theirs is then too good"
    )


def described(reading: StoredReading) -> str:
    """A reading as short text."""
    return f"{reading['when']} by {reading['command']}, of {reading['model']} ({reading['run']})"


def cells_of(readings: Sequence[StoredReading]) -> list[list[str]]:
    """The readings as rows of a table with the columns `COLUMNS`."""
    return [[row["when"], row["command"], row["part"], str(row["rows"]), row["model"], row["run"]] for row in readings]
