"""The reading order of a page: columns side by side, what stands across them, and notes at the side."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from nic_ray.manuals.pdf_lines import Piece
from nic_ray.manuals.pdf_margins import Row, rows_of

LEAST_LINES = 3
"""Number of lines from which text side by side is taken as columns."""
LEAST_FILL = 0.55
"""Mean share of the width of a column that its lines fill; the cells of a table fill less."""
LEAST_WORDS = 2.5
"""Mean number of words in the lines of a column."""
LABEL = re.compile(r"\(?[0-9A-Za-z]{1,3}[.)]|[•●○▪■□▫◦‣⁃∙·❖➢➤►▶✓✔–—*-]")
"""What stands before a step or an item."""
LABEL_GAP = 4.0
"""Distance between a label and its line in the size of the line."""
SIDE_WIDTH = 60.0
"""Width in points that notes and headings in a margin have at least, with the gap to the text."""
LINES_BESIDE = 3
"""Number of lines of text for each note; fewer make it a table."""
FIGURE = 5.0
"""Height of an empty band across a page, in the size of the text, from which a figure stands in it."""
GUTTER = 0.8
"""Width of the gap between columns in the size of the text."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text in its column."""

    text: str
    page: int
    x0: float
    x1: float
    base: float
    size: float
    bold: bool
    mono: bool
    left: float
    """Left edge of its column."""
    right: float
    """Right edge of its column."""
    column: int
    """Which column of its page, in reading order."""
    pieces: tuple[Piece, ...]


def lines_in_order(pieces: Sequence[Piece], page: int) -> list[Line]:
    """The lines of a page as they are read."""
    columns = _columns(rows_of(_with_labels(pieces)))
    return [line for number, rows in enumerate(columns) for line in _lines(rows, page, number)]


def _with_labels(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces with the bullets and numbers of lists on the baselines of the lines beside them."""
    found = []
    for piece in pieces:
        if LABEL.fullmatch(piece.text):
            beside = [
                other
                for other in pieces
                if 0 < other.x0 - piece.x1 < LABEL_GAP * other.size
                and min(piece.bottom, other.bottom) - max(piece.top, other.top) > 0.4 * (piece.bottom - piece.top)
            ]
            if beside:
                base = min(beside, key=lambda other: abs(other.base - piece.base)).base
                piece = replace(piece, base=base)
        found.append(piece)
    return found


def _lines(rows: Sequence[Row], page: int, column: int) -> list[Line]:
    left = min(row.pieces[0].x0 for row in rows)
    right = max(row.pieces[-1].x1 for row in rows)
    return [_line(row, page, left, right, column) for row in rows]


def _line(row: Row, page: int, left: float, right: float, column: int) -> Line:
    longest = max(row.pieces, key=lambda piece: len(piece.text))
    return Line(
        text=row.text,
        page=page,
        x0=row.pieces[0].x0,
        x1=row.pieces[-1].x1,
        base=longest.base,
        size=longest.size,
        bold=all(piece.bold for piece in row.pieces if any(c.isalnum() for c in piece.text)) and longest.bold,
        mono=longest.mono,
        left=left,
        right=right,
        column=column,
        pieces=row.pieces,
    )


def _columns(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows parted into columns in reading order; rows across columns are columns of their own."""
    if len(rows) < 2 * LEAST_LINES and sum(len(row.pieces) for row in rows) < 2 * LEAST_LINES:
        return [list(rows)] if rows else []
    gutter = _best_gutter(rows)
    if gutter is None:
        return _with_side_notes(rows)
    found: list[list[Row]] = []
    plain = False
    for is_across, stretch in _stretches(rows, gutter):
        sides = None if is_across else _sides(stretch, gutter)
        if sides is not None:
            found += [column for side in sides for column in _columns(side)]
        elif plain:
            found[-1].extend(stretch)
        else:
            found.append(list(stretch))
        plain = sides is None
    return found


def _with_side_notes(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one column, parted where a heading or note in the left margin goes before what stands beside it."""
    edges: Counter[int] = Counter()
    for piece in (piece for row in rows for piece in row.pieces):
        edges[round(piece.x0 / 3) * 3] += len(piece.text)
    edge, count = edges.most_common(1)[0]
    size = statistics.median(row.pieces[-1].size for row in rows)
    notes = {
        index: tuple(p for p in row.pieces if p.x1 < edge - GUTTER * size and p.x0 < edge - SIDE_WIDTH)
        for index, row in enumerate(rows)
    }
    notes = {index: pieces for index, pieces in notes.items() if pieces}
    groups = _groups(rows, notes)
    texts = [row for index, row in enumerate(rows) if len(notes.get(index, ())) < len(row.pieces)]
    is_side = all(len(group) > 1 or all(p.bold for p in notes[group[0]]) for group in groups)
    if not groups or not is_side or count < 0.5 * edges.total() or len(texts) < LINES_BESIDE * len(groups):
        return [list(rows)]
    return _parted(rows, notes, groups)


def _groups(rows: Sequence[Row], notes: Mapping[int, tuple[Piece, ...]]) -> list[list[int]]:
    """The places of notes, those together whose lines follow one another."""
    groups: list[list[int]] = []
    for index in notes:
        last = rows[groups[-1][-1]].base if groups else 0.0
        if groups and rows[index].base - last < 1.5 * notes[index][0].size:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _parted(
    rows: Sequence[Row], notes: Mapping[int, tuple[Piece, ...]], groups: Sequence[Sequence[int]]
) -> list[list[Row]]:
    """Each group of notes as a column of its own, before the line that begins beside it or the next paragraph."""
    texts = [
        Row(rest) for i, row in enumerate(rows) if (rest := tuple(p for p in row.pieces if p not in notes.get(i, ())))
    ]
    gaps = [after.base - before.base for before, after in pairwise(texts)]
    usual = statistics.median(gaps) if gaps else 0.0
    begins = [
        texts[0].base,
        *(after.base for (_, after), gap in zip(pairwise(texts), gaps, strict=True) if gap > 1.25 * usual),
    ]
    found: list[list[Row]] = []
    done = 0
    for group in groups:
        top = rows[group[0]].base
        start = min((base for base in begins if base > top - usual / 2), default=math.inf)
        end = next((i for i, row in enumerate(texts) if row.base >= start), len(texts))
        found += [list(texts[done:end])] if end > done else []
        found.append([Row(notes[index]) for index in group])
        done = max(end, done)
    return [*found, list(texts[done:])] if done < len(texts) else found


def _best_gutter(rows: Sequence[Row]) -> float | None:
    """Where the most pieces stand in columns to both sides; None if nowhere."""
    left = min(row.pieces[0].x0 for row in rows)
    right = max(piece.x1 for row in rows for piece in row.pieces)
    # A heading across the columns may end in the gutter: then the gutter is sought close to the right column, too.
    starts = {(piece.x0, piece.size) for row in rows for piece in row.pieces}
    edges = sorted({round(x0 - back) for x0, size in starts for back in (2, GUTTER * size)})
    candidates = [edge for edge in edges if left + 0.12 * (right - left) < edge < right - 0.12 * (right - left)]
    best: tuple[int, float] | None = None
    for gutter in candidates:
        count = sum(
            sum(len(row.pieces) for side in sides for row in side)
            for is_across, stretch in _stretches(rows, gutter)
            if not is_across and (sides := _sides(stretch, gutter)) is not None
        )
        if count and (best is None or count > best[0]):
            best = count, gutter
    return best[1] if best else None


def _stretches(rows: Sequence[Row], gutter: float) -> list[tuple[bool, list[Row]]]:
    """Consecutive rows that stand across a gutter, and those that do not; a figure between rows parts them."""
    found: list[tuple[bool, list[Row]]] = []
    bottom = 0.0
    for row in rows:
        across = any(piece.x0 < gutter and piece.x1 > gutter for piece in row.pieces)
        top = min(piece.top for piece in row.pieces)
        near = top - bottom < FIGURE * max(8.0, row.pieces[0].size)
        bottom = max(bottom, *(piece.bottom for piece in row.pieces))
        if found and near and found[-1][0] == across:
            found[-1][1].append(row)
        else:
            found.append((across, [row]))
    return found


def _sides(rows: Sequence[Row], gutter: float) -> tuple[list[Row], list[Row]] | None:
    """The two columns beside a gutter; None if this is no text in columns."""
    left = [Row(pieces) for row in rows if (pieces := tuple(p for p in row.pieces if p.x1 <= gutter))]
    right = [Row(pieces) for row in rows if (pieces := tuple(p for p in row.pieces if p.x0 >= gutter))]
    if min(len(left), len(right)) < 2 or max(len(left), len(right)) <= LEAST_LINES:
        return None
    gap = min(row.pieces[0].x0 for row in right) - max(row.pieces[-1].x1 for row in left)
    size = statistics.median(row.pieces[0].size for row in rows)
    are_columns = gap >= GUTTER * size and all(
        _is_text(side) or _best_gutter(side) is not None for side in (left, right)
    )
    return (left, right) if are_columns else None


def _is_text(rows: Sequence[Row]) -> bool:
    start = min(row.pieces[0].x0 for row in rows)
    end = max(row.pieces[-1].x1 for row in rows)
    widths = [sum(piece.x1 - piece.x0 for piece in row.pieces) for row in rows]
    words = [sum(len(piece.text.split()) for piece in row.pieces) for row in rows]
    return statistics.fmean(widths) >= LEAST_FILL * (end - start) and statistics.fmean(words) >= LEAST_WORDS
