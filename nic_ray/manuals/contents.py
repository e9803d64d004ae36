"""Lists of contents and alphabetical indexes, which repeat a document's headings and hold nothing of their own."""

import re
from collections.abc import Iterator, Sequence

from nic_ray.manuals.blocks import Block

NAMES = frozenset(
    "contents|table of contents|list of figures|list of tables|index|inhalt|inhaltsverzeichnis|stichwortverzeichnis|"
    "sommaire|table des matières|contenido|índice|indice|sommario|inhoud|inhoudsopgave|spis treści|innehåll|содержание|"
    "оглавление|目录|目次".split("|")
)
"""What lists of contents are headed by, in lower case."""
_LEADER = re.compile(r"(?:\s?[.·…_]){4,}\s*[\divxlc]+\s*\Z|\s\d{1,4}\Z", re.IGNORECASE)
_NUMBER = re.compile(r"\A\W*(?:\d+[.\d]*\s+|[A-Za-z]\.\d*\s+)?")
_LETTER = re.compile(r"[-–—]\s*\w\s*[-–—]")


def without_contents(blocks: Sequence[Block]) -> list[Block]:
    """Leave out lists of contents, and the parts of an index below a letter between dashes ("- v -").

    What stands below a heading of `NAMES` is such a list if more than half of it repeats headings of the document or
    ends in page numbers. A document whose headings are all letters is an index as a whole.
    """
    headings = [block for block in blocks if block.kind == "heading"]
    if headings and all(_LETTER.fullmatch(heading.text) for heading in headings):
        return []
    titles = {_plain(heading.text) for heading in headings}
    kept = list[Block]()
    for part in _parts(blocks):
        heading, below = (part[0], part[1:]) if part[0].kind == "heading" else (None, part)
        if heading is not None and heading.text.strip(" :").casefold() in NAMES:
            listed = sum(bool(_LEADER.search(block.text)) or _plain(block.text) in titles for block in below)
            if 2 * listed > len(below) or not below:
                continue
        if heading is not None and _LETTER.fullmatch(heading.text) and all(block.kind == "item" for block in below):
            continue
        kept += part
    return kept


def _parts(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Part blocks before every heading."""
    part = list[Block]()
    for block in blocks:
        if block.kind == "heading" and part:
            yield part
            part = []
        part.append(block)
    if part:
        yield part


def _plain(text: str) -> str:
    """A heading as it stands in a list of contents: without its number, leaders and page."""
    return _NUMBER.sub("", _LEADER.sub("", text)).strip(" .:").casefold()
