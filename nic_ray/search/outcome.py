"""What a search leaves in its run folder: tables, results, the report, and the record of its test reading."""

import csv
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from nic_ray.domains import as_csv
from nic_ray.errors import InputError, in_one_line
from nic_ray.evidence import StoredReading, StoredResult, TrialRow
from nic_ray.readings import note_reading, readings_of
from nic_ray.remote import push
from nic_ray.results import CROSS_FIT
from nic_ray.run_folder import RunFolder
from nic_ray.search.run import Run
from nic_ray.selection.selection import SearchResult
from nic_ray.stored import read_result
from nic_ray.training.prepared import Prepared
from nic_ray.training.start import describe_data


def write_trials(path: Path, trials: Sequence[TrialRow]) -> None:
    """Write the table of all trials."""
    columns = list(dict.fromkeys(key for row in trials for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(trials)


def write_result(result: SearchResult, prepared: Prepared, bundle: Path | None) -> None:
    """Write result.json, the table of all domains, and what was retrieved for the test queries.

    Args:
        bundle: the exported folder; None as long as there is none.
    """
    judgement = result.judgement
    content: StoredResult = {
        "bundle": None if bundle is None else str(bundle),
        "objective": prepared.config.search.objective,
        "winner": {
            "trial": judgement.tuned.name,
            "averaged": [member.name for member in judgement.tuned.members],
            "config": judgement.tuned.config.model_dump(mode="json"),
            "metrics": dict(judgement.tuned.metrics),
        },
        "results": judgement.results,
        **judgement.evidence,
        "trials": result.trials,
        **describe_data(prepared),
    }
    RunFolder(result.run_folder).curve.unlink(missing_ok=True)  # of an earlier winner
    path = RunFolder(result.run_folder).result
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    intervals = {"test": judgement.evidence.get("intervals", {})}
    if "folds" in judgement.evidence:
        intervals[CROSS_FIT] = judgement.evidence["folds"]["intervals"]
    every = as_csv(judgement.results, judgement.evidence["passages"], intervals)
    RunFolder(result.run_folder).domains.write_text(every, encoding="utf-8")
    if judgement.queries is None:
        RunFolder(result.run_folder).queries.unlink(missing_ok=True)  # left by an earlier judgement of this run
    else:
        RunFolder(result.run_folder).queries.write_text(json.dumps(judgement.queries), encoding="utf-8")


def write_report(run: Run, say: Callable[[str], None]) -> None:
    """Write the run's report page. A search is worth more than its pictures, so no failure here ends it."""
    from nic_ray.report.html import write_page  # importing plotly takes a second, and it is needed only at the end

    try:
        say(f"report: {write_page(run.folder)}")
    except Exception as error:
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        say(f"{run.files.report}: not written ({reason})")


def copy_results(run: Run) -> None:
    """Copy the results to the mirror of the run, if it has one."""
    if run.mirror:
        for file in filter(Path.exists, run.files.results):
            push(file, run.mirror / file.name)


def note_test_reading(run: Run, prepared: Prepared, model: str) -> list[StoredReading]:
    """Record that the test rows are about to be read, and return all their readings.

    A command that was cut off between its reading and its export, while it trained the winner again, reads nothing new
    if it is resumed with the same winner.
    """
    split = describe_data(prepared)["split"]["sha256"]
    known = readings_of(run.folder, split)
    was_cut_off = (run.files.refits.exists() or run.files.folds.exists()) and not _has_exported(run)
    if known and was_cut_off and (known[-1]["run"], known[-1]["model"]) == (run.folder.name, model):
        return known
    readings = note_reading(
        run.folder,
        command=run.command,
        part="test",
        rows=len(prepared.rows("test")),
        model=model,
        split=split,
    )
    if run.mirror:
        ledger = run.files.readings
        push(ledger, run.mirror / ledger.name)
    return readings


def _has_exported(run: Run) -> bool:
    """Whether the last result of a run names its bundle."""
    with suppress(InputError):
        return bool(read_result(run.folder)["bundle"])
    return False
