"""The ledger of a run: who has read its test rows, when, and of which model.

A figure of the test rows can be believed because nothing was chosen by them. From the second reading on, whoever
chooses has seen the first.
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
LISTED = 3  # earlier readings that a sentence names


def note_reading(
    run_folder: Path, *, command: str, part: str, rows: int, model: str, split: str | None, when: datetime | None = None
) -> list[StoredReading]:
    """Write down that test rows are about to be read.

    Args:
        run_folder: of the run that has held them back.
        command: that reads them.
        part: what it reads: "test", or "all" where they are among others.
        rows: how many test rows that are.
        model: whose figures come of it.
        split: SHA-256 of which row is in which part. Runs of the same one hold back the same rows.
        when: now, if None. What a command reads of several models at once is one reading, and has one time.

    Returns:
        every reading of these rows that this run and those beside it know of, the new one last.

    Raises:
        OSError: it cannot be written.
    """
    # to the microsecond: `merged` takes two rows that are equal for one reading
    now = (when or datetime.now(UTC)).isoformat(timespec="microseconds")
    row = StoredReading(when=now, command=command, part=part, rows=rows, model=model, run=run_folder.name)
    known = readings_of(run_folder, split)
    add_line(RunFolder(run_folder).readings, {**row, "split": split})
    return [*known, row]


def readings_of(run_folder: Path, split: str | None) -> list[StoredReading]:
    """What a run, and those beside it, know of readings of a split's test rows, the oldest first."""
    own = RunFolder(run_folder).readings
    found = _rows_of(own, split)
    if split is not None:
        for path in sorted(run_folder.resolve().parent.glob(f"*/{own.name}")):
            if path.parent != run_folder.resolve():
                with suppress(OSError):
                    found += _rows_of(path, split)
    return sorted(found, key=_when)


def _rows_of(path: Path, split: str | None) -> list[StoredReading]:
    """Readings of a split in a ledger; a row that lacks something, or is damaged, is none."""
    readings = []
    for row in read_lines(path):
        if row.pop("split", None) == split:
            with suppress(InputError):
                readings.append(checked(row, StoredReading, path, "leave the line out"))
    return readings


def _when(reading: StoredReading) -> str:
    return reading["when"]


def merged(*known: Sequence[StoredReading]) -> list[StoredReading]:
    """Readings that are known from several places, each once, the oldest first."""
    once: list[StoredReading] = []
    for reading in (reading for readings in known for reading in readings):
        if reading not in once:
            once.append(reading)
    return sorted(once, key=_when)


def describe_readings(readings: Sequence[StoredReading]) -> str | None:
    """What has to be said of readings if the last of them was not the first; else None."""
    if not readings:
        return None
    # one for all models that a command has read at once
    *earlier, last = {(row["when"], row["command"]): row for row in readings}.values()
    if not earlier:
        return None
    listed = "; ".join(described(row) for row in earlier[-LISTED:])
    more = f", of which the last {LISTED} were" if len(earlier) > LISTED else ""
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    return (
        f"the {last['rows']} test rows had been read {times} before{more}: {listed}. What was chosen since may have "
        "been chosen by them, and a figure of theirs is then too good"
    )


def described(reading: StoredReading) -> str:
    """A reading in a few words."""
    return f"{reading['when']} by {reading['command']}, of {reading['model']} ({reading['run']})"


def cells_of(readings: Sequence[StoredReading]) -> list[list[str]]:
    """Rows of a table with `COLUMNS`."""
    return [[row["when"], row["command"], row["part"], str(row["rows"]), row["model"], row["run"]] for row in readings]
