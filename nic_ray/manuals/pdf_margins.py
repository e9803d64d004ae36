"""What stands on many pages of a manual and belongs to none: headers, footers, page numbers, watermarks."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from nic_ray.manuals.pdf_lines import TABLE, Piece
from nic_ray.manuals.pdf_pages import Page

OUTERMOST = 3
"""Number of rows at the top and at the bottom of a page in which headers and footers are sought."""
LEAST_PAGES = 3
"""Number of pages from which a text in the same place is taken as repeated."""
MARGIN = 0.17
"""Share of the height of a page, at its top and at its bottom, in which headers and footers are sought."""
WATERMARK_SHARE = 0.4
"""Share of the pages on which the same text in the same place is a watermark, wherever it stands."""
HEADER_SHARE = 0.4
"""Share of the pages with a row at the same height from which its texts may differ from chapter to chapter."""
LARGEST_HEADER = 1.1
"""Size of a header in the size of the text, above which it is a heading unless its text repeats."""
HEADING_SHARE = 0.6
"""Share of the pages from which a repeated row is a header although it looks like a heading."""
NUMBER_SHARE = 0.3
"""Share of the pages with a number at the same height from which it is that of the page, such as "3-12"."""
APART = 1.6
"""Distance from row to row in their size, from which a header stands apart from the text."""
SET_APART = 2.0
"""Distance of a header from the text in its size, from which it stands apart."""
SET_APART_SHARE = 0.6
"""Share of the pages whose first or last row stands at the same height, from which it is a header or footer."""
DIGITS = re.compile(r"\d+")
ROMAN = re.compile(r"[ivxlcdm]+", re.IGNORECASE)


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


def without_margins(pages: Sequence[Page]) -> tuple[list[Page], int]:
    """Pages without what repeats across them, and how many rows and pieces were left out."""
    watermarks = _watermarks(pages)
    kept = [replace(page, pieces=tuple(p for p in page.pieces if _spot(p) not in watermarks)) for page in pages]
    repeated = sum(len(page.pieces) for page in pages) - sum(len(page.pieces) for page in kept)
    left = []
    for page, rows in zip(kept, _headers_and_footers(kept), strict=True):
        repeated += len(rows)
        dropped = {piece for row in rows for piece in row.pieces}
        left.append(replace(page, pieces=tuple(piece for piece in page.pieces if piece not in dropped)))
    return left, repeated


def rows_of(pieces: Sequence[Piece]) -> list[Row]:
    """Pieces by baseline, from the top; within a row from the left."""
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.base):
        smaller, larger = sorted((piece.size, rows[-1][0].size)) if rows else (0.0, 0.0)
        apart = not rows or TABLE in (piece.text[:1], rows[-1][0].text[:1])
        if not apart and piece.base - rows[-1][0].base <= 0.3 * min(larger, 2 * smaller):
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


class _Outer(NamedTuple):
    """A row near the edge of a page."""

    page: int
    """Place of its page, from 0."""
    row: Row
    is_first: bool
    """Whether no other row is nearer to the edge."""
    is_apart: bool
    """Whether it, or a row between it and the text, has more space towards the text than lines of text have."""


def _outer_rows(index: int, page: Page) -> list[tuple[_Slot, _Outer]]:
    rows = rows_of(page.pieces)
    found = []
    for edge, inwards in (("top", rows), ("bottom", rows[::-1])):
        outer = inwards[: OUTERMOST + 1]
        gaps = [abs(a.base - b.base) > APART * max(a.pieces[0].size, b.pieces[0].size) for a, b in pairwise(outer)]
        for place, row in enumerate(inwards[:OUTERMOST]):
            height = row.base if edge == "top" else page.height - row.base
            if height < MARGIN * page.height:
                entry = _Outer(index, row, place == 0, any(gaps[place:]) or len(rows) <= OUTERMOST)
                found.append(((edge, round(height / 4)), entry))
    return found


def _headers_and_footers(pages: Sequence[Page]) -> list[list[Row]]:
    """For each page the rows at its edges that repeat, or count its pages."""
    outer = [entry for index, page in enumerate(pages) for entry in _outer_rows(index, page)]
    slots: dict[_Slot, list[_Outer]] = defaultdict(list)
    for (edge, height), entry in outer:
        for near in (height - 1, height, height + 1):
            slots[edge, near].append(entry)
    size = _text_size(pages)
    found = [entry for slot in dict(outer) for entry in _repeated(slots[slot], len(pages), size)]
    found += [entry for side in (0, -1) for entry in _set_apart(pages, side, LARGEST_HEADER * size)]
    drops: list[list[Row]] = [[] for _ in pages]
    for entry in found:
        if entry.row not in drops[entry.page]:
            drops[entry.page].append(entry.row)
    return drops


def _set_apart(pages: Sequence[Page], side: int, largest: float) -> list[_Outer]:
    """The first or last rows of pages, if most pages have one at the very same height and far from the text.

    So headers are found whose text changes with every section.
    """
    heights: dict[int, list[tuple[int, Row, bool]]] = defaultdict(list)
    for index, page in enumerate(pages):
        rows = rows_of(page.pieces)
        if len(rows) > 2:
            row, next_row = (rows[0], rows[1]) if side == 0 else (rows[-1], rows[-2])
            fits = row.pieces[0].size <= largest and not all(piece.bold for piece in row.pieces)
            apart = fits and abs(next_row.base - row.base) > SET_APART * row.pieces[0].size
            heights[round(row.base)].append((index, row, apart))
    found = max(heights.values(), key=len, default=[])
    if len(found) < max(5, SET_APART_SHARE * len(pages)) or sum(apart for *_, apart in found) < 0.9 * len(found):
        return []
    return [_Outer(index, row, is_first=True, is_apart=True) for index, row, apart in found if apart]


def _repeated(entries: Sequence[_Outer], pages: int, size: float) -> list[_Outer]:
    """Of rows at one height, those that belong to no page; `size`: that of most of the text."""
    places: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        places[_normal(entry.row.text)].append(entry.page)
    offsets = Counter(offset for entry in entries for offset in _page_offsets(entry.page, entry.row))
    least = 2 if pages <= LEAST_PAGES else LEAST_PAGES
    counting = {offset for offset, count in offsets.items() if count >= least}

    def belongs_to_none(entry: _Outer) -> bool:
        text = _normal(entry.row.text)
        if ROMAN.fullmatch(entry.row.text) and len(entry.row.text) < 7:
            return True
        if not text.strip("# -–|/.") and entry.is_apart and len(places[text]) >= max(least, NUMBER_SHARE * pages):
            return True
        if text.strip("# -–|/.") and _is_often(places[text], pages, entry, size):
            return True
        is_counting = bool(counting & set(_page_offsets(entry.page, entry.row)))
        return is_counting and entry.is_apart and entry.row.pieces[0].size <= LARGEST_HEADER * size

    found = [entry for entry in entries if belongs_to_none(entry)]
    if len({entry.page for entry in entries}) >= max(5, HEADER_SHARE * pages) and len(found) >= 0.8 * len(entries):
        sizes = {round(entry.row.pieces[0].size) for entry in found}
        largest = LARGEST_HEADER * size
        return [entry for entry in entries if entry in found or (_size(entry) in sizes and _size(entry) <= largest)]
    return found


def _is_often(places: Sequence[int], pages: int, entry: _Outer, size: float) -> bool:
    """Whether a text stands at one height on so many pages that it belongs to none.

    On a few pages it does if they follow one another, and if it stands apart from the text: a header of a chapter.
    """
    least = 2 if pages <= LEAST_PAGES else LEAST_PAGES
    if len(places) < least:
        return False
    if _like_heading(entry, size):
        return len(places) >= HEADING_SHARE * pages
    near = any(after - before <= 2 * (least - 1) for before, after in zip(places, places[least - 1 :], strict=False))
    return len(places) >= HEADER_SHARE * pages or (entry.is_apart and near)


def _size(entry: _Outer) -> int:
    return round(entry.row.pieces[0].size)


def _like_heading(entry: _Outer, size: float) -> bool:
    """Whether a row can be a heading that several pages have at the same height, such as "General"."""
    larger = entry.row.pieces[0].size > 1.05 * size
    return larger or (not entry.is_first and all(piece.bold for piece in entry.row.pieces))


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
