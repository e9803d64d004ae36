"""Blocks of a document packed into sections: 80 to 180 words, cut at the ends of paragraphs, never across headings.

The cuts of the text below a heading are those of least cost. A pack below `FEWEST` words costs the more, the shorter it
is; so does a cut between what belongs together (`_tie`): a warning and what it warns of, the sentence that introduces a
list or a table and its first entries, the steps of a procedure. A paragraph is cut, at the end of a sentence, if it is
longer than `MOST` words, or if otherwise a few words would be left over. Text below a heading that is shorter than
`FEWEST` words stays a section of its own, and a heading without text gives none.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nic_ray.manuals.blocks import Block, Document
from nic_ray.manuals.contents import without_contents
from nic_ray.manuals.furniture import without_furniture
from nic_ray.manuals.languages import warning_start
from nic_ray.manuals.numbering import without_numbers
from nic_ray.manuals.sections import Section
from nic_ray.manuals.sentences import sentences
from nic_ray.words import count_words

FEWEST, MOST = 80, 180
"""Words of a section."""
_MOST_PIECES = 4 * MOST
"""Of a section, since some hold no word: rows of dashes."""
_SHORT_COST = 10.0
"""What a pack without words costs; one of w words costs this times ((FEWEST - w) / FEWEST)²."""
_SENTENCE_TIE = 5.0
"""What a cut within a paragraph costs: as much as a pack of 23 words."""
_CLOSING = (")", "]", '"', "'", "”", "»")
_OPEN_ENDS = (*_CLOSING, "°", "%", "Ω", "/", ">", "*")
_INVISIBLE = "\u00ad\u200b\ufeff\ufffc"
_CLAUSE = re.compile(r"(?<=[;,])\s+")


@dataclass(frozen=True)
class _Piece:
    """What is never cut: a block, or a sentence of one."""

    block: Block
    text: str
    words: int
    inside: bool
    """Whether it continues the block of the piece before it."""
    glued: bool = False
    """Whether no space stands between that piece and this one, as in scripts that part no sentences by spaces."""


def sections_of(document: Document, *, domain: str, source: str, language: str) -> list[Section]:
    """Pack the blocks of a document into sections, in its order.

    Args:
        domain: of all of them.
        source: the file of the document, for all of them.
        language: code of ISO 639 of the text; of another than those known, sentences end by Unicode's rules alone.
    """
    title, blocks = _without_numbers(document)
    found = list[Section]()
    if document.pages is None:  # a reader that knows pages knows their edges
        blocks = without_furniture(blocks)
    for headings, body in _bodies(without_contents(blocks)):
        path = headings[1:] if headings and headings[0].casefold() == title.casefold() else headings
        for pack in packs([_marked(block, language) for block in body], language):
            if not any(piece.words for piece in pack):
                continue
            found.append(
                Section(
                    domain=domain,
                    document=title,
                    chapter=" > ".join(path[:-1]),
                    section=headings[-1] if headings else title,
                    text=joined(pack),
                    page=pack[0].block.page,
                    source=source,
                )
            )
    return found


def packs(blocks: Sequence[Block], language: str) -> list[list[_Piece]]:
    """Cut the text below a heading into packs; those of one block or more than `MOST` words are cut at the least cost.

    Args:
        blocks: without headings, at least one.
    """
    pieces = [piece for block in blocks for piece in _pieces(block, language)]
    total = sum(piece.words for piece in pieces)
    if total <= MOST:
        return [pieces] if pieces else []
    ties = [0.0, *(_tie(before, after) for before, after in itertools.pairwise(pieces))]
    even = total / -(-total // MOST)
    best, cut = [0.0], [0]
    for end in range(1, len(pieces) + 1):
        least, where, words = float("inf"), end - 1, 0
        for start in range(end - 1, -1, -1):
            words += pieces[start].words
            if (words > MOST or end - start > _MOST_PIECES) and start < end - 1:
                break
            short = _SHORT_COST * (max(0, FEWEST - words) / FEWEST) ** 2
            cost = best[start] + ties[start] + short + 0.5 * ((words - even) / even) ** 2
            if cost < least:
                least, where = cost, start
        best.append(least)
        cut.append(where)
    ends, place = list[int](), len(pieces)
    while place:
        ends.append(place)
        place = cut[place]
    starts = [0, *reversed(ends)]
    return [pieces[start:end] for start, end in itertools.pairwise(starts)]


def joined(pack: Sequence[_Piece]) -> str:
    """Write a pack as one line: entries of lists without an end are ended by ";", the last by "."."""
    parts = list[str]()
    for place, piece in enumerate(pack):
        following = pack[place + 1] if place + 1 < len(pack) else None
        whole = piece.block.text.endswith(piece.text)
        text = piece.text
        if piece.block.level and piece.block.kind != "row" and whole and _is_open(text):
            text += ";" if following is not None and following.block.kind == piece.block.kind == "item" else "."
        parts.append(text if piece.glued or not place else f" {text}")
    return "".join(parts)


def _is_open(text: str) -> bool:
    """Whether nothing ends a sentence at the end of a text: "see 3)" and "5 bar", but not "(see 3.)"."""
    last = text.rstrip("".join(_CLOSING))[-1:]
    return text[-1:].isalnum() or (text.endswith(_OPEN_ENDS) and last not in ".!?:;…。！？")


def _without_numbers(document: Document) -> tuple[str, list[Block]]:
    cleaned = [replace(block, text=_cleaned(block.text)) for block in document.blocks]
    blocks = [block for block in cleaned if block.text]
    headings = [block.text for block in blocks if block.kind == "heading"]
    title, *names = without_numbers([_cleaned(document.title), *headings])
    named = iter(names)
    return title, [replace(block, text=next(named)) if block.kind == "heading" else block for block in blocks]


def _cleaned(text: str) -> str:
    """Put characters together with their accents; leave out control characters, soft hyphens and repeated spaces."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return text if text.isprintable() else "".join(filter(_is_shown, text))


def _is_shown(character: str) -> bool:
    return character == " " or (unicodedata.category(character) not in ("Cc", "Cs") and character not in _INVISIBLE)


def _bodies(blocks: Sequence[Block]) -> Iterator[tuple[list[str], list[Block]]]:
    """Yield the text below each heading that has some, with the headings that lead to it, the outermost first."""
    path, body = list[Block](), list[Block]()
    for block in blocks:
        if block.kind != "heading":
            body.append(block)
            continue
        if body:
            yield [heading.text for heading in path], body
        path = [*(heading for heading in path if heading.level < block.level), block]
        body = []
    if body:
        yield [heading.text for heading in path], body


def _marked(block: Block, language: str) -> Block:
    warns = block.kind == "paragraph" and warning_start(language).match(block.text)
    return replace(block, kind="warning") if warns else block


def _pieces(block: Block, language: str) -> Iterator[_Piece]:
    if block.kind == "row" and count_words(block.text) <= MOST:
        yield _Piece(block, block.text, count_words(block.text), inside=False)
        return
    end = 0
    for sentence in sentences(block.text, language):
        for text in _short_enough(sentence):
            start = block.text.find(text, end)
            yield _Piece(block, text, count_words(text), inside=end > 0, glued=0 < start == end)
            end = max(start, end) + len(text)


def _short_enough(sentence: str) -> list[str]:
    """Cut a sentence of more than `MOST` words, such as the listing of a program, after clauses, or after any word."""
    if count_words(sentence) <= MOST:
        return [sentence]
    cut, words = list[str](), 0
    for clause in _CLAUSE.split(sentence):
        for part in [clause] if count_words(clause) <= FEWEST else _by_words(clause):
            count = count_words(part)
            if cut and words + count <= FEWEST:
                cut[-1] += f" {part}"
                words += count
            else:
                cut.append(part)
                words = count
    return cut


def _by_words(clause: str) -> list[str]:
    """Cut a text into runs of at most `FEWEST` words."""
    runs, words = list[list[str]]([[]]), 0
    for piece in clause.split():
        count = count_words(piece)
        if runs[-1] and words + count > FEWEST:
            runs.append([])
            words = 0
        runs[-1].append(piece)
        words += count
    return [" ".join(run) for run in runs]


def _tie(before: _Piece, after: _Piece) -> float:
    """What it costs to cut between two pieces."""
    if after.inside:
        return _SENTENCE_TIE if after.block.kind in ("paragraph", "item", "row") else 2 * _SENTENCE_TIE
    one, two = before.block, after.block
    if one.kind == "warning":
        return 4.0 if two.kind in ("step", "warning") else 3.0
    if one.text.endswith((":", "：")):
        return 4.0
    if two.level > one.level and one.kind in ("step", "item"):
        return 3.0
    if two.kind == "step" and one.kind == "paragraph" and not one.level:
        return 3.0 if two.text.startswith(("1", "a", "A", "(1", "(a")) else 1.0
    if two.level and two.kind in ("paragraph", "warning", "row"):
        return 3.0
    if two.kind == "step":
        return 1.5
    if one.kind == two.kind and one.kind in ("item", "row"):
        return 0.5
    return 0.0 if two.kind == "paragraph" else 0.3
