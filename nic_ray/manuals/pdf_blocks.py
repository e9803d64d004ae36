"""The blocks of a manual from its cleaned pages: lines in reading order, headings, paragraphs and tables."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nic_ray.manuals.blocks import Block
from nic_ray.manuals.pdf_aligned import aligned_tables
from nic_ray.manuals.pdf_columns import Line, lines_in_order
from nic_ray.manuals.pdf_contents import is_index, without_contents
from nic_ray.manuals.pdf_headings import headings_by_looks, headings_by_outline, looks_of, without_numbers
from nic_ray.manuals.pdf_hyphens import joined, vocabulary_of
from nic_ray.manuals.pdf_lines import TABLE, Piece
from nic_ray.manuals.pdf_pages import Entry, Page
from nic_ray.manuals.pdf_paragraphs import blocks_of
from nic_ray.manuals.pdf_tables import Table, heads_and_rows, tables_of
from nic_ray.manuals.rows import row_sentences


@dataclass(frozen=True)
class Found:
    """The blocks of a manual, and what was left out of it."""

    blocks: tuple[Block, ...]
    contents: tuple[int, ...]
    """Pages on which contents or an index were left out."""
    missing: int
    """Number of entries of the outline that were found in no line."""


def blocks_of_pages(pages: Sequence[Page], entries: Sequence[Entry]) -> Found:
    """The blocks of pages in reading order."""
    lines: list[Line] = []
    tables: list[Table] = []
    index = [page.number for page in pages if is_index(page)]
    for page in pages:
        if page.number in index:
            continue
        found, pieces = tables_of(page)
        places = [_place_of(table, len(tables) + number) for number, table in enumerate(found)]
        tables += found
        lines += lines_in_order([*pieces, *places], page.number)
    lines, contents = without_contents(lines)
    lines, aligned = aligned_tables(lines, len(tables))
    tables += aligned
    text = [line for line in lines if not line.text.startswith(TABLE)]
    cells = [line for table in tables for row in table.rows for cell in row for line in cell.split("\n")]
    words = vocabulary_of([*(line.text for line in text), *cells])
    looks = looks_of(text)
    headings, missing = headings_by_outline(lines, entries, words)
    headings = without_numbers(headings | headings_by_looks(lines, looks, headings, words))
    blocks = _with_rows(blocks_of(lines, headings, looks[1], words), tables, words)
    return Found(tuple(blocks), tuple(sorted({*contents, *index})), missing)


def _with_rows(blocks: Iterable[tuple[Line, Block]], tables: Sequence[Table], words: Counter[str]) -> Iterator[Block]:
    """Blocks with the rows of tables in their places."""
    heads: tuple[str, ...] = ()
    last: Table | None = None
    for line, block in blocks:
        if not line.text.startswith(TABLE):
            yield block
            last = None
            continue
        table = tables[int(line.text.removeprefix(TABLE))]
        heads, rows = heads_and_rows(table, heads if last is not None and _goes_on(last, table) else ())
        yield from _row_blocks(heads, rows, table.page, words)
        last = table


def _place_of(table: Table, number: int) -> Piece:
    """A piece that keeps the place of a table in the reading order."""
    return Piece(
        f"{TABLE}{number}", table.x0, table.x1, table.top, table.bottom, table.top, 1.0, bold=False, mono=False
    )


def _goes_on(before: Table, table: Table) -> bool:
    """Whether a table goes on one that ends on the page before."""
    same = len(before.edges) == len(table.edges)
    return (
        same
        and table.page == before.page + 1
        and all(abs(a - b) < 6 for a, b in zip(before.edges, table.edges, strict=True))
    )


def _row_blocks(heads: Sequence[str], rows: Sequence[Sequence[str]], page: int, words: Counter[str]) -> Iterator[Block]:
    grid = [[joined(cell.split("\n"), words) for cell in row] for row in ([heads, *rows] if any(heads) else rows)]
    width = max(map(len, grid), default=0)
    whole = [[*row, *[""] * (width - len(row))] for row in grid]
    yield from (Block("row", sentence, page=page) for sentence in row_sentences(whole, int(any(heads))))
