"""From a folder of manuals to a file of sections: the same folder gives the same bytes, and a second start goes on."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nic_ray import progress
from nic_ray.errors import InputError, is_disk_full
from nic_ray.manuals.folder import DomainFrom, Found, find_manuals
from nic_ray.manuals.languages import language_code
from nic_ray.manuals.parallel import Run, in_processes, one_by_one
from nic_ray.manuals.readers import format_of
from nic_ray.manuals.reading import Job, Outcome, read_manual
from nic_ray.manuals.repeated import Repeated, kept_once
from nic_ray.manuals.sections import Section, write_sections

LOCK = ".lock"
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
        InputError: there are no manuals, or none of them could be used; the message names each with its fault. The
            place or the language would not do, or another process reads for the same `out`.
        KeyboardInterrupt: with the way to go on.
    """
    _refuse_place(out)
    language = language_code(language)
    found = find_manuals(manuals, domain_from)
    parts = out.absolute().with_name(f"{out.name}.parts")  # processes on other nodes run in other folders
    jobs = [Job(each.path.absolute(), each.source, each.domain, language, parts) for each in found.manuals]
    with _held(parts):
        try:
            outcomes = _outcomes(jobs, run or _suitable(jobs))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; the same command goes on, with what is kept in {parts}") from None
        sections, repeated = kept_once([section for outcome in outcomes for section in outcome.sections])
        extracted = Extracted(out, found, outcomes, tuple(sections), tuple(repeated))
        if sections:
            _write_whole(sections, out)
        shutil.rmtree(parts)
    if not sections:
        empty = [f"{outcome.source}: holds no text" for outcome in outcomes if not outcome.fault]
        raise InputError("\n  ".join([f"{manuals}: none of the manuals could be used", *extracted.faults, *empty]))
    return extracted


@contextlib.contextmanager
def _held(parts: Path) -> Iterator[None]:
    """Make the folder of what is read, if need be, and hold it, so that no second run removes it meanwhile."""
    try:
        parts.mkdir(exist_ok=True)
        lock = FileLock(parts / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{parts}: another process is reading these manuals; wait for it, or name another file with --out"
        ) from None
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{parts}: cannot be made ({error.strerror}); name another file with --out") from None
    try:
        yield
    finally:
        lock.release()


def _write_whole(sections: Sequence[Section], out: Path) -> None:
    unfinished = out.with_name(f"{out.name}.unfinished")
    try:
        write_sections(sections, unfinished)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def _refuse_place(out: Path) -> None:
    if (form := format_of(out)) is not None:
        raise InputError(f"{out}: would be taken for a manual in {form.name} the next time; name it *.jsonl with --out")
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
