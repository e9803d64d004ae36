"""Pages of a PDF as pieces of text with their places and looks, read by PDFium. No other module knows PDFium.

Places are in points, from the left and from the top of the page as it is seen, so that the rotation of a page is gone.
"""

import ctypes
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pypdfium2
from pypdfium2 import raw

from nic_ray.errors import InputError
from nic_ray.manuals.pdf_lines import Character, Piece, Rule, join_characters

LEAST_SLANT = 0.02
"""Sine of the angle from which a character counts as rotated."""
MOST_SKEW = 0.5
"""Tangent of the slant up to which a character counts as italic and not as skewed."""
MOST_PATHS = 4000
"""A page with more lines than this is a drawing; no tables are sought in it."""
TURNED_PAGE = 100
"""Number of characters from which most of a page standing on its side means that the page is read from that side."""
MONOSPACED = re.compile(
    r"mono|nimbusmon|courier|typewriter|consol|menlo|CMTT|SFTT|txtt|lettergothic|fixed|terminal|ocr", re.I
)
BOLD = re.compile(r"bold|black|heavy|demi|CMBX|SFBX|-medi$|-medi[^u]|-Bd|,B$", re.I)
BOLD_WEIGHT = 650
FORCED_BOLD = 1 << 18
NAMED_STYLE = re.compile(r"[-,]\w|italic|oblique|regular|roman", re.I)


@dataclass(frozen=True)
class Page:
    """What stands on a page."""

    number: int
    """From 1."""
    width: float
    height: float
    pieces: tuple[Piece, ...]
    rules: tuple[Rule, ...]
    """Horizontal and vertical lines, and the edges of boxes."""
    picture: float
    """Share of the page that its largest picture covers, 0 to 1."""
    rotated: int
    """Number of characters left out because they stand rotated or skewed."""
    unreadable: int
    """Number of characters left out because the file does not say which they are."""


@dataclass(frozen=True)
class Entry:
    """An entry of the outline."""

    title: str
    level: int
    """From 1."""
    page: int
    """From 1."""
    top: float | None
    """Height of its target from the top of the page in points; None where it is not said."""


@dataclass(frozen=True)
class _Look:
    """What the characters of one text object have in common."""

    size: float
    bold: bool
    mono: bool
    direction: int | None
    """Quarter turns against the page; None: rotated by another angle, or skewed."""


FAILURES = {
    raw.FPDF_ERR_PASSWORD: "needs a password; save a copy without one, such as with qpdf --decrypt",
    raw.FPDF_ERR_SECURITY: "is encrypted in a way that cannot be read; save a copy without encryption",
    raw.FPDF_ERR_FORMAT: "is no PDF, is damaged or holds no page; open it in a viewer and save it again",
}


@contextmanager
def open_pdf(path: Path, name: Path) -> Iterator[pypdfium2.PdfDocument]:
    """Open a PDF without reading it into memory.

    Args:
        name: the file that messages name, which `path` may be an unpacked copy of.

    Raises:
        InputError: the file cannot be opened, is empty, is no PDF, is damaged or needs a password.
    """
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{name}: is empty (0 bytes); copy it again, or leave it out")
        with path.open("rb"):
            document = pypdfium2.PdfDocument(path)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); name a PDF") from None
    except pypdfium2.PdfiumError as error:
        raise InputError(f"{name}: {FAILURES.get(error.err_code or 0, FAILURES[raw.FPDF_ERR_FORMAT])}") from None
    with closing(document):
        if len(document) == 0:
            raise InputError(f"{name}: has no pages; open it in a viewer and save it again, or leave it out")
        yield document


def title_of(document: pypdfium2.PdfDocument) -> str:
    """The title among the properties of the file, in one line; empty if there is none."""
    return " ".join(document.get_metadata_value("Title").split())


def outline_of(document: pypdfium2.PdfDocument) -> list[Entry]:
    """The outline in its order, without entries that lead nowhere in the document."""
    entries = []
    for bookmark in document.get_toc(max_depth=12):
        target = bookmark.get_dest()
        index = target.get_index() if target is not None else None
        title = " ".join(bookmark.get_title().split())
        if index is None or not 0 <= index < len(document) or not title:
            continue
        height = document.get_page_size(index)[1]
        entries.append(Entry(title, bookmark.level + 1, index + 1, _top_of(target, height)))
    return entries


def _top_of(target: Any, height: float) -> float | None:
    mode, values = target.get_view()
    place = {raw.PDFDEST_VIEW_XYZ: 1, raw.PDFDEST_VIEW_FITH: 0, raw.PDFDEST_VIEW_FITBH: 0}.get(mode)
    if place is None or place >= len(values) or values[place] is None:
        return None
    return height - float(values[place])


def read_page(document: pypdfium2.PdfDocument, number: int) -> Page | None:
    """Read page `number`, from 1; None if it is damaged."""
    try:
        return _read_page(document, number)
    except pypdfium2.PdfiumError:
        return None


def _read_page(document: pypdfium2.PdfDocument, number: int) -> Page:
    with closing(document[number - 1]) as page:
        left, bottom, right, top = page.get_bbox()
        turns = page.get_rotation() // 90
        with closing(page.get_textpage()) as text_page:
            characters = list(_characters(text_page, turns))
        turn = _turn_of(characters)
        frame = _Frame(left, bottom, right, top, (turns - turn) % 4)
        upright = [_placed(c, box, look, frame) for c, box, look in characters if look.direction == turn]
        seen = [c for c in upright if -1 <= c.x0 <= frame.width + 1 and -1 <= c.top <= frame.height + 1]
        readable = [c for c in seen if _is_readable(c.text)]
        rules, picture = _drawn(page, frame)
        return Page(
            number=number,
            width=frame.width,
            height=frame.height,
            pieces=tuple(join_characters(readable, rules)),
            rules=tuple(rules),
            picture=picture,
            rotated=sum(not c.isspace() for c, _, look in characters if look.direction != turn),
            unreadable=len(seen) - len(readable),
        )


def _is_readable(text: str) -> bool:
    return not (
        "\ue000" <= text <= "\uf8ff"
        or text >= "\U000f0000"
        or text in "\ufffd\ufffe\uffff"
        or "\ud800" <= text < "\ue000"
    )


def _turn_of(characters: list[tuple[str, "_Box", _Look]]) -> int:
    """The direction most of the text stands in, if the page is a whole page of it; else upright."""
    counts = Counter(look.direction for _, _, look in characters if look.direction is not None)
    if not counts:
        return 0
    direction, count = counts.most_common(1)[0]
    return direction if direction is not None and count >= TURNED_PAGE and count > 4 * counts[0] else 0


_Box = tuple[float, float, float, float, float, float]
"""Left, bottom, right, top of a character, and the two coordinates of its origin."""


def _characters(text_page: Any, turns: int) -> Iterator[tuple[str, _Box, _Look]]:
    handle = text_page.raw
    rectangle, x, y = raw.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
    looks: dict[int, _Look] = {}
    high = ""
    for index in range(text_page.count_chars()):
        code = raw.FPDFText_GetUnicode(handle, index)
        owner = raw.FPDFText_GetTextObject(handle, index)
        if not owner or not code:
            continue
        address = ctypes.addressof(owner.contents)
        look = looks.get(address)
        if look is None:
            look = looks[address] = _look_of(handle, index, owner, turns)
        raw.FPDFText_GetLooseCharBox(handle, index, rectangle)
        raw.FPDFText_GetCharOrigin(handle, index, x, y)
        if 0xD800 <= code < 0xDC00:
            high = chr(code)
            continue
        text = (high + chr(code)).encode("utf-16", "surrogatepass").decode("utf-16", "replace") if high else chr(code)
        high = ""
        yield text, (rectangle.left, rectangle.bottom, rectangle.right, rectangle.top, x.value, y.value), look


def _look_of(handle: Any, index: int, owner: Any, turns: int) -> _Look:
    matrix = raw.FS_MATRIX()
    raw.FPDFText_GetMatrix(handle, index, matrix)
    size = raw.FPDFText_GetFontSize(handle, index) * math.hypot(matrix.c, matrix.d)
    font = raw.FPDFTextObj_GetFont(owner)
    name = _font_name(font)
    weight = raw.FPDFFont_GetWeight(font) if font else -1
    flags = raw.FPDFFont_GetFlags(font) if font else 0
    mono = bool(MONOSPACED.search(name)) or bool(flags > 0 and flags & 1)
    bold = bool(BOLD.search(name)) or bool(flags > 0 and flags & FORCED_BOLD)
    if not NAMED_STYLE.search(name):
        # PDFium computes weights from the width of stems, which some fonts state wrongly: names go first.
        bold = bold or weight >= BOLD_WEIGHT
    return _Look(round(size, 1), bold, mono, _direction(matrix, turns))


def _font_name(font: Any) -> str:
    if not font:
        return ""
    buffer = ctypes.create_string_buffer(128)
    raw.FPDFFont_GetBaseFontName(font, buffer, 128)
    return buffer.value.decode("utf-8", "replace").partition("+")[2] or buffer.value.decode("utf-8", "replace")


def _direction(matrix: Any, turns: int) -> int | None:
    """Quarter turns, clockwise, of a character as the page is seen."""
    a, b, c, d = matrix.a, matrix.b, matrix.c, matrix.d
    length = math.hypot(a, b)
    if not length or a * d - b * c <= 0:
        return None
    cosine, sine = a / length, b / length
    quarter = round(math.atan2(-sine, cosine) / (math.pi / 2)) % 4
    off = min(abs(sine), abs(cosine))
    skew = (a * c + b * d) / (a * d - b * c)
    return (quarter + turns) % 4 if off < LEAST_SLANT and abs(skew) < MOST_SKEW else None


@dataclass(frozen=True)
class _Frame:
    """The page in its own coordinates, and how often it is turned by a quarter, clockwise, to be read."""

    left: float
    bottom: float
    right: float
    top: float
    turns: int

    @property
    def width(self) -> float:
        return self.top - self.bottom if self.turns % 2 else self.right - self.left

    @property
    def height(self) -> float:
        return self.right - self.left if self.turns % 2 else self.top - self.bottom

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point as seen: from the left, and from the top."""
        match self.turns:
            case 0:
                return x - self.left, self.top - y
            case 1:
                return y - self.bottom, x - self.left
            case 2:
                return self.right - x, y - self.bottom
            case _:
                return self.top - y, self.right - x


def _placed(text: str, box: _Box, look: _Look, frame: _Frame) -> Character:
    x0, y0 = frame.place(box[0], box[1])
    x1, y1 = frame.place(box[2], box[3])
    origin, base = frame.place(box[4], box[5])
    left, right = min(x0, x1), max(x0, x1)
    left = min(max(left, origin), right)  # an italic "f" hangs over the space before it
    return Character(text, left, right, min(y0, y1), max(y0, y1), base, look.size, look.bold, look.mono)


def _drawn(page: pypdfium2.PdfPage, frame: _Frame) -> tuple[list[Rule], float]:
    """The straight lines of a page, and the share of it that its largest picture covers."""
    rules: list[Rule] = []
    picture, paths = 0.0, 0
    area = frame.width * frame.height or 1.0
    kinds = (raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_IMAGE)
    for item in page.get_objects(filter=kinds, max_depth=4):
        if item.type == raw.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = item.get_bounds()
            picture = max(picture, (right - left) * (top - bottom) / area)
            continue
        paths += 1
        if paths <= MOST_PATHS:
            rules += _rules_of(item, frame)
    return ([] if paths > MOST_PATHS else rules), min(picture, 1.0)


def _rules_of(item: Any, frame: _Frame) -> Iterator[Rule]:
    """The horizontal and vertical strokes of a path; a thin box is one stroke, another box four."""
    left, bottom, right, top = item.get_bounds()
    (x0, y0), (x1, y1) = frame.place(left, bottom), frame.place(right, top)
    x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    if y1 - y0 <= 3 or x1 - x0 <= 3:
        if x1 - x0 > 3:
            yield Rule(x0, x1, (y0 + y1) / 2, (y0 + y1) / 2)
        elif y1 - y0 > 3:
            yield Rule((x0 + x1) / 2, (x0 + x1) / 2, y0, y1)
        return
    count = raw.FPDFPath_CountSegments(item)
    if count <= 0 or count > 400:
        return
    matrix = item.get_matrix()
    last: tuple[float, float] | None = None
    first: tuple[float, float] | None = None
    x, y = ctypes.c_float(), ctypes.c_float()
    for index in range(count):
        segment = raw.FPDFPath_GetPathSegment(item, index)
        raw.FPDFPathSegment_GetPoint(segment, x, y)
        point = frame.place(*matrix.on_point(x.value, y.value))
        kind = raw.FPDFPathSegment_GetType(segment)
        if kind == raw.FPDF_SEGMENT_MOVETO:
            first = point
        elif kind == raw.FPDF_SEGMENT_LINETO and last is not None:
            yield from _stroke(last, point)
        if raw.FPDFPathSegment_GetClose(segment) and first is not None:
            yield from _stroke(point, first)
        last = point


def _stroke(start: tuple[float, float], end: tuple[float, float]) -> Iterator[Rule]:
    (xa, ya), (xb, yb) = start, end
    if abs(ya - yb) < 1 and abs(xa - xb) > 3:
        yield Rule(min(xa, xb), max(xa, xb), (ya + yb) / 2, (ya + yb) / 2)
    elif abs(xa - xb) < 1 and abs(ya - yb) > 3:
        yield Rule((xa + xb) / 2, (xa + xb) / 2, min(ya, yb), max(ya, yb))
