"""Characters of a page joined into pieces of text: words in a row, without the wide gaps that part columns."""

import math
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

TABLE = "\0"
"""Begins the text of a piece that stands in the place of a table; no text of a page begins so."""
WORD_GAP = 0.16
"""Gap between two characters, in their size, from which they are parts of two words."""
SPREAD = 0.1
"""Median gap between characters in their size, from which a text is set with its letters apart."""
LEAST_SPREAD = 8
"""Number of gaps from which their median tells anything."""
PIECE_GAP = 1.05
"""Gap in their size from which they are parts of two pieces."""
SUPERSCRIPTS = str.maketrans("0123456789+-−()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾ⁿ")
UNIT_BEFORE = re.compile(r"(\d|\)|(?<![^\W\d_])[^\W\d_]{1,3})$")
"""A superscript number after this is an exponent; after anything else it is the mark of a footnote."""
SPACES = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t"


class Character(NamedTuple):
    """A character: its box in points from the left and from the top, its baseline and looks."""

    text: str
    x0: float
    x1: float
    top: float
    bottom: float
    base: float
    size: float
    bold: bool
    mono: bool


class Rule(NamedTuple):
    """A horizontal or vertical line in points, from the left and from the top."""

    x0: float
    x1: float
    top: float
    bottom: float

    @property
    def is_vertical(self) -> bool:
        """Whether it runs from top to bottom."""
        return self.x0 == self.x1


@dataclass(frozen=True, slots=True)
class Piece:
    """Words in a row."""

    text: str
    x0: float
    x1: float
    top: float
    bottom: float
    base: float
    """Its baseline from the top of the page."""
    size: float
    """Size of most of its characters in points."""
    bold: bool
    """Whether most of its characters are bold."""
    mono: bool
    """Whether most of its characters are of one width."""


@dataclass(slots=True)
class _Run:
    """Characters that follow one another on a baseline, while they are collected."""

    text: str
    x0: float
    x1: float
    top: float
    bottom: float
    base: float
    size: float
    last: float = 0.0
    """Left edge of its last character."""
    bold: int = 0
    mono: int = 0
    count: int = 0
    spaced: bool = False
    """Whether a space follows."""
    sizes: Counter[float] = field(default_factory=Counter)
    """How many of its characters have each size."""
    gaps: list[float] = field(default_factory=list)
    """The gap before each of its characters in their size; infinite where the file has a space."""

    def add(self, character: Character) -> None:
        gap = (character.x0 - self.x1) / character.size if self.count else 0.0
        self.gaps += [math.inf if self.spaced else gap, *[0.0] * (len(character.text) - 1)]
        self.spaced = False
        self.sizes[character.size] += 1
        self.text += character.text
        self.x1, self.last = max(self.x1, character.x1), character.x0
        self.top, self.bottom = min(self.top, character.top), max(self.bottom, character.bottom)
        self.bold += character.bold
        self.mono += character.mono
        self.count += 1


def join_characters(characters: Iterable[Character], rules: Sequence[Rule]) -> list[Piece]:
    """Join characters to pieces; vertical rules part pieces."""
    walls = sorted((rule.x0, rule.top, rule.bottom) for rule in rules if rule.is_vertical)
    runs = _runs(characters, walls)
    pieces: list[_Run] = []
    near: dict[int, list[_Run]] = {}
    for run in sorted(runs, key=lambda run: (run.x0, run.base)):
        bucket = int(run.base / 8)
        candidates = [other for at in (bucket - 1, bucket, bucket + 1) for other in near.get(at, ())]
        fitting = [other for other in candidates if _continues(other, run, walls)]
        if fitting:
            _append(max(fitting, key=lambda other: other.x1), run)
        else:
            pieces.append(run)
            near.setdefault(bucket, []).append(run)
    made = [_piece(run) for run in pieces]
    return [piece for piece in made if piece.text]


def _runs(characters: Iterable[Character], walls: list[tuple[float, float, float]]) -> list[_Run]:
    runs: list[_Run] = []
    run: _Run | None = None
    for character in characters:
        text = character.text
        if text == " " or text in SPACES:
            if run is not None:
                run.spaced = True
            continue
        if text < " " and text != "\x02":
            continue
        if run is not None and _follows(run, character, walls):
            run.add(character)
            continue
        run = _Run("", character.x0, character.x1, character.top, character.bottom, character.base, character.size)
        run.add(character)
        runs.append(run)
    for run in runs:
        run.text = _with_spaces(run)
    return runs


def _with_spaces(run: _Run) -> str:
    """The text of a run with spaces where its gaps are wide; between letters that are all set apart, wider ones."""
    inner = [gap for gap in run.gaps[1:] if gap < math.inf]
    usual = statistics.median(inner) if len(inner) >= LEAST_SPREAD else 0.0
    widest = usual + WORD_GAP if usual > SPREAD else WORD_GAP
    return "".join(f" {c}" if gap > widest else c for c, gap in zip(run.text, run.gaps, strict=True))


def _follows(run: _Run, character: Character, walls: list[tuple[float, float, float]]) -> bool:
    size = max(run.size, character.size)
    gap = character.x0 - run.x1
    if character.x0 == run.last and character.x1 == run.x1 and character.base == run.base:
        return True  # a part of a ligature
    return (
        abs(character.base - run.base) <= 0.12 * size
        and -0.6 * size < gap < PIECE_GAP * size
        and character.x0 > run.x0 - 0.1
        and 0.6 < character.size / run.size < 1.7
        and not (gap > 0.3 and _walled(run.x1, character.x0, run.top, run.bottom, walls))
    )


def _walled(left: float, right: float, top: float, bottom: float, walls: list[tuple[float, float, float]]) -> bool:
    """Whether a vertical rule stands between two characters."""
    middle = (top + bottom) / 2
    return any(left - 1 <= x <= right + 1 and y0 <= middle <= y1 for x, y0, y1 in walls)


def _continues(left: _Run, right: _Run, walls: list[tuple[float, float, float]]) -> bool:
    size = max(left.size, right.size)
    gap = right.x0 - left.x1
    smaller = min(left.size, right.size)
    if not -0.4 * smaller < gap < PIECE_GAP * size or size > 2.2 * smaller:
        return False
    shift = abs(left.base - right.base)
    level = shift <= 0.3 * size if size < 1.2 * smaller else shift <= 0.65 * size and gap < 0.5 * size
    return level and not (gap > 0.3 and _walled(left.x1, right.x0, right.top, right.bottom, walls))


def _append(left: _Run, right: _Run) -> None:
    raised = right.size < 0.85 * left.size and right.base < left.base - 0.15 * left.size
    text = right.text
    if raised and re.fullmatch(r"[\d+\-−()n]+", text):
        text = text.translate(SUPERSCRIPTS) if UNIT_BEFORE.search(left.text) and not left.spaced else ""
    elif left.spaced or right.x0 - left.x1 > WORD_GAP * min(left.size, right.size):
        left.text += " "
    left.text += text
    left.x1 = max(left.x1, right.x1)
    if right.count > left.count:
        left.size, left.base = right.size, right.base
    left.sizes += right.sizes
    left.top, left.bottom = min(left.top, right.top), max(left.bottom, right.bottom)
    left.bold += right.bold
    left.mono += right.mono
    left.count += right.count
    left.spaced = right.spaced


def _piece(run: _Run) -> Piece:
    text = unicodedata.normalize("NFC", " ".join(run.text.translate(LIGATURES).split()))
    half = run.count / 2
    size = run.sizes.most_common(1)[0][0]
    return Piece(text, run.x0, run.x1, run.top, run.bottom, run.base, size, run.bold > half, run.mono > half)


LIGATURES = str.maketrans(
    {
        **{chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)},
        "\u200b": "",
        "\ufeff": "",
        "\u2060": "",
        "\x02": "-",
    }
)
