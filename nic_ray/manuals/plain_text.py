"""Manuals in plain text: headings are underlined, numbered or in capitals; paragraphs end at empty lines."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nic_ray.manuals.blocks import Block, Document, Kind
from nic_ray.manuals.files import refuse_html, text_of_file
from nic_ray.manuals.languages import warning_start
from nic_ray.manuals.lines import one_line
from nic_ray.manuals.markup import titled
from nic_ray.manuals.rows import guessed_head_rows, row_sentences
from nic_ray.words import count_words

LONGEST_HEADING = 14
"""Largest number of words of a heading that is numbered or in capitals."""
_RULE = re.compile(r"\s*([=\-~^\"'*+#_.:`])\1{2,}\s*\Z")
_NUMBERED = re.compile(
    r"(?:(?:chapter|appendix|section|kapitel|anhang|abschnitt)\s+)?(?P<number>(?:\d+|[A-Z])(?:\.\d+)*)(?P<end>[.:]?)\s+(?=\S)",
    re.I,
)
_STEP = re.compile(r"\s*(?P<number>\(?(?:\d{1,3}|[a-z])[.)]|Step\s+\d+[:.])\s+(?=\S)", re.IGNORECASE)
_ITEM = re.compile(r"\s*(?:[-*•·–▪◦‣+]|o(?=\s{1,4}\S))\s+(?=\S)")
_PAGE = re.compile(
    r"\W*(?:(?:page|seite|p\.|página|pagina)\s*)?\d{1,4}(?:\s*(?:of|/|von|de|di)\s*\d{1,4})?\W*\Z", re.IGNORECASE
)
_LEADER = re.compile(r"(?:\.\s?){4,}\s*[\divxlc]+\s*\Z")
_COLUMNS = re.compile(r"\s{2,}|\t+")
LONGEST_SIGN = 2
"""Largest number of words of a line that warns and belongs to the lines below it."""
LEAST_REPEATS = 3
"""How often a line stands at the top or bottom of pages to be taken for a header or footer."""


@dataclass
class _Reading:
    blocks: list[Block] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    """Marks of headings, the outermost first: in order of their first appearance, numbers by their depth."""
    indents: list[int] = field(default_factory=list)
    """Columns at which the lists begin that are not left yet, the outermost first."""
    same: dict[str, str] = field(default_factory=dict)
    """How deep a number lies -> the rule below headings with such numbers."""


def read_text(path: Path) -> Document:
    """Read a file of plain text.

    Raises:
        InputError: it is no text.
    """
    reading = _Reading()
    text, notes = text_of_file(path)
    refuse_html(text, "plain text")
    for paragraph in _paragraphs(_without_margins(text)):
        _read(paragraph, reading)
    return replace(titled(reading.blocks, "", path.stem), notes=notes)


def _without_margins(text: str) -> list[str]:
    """Return the lines without page numbers, dotted contents, and lines that stand at the edges of several pages."""
    pages = [page.split("\n") for page in text.expandtabs(8).split("\f")]
    edges = Counter[str]()
    for page in pages:
        filled = [line for line in page if line.strip()]
        edges.update({_shape(line) for line in [*filled[:2], *filled[-2:]]})
    repeated = {shape for shape, times in edges.items() if times >= LEAST_REPEATS and 2 * times >= len(pages)}
    if len(pages) < LEAST_REPEATS:
        repeated = set()
    lines = list[str]()
    for page in pages:
        kept = [line for line in page if not (line.strip() and _shape(line) in repeated)]
        alone = [not (kept[i - 1].strip() if i else "") and not (kept[i + 1].strip() if i + 1 < len(kept) else "")
                 for i in range(len(kept))]  # fmt: skip
        lines += [
            "" if _LEADER.search(line) or (isolated and _PAGE.match(line)) else line
            for line, isolated in zip(kept, alone, strict=True)
        ]
        if len(pages) > 1:
            lines.append("\f")
    return lines


def _shape(line: str) -> str:
    return re.sub(r"\d+", "0", " ".join(line.split())).casefold()


def _paragraphs(lines: Sequence[str]) -> list[list[str]]:
    """Part lines at empty ones; a page's end parts nothing if a sentence or a heading's rule goes on after it."""
    found, current = list[list[str]](), list[str]()
    broken = False
    width = max(map(len, lines), default=0)
    for line in lines:
        if line.strip(" \f"):
            if broken and found and not current and _goes_on(found[-1][-1], line, width):
                current = found.pop()
            broken = False
            current.append(line.rstrip())
        else:
            broken = broken or "\f" in line
            if current:
                found.append(current)
                current = []
    return [*found, *([current] if current else [])]


def _goes_on(last: str, first: str, width: int) -> bool:
    """Whether the last line of a page and the first of the next are of one paragraph."""
    if _RULE.match(first):
        return _is_underlined(last, first)
    if _RULE.match(last) or _STEP.match(first) or _ITEM.match(first) or _style(first):
        return False
    full = len(last) >= 0.8 * width or last.endswith((",", "-"))
    return not last.endswith((".", "!", "?", ":")) and (first.lstrip()[:1].islower() or full)


def _read(paragraph: list[str], reading: _Reading) -> None:
    rest = list(paragraph)
    if len(rest) >= 3 and _RULE.match(rest[0]) and _RULE.match(rest[2]) and not _RULE.match(rest[1]):
        _add_heading(rest[1], f"over{rest[2].strip()[0]}", reading)
        rest = rest[3:]
    elif len(rest) >= 2 and _is_underlined(rest[0], rest[1]):
        _add_heading(rest[0], rest[1].strip()[0], reading)
        rest = rest[2:]
    elif len(rest) == 1 and (style := _style(rest[0])):
        _add_heading(rest[0], style, reading)
        return
    rest = [line for line in rest if not _RULE.match(line)]
    if rest and (len(rest) > 1 or not reading.blocks or rest):
        _add_text(rest, reading)


def _is_underlined(line: str, rule: str) -> bool:
    return bool(
        _RULE.match(rule)
        and not _RULE.match(line)
        and len(rule.strip()) >= 0.6 * len(line.strip())
        and len(_COLUMNS.split(line.strip())) == 1
    )


def _style(line: str) -> str:
    """How a line that stands alone is marked as a heading; empty if it is none."""
    text = line.strip()
    if count_words(text) > LONGEST_HEADING or text.endswith((".", ";", ",", ":", "!")) or _is_warning(text):
        return ""
    numbered = _NUMBERED.match(text)
    if numbered and text[numbered.end()].isupper():
        number = numbered["number"]
        if "." in number or numbered["end"] or number.isdigit():
            return f"number {number.count('.')}"
    letters = [character for character in text if character.isalpha()]
    return "capitals" if len(letters) > 2 and all(map(str.isupper, letters)) else ""


def _is_warning(text: str) -> bool:
    return warning_start("en").match(text) is not None


def _add_heading(line: str, style: str, reading: _Reading) -> None:
    text = " ".join(line.split())
    reading.indents.clear()
    if style.startswith("number"):
        style = reading.same.get(style, style)
    elif (depth := _style(text)).startswith("number"):
        reading.same.setdefault(depth, style)
    if style not in reading.styles:
        place = _place(style, reading.styles)
        reading.blocks[:] = [_deeper(block, place + 1) for block in reading.blocks]
        reading.styles.insert(place, style)
    reading.blocks.append(Block("heading", text, reading.styles.index(style) + 1))


def _place(style: str, styles: Sequence[str]) -> int:
    """Where a new mark stands: a number before deeper ones, anything else at the end."""
    deeper = [place for place, other in enumerate(styles) if style.startswith("number") and style < other[:8]]
    return next((place for place in deeper if styles[place].startswith("number")), len(styles))


def _deeper(block: Block, level: int) -> Block:
    return Block("heading", block.text, block.level + 1) if block.kind == "heading" and block.level >= level else block


def _add_text(lines: list[str], reading: _Reading) -> None:
    rows, head_rows = _table(lines)
    if rows:
        reading.blocks += [Block("row", text) for text in row_sentences(rows, head_rows)]
        return
    if len(lines) > 1 and count_words(lines[0]) <= LONGEST_SIGN and _is_warning(lines[0]):
        lines = [f"{lines[0].rstrip(' :!')}:", *lines[1:]]
    begun = False
    for line in lines:
        step, item = _STEP.match(line), _ITEM.match(line)
        if step or item:
            _indent(line, reading)
            kind: Kind = "step" if step else "item"
            text = line.strip() if step else line[item.end() :] if item else ""
            reading.blocks.append(Block(kind, " ".join(text.split()), len(reading.indents)))
        elif begun:
            last = reading.blocks[-1]
            reading.blocks[-1] = Block(last.kind, one_line(f"{last.text}\n{line}"), last.level)
        else:
            if not reading.indents or _depth(line) <= reading.indents[0]:
                reading.indents.clear()
            reading.blocks.append(Block("paragraph", one_line(line), len(reading.indents)))
        begun = True
    _join_warning(reading)


def _indent(line: str, reading: _Reading) -> None:
    """Remember how far the entries of a list are indented, and forget lists that it has left."""
    while reading.indents and _depth(line) < reading.indents[-1]:
        reading.indents.pop()
    if not reading.indents or _depth(line) > reading.indents[-1]:
        reading.indents.append(_depth(line))


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _join_warning(reading: _Reading) -> None:
    """Join "WARNING", alone between empty lines, with the paragraph below it."""
    if len(reading.blocks) < 2:
        return
    one, two = reading.blocks[-2:]
    if one.kind == two.kind == "paragraph" and count_words(one.text) <= LONGEST_SIGN and _is_warning(one.text):
        reading.blocks[-2:] = [Block("paragraph", f"{one.text.rstrip(' :!')}: {two.text}", two.level)]


def _table(lines: Sequence[str]) -> tuple[list[list[str]], int]:
    """Return the cells of lines in columns and how many rows hold heads; none for lines that are no table.

    A table has at least three rows, or two and a rule, with equally many cells.
    """
    rules = [place for place, line in enumerate(lines) if re.fullmatch(r"[\s|+=\-:]+", line)]
    kept = [line.strip().strip("|+") for place, line in enumerate(lines) if place not in rules]
    if len(kept) + bool(rules) < 3 or any(_ITEM.match(line) or _STEP.match(line) for line in lines):
        return [], 0
    parts = r"\s*\|\s*" if all("|" in line for line in kept) else _COLUMNS
    rows = [[cell.strip() for cell in re.split(parts, line.strip())] for line in kept]
    if len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return [], 0
    # the first rule above all rows is the table's edge
    inner = [place for place in rules if 0 < place < len(lines) - 1]
    return rows, inner[0] - (0 in rules) if inner else guessed_head_rows(rows)
