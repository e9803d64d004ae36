"""Questions of documents that an interrupted start has made by rules, kept until the file of pairs is written."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nic_ray import __version__
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.manuals.sections import Section
from nic_ray.questions.glossary import Glossary
from nic_ray.questions.question import Question

VERSION = 1
"""Of the rules: what was kept by others is not used."""


def parts_of(out: Path) -> Path:
    """Return the folder in which a start keeps what it has made for a file of pairs."""
    return out.absolute().with_name(f"{out.name}.parts")  # processes on other nodes run in other folders


def opened(parts: Path, sections: Sequence[Section], glossary: Glossary, *, seed: int, language: str) -> Path:
    """Make the folder of all that the questions depend on, within `parts`; it holds what an earlier start has made.

    Raises:
        InputError: it cannot be made.
    """
    terms = {domain: [asdict(term) for term in listed] for domain, listed in glossary.items()}
    given = json.dumps([VERSION, __version__, seed, language, terms, [asdict(section) for section in sections]])
    folder = parts / hashlib.sha256(given.encode()).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{parts}: cannot be made ({error.strerror}); name another file with --out") from None
    return folder


def read_kept(part: Path) -> list[Question] | None:
    """Return the questions that are kept; None if the file is not there, or damaged, so that they are made anew."""
    try:
        rows: list[JsonObject] = json.loads(part.read_text(encoding="utf-8"))
        return [Question(**row) for row in rows]
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def keep(questions: Sequence[Question], part: Path) -> None:
    """Keep questions; the file is there whole or not at all."""
    unfinished = part.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps([asdict(each) for each in questions], ensure_ascii=False), encoding="utf-8")
    unfinished.replace(part)
