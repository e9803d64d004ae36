"""Tables without rules between their columns: lines whose pieces stand below one another."""

import re
from collections.abc import Sequence
from dataclasses import replace

from nic_ray.manuals.pdf_columns import Line
from nic_ray.manuals.pdf_lines import TABLE, Piece
from nic_ray.manuals.pdf_tables import Table

LEAST_ROWS = 3
"""Number of rows from which lines with gaps are a table."""
MOST_COLUMNS = 12
ROW_GAP = 2.8
"""Distance between the lines of a table in their size, up to which they belong together."""
COLUMN_GAP = 0.7
"""Width of the gap between columns in the size of the text."""
LABEL = re.compile(r"\(?[0-9A-Za-z]{1,4}[.)]|[0-9A-Z]+(\.[0-9]+)+\.?|[^\w\s]{1,2}|o")
"""What stands before a step, an item or a heading: a first column of nothing else makes no table."""


def aligned_tables(lines: Sequence[Line], count: int) -> tuple[list[Line], list[Table]]:
    """Lines with each table as one line in its place, and the tables.

    Args:
        count: number of tables that were found before.
    """
    kept: list[Line] = []
    tables: list[Table] = []
    start = 0
    while start < len(lines):
        end = _end_of_run(lines, start)
        run = lines[start:end]
        table = _table(run) if len(run) >= LEAST_ROWS else None
        if table is None:
            kept.append(lines[start])
            start += 1
            continue
        kept.append(replace(run[0], text=f"{TABLE}{count + len(tables)}", bold=False, mono=False, size=1.0))
        tables.append(table)
        start = end
    return kept, tables


def _end_of_run(lines: Sequence[Line], start: int) -> int:
    """The end of lines in one column that have gaps below one another, or go on a cell of the line before."""
    if len(lines[start].pieces) < 2 or _is_text(lines[start]):
        return start
    pieces = list(lines[start].pieces)
    second = lines[start].pieces[1].x0
    end = start + 1
    while end < len(lines) and _is_next(lines[end - 1], lines[end]) and not _is_text(lines[end]):
        line = lines[end]
        if len(line.pieces) < 2 and line.x0 < second - 2:
            break
        if len(_columns([*pieces, *line.pieces])) < len(_columns(pieces)):
            break
        pieces += line.pieces
        end += 1
    return end


def _is_text(line: Line) -> bool:
    """Whether a line is set in the type of listings or stands for a table."""
    return line.mono or line.text.startswith(TABLE)


def _is_next(before: Line, line: Line) -> bool:
    same = (before.page, before.column) == (line.page, line.column)
    return same and 0 < line.base - before.base < ROW_GAP * max(line.size, before.size)


def _table(run: Sequence[Line]) -> Table | None:
    """The table that lines make; None if their gaps do not stand below one another."""
    spans = _columns([piece for line in run for piece in line.pieces])
    if not 2 <= len(spans) <= MOST_COLUMNS:
        return None
    cells = [_cells(line, spans) for line in run]
    if all(not row[0] or LABEL.fullmatch(row[0]) for row in cells):
        return None
    rows: list[list[str]] = []
    bold: list[bool] = []
    for before, line, row in zip([None, *run], run, cells, strict=False):
        tight = before is not None and line.base - before.base < 1.35 * line.size
        if rows and tight and not row[0]:
            rows[-1] = ["\n".join(part for part in pair if part) for pair in zip(rows[-1], row, strict=True)]
        else:
            rows.append(row)
            bold.append(line.bold)
    if len(rows) < LEAST_ROWS:
        return None
    edges = tuple(left for left, _ in spans)
    box = run[0].base - run[0].size, run[-1].base, edges[0], spans[-1][1]
    return Table(run[0].page, *box, edges, tuple(tuple(row) for row in rows), tuple(bold))


def _columns(pieces: Sequence[Piece]) -> list[tuple[float, float]]:
    """The spans that pieces take up from left to right, parted where no piece stands."""
    spans: list[tuple[float, float]] = []
    for piece in sorted(pieces, key=lambda piece: piece.x0):
        if spans and piece.x0 < spans[-1][1] + COLUMN_GAP * piece.size:
            spans[-1] = spans[-1][0], max(spans[-1][1], piece.x1)
        else:
            spans.append((piece.x0, piece.x1))
    return spans


def _cells(line: Line, spans: Sequence[tuple[float, float]]) -> list[str]:
    return [" ".join(piece.text for piece in line.pieces if left <= piece.x0 <= right) for left, right in spans]
