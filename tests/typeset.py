"""The reference manuals set as PDF with the faults that printed manuals have, each of which can be left out."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reportlab.lib.pagesizes import A4
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas

MANUALS = Path(__file__).parent.parent / "data" / "reference"
WIDTH, HEIGHT = A4
MARGIN = 64.0
GUTTER = 24.0
SIZE = 10.0
LEADING = 12.0
VOWELS = "aeiouy"


@dataclass(frozen=True)
class Style:
    """How a manual is set."""

    columns: int = 1
    hyphenate: bool = True
    justify: bool = True
    outline: bool = True
    contents: bool = True
    headers: bool = True
    diagonal_mark: bool = True
    upright_mark: bool = True
    margin_text: bool = True
    scan_page: bool = True
    heading_sizes: tuple[float, float] = (18.0, 13.0)
    numbers: bool = True


@dataclass(frozen=True)
class Passage:
    """A section of a reference manual."""

    chapter: str
    section: str
    text: str


@dataclass
class Press:
    """Where the next line goes."""

    canvas: Canvas
    style: Style
    title: str
    page: int = 1
    column: int = 0
    y: float = HEIGHT - MARGIN - 20
    top: float = HEIGHT - MARGIN - 20
    """Where the columns of this page begin."""
    entries: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def width(self) -> float:
        return (WIDTH - 2 * MARGIN - GUTTER * (self.style.columns - 1)) / self.style.columns

    @property
    def x(self) -> float:
        return MARGIN + self.column * (self.width + GUTTER)


def passages_of(domain: str) -> list[Passage]:
    rows = (json.loads(line) for line in (MANUALS / f"{domain}.manual.jsonl").read_text(encoding="utf-8").splitlines())
    return [Passage(row["chapter"], row["section"], row["text"]) for row in rows]


def typeset(path: Path, passages: Sequence[Passage], style: Style, title: str = "Maintenance Manual MX-40") -> None:
    """Set passages as a PDF; chapters begin across the columns."""
    canvas = Canvas(str(path), pagesize=A4, invariant=1)
    canvas.setTitle(title)
    press = Press(canvas, style, title)
    if style.contents:
        _contents(press, passages)
    chapter, number, section = "", 0, 0
    for passage in passages:
        if passage.chapter != chapter:
            chapter, number, section = passage.chapter, number + 1, 0
            _chapter(press, f"{number} {chapter}" if style.numbers else chapter)
        section += 1
        _section(press, f"{number}.{section} {passage.section}" if style.numbers else passage.section)
        _paragraph(press, passage.text)
    _finish(press)
    if style.scan_page:
        canvas.rect(100, 100, 300, 500, fill=1)
        canvas.showPage()
    canvas.save()


def _contents(press: Press, passages: Sequence[Passage]) -> None:
    _line(press, "Contents", "Helvetica-Bold", 14, 30)
    for number, passage in enumerate(passages):
        if press.y < MARGIN + 40:
            _finish(press)
        room = WIDTH - 2 * MARGIN
        name, page = passage.section, str(3 + number // 4)
        dots = "." * int(
            (room - stringWidth(name + page + "  ", "Times-Roman", SIZE)) / stringWidth(".", "Times-Roman", SIZE)
        )
        _line(press, f"{name} {dots} {page}", "Times-Roman", SIZE, LEADING)
    _finish(press)


def _chapter(press: Press, text: str) -> None:
    if press.style.columns > 1 or press.y < 300:
        _finish(press)
    press.column = 0
    size = press.style.heading_sizes[0]
    _bookmark(press, text, 0)
    press.y -= 24
    for line in _broken(text, "Helvetica-Bold", size, WIDTH - 2 * MARGIN, hyphenate=False):
        _line(press, line, "Helvetica-Bold", size, size * 1.2)
    press.y -= 10
    press.top = press.y


def _section(press: Press, text: str) -> None:
    size = press.style.heading_sizes[1]
    lines = list(_broken(text, "Helvetica-Bold", size, press.width, hyphenate=False))
    _need(press, len(lines) * size * 1.2 + 3 * LEADING + 16)
    press.y -= 12
    _bookmark(press, text, 1)
    for line in lines:
        _line(press, line, "Helvetica-Bold", size, size * 1.2)
    press.y -= 4


def _paragraph(press: Press, text: str) -> None:
    lines = list(_broken(text, "Times-Roman", SIZE, press.width, hyphenate=press.style.hyphenate))
    for place, line in enumerate(lines):
        _need(press, LEADING)
        words = line.split(" ")
        spare = press.width - stringWidth(line, "Times-Roman", SIZE)
        wide = press.style.justify and place + 1 < len(lines) and len(words) > 1
        writer = press.canvas.beginText(press.x, press.y)
        writer.setFont("Times-Roman", SIZE)
        writer.setWordSpace(spare / (len(words) - 1) if wide else 0)
        writer.textOut(line)
        press.canvas.drawText(writer)
        press.y -= LEADING
    press.y -= 6


def _line(press: Press, text: str, font: str, size: float, leading: float) -> None:
    press.canvas.setFont(font, size)
    press.canvas.drawString(press.x, press.y, text)
    press.y -= leading


def _bookmark(press: Press, text: str, level: int) -> None:
    if press.style.outline:
        key = f"{press.page}-{len(press.entries)}"
        press.entries.append((text, level, press.page))
        press.canvas.bookmarkHorizontalAbsolute(key, press.y)
        press.canvas.addOutlineEntry(text, key, level)


def _need(press: Press, height: float) -> None:
    """Go to the next column or page where less than `height` is left."""
    if press.y - height > MARGIN + 20:
        return
    if press.column + 1 < press.style.columns:
        press.column += 1
        press.y = press.top
    else:
        _finish(press)


def _finish(press: Press) -> None:
    """Print what stands on every page, and begin the next one."""
    canvas, style = press.canvas, press.style
    if style.headers:
        canvas.setFont("Helvetica", 8)
        outer = press.page % 2
        canvas.drawString(MARGIN if outer else WIDTH - MARGIN - 120, HEIGHT - 40, press.title)
        canvas.drawCentredString(WIDTH / 2, 36, f"Page {press.page} of 40")
        canvas.drawString(MARGIN, 24, "© 2019 Tarnwick Works. All rights reserved.")
    if style.diagonal_mark:
        canvas.saveState()
        canvas.setFillGray(0.85)
        canvas.setFont("Helvetica-Bold", 70)
        canvas.translate(WIDTH / 2, HEIGHT / 2)
        canvas.rotate(45)
        canvas.drawCentredString(0, 0, "CONFIDENTIAL")
        canvas.restoreState()
    if style.upright_mark:
        canvas.saveState()
        canvas.setFillGray(0.9)
        canvas.setFont("Helvetica-Bold", 48)
        canvas.drawCentredString(WIDTH / 2, HEIGHT / 3, "UNCONTROLLED COPY")
        canvas.restoreState()
    if style.margin_text:
        canvas.saveState()
        canvas.setFont("Helvetica", 7)
        canvas.translate(20, 200)
        canvas.rotate(90)
        canvas.drawString(0, 0, "Form 7731 revision C, supersedes all earlier issues")
        canvas.restoreState()
    canvas.showPage()
    press.page += 1
    press.column, press.top = 0, HEIGHT - MARGIN - 20
    press.y = press.top


def _broken(text: str, font: str, size: float, width: float, *, hyphenate: bool) -> Iterator[str]:
    """Lines of a text; with hyphenation words are parted between a vowel and what follows it."""
    line = ""
    for word in text.split():
        tried = f"{line} {word}" if line else word
        if stringWidth(tried, font, size) <= width:
            line = tried
            continue
        head, tail = "", word
        if hyphenate and line:
            room = width - stringWidth(f"{line} -", font, size)
            head, tail = _parted(word, font, size, room)
        yield f"{line} {head}-" if head else line
        line = tail
    yield line


def _parted(word: str, font: str, size: float, room: float) -> tuple[str, str]:
    for cut in range(len(word) - 3, 2, -1):
        parts = word[:cut], word[cut:]
        fits = word[cut - 1] in VOWELS and word[cut] not in VOWELS and stringWidth(parts[0], font, size) <= room
        if fits and re.fullmatch(r"[^\W\d_]+[.,;:]?", word):
            return parts
    return "", word
