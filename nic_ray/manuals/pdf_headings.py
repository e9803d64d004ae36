"""Which lines of a manual are headings: by its outline, by size and weight, and by numbering."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from nic_ray.manuals.pdf_columns import Line
from nic_ray.manuals.pdf_hyphens import joined
from nic_ray.manuals.pdf_pages import Entry

NUMBER = re.compile(
    r"(?:(?:chapter|appendix|section|part)\s+(?:[0-9]+|[A-Z]|[IVXLC]+)\b[.:]?"
    r"|(?:[0-9]{1,3}|[A-Z](?=[.\d]))(?:[.\-][0-9]{1,3})*[.)]?(?=\s))\s*[:.–—-]?\s*",
    re.IGNORECASE,
)
"""The number of a heading: "3", "3.2", "A.1", "Chapter 4:"."""
LETTER = re.compile(r"([A-Z])\s+(?=[A-Z0-9])")
ROMAN = re.compile(r"^[IVXLC]+[.:]?\s+")
"""The number of a part in an outline ("II Usage"), which the page has in a line of its own ("Part II")."""
DOTTED = re.compile(r"\d{1,2}(\.\d{1,2}){1,4}\.?\s+[A-Z]")
LEAST_PLAIN = 3
"""Number of lines from which such as look like text but have a number, or capitals only, are headings."""
LEAST_CAPITALS = 6
DEPTH = re.compile(r"(?:[0-9]{1,3}|[A-Z])((?:\.[0-9]{1,3})*)\.?\s+\S")
MOST_LINES = 4
"""Number of lines that a heading can have."""
MOST_WORDS = 30
MOST_BOLD_WORDS = 12
"""Number of words up to which a bold line in the size of the text can be a heading."""
LARGER = 1.08
"""Size of a heading in the size of the text, from which it needs nothing else."""
SENTENCE_END = re.compile(r"[.;,:!]$")
NO_HEADING = re.compile(
    r"[•●○▪■□▫◦‣⁃∙·–—*-]\s"
    r"|(warning|caution|danger|notice|attention|notes?|tip|important|hint|(figure|table|example) \d.*)[:!.]?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Heading:
    """A heading that begins in a line and takes in those after it."""

    text: str
    """With its number."""
    level: int
    lines: int
    """Number of its lines."""


def without_number(title: str) -> str:
    """A heading without its number, unless it is nothing else."""
    rest = title[match.end() :] if (match := NUMBER.match(title)) else title
    return rest if any(c.isalpha() for c in rest) else title


def without_numbers(headings: Mapping[int, Heading]) -> dict[int, Heading]:
    """Headings without their numbers; the letter of an appendix ("A Glossary") goes where letters go on in order."""
    expected: dict[int, str] = {}
    numbered = Counter(heading.level for heading in headings.values() if heading.text[:1].isdigit())
    counts = Counter(heading.level for heading in headings.values())
    found = {}
    for index, heading in sorted(headings.items()):
        letter = LETTER.match(heading.text)
        text = without_number(heading.text)
        are_numbered = numbered[heading.level] >= max(1, 0.3 * counts[heading.level])
        if letter and are_numbered and letter[1] == expected.get(heading.level, "A"):
            expected[heading.level] = chr(ord(letter[1]) + 1)
            text = heading.text[letter.end() :]
        found[index] = replace(heading, text=text)
    return found


def plain(title: str) -> str:
    """A title as it is compared: letters and digits only, small, without its number."""
    return _letters(without_number(title))


def _letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def style_of(line: Line) -> tuple[float, bool]:
    """Size of a line in steps of half a point, and whether it is bold."""
    return round(line.size * 2) / 2, line.bold


def headings_by_outline(
    lines: Sequence[Line], entries: Sequence[Entry], words: Counter[str]
) -> tuple[dict[int, Heading], int]:
    """Headings by the place of their first line, and how many entries were found in no line."""
    by_page: dict[int, list[int]] = {}
    for index, line in enumerate(lines):
        by_page.setdefault(line.page, []).append(index)
    found: dict[int, Heading] = {}
    missing = 0
    for entry in entries:
        near = [*by_page.get(entry.page, ()), *by_page.get(entry.page + 1, ())]
        match = _find(lines, near, entry, found)
        if match is None:
            missing += 1
        else:
            index, count = match
            found[index] = Heading(_text(lines, index, count, words), entry.level, count)
    return found, missing


def _find(
    lines: Sequence[Line], near: Sequence[int], entry: Entry, taken: Mapping[int, Heading]
) -> tuple[int, int] | None:
    """Place and number of lines of the heading that an entry names."""
    wanted = dict.fromkeys((plain(entry.title), _letters(entry.title), plain(ROMAN.sub("", entry.title))))
    matches = []
    for index in near:
        counts = (_lines_with(lines, index, title) for title in wanted if title) if index not in taken else ()
        count = max(counts, default=0)
        if count:
            line = lines[index]
            far = abs(line.base - entry.top) if entry.top is not None and line.page == entry.page else 0.0
            matches.append((line.page - entry.page, not line.bold, far if far > 60 else 0.0, -line.size, index, count))
    if not matches:
        return None
    return min(matches)[4:]


def _text(lines: Sequence[Line], index: int, count: int, words: Counter[str]) -> str:
    return joined([line.text for line in lines[index : index + count]], words)


def _lines_with(lines: Sequence[Line], index: int, wanted: str) -> int:
    """How many lines from `index` on are together the title `wanted`; 0 if they are not."""
    text = ""
    for count in range(1, MOST_LINES + 1):
        if index + count > len(lines) or lines[index + count - 1].page != lines[index].page:
            return 0
        part = lines[index + count - 1].text
        text = f"{text} {part}".strip() if not text.endswith("-") else text[:-1] + part
        found = plain(text)
        if wanted and found == wanted:
            return count
        if not found and count == 1:
            continue
        if not wanted.startswith(found):
            return 0
    return 0


def looks_of(lines: Sequence[Line]) -> tuple[float, float]:
    """Size and leading of most of the text."""
    sizes: Counter[float] = Counter()
    for line in lines:
        if not line.mono:
            sizes[round(line.size * 2) / 2] += len(line.text)
    size = sizes.most_common(1)[0][0] if sizes else 10.0
    gaps: Counter[float] = Counter()
    for before, line in pairwise(lines):
        if before.page == line.page and abs(before.size - size) < 0.3 and abs(line.size - size) < 0.3:
            gap = line.base - before.base
            if 0.9 * size < gap < 2.2 * size:
                gaps[round(gap * 2) / 2] += 1
    common = gaps.most_common(1)
    return size, common[0][0] if common else 1.2 * size


def headings_by_looks(
    lines: Sequence[Line], looks: tuple[float, float], known: Mapping[int, Heading], words: Counter[str]
) -> dict[int, Heading]:
    """Headings that the outline does not name, by the place of their first line."""
    starts = _candidates(lines, *looks, known)
    levels = _levels(lines, starts, known)
    found: dict[int, Heading] = {}
    current = 0
    for index in range(len(lines)):
        if index in known:
            current = known[index].level
        elif index in starts:
            count = starts[index]
            text = _text(lines, index, count, words)
            level = levels[style_of(lines[index])]
            depth = _depth(text)
            if known and not current:
                continue  # a title page: title, authors, edition
            if not known and depth:
                level = depth
            elif known and style_of(lines[index]) not in _styles(lines, known):
                level = current + 1
            found[index] = Heading(text, max(level, 1), count)
    return found


def _styles(lines: Sequence[Line], known: Mapping[int, Heading]) -> set[tuple[float, bool]]:
    return {style_of(lines[index]) for index in known}


def _depth(text: str) -> int:
    """The depth that the number of a heading tells, from 1; 0 without a number."""
    match = DEPTH.match(text)
    return match[1].count(".") + 1 if match else 0


def _candidates(lines: Sequence[Line], size: float, leading: float, known: Mapping[int, Heading]) -> dict[int, int]:
    """The first lines of what looks like a heading, with its number of lines."""
    covered = {place for index, heading in known.items() for place in range(index, index + heading.lines)}
    starts: dict[int, int] = {}
    index = 0
    while index < len(lines):
        count = 0 if index in covered else _lines_alike(lines, index, size)
        places = set(range(index, index + count))
        if count and not covered & places and _is_heading(lines, index, count, size, leading):
            starts[index] = count
        index += max(count, 1)
    plain_ones = [] if known else [index for index in range(len(lines)) if _is_plain_heading(lines, index, leading)]
    if len(plain_ones) >= LEAST_PLAIN:
        starts |= {index: 1 for index in plain_ones if index not in starts}
    return starts


def _is_plain_heading(lines: Sequence[Line], index: int, leading: float) -> bool:
    """Whether a line that looks like text is a heading by its number ("3.2 Lift pump") or its capitals."""
    line = lines[index]
    words = line.text.split()
    if line.mono or line.bold or len(words) > MOST_BOLD_WORDS or SENTENCE_END.search(line.text):
        return False
    if NO_HEADING.match(line.text) or len(line.pieces) > 2 or not _stands_apart(lines, index, leading):
        return False
    letters = [c for c in line.text if c.isalpha()]
    in_capitals = (
        len(letters) >= LEAST_CAPITALS and line.text.isupper() and len(letters) > 0.7 * len(line.text) - len(words)
    )
    is_short = line.x1 - line.left < 0.75 * (line.right - line.left)
    return is_short and (in_capitals or bool(DOTTED.match(line.text)))


def _lines_alike(lines: Sequence[Line], index: int, size: float) -> int:
    """How many lines from `index` on look like one heading; 0 if that line looks like text."""
    line = lines[index]
    if line.mono or not any(c.isalpha() for c in line.text) or NO_HEADING.match(line.text):
        return 0
    if line.size < LARGER * size and not (line.bold and line.size >= 0.88 * size):
        return 0
    count = 1
    is_numbered = NUMBER.match(line.text) is not None
    while index + count < len(lines) and _goes_on(lines[index + count - 1], lines[index + count]):
        if is_numbered and NUMBER.match(lines[index + count].text):
            break
        count += 1
    return count


def _is_heading(lines: Sequence[Line], index: int, count: int, size: float, leading: float) -> bool:
    """Whether lines that look like a heading are short enough for one, and in the size of the text stand apart."""
    text = " ".join(line.text for line in lines[index : index + count])
    words = len(text.split())
    if count > MOST_LINES:
        return False
    if lines[index].size >= LARGER * size:
        is_sentence = words > MOST_BOLD_WORDS / 2 and (text[0].islower() or SENTENCE_END.search(text))
        return words <= MOST_WORDS and not is_sentence
    if SENTENCE_END.search(text) or text[:1].islower() or not _stands_apart(lines, index, leading):
        return False
    return words <= (MOST_WORDS if NUMBER.match(text) else MOST_BOLD_WORDS)


def _goes_on(before: Line, line: Line) -> bool:
    """Whether a line is the next one of the same heading."""
    near = 0 < line.base - before.base < 1.5 * line.size
    same = style_of(before) == style_of(line) and before.page == line.page and before.column == line.column
    return near and same


def _stands_apart(lines: Sequence[Line], index: int, leading: float) -> bool:
    """Whether a line has more space above it than a line of text has, or stands at the top of its column."""
    if index == 0:
        return True
    before, line = lines[index - 1], lines[index]
    if before.page != line.page or before.column != line.column:
        return True
    return line.base - before.base > 1.2 * leading or before.size > line.size * LARGER


def _levels(
    lines: Sequence[Line], starts: Mapping[int, int], known: Mapping[int, Heading]
) -> dict[tuple[float, bool], int]:
    """Level of each style of heading: that of the outline's headings in it, else its rank by size and weight."""
    votes: dict[tuple[float, bool], Counter[int]] = {}
    for index, heading in known.items():
        votes.setdefault(style_of(lines[index]), Counter())[heading.level] += 1
    styles = sorted({style_of(lines[index]) for index in starts}, reverse=True)
    ranks = {style: rank for rank, style in enumerate(styles, start=1)}
    return {style: votes[style].most_common(1)[0][0] if style in votes else ranks[style] for style in styles}
