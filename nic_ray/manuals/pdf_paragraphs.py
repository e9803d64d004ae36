"""Lines in reading order put together to paragraphs, steps, items and warnings."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nic_ray.manuals.blocks import Block, Kind
from nic_ray.manuals.pdf_columns import Line
from nic_ray.manuals.pdf_headings import Heading
from nic_ray.manuals.pdf_hyphens import join_two, joined
from nic_ray.manuals.pdf_lines import TABLE

BULLET = re.compile(r"(?:[•●○▪■□▫◦‣⁃∙·❖➢➤►▶✓✔–—*o]|-)\s+(?=\S)")
STEP = re.compile(r"\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)]\s+(?=\S)")
LONE_BULLET = re.compile(r"[•●○▪■□▫◦‣⁃∙❖➢➤►▶](\s|$)")
WARNING = re.compile(r"(?:[⚠!△▲]\s*)?(warning|caution|danger|notice|attention)\b\s*[:!.–—-]*", re.IGNORECASE)
LABEL = re.compile(
    r"(?:[⚠!△▲ℹ]\s*)?(warning|caution|danger|notice|attention|note|tip|important|hint)\s*[:!.]?", re.IGNORECASE
)
TERMINAL = re.compile(r"[.!?:;…]['\"”’)\]]*$")
APART = 1.28
"""Distance between lines in the leading of the text from which a new paragraph begins."""


@dataclass
class _Draft:
    """A block while its lines are collected."""

    kind: Kind
    lines: list[Line]
    depth: int = 0
    label: str = ""
    parts: list[str] = field(default_factory=list)


def blocks_of(
    lines: Sequence[Line], headings: Mapping[int, Heading], leading: float, words: Counter[str]
) -> Iterator[tuple[Line, Block]]:
    """The blocks of a manual, each with its first line."""
    drafts = _merged(list(_drafts(lines, headings, leading)))
    for draft in drafts:
        if draft.kind == "row":
            yield draft.lines[0], Block("row", draft.lines[0].text, page=draft.lines[0].page)
            continue
        if draft.kind == "heading":
            yield draft.lines[0], Block("heading", draft.label, draft.depth, draft.lines[0].page)
            continue
        text = joined([line.text for line in draft.lines], words)
        if draft.kind == "item":
            text = BULLET.sub("", text, count=1)
        if draft.label:
            text = join_two(draft.label, text, words)
        if text:
            yield draft.lines[0], Block(draft.kind, text, draft.depth, draft.lines[0].page)


def _drafts(lines: Sequence[Line], headings: Mapping[int, Heading], leading: float) -> Iterator[_Draft]:
    draft: _Draft | None = None
    index = 0
    while index < len(lines):
        line = lines[index]
        heading = headings.get(index)
        if heading is not None:
            if draft is not None:
                yield draft
                draft = None
            yield _Draft("heading", [line], heading.level, heading.text)
            index += heading.lines
            continue
        if draft is not None and "row" not in (draft.kind, _kind_of(line)) and _belongs(draft, line, leading):
            draft.lines.append(line)
        else:
            if draft is not None:
                yield draft
            draft = _Draft(_kind_of(line), [line])
        index += 1
    if draft is not None:
        yield draft


def _kind_of(line: Line) -> Kind:
    if line.text.startswith(TABLE):
        return "row"
    if LONE_BULLET.match(line.text):
        return "item"
    if line.mono:
        return "paragraph"
    if BULLET.match(line.text):
        return "item"
    if STEP.match(line.text):
        return "step"
    return "warning" if WARNING.match(line.text) and line.text[:4].isupper() else "paragraph"


def _belongs(draft: _Draft, line: Line, leading: float) -> bool:
    """Whether a line goes on a block."""
    last = draft.lines[-1]
    if line.mono != last.mono and not (line.mono and draft.kind != "paragraph"):
        return False
    if last.page != line.page or last.column != line.column or line.base < last.base:
        return _goes_over(draft, last, line)
    gap = line.base - last.base
    usual = leading * max(last.size, line.size) / _size_of(draft)
    if gap > APART * max(usual, leading if abs(line.size - last.size) < 0.3 else usual):
        return line.mono and last.mono and gap < 2.5 * leading
    if line.mono:
        return _kind_of(line) == "paragraph"
    if abs(line.size - last.size) > 0.12 * last.size or (
        last.bold and not line.bold and len(draft.lines) == 1 and _is_short(last)
    ):
        return False
    if _kind_of(line) in ("item", "step", "warning") and not _is_number_in_text(draft, line):
        return False
    return not _begins_paragraph(draft, last, line)


def _size_of(draft: _Draft) -> float:
    return draft.lines[0].size


def _is_number_in_text(draft: _Draft, line: Line) -> bool:
    """Whether what looks like the number of a step is a number at the end of a sentence that goes on."""
    last = draft.lines[-1]
    return draft.kind == "paragraph" and not TERMINAL.search(last.text) and not _is_short(last)


def _begins_paragraph(draft: _Draft, last: Line, line: Line) -> bool:
    """Whether the last line ended its paragraph, or this one is indented as the first of its own."""
    step = 0.6 * line.size
    ended = bool(TERMINAL.search(last.text))
    if draft.kind == "paragraph":
        if line.x0 > last.x0 + step and (ended or _is_short(last)):
            return True
        if line.x0 < last.x0 - step and len(draft.lines) > 1 and (ended or _is_short(last)):
            return True
    elif line.x0 < draft.lines[0].x0 - step or (
        line.x0 <= draft.lines[0].x0 + 1 and len(draft.lines) > 1 and draft.lines[1].x0 > line.x0 + step
    ):
        return True
    return (ended and _is_short(last, line)) or (_is_very_short(last) and line.text[:1].isupper())


def _is_short(last: Line, line: Line | None = None) -> bool:
    """Whether the first word of the next line would have had room in a line."""
    room = last.right - last.x1
    word = line.text.split()[0] if line is not None else "wwwww"
    width = (len(word) + 1) * 0.5 * last.size
    return room > width + last.size


def _is_very_short(last: Line) -> bool:
    return last.x1 - last.left < 0.55 * (last.right - last.left)


def _goes_over(draft: _Draft, last: Line, line: Line) -> bool:
    """Whether a block goes on in the next column or on the next page."""
    if line.page > last.page + 1 or abs(line.size - last.size) > 0.08 * last.size or line.bold != last.bold:
        return False
    if line.mono or TERMINAL.search(last.text) or _kind_of(line) != "paragraph":
        return False
    return last.text.endswith(("-", "\u00ad")) or not _is_short(last, line)


def _merged(drafts: Sequence[_Draft]) -> Iterator[_Draft]:
    """A label in a line of its own, such as "WARNING", goes before the paragraph after it; lists get their depths."""
    label: _Draft | None = None
    edges: list[float] = []
    for draft in drafts:
        if label is not None:
            if draft.kind != "heading":
                kind: Kind = "warning" if WARNING.match(label.lines[0].text) else "paragraph"
                text = label.lines[0].text.rstrip(" :.!")
                draft = replace(draft, kind=kind, label=f"{text}:", lines=draft.lines)
            else:
                yield label
            label = None
        elif draft.kind in ("paragraph", "warning") and len(draft.lines) == 1 and LABEL.fullmatch(draft.lines[0].text):
            label = draft
            continue
        if draft.kind in ("item", "step"):
            start = draft.lines[0].x0 - draft.lines[0].left
            edges = [*(edge for edge in edges if edge < start - 4), start]
            draft.depth = len(edges)
        elif draft.kind == "heading":
            edges = []
        yield draft
    if label is not None:
        yield label
