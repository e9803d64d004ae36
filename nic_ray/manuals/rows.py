"""Tables as sentences: one for each row, in which every cell follows the head of its column.

"Pump pressure: 45 bar; Test point: MP2." Where the first column has no head, its cell names the row: "Idle speed –
Petrol: 800 rpm; Diesel: 750 rpm." A cell over the whole width names the rows below it in the same way. Without heads,
the first cell stands before the others: "Pump pressure: 45 bar; MP2." Empty cells are left out.
"""

import re
from collections.abc import Sequence

LONGEST_NAME = 8
"""Largest number of words of a cell over the whole width that names the rows below it; a longer one is a paragraph."""
LONGEST_HEAD = 6
"""Largest number of words of a cell that may be a head where nothing marks the first row as heads."""

Grid = Sequence[Sequence[str]]
"""Cells by row and column, all rows of one length; a cell over several rows or columns is repeated in each."""


def row_sentences(grid: Grid, head_rows: int) -> list[str]:
    """Write the rows of a table as sentences.

    Args:
        grid: the texts of its cells.
        head_rows: how many of its first rows hold the heads of columns; 0 for none.
    """
    heads = [_joined(column) for column in zip(*grid[:head_rows], strict=True)] if head_rows else []
    sentences, name = list[str](), ""
    for row in grid[head_rows:]:
        cells = [cell.strip() for cell in row]
        filled = [cell for cell in cells if cell]
        if not filled:
            continue
        if len(cells) > 1 and len(filled) == len(cells) and len(set(cells)) == 1:
            name = "" if len(cells[0].split()) > LONGEST_NAME else cells[0].rstrip(" :")
            if not name:
                sentences.append(_ended(cells[0]))
            continue
        sentence = _with_heads(heads, cells) if heads else _without_heads(cells)
        sentences.append(_ended(f"{name} – {sentence}" if name else sentence))
    # heads or names without rows below them would be lost
    if not sentences and (name or any(heads)):
        sentences = [_ended("; ".join(dict.fromkeys([*filter(None, heads), *([name] if name else [])])))]
    return sentences


def guessed_head_rows(grid: Grid) -> int:
    """Return 1 if the first row of a table without marks looks like the heads of columns, else 0.

    It does if its cells are short, distinct and without digits, and most cells of some column below hold digits, or
    the first cell is empty and no other is.
    """
    if len(grid) < 2 or len(grid[0]) < 2:
        return 0
    first = [cell.strip() for cell in grid[0]]
    parted = [cell for place, cell in enumerate(first) if not place or cell != first[place - 1]]
    if (
        len(parted) < 2
        or len(set(parted)) < len(parted)
        or any(len(cell.split()) > LONGEST_HEAD for cell in first)
        or not all(first[1:])
    ):
        return 0
    if not first[0]:
        return 1
    if any(re.search(r"\d", cell) or cell.endswith((".", "!", "?")) for cell in first):
        return 0
    below = list(zip(*grid[1:], strict=True))
    return int(any(2 * sum(bool(re.search(r"\d", cell)) for cell in column) > len(column) for column in below))


def _joined(cells: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(text for cell in cells if (text := cell.strip().rstrip(" :"))))


def _with_heads(heads: Sequence[str], cells: Sequence[str]) -> str:
    # of cells over several columns, the heads are joined
    spans = list[tuple[list[str], str]]()
    for head, cell in zip(heads, cells, strict=True):
        if spans and cell and spans[-1][1] == cell and len(cell.split()) > 2:
            spans[-1][0].append(head)
        else:
            spans.append(([head], cell))
    parts = [(_joined(names), cell) for names, cell in spans if cell]
    before = ""
    if len(parts) > 1 and not parts[0][0]:
        before = f"{parts.pop(0)[1].rstrip(' :')} – "
    return before + "; ".join(f"{head}: {cell}" if head else cell for head, cell in _without_ends(parts))


def _without_heads(cells: Sequence[str]) -> str:
    filled = [cell for place, cell in enumerate(cells) if cell and (not place or cell != cells[place - 1])]
    if len(filled) == 1:
        return filled[0]
    texts = [cell for _, cell in _without_ends([("", cell) for cell in filled[1:]])]
    return f"{filled[0].rstrip(' :')}: {'; '.join(texts)}"


def _without_ends(parts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Take the full stops from all cells but the last, where a semicolon follows."""
    last = len(parts) - 1
    return [(head, cell if place == last else cell.rstrip(" ;.")) for place, (head, cell) in enumerate(parts)]


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?", "。", ":", ";")) else f"{sentence}."
