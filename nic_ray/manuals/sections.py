"""Sections of manuals: a file of JSON lines, each a passage with its place in its manual."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from nic_ray.dataset.row import domain_name
from nic_ray.errors import InputError
from nic_ray.validation import is_whole, kind_of_value

MAX_LISTED = 20
"""Number of faults that an error message lists."""


@dataclass(frozen=True)
class Section:
    """A passage of a manual."""

    domain: str
    document: str
    """The title of its document."""
    chapter: str
    """The headings above its own, the outermost first, joined by " > "; empty if there are none."""
    section: str
    """Its own heading; that of the document if it stands before the first one."""
    text: str
    """Its paragraphs, joined by spaces."""
    page: int | None
    """Its first page, from 1; None where a format has no pages."""
    source: str
    """Its file, relative to the folder of manuals, with "/" between folders."""

    @property
    def passage(self) -> str:
        """What a model embeds: the heading, a line break and the text."""
        return f"{self.section}\n{self.text}"


FIELDS = ("domain", "document", "chapter", "section", "text", "page", "source")
REQUIRED = ("domain", "section", "text")
"""The fields that every row needs; the reference manuals have these and `chapter`."""


def write_sections(sections: Iterable[Section], out: Path) -> None:
    """Write sections as JSON lines, each with all of `FIELDS` in their order."""
    with out.open("w", encoding="utf-8") as lines:
        for section in sections:
            lines.write(json.dumps(asdict(section), ensure_ascii=False) + "\n")


def read_sections(path: Path) -> list[Section]:
    """Read a file of sections; unknown fields are ignored.

    Raises:
        InputError: the file or any of its lines is unusable; the message lists the first faults by line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file of sections") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 ({error}); name a file of sections, or save it as UTF-8") from None
    sections, faults = list[Section](), list[str]()
    # within a line of JSON, characters may stand that part lines elsewhere
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            sections.append(section_of(json.loads(line)))
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: {error}")
    if not sections and not faults:
        faults.append("holds no sections")
    if len(faults) > MAX_LISTED:
        faults[MAX_LISTED:] = [f"... and {len(faults) - MAX_LISTED} more"]
    if faults:
        raise InputError("\n  ".join([f"{path}: cannot be used as a file of sections", *faults]))
    return sections


def section_of(row: object) -> Section:
    """Read a section from the object of a line.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, got {kind_of_value(row)}")
    for name in FIELDS[:5]:
        value = row.get(name, "")
        if not isinstance(value, str) or not is_whole(value):
            raise ValueError(f'"{name}" must be text, got {kind_of_value(value)}')
        if name in REQUIRED and not value.strip():
            raise ValueError(f'"{name}" is missing or empty')
    try:
        domain_name(row["domain"])
    except ValueError as error:
        raise ValueError(f'"domain" {error}') from None
    page = row.get("page")
    if page is not None and (not isinstance(page, int) or isinstance(page, bool)):
        raise ValueError(f'"page" must be a whole number or null, got {kind_of_value(page)}')
    names = {name: str(row.get(name) or "") for name in FIELDS if name != "page"}
    return Section(**names, page=page)
