"""What makes files of pairs unusable, as an error message: by file, and by line."""

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nic_ray.sources import Sources, shown
from nic_ray.sources import listed as paths_of

if TYPE_CHECKING:
    from nic_ray.dataset.pairs import Pair

MAX_LISTED = 20
"""Number of faults that an error message lists."""
LISTED_BY_CHECK = 100
RUNS_LISTED = 10
"""Number of ranges of lines that are listed for one fault."""


@dataclass(frozen=True)
class Problem:
    """A reason why a file cannot be used. Line 0 stands for the file as a whole."""

    line: int
    message: str
    unit: str = "line"
    """As for `pairs.Pair`."""
    file: str = ""
    """The file, where several are read together; empty for all of them."""


def describe_problems(
    sources: Sources, pairs: Sequence["Pair"], problems: Sequence[Problem], *, listed: int | None = None
) -> str:
    """Describe what is wrong with files, as an error message; a fault of several lines is listed once, with its lines.

    Args:
        sources: the file, or the files that are read together.
        pairs: their usable rows.
        problems: at least one problem.
        listed: number of faults to list of a file; the others are counted. None is for `nic_ray.check` itself, which
            lists `LISTED_BY_CHECK` faults.
    """
    by_file: dict[str, list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: not problem.file):  # those of all files together come last
        by_file.setdefault(problem.file, []).append(problem)
    return "\n".join(
        _of_some(Path(file) if file else sources, [pair for pair in pairs if file in ("", pair.file)], own, listed)
        for file, own in by_file.items()
    )


def _of_some(sources: Sources, pairs: Sequence["Pair"], problems: Sequence[Problem], listed: int | None) -> str:
    if len(problems) == 1 and problems[0].line == 0:
        return f"{shown(sources)}: {problems[0].message}"
    heading = _heading(pairs, problems) or f"{len(problems)} problems"
    lines: dict[str, list[int]] = {}
    for problem in problems:
        lines.setdefault(problem.message, []).append(problem.line)
    most = listed or LISTED_BY_CHECK
    findings = [_at_lines(numbers, unit_of(problems)) + message for message, numbers in list(lines.items())[:most]]
    if len(findings) < len(lines):
        findings.append(f"... and {len(lines) - len(findings)} more")
    way_out = "Correct them."
    if listed is not None or len(lines) > most:
        option = " --splits own" * _are_of_own_splits(pairs, problems) + " --json" * (len(lines) > LISTED_BY_CHECK)
        files = shlex.join(map(str, paths_of(sources)))
        way_out = f"Correct them, or see all findings with: python -m nic_ray.check {files}{option}"
    return "\n  ".join([f"{shown(sources)}: {heading}", *findings, way_out])


def _heading(pairs: Sequence["Pair"], problems: Sequence[Problem]) -> str:
    """Say how many rows of a file are unusable, and of how many where that is known; empty if none is."""
    unusable = {problem.line for problem in problems if problem.line}
    if not unusable:
        return ""
    found = unusable | {pair.number or pair.line for pair in pairs}
    # a row may take several lines, and blank lines and a header are none
    unit = unit_of(problems) if max(found) <= len(found) else "row"
    # of several files, rows that stand in an earlier one are no longer there
    total = f" of {len(found)}" * (not any(problem.file for problem in problems))
    plural = "s" * bool(total or len(unusable) > 1)
    return f"{len(unusable)}{total} {unit}{plural} {'is' if len(unusable) == 1 else 'are'} unusable"


def _are_of_own_splits(pairs: Sequence["Pair"], problems: Sequence[Problem]) -> bool:
    """Whether rows were read with the splits that they came with."""
    return any(pair.split for pair in pairs) or any(problem.message.startswith('"split"') for problem in problems)


def unit_of(problems: Sequence[Problem]) -> str:
    """Return what the places of some problems count."""
    return next((problem.unit for problem in problems if problem.line), "line")


def _at_lines(numbers: Sequence[int], unit: str) -> str:
    """Name the lines of a fault, given in ascending order; empty for the file as a whole."""
    if numbers[0] == 0:
        return ""
    starts = [at for at, number in enumerate(numbers) if at == 0 or number > numbers[at - 1] + 1]
    runs = [numbers[start:end] for start, end in itertools.pairwise([*starts, len(numbers)])]
    listed = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:RUNS_LISTED]]
    if left := sum(map(len, runs[RUNS_LISTED:])):
        listed.append(f"and {left:,} more")
    return f"{unit}{'s' if len(numbers) > 1 else ''} {', '.join(listed)}: "
