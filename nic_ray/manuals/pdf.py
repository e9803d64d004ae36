"""PDF manuals as blocks in reading order."""

import gzip
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from nic_ray.errors import InputError
from nic_ray.manuals.blocks import Document

if TYPE_CHECKING:
    from nic_ray.manuals.pdf_blocks import Found
    from nic_ray.manuals.pdf_pages import Entry, Page

TOOL_TITLE = re.compile(
    r"^microsoft word|\.(docx?|odt|indd|fm|tex|dvi|qxd|pdf|xml|html?)$|^(layout|slide) \d", re.IGNORECASE
)
"""Titles that the programs that write PDFs give, and no author."""
MOST_TITLE = 150
"""Number of characters up to which the largest text of a page is a title."""
TITLE = 1.3
"""Size of a title in the size of the text, from which the largest text of the first page is one."""
PICTURE = 0.3
"""Share of a page that its largest picture covers, from which a page with nothing but a header is a scan."""
NEEDED = "pip install -c constraints.txt -e '.[manuals]'"


def read_pdf(path: Path) -> Document:
    """Read a PDF, plain or compressed with gzip.

    Raises:
        InputError: the file is no PDF, is damaged, needs a password, or holds no text.
    """
    if path.suffix != ".gz":
        return _read(path, path)
    with tempfile.NamedTemporaryFile(suffix=".pdf") as plain:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain)
        except (OSError, EOFError) as error:
            raise InputError(f"{path}: cannot be unpacked ({error}); name a PDF or one compressed with gzip") from None
        plain.flush()
        return _read(Path(plain.name), path)


def _read(path: Path, name: Path) -> Document:
    try:
        from nic_ray.manuals.pdf_pages import open_pdf, outline_of, read_page, title_of
    except ModuleNotFoundError as error:
        raise InputError(f"{name}: reading PDF needs {error.name}: {NEEDED}") from None
    with open_pdf(path, name) as document:
        pages, failed = [], []
        for number in range(1, len(document) + 1):
            page = read_page(document, number)
            if page is None:
                failed.append(number)
            else:
                pages.append(page)
        return _document(pages, failed, outline_of(document), title_of(document), name, len(document))


def _document(
    pages: Sequence["Page"], failed: Sequence[int], entries: Sequence["Entry"], title: str, name: Path, count: int
) -> Document:
    from nic_ray.manuals.pdf_blocks import blocks_of_pages
    from nic_ray.manuals.pdf_margins import without_margins

    if not pages:
        raise InputError(
            f"{name}: {_numbered(failed)} cannot be read; the file is damaged: copy it again, or leave it out"
        )
    if not any(page.pieces for page in pages):
        raise InputError(f"{name}: {_without_text([page.number for page in pages])}")
    cleaned, repeated = without_margins(pages)
    found = blocks_of_pages(cleaned, entries)
    notes = [*_notes_on_text(pages, cleaned, failed), *_notes_on_left_out(pages, found, repeated)]
    return Document(_title(title, pages, name), found.blocks, count, tuple(notes))


def _title(title: str, pages: Sequence["Page"], name: Path) -> str:
    """The title of a file among its properties, else the largest text of its first page, else its name."""
    stem = name.name.removesuffix(".gz").removesuffix(".pdf").removesuffix(".PDF")
    if title and not TOOL_TITLE.search(title) and title.casefold() != "untitled":
        return title
    sizes: Counter[float] = Counter()
    for piece in (piece for page in pages for piece in page.pieces):
        sizes[piece.size] += len(piece.text)
    first = [piece for piece in pages[0].pieces if sum(c.isalpha() for c in piece.text) > 2] if pages else []
    largest = max((piece.size for piece in first), default=0.0)
    if largest < TITLE * sizes.most_common(1)[0][0]:
        return stem
    lines = sorted((piece for piece in first if piece.size > 0.95 * largest), key=lambda piece: (piece.base, piece.x0))
    near = takewhile(lambda pair: pair[1].base - pair[0].base < 2 * largest, pairwise([lines[0], *lines]))
    words = " ".join(piece.text for _, piece in near)
    return words if len(words) <= MOST_TITLE else stem


def _notes_on_text(pages: Sequence["Page"], cleaned: Sequence["Page"], failed: Sequence[int]) -> list[str]:
    """What could not be read."""
    scans = [
        page.number
        for page, rest in zip(pages, cleaned, strict=True)
        if not page.pieces or (not rest.pieces and page.picture > PICTURE)
    ]
    unreadable = sum(page.unreadable for page in pages)
    notes = [
        (scans, _without_text(scans)),
        (failed, f"{_numbered(failed)} cannot be read (damaged); open the file in a viewer and save it again"),
        (unreadable, f"{unreadable:,} characters were left out: the file does not say which they are"),
    ]
    return [note for found, note in notes if found]


def _notes_on_left_out(pages: Sequence["Page"], found: "Found", repeated: int) -> list[str]:
    """What belongs to no section."""
    rotated = sum(page.rotated for page in pages)
    notes = [
        (repeated, f"{repeated:,} lines that repeat across pages were left out (headers, footers, marks)"),
        (found.contents, f"contents or an index on {_numbered(found.contents)} were left out"),
        (rotated, f"{rotated:,} rotated or skewed characters were left out (watermarks, text in margins)"),
        (found.missing, f"entries of the outline that were found in no line of their pages: {found.missing:,}"),
    ]
    return [note for count, note in notes if count]


def _without_text(numbers: Sequence[int]) -> str:
    verb = "holds" if len(numbers) == 1 else "hold"
    return f"{_numbered(numbers)} {verb} no text (scans?); run ocrmypdf IN OUT and read OUT"


def _numbered(numbers: Sequence[int]) -> str:
    """Numbers of pages with ranges: "page 3", "pages 3, 7-9"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    named = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"page{'s' if len(numbers) != 1 else ''} {named}"
