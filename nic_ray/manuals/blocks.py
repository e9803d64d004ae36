"""What every reader of manuals gives: the blocks of a document in reading order, and what could not be read."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["heading", "paragraph", "step", "item", "row", "warning"]


@dataclass(frozen=True)
class Block:
    """A piece of a document that is never cut except at the end of a sentence: a heading, a paragraph, a step, ..."""

    kind: Kind
    """heading; paragraph; step, of a numbered list; item, of another list; row, of a table, written as a sentence;
    warning: a paragraph or note that warns of danger or damage."""
    text: str
    """Its text in one line, with single spaces; of a step, with its number ("3. Remove the cover.")."""
    level: int = 0
    """Of a heading, its depth in the document, from 1; of steps and items, how deep their list lies, from 1; else 0."""
    page: int | None = None
    """Its first page, from 1; None where a format has no pages."""


@dataclass(frozen=True)
class Document:
    """A manual in reading order."""

    title: str
    """As the document names itself, else the name of its file without its ending."""
    blocks: tuple[Block, ...]
    pages: int | None = None
    """Number of its pages; None where a format has no pages."""
    notes: tuple[str, ...] = ()
    """What was left out and what the user should know, a sentence each, such as the pages without text."""
