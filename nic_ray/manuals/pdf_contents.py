"""Contents, lists of figures and indexes: lines that say where something stands, and nothing about it."""

import re
from collections.abc import Sequence
from itertools import groupby

from nic_ray.manuals.pdf_columns import Line
from nic_ray.manuals.pdf_pages import Page

LEADERS = re.compile(r"(\.\s?){4,}|…{2,}|(·\s?){4,}|_{5,}\s*\d+$")
PAGE_NUMBER = re.compile(r"(?:^|(?<=[\s.…]))(?:\d+|[ivxlcdm]+|[A-Z]{1,2}-\d+|\d+-\d+)$", re.IGNORECASE)
CONTENTS = re.compile(r"(table of )?contents|list of (figures|tables|listings|examples)|index", re.IGNORECASE)
INDEX_ENTRY = re.compile(r"\D.{0,60},\s?\d{1,4}(, \d{1,4}|[-–]\d{1,4})*$")
LEAST_LEADERS = 5
"""Number of lines with leaders from which a page holds contents even without a title that says so."""
NUMBERED_SHARE = 0.45
"""Share of the lines of contents that end in a number; long entries take two lines."""
LEAST_ENTRIES = 20
"""Number of entries from which a page is taken as one of an index."""
INDEX_SHARE = 0.4
"""Share of the pieces of a page that are entries, from which it is one of an index; others are terms without pages."""


def without_contents(lines: Sequence[Line]) -> tuple[list[Line], list[int]]:
    """Lines that belong to no contents, and the pages on which others were left out."""
    kept: list[Line] = []
    pages: list[int] = []
    for number, group in groupby(lines, key=lambda line: line.page):
        page = list(group)
        listed = _listed(page, goes_on=pages[-1:] == [number - 1])
        kept += [line for index, line in enumerate(page) if index not in listed]
        if listed:
            pages.append(number)
    return kept, pages


def is_index(page: Page) -> bool:
    """Whether a page is one of an index."""
    entries = sum(bool(INDEX_ENTRY.fullmatch(piece.text)) for piece in page.pieces)
    return entries >= max(LEAST_ENTRIES, INDEX_SHARE * len(page.pieces))


def _listed(lines: Sequence[Line], *, goes_on: bool) -> set[int]:
    """The lines of a page, by place, that belong to contents.

    Args:
        goes_on: whether the page before holds such lines.
    """
    leaders = [bool(LEADERS.search(line.text) and PAGE_NUMBER.search(line.text)) for line in lines]
    numbered = [lead or _ends_in_page_number(line) for lead, line in zip(leaders, lines, strict=True)]
    last = max((index for index, is_numbered in enumerate(numbered) if is_numbered), default=-1)
    first = next((index for index, line in enumerate(lines) if CONTENTS.fullmatch(line.text.strip(" .:"))), None)
    start = first or 0
    places = set(range(start, last + 1))
    count = sum(bool(PAGE_NUMBER.search(line.text)) and line.x1 > line.right - 3 for line in lines[start:])
    is_sure = sum(leaders) >= LEAST_LEADERS or first is not None or goes_on
    if is_sure and count >= max(3, NUMBERED_SHARE * len(places)):
        return places
    found = _stretches(lines, leaders, numbered)
    return found | {first} if first is not None and found & {first + 1, first + 2} else found


def _ends_in_page_number(line: Line) -> bool:
    """Whether a line ends in a number at the right edge of its column, away from the text before it."""
    return bool(PAGE_NUMBER.search(line.text)) and line.x1 > line.right - 3 and len(line.pieces) > 1


def _stretches(lines: Sequence[Line], leaders: Sequence[bool], numbered: Sequence[bool]) -> set[int]:
    """At least three lines with leaders, with the lines between them that end in a number, and their title."""
    found: set[int] = set()
    start = 0
    while start < len(lines):
        end = start
        while end < len(lines) and (leaders[end] or (numbered[end] and end > start)):
            end += 1
        if sum(leaders[start:end]) >= 3:
            has_title = start > 0 and CONTENTS.fullmatch(lines[start - 1].text.strip(" .:"))
            found |= set(range(start - bool(has_title), end))
        start = max(end, start + 1)
    return found
