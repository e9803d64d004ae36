"""Rows of tables as sentences, so that a passage says what its numbers mean."""

from collections.abc import Sequence

ENDS = ".!?"


def row_sentence(heads: Sequence[str], cells: Sequence[str]) -> str:
    """A row of a table as a sentence: each cell after the head of its column.

    Heads ("Pump pressure", "Test point") and cells ("45 bar", "MP2") give "Pump pressure: 45 bar; test point: MP2."
    Empty cells are left out. Without heads the first cell stands as the head of the others: "Pump pressure: 45 bar."

    Args:
        heads: the heads of the columns; empty where the table has none.
        cells: the texts of the row, one for each column.
    """
    if not any(heads):
        first, *others = [cell for cell in cells if cell] or [""]
        return _closed(f"{first.rstrip(':')}: {'; '.join(others)}" if others else first)
    named = list(heads) + [""] * (len(cells) - len(heads))
    parts = [
        f"{head.rstrip(':')}: {cell}" if head and head != cell else cell
        for head, cell in zip(named, cells, strict=False)
        if cell
    ]
    return _closed(
        "; ".join(part.rstrip(";") if place == 0 else _lowered(part.rstrip(";")) for place, part in enumerate(parts))
    )


def _lowered(text: str) -> str:
    """A text with a small first letter, unless its first word is more than a capitalised word, such as "MP2"."""
    word = text.partition(" ")[0]
    return text[0].lower() + text[1:] if len(word) > 1 and word[1:].rstrip(":").islower() else text


def _closed(text: str) -> str:
    return text if not text or text[-1] in ENDS else text + "."
