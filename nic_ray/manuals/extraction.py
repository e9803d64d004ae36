"""From a folder of manuals to a file of sections: the same folder gives the same bytes, and a second start goes on."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nic_ray import progress
from nic_ray.errors import InputError
from nic_ray.manuals.folder import DomainFrom, Found, find_manuals
from nic_ray.manuals.parallel import Run, in_processes, one_by_one
from nic_ray.manuals.reading import Job, Outcome, read_manual
from nic_ray.manuals.repeated import Repeated, kept_once
from nic_ray.manuals.sections import Section, write_sections

FEW_BYTES = 2**21
"""Bytes of manuals without PDFs that are read in this process, since starting others takes longer."""


@dataclass(frozen=True)
class Extracted:
    """What a folder of manuals gave."""

    out: Path
    found: Found
    outcomes: tuple[Outcome, ...]
    """In order of the sources."""
    sections: tuple[Section, ...]
    """As written: in order of the sources and within them, repeated ones once."""
    repeated: tuple[Repeated, ...]

    @property
    def faults(self) -> list[str]:
        """What could not be used, a line each, with its file."""
        unread = [f"{outcome.source}: {outcome.fault}" for outcome in self.outcomes if outcome.fault]
        return [*self.found.faults, *unread]


def extract_sections(
    manuals: Path,
    out: Path,
    *,
    domain_from: DomainFrom | None = None,
    language: str = "en",
    run: Run | None = None,
) -> Extracted:
    """Read a folder of manuals, pack their text into sections, and write these.

    What was read of each manual is kept in a folder beside `out`, whose name ends in ".parts", until all is written.

    Args:
        manuals: a folder, or a single file.
        out: a file that does not exist yet.
        domain_from: as for `find_manuals`.
        language: code of ISO 639 of the manuals.
        run: how manuals are read; None for one after the other if they are small, else in as many processes as cores.

    Raises:
        InputError: there are no manuals, or none of them could be used; the message names each with its fault.
        KeyboardInterrupt: with the way to go on.
    """
    _refuse_place(out)
    found = find_manuals(manuals, domain_from)
    parts = out.absolute().with_name(f"{out.name}.parts")  # processes on other nodes run in other folders
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{parts}: cannot be made ({error.strerror}); name another file with --out") from None
    jobs = [Job(each.path.absolute(), each.source, each.domain, language, parts) for each in found.manuals]
    try:
        outcomes = _outcomes(jobs, run or _suitable(jobs))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the same command goes on, with what is kept in {parts}") from None
    sections, repeated = kept_once([section for outcome in outcomes for section in outcome.sections])
    extracted = Extracted(out, found, outcomes, tuple(sections), tuple(repeated))
    if not sections:
        shutil.rmtree(parts)
        empty = [f"{outcome.source}: holds no text" for outcome in outcomes if not outcome.fault]
        raise InputError("\n  ".join([f"{manuals}: none of the manuals could be used", *extracted.faults, *empty]))
    unfinished = out.with_name(f"{out.name}.unfinished")
    write_sections(sections, unfinished)
    unfinished.replace(out)
    shutil.rmtree(parts)
    return extracted


def _refuse_place(out: Path) -> None:
    if out.exists():
        raise InputError(f"{out}: exists already; name another file with --out")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; make it first, or name another file with --out")


def _suitable(jobs: Sequence[Job]) -> Run:
    few = len(jobs) == 1 or sum(_size(job.path) for job in jobs) <= FEW_BYTES
    return one_by_one if few and not any(".pdf" in job.path.name.lower() for job in jobs) else in_processes


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _outcomes(jobs: Sequence[Job], run: Run) -> tuple[Outcome, ...]:
    outcomes = dict[int, Outcome]()
    with progress.view(quiet=False) as view, view.work(_reading(jobs), len(jobs)) as more:
        for number, outcome in run(read_manual, jobs, _died):
            outcomes[number] = outcome
            more(1)
    return tuple(outcomes[number] for number in sorted(outcomes))


def _reading(jobs: Sequence[Job]) -> str:
    many = f"{len(jobs):,} manuals" if len(jobs) != 1 else jobs[0].source
    kept = len(list(jobs[0].parts.glob("*.json"))) if jobs else 0
    return f"reading {many}{f'; an earlier start has read {kept:,}, which are kept' if kept else ''}"


def _died(job: Job) -> Outcome:
    return Outcome(job.source, fault="its process died, perhaps for want of memory; split it")
