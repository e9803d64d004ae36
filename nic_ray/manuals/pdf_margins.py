"""What stands on many pages of a manual and belongs to none: headers, footers, page numbers, watermarks, contents."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from nic_ray.manuals.pdf_lines import Piece
from nic_ray.manuals.pdf_pages import Page

OUTERMOST = 3
"""Number of rows at the top and at the bottom of a page in which headers and footers are sought."""
LEAST_PAGES = 3
"""Number of pages from which a text in the same place is taken as repeated."""
MARGIN = 0.17
"""Share of the height of a page, at its top and at its bottom, in which headers and footers are sought."""
WATERMARK_SHARE = 0.5
"""Share of the pages on which the same text in the same place is a watermark, wherever it stands."""
HEADER_SHARE = 0.4
"""Share of the pages with a row at the same height from which its texts may differ from chapter to chapter."""
LARGEST_HEADER = 1.1
"""Size of a header in the size of the text, above which it is a heading unless its text repeats."""
LEADERS = re.compile(r"(\.\s?){4,}|…{2,}|(·\s?){4,}|_{5,}\s*\d+$")
PAGE_NUMBER = re.compile(r"(?:^|(?<=[\s.…]))(?:\d+|[ivxlcdm]+|[A-Z]{1,2}-\d+|\d+-\d+)$", re.IGNORECASE)
DIGITS = re.compile(r"\d+")
ROMAN = re.compile(r"[ivxlcdm]+", re.IGNORECASE)
CONTENTS = re.compile(r"(table of )?contents|list of (figures|tables|listings|examples)|index", re.IGNORECASE)
INDEX_ENTRY = re.compile(r"\D{2,60},\s?\d{1,4}(, \d{1,4}|[-–]\d{1,4})*$")


@dataclass(frozen=True)
class Row:
    """The pieces of a page on one baseline."""

    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """Its pieces with spaces between them."""
        return " ".join(piece.text for piece in self.pieces)

    @property
    def base(self) -> float:
        """Its baseline from the top of the page."""
        return self.pieces[0].base


@dataclass(frozen=True)
class Cleaned:
    """Pages without what belongs to none, and what was left out of them."""

    pages: tuple[Page, ...]
    repeated: int
    """Number of rows and pieces left out because they repeat across pages."""
    contents: tuple[int, ...]
    """Numbers of the pages on which contents were left out."""


def without_margins(pages: Sequence[Page]) -> Cleaned:
    """Leave out what repeats across pages, then the contents."""
    watermarks = _watermarks(pages)
    kept, repeated = [], 0
    for page in pages:
        pieces = tuple(piece for piece in page.pieces if _spot(piece) not in watermarks)
        repeated += len(page.pieces) - len(pieces)
        kept.append(replace(page, pieces=pieces))
    drops = _headers_and_footers(kept)
    left: list[Page] = []
    contents: list[int] = []
    for page, drop in zip(kept, drops, strict=True):
        repeated += len({id(row) for row in drop})
        dropped = {piece for row in drop for piece in row.pieces}
        rows = rows_of([piece for piece in page.pieces if piece not in dropped])
        listed = _contents_rows(rows, page.width, goes_on=contents[-1:] == [page.number - 1])
        dropped |= {piece for row in listed for piece in row.pieces}
        if listed:
            contents.append(page.number)
        left.append(replace(page, pieces=tuple(piece for piece in page.pieces if piece not in dropped)))
    return Cleaned(tuple(left), repeated, tuple(contents))


def rows_of(pieces: Sequence[Piece]) -> list[Row]:
    """Pieces by baseline, from the top; within a row from the left."""
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.base):
        if rows and piece.base - rows[-1][0].base <= 0.3 * min(piece.size, rows[-1][0].size):
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return [Row(tuple(sorted(row, key=lambda piece: piece.x0))) for row in rows]


def _spot(piece: Piece) -> tuple[str, int, int]:
    return piece.text, round(piece.x0 / 3), round(piece.base / 3)


def _watermarks(pages: Sequence[Page]) -> set[tuple[str, int, int]]:
    counts = Counter(spot for page in pages for spot in {_spot(piece) for piece in page.pieces})
    least = max(LEAST_PAGES, WATERMARK_SHARE * len(pages))
    return {spot for spot, count in counts.items() if count >= least and len(spot[0]) > 1}


def _normal(text: str) -> str:
    """A text with every number, roman ones alone too, as "#"."""
    return " ".join("#" if ROMAN.fullmatch(word) else DIGITS.sub("#", word) for word in text.split())


_Slot = tuple[str, int]
"""The edge and the height of a row at it, in steps of 4 points."""


def _outer_rows(page: Page) -> list[tuple[_Slot, Row]]:
    rows = rows_of(page.pieces)
    top = [("top", row.base, row) for row in rows[:OUTERMOST] if row.base < MARGIN * page.height]
    bottom = [
        ("bottom", page.height - row.base, row)
        for row in rows[-OUTERMOST:]
        if page.height - row.base < MARGIN * page.height
    ]
    return [((edge, round(height / 4)), row) for edge, height, row in (*top, *bottom)]


def _headers_and_footers(pages: Sequence[Page]) -> list[list[Row]]:
    """For each page the rows at its edges that repeat, or count its pages."""
    outer = [_outer_rows(page) for page in pages]
    slots: dict[_Slot, list[tuple[int, Row]]] = defaultdict(list)
    for index, rows in enumerate(outer):
        for (edge, height), row in rows:
            for near in (height - 1, height, height + 1):
                slots[edge, near].append((index, row))
    size = _text_size(pages)
    drops: list[list[Row]] = [[] for _ in pages]
    for slot in {slot for rows in outer for slot, _ in rows}:
        for index, row in _repeated(slots[slot], len(pages), LARGEST_HEADER * size):
            if row not in drops[index]:
                drops[index].append(row)
    return drops


def _repeated(entries: Sequence[tuple[int, Row]], pages: int, largest: float) -> list[tuple[int, Row]]:
    """Of rows at one height, those that belong to no page; rows larger than `largest` only if their text repeats."""
    counts = Counter(_normal(row.text) for _, row in entries)
    least = 2 if pages <= LEAST_PAGES else LEAST_PAGES
    offsets = Counter(offset for index, row in entries for offset in _page_offsets(index, row))
    counting = {offset for offset, count in offsets.items() if count >= least}
    found = [
        (index, row)
        for index, row in entries
        if (counts[_normal(row.text)] >= least and _normal(row.text).strip("# -–|/."))
        or (counting & set(_page_offsets(index, row)) and row.pieces[0].size <= largest)
        or (ROMAN.fullmatch(row.text) is not None and len(row.text) < 7)
    ]
    if len({index for index, _ in entries}) >= max(5, HEADER_SHARE * pages):
        often = [row for index, row in found]
        if len(often) >= 0.8 * len(entries):
            sizes = {round(row.pieces[0].size) for row in often if row.pieces[0].size <= largest}
            found = [(index, row) for index, row in entries if round(row.pieces[0].size) in sizes]
    return found


def _text_size(pages: Sequence[Page]) -> float:
    """Size of most of the text in points."""
    sizes: Counter[float] = Counter()
    for page in pages:
        for piece in page.pieces:
            sizes[piece.size] += len(piece.text)
    return sizes.most_common(1)[0][0] if sizes else 10.0


def _page_offsets(index: int, row: Row) -> list[int]:
    """How far the numbers at the ends of a row, and the one after "page", are ahead of the place of its page."""
    words = row.text.split()
    ends = {words[0], words[-1]} | {after for before, after in pairwise(words) if before.lower() == "page"}
    if len(words) >= 3 and words[-2] in ("/", "of"):
        ends.add(words[-3])
    numbers = {int(match) for word in ends if (match := word.strip("()[]-–|.,:")).isdecimal() and len(match) < 6}
    return [number - index for number in numbers]


def _contents_rows(rows: Sequence[Row], width: float, *, goes_on: bool) -> list[Row]:
    """The rows of a page that belong to contents, a list of figures or an index.

    Args:
        goes_on: whether the page before holds such rows.
    """
    leaders = [LEADERS.search(row.text) is not None and PAGE_NUMBER.search(row.text) is not None for row in rows]
    edge = max((row.pieces[-1].x1 for row in rows), default=0.0)
    numbered = [
        lead or (PAGE_NUMBER.search(row.text) is not None and row.pieces[-1].x1 > max(edge - 3, 0.6 * width))
        for lead, row in zip(leaders, rows, strict=True)
    ]
    last = max((index for index, is_numbered in enumerate(numbered) if is_numbered), default=-1)
    titles = [index for index, row in enumerate(rows) if CONTENTS.fullmatch(row.text.strip(" .:"))]
    first = titles[0] if titles else 0
    count, all_rows = sum(numbered[first:]), last + 1 - first
    if sum(leaders) >= 5 and count >= 0.5 * all_rows:
        return list(rows[first : last + 1])
    if (titles or goes_on) and count >= 3 and count >= 0.45 * all_rows:
        return list(rows[first : last + 1])
    pieces = [piece for row in rows for piece in row.pieces]
    if len(pieces) >= 20 and sum(bool(INDEX_ENTRY.match(piece.text)) for piece in pieces) >= 0.6 * len(pieces):
        return list(rows)
    return _runs_of_leaders(rows, leaders, numbered)


def _runs_of_leaders(rows: Sequence[Row], leaders: Sequence[bool], numbered: Sequence[bool]) -> list[Row]:
    """Stretches of at least three rows with leaders; rows between them that end in a number go with them."""
    found: list[Row] = []
    start = 0
    while start < len(rows):
        end = start
        while end < len(rows) and (leaders[end] or (numbered[end] and end > start)):
            end += 1
        if sum(leaders[start:end]) >= 3:
            found += rows[start:end]
            if start and CONTENTS.fullmatch(rows[start - 1].text.strip(" .:")):
                found.append(rows[start - 1])
        start = max(end, start + 1)
    return found
