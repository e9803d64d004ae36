"""HTML tables as grids of texts, with the cells that span rows or columns repeated, and layout tables told apart."""

from collections.abc import Callable

from bs4 import Tag

from nic_ray.errors import InputError

_NO_GRID = frozenset("memberdecls mlabels".split())
_ONE_LINE = "memname"
"""Classes of Doxygen's tables whose rows are parts of one line, and of those that are one line as a whole."""
MAX_SPAN = 200
MOST_SPANNED = 200_000
"""Cells of a table after which one that spans several counts once."""
MOST_CELLS = 4_000_000
"""Of a table, with those that cells span and those that rows lack."""
LONGEST_CELL = 150
"""Words of a cell beyond which a table lays out text."""


def is_layout(table: Tag) -> bool:
    """Whether a table only lays out text: a single cell or column, other tables, headings or long texts within it."""
    if table.get("role") in ("presentation", "none"):
        return True
    if table.find("table") is not None or table.find(["h1", "h2", "h3", "h4", "h5", "h6"]) is not None:
        return True
    rows = _rows(table)
    cells = [cell for row in rows for cell in row]
    if max((len(row) for row in rows), default=0) <= 1:
        return True
    listed = sum(len(cell.find_all("li")) > 3 or len(cell.find_all("p")) > 3 for cell in cells)
    long = max(len(cell.get_text(" ").split()) for cell in cells)
    return long > LONGEST_CELL and (len(rows) == 1 or listed > 0)


def grid_of(table: Tag, text: Callable[[Tag], str]) -> tuple[list[list[str]], int | None]:
    """Return the texts of a table's cells, all rows of one length, and how many rows are heads; None: not marked.

    Args:
        text: returns that of a cell.

    Raises:
        InputError: it has more than `MOST_CELLS`.
    """
    filled: dict[tuple[int, int], str] = {}
    if _ONE_LINE in table.get_attribute_list("class"):
        return [[" ".join(text(table).split())]], 0
    joined = bool(_NO_GRID & {*table.get_attribute_list("class")})
    rows = _rows(table)
    for number, row in enumerate(rows):
        if joined:
            filled[number, 0] = " ".join(filter(None, map(text, row)))
            continue
        column = 0
        for cell in row:
            while (number, column) in filled:
                column += 1
            content = text(cell)
            down, across = _span(cell, "rowspan") or len(rows) - number, _span(cell, "colspan") or 1
            if len(filled) > MOST_SPANNED:
                down = across = 1
            for below in range(min(down, len(rows) - number)):
                for beside in range(across):
                    filled.setdefault((number + below, column + beside), content)
            column += across
    width = 1 + max((column for _, column in filled), default=-1)
    if width * len(rows) > MOST_CELLS:
        raise InputError(f"has a table of {len(rows):,} rows and {width:,} columns, too large to read; split it")
    grid = [[filled.get((number, column), "") for column in range(width)] for number in range(len(rows))]
    return grid, 0 if joined else _head_rows(table, rows)


def _rows(table: Tag) -> list[list[Tag]]:
    rows = [row for row in table.find_all("tr") if row.find_parent("table") is table]
    return [row.find_all(["td", "th"], recursive=False) for row in rows]


def _span(cell: Tag, name: str) -> int:
    value = str(cell.get(name, "1")).strip()
    return min(MAX_SPAN, int(value)) if value.isdecimal() else 1


def _head_rows(table: Tag, rows: list[list[Tag]]) -> int | None:
    head = table.find("thead")
    if isinstance(head, Tag):
        return min(len(head.find_all("tr")), len(rows))
    marked = 0
    for row in rows:
        if not row or not all(cell.name == "th" or _is_bold(cell) for cell in row):
            break
        marked += 1
    if 0 < marked < len(rows):
        return marked
    # heads of rows only: the columns have none
    return 0 if rows and all(row and row[0].name == "th" for row in rows) else None


def _is_bold(cell: Tag) -> bool:
    text = cell.get_text().strip()
    return bool(text) and text == "".join(each.get_text() for each in cell.find_all(["b", "strong"])).strip()
