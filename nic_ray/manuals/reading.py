"""Reading one manual into sections, in a process of its own, and keeping what was read for a second start."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from nic_ray.errors import InputError, in_one_line, is_disk_full
from nic_ray.evidence import JsonObject
from nic_ray.manuals.packing import sections_of
from nic_ray.manuals.readers import VERSION, read_document, refuse_size
from nic_ray.manuals.sections import Section, section_of


@dataclass(frozen=True)
class Job:
    """A manual that is to be read; it can be sent to another process."""

    path: Path
    source: str
    domain: str
    language: str
    parts: Path
    """The folder in which what was read is kept."""


@dataclass(frozen=True)
class Outcome:
    """What became of a manual."""

    source: str
    title: str = ""
    pages: int | None = None
    notes: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    fault: str = ""
    """Why it could not be read; empty if it could."""
    kept: bool = False
    """Whether it was read at an earlier start."""


def read_manual(job: Job) -> Outcome:
    """Read a manual, or take what an earlier start has kept of it; a file that cannot be read gives its fault."""
    try:
        part = job.parts / f"{_key(job)}.json"
        if part.is_file() and (outcome := _kept(part)):
            return outcome
        document = read_document(job.path)
        sections = sections_of(document, domain=job.domain, source=job.source, language=job.language)
    except InputError as error:
        return Outcome(job.source, fault=str(error))
    except Exception as error:
        if is_disk_full(error):
            raise
        # one manual that is like no other must not cost the work on all others
        fault = f"{type(error).__name__}: {in_one_line(error)}"
        return Outcome(job.source, fault=f"is not understood ({fault}); leave it out, or convert it to another format")
    outcome = Outcome(
        job.source,
        sections[0].document if sections else document.title,
        document.pages,
        document.notes,
        tuple(sections),
    )
    unfinished = part.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(asdict(outcome), ensure_ascii=False), encoding="utf-8")
    unfinished.replace(part)
    return outcome


def _key(job: Job) -> str:
    """Name what the sections of a manual depend on: its content, its place, the settings and the readers."""
    try:
        refuse_size(job.path)
        with job.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); make it readable") from None
    given = json.dumps([VERSION, content, job.source, job.domain, job.language])
    return hashlib.sha256(given.encode()).hexdigest()[:32]


def _kept(part: Path) -> Outcome | None:
    """Return what was kept; None if the file is damaged, so that the manual is read again."""
    try:
        stored: JsonObject = json.loads(part.read_text(encoding="utf-8"))
        sections = tuple(map(section_of, stored["sections"]))
        texts = [stored["source"], stored["title"], *stored["notes"]]
        if not all(isinstance(text, str) for text in texts):
            return None
        return Outcome(**{**stored, "notes": tuple(stored["notes"]), "sections": sections, "kept": True})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
