"""Tables with rules: cells found from the lines of a page, rows written as sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from nic_ray.manuals.pdf_lines import Piece, Rule
from nic_ray.manuals.pdf_margins import rows_of
from nic_ray.manuals.pdf_pages import Page

MOST_RULES = 600
"""A page with more rules, after those in one line are joined, holds a drawing; no tables are sought in it."""
LARGEST_CELL = 0.5
"""Share of the pieces of a page from which a cell is a frame around the page and no cell."""
MOST_HEAD_WORDS = 6
TOLERANCE = 3.0
"""Distance in points up to which rules meet."""


@dataclass(frozen=True)
class Table:
    """A table on a page."""

    page: int
    top: float
    bottom: float
    x0: float
    x1: float
    edges: tuple[float, ...]
    """The left edges of its columns."""
    rows: tuple[tuple[str, ...], ...]
    """The texts of its cells, row by row; a cell across columns stands in the first of them."""
    bold: tuple[bool, ...]
    """Whether all of a row is bold."""


def tables_of(page: Page) -> tuple[list[Table], list[Piece]]:
    """The tables of a page, and the pieces that stand in none."""
    tables, left = [], list(page.pieces)
    for cells in _grids(page.rules):
        inside = {cell: [piece for piece in left if _is_in(piece, cell)] for cell in cells}
        table = _table(page, inside)
        if table is not None:
            tables.append(table)
            gone = {piece for pieces in inside.values() for piece in pieces}
            left = [piece for piece in left if piece not in gone]
    return tables, left


_Cell = tuple[float, float, float, float]
"""Left, top, right and bottom."""


def _grids(rules: Sequence[Rule]) -> list[list[_Cell]]:
    """Connected cells of at least two columns and two rows."""
    if sum(rule.is_vertical for rule in rules) < 3 or len(rules) < 6:
        return []
    from pdfplumber.table import cells_to_tables, edges_to_intersections, intersections_to_cells, merge_edges

    edges = [
        {
            "x0": rule.x0,
            "x1": rule.x1,
            "top": rule.top,
            "bottom": rule.bottom,
            "width": rule.x1 - rule.x0,
            "height": rule.bottom - rule.top,
            "orientation": "v" if rule.is_vertical else "h",
        }
        for rule in rules
    ]
    merged = merge_edges(edges, TOLERANCE, TOLERANCE, TOLERANCE, TOLERANCE)
    if len(merged) > MOST_RULES:
        return []
    cells = intersections_to_cells(edges_to_intersections(merged, TOLERANCE, TOLERANCE))
    grids = [[(float(a), float(b), float(c), float(d)) for a, b, c, d in table] for table in cells_to_tables(cells)]
    return [grid for grid in grids if len({cell[0] for cell in grid}) > 1 and len({cell[1] for cell in grid}) > 1]


def _is_in(piece: Piece, cell: _Cell) -> bool:
    x, y = (piece.x0 + min(piece.x1, piece.x0 + 20)) / 2, (piece.top + piece.bottom) / 2
    return cell[0] - 1 <= x <= cell[2] + 1 and cell[1] - 1 <= y <= cell[3] + 1


def _table(page: Page, inside: dict[_Cell, list[Piece]]) -> Table | None:
    """The table of a grid of cells; None if the grid frames something else."""
    counts = [len(pieces) for pieces in inside.values()]
    filled = sum(count > 0 for count in counts)
    if filled < 3 or filled < 0.4 * len(counts):
        return None
    if max(counts) > max(20.0, LARGEST_CELL * len(page.pieces)):
        return None
    edges = tuple(sorted({cell[0] for cell in inside}))
    tops = sorted({cell[1] for cell in inside})
    rows = [["" for _ in edges] for _ in tops]
    bold = [True for _ in tops]
    for cell, pieces in inside.items():
        row = tops.index(cell[1])
        rows[row][edges.index(cell[0])] = cell_text(pieces)
        bold[row] &= all(piece.bold for piece in pieces)
    kept = [index for index, row in enumerate(rows) if any(row)]
    columns = [place for place in range(len(edges)) if any(row[place] for row in rows)]
    if len(kept) < 2 or len(columns) < 2:
        return None
    return Table(
        page=page.number,
        top=tops[0],
        bottom=max(cell[3] for cell in inside),
        x0=edges[0],
        x1=max(cell[2] for cell in inside),
        edges=tuple(edges[place] for place in columns),
        rows=tuple(tuple(rows[index][place] for place in columns) for index in kept),
        bold=tuple(bold[index] for index in kept),
    )


def cell_text(pieces: Sequence[Piece]) -> str:
    """The lines of a cell, with a line break between them."""
    return "\n".join(row.text for row in rows_of(pieces))


def heads_and_rows(table: Table, heads_before: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The heads of a table, and its other rows.

    Args:
        heads_before: those of a table with the same columns that ends on the page before; empty if there is none.
    """
    count = _head_rows(table)
    rows = list(table.rows)
    if heads_before and (not count or tuple(heads_before) == _joined_heads(rows[:count])):
        return tuple(heads_before), rows[count:]
    return _joined_heads(rows[:count]), rows[count:]


def _head_rows(table: Table) -> int:
    """How many rows at the top are heads: bold ones above others, else one of short words without numbers."""
    if len(table.rows) < 2:
        return 0
    count = 0
    while count < min(3, len(table.rows) - 1) and table.bold[count]:
        count += 1
    if count and not all(table.bold):
        return count
    # A row that is bold only in part is a second row of heads if the first one has cells across columns.
    first, others = table.rows[0], table.rows[1:]
    short = all(cell and len(cell.split()) <= MOST_HEAD_WORDS and not any(c.isdigit() for c in cell) for cell in first)
    tells = any(any(c.isdigit() for c in cell) or len(cell.split()) > MOST_HEAD_WORDS for row in others for cell in row)
    return 1 if short and tells and len(others) >= 2 else 0


def _joined_heads(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Heads in several rows as one row: what stands across columns goes before what stands below it."""
    if not rows:
        return ()
    heads = [" ".join(cell.split()) for cell in rows[0]]
    for row in rows[1:]:
        for place in range(1, len(heads)):
            if not heads[place] and row[place]:
                heads[place] = heads[place - 1]
        heads = [" ".join(f"{head} {cell}".split()) for head, cell in zip(heads, row, strict=True)]
    return tuple(heads)
