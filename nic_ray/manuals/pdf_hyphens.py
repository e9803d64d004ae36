"""Lines joined to running text: words parted at line ends are put together by the document's own vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

WORD = re.compile(r"[^\W_]+(?:[-\u2010\u2011][^\W_]+)*")
HYPHENS = "-\u2010\u00ad"
LAST_PART = re.compile(r"([^\W\d_]+)[-\u2010\u00ad]$")
JOINING = ("and", "or", "to")
"""After these a hyphen stands for a word that comes later: "in- and outlets"."""
LONGEST_WORD = 16
"""Number of letters above which a word that is joined from a known one and another is two words."""
FIRST_PART = re.compile(r"[^\W\d_]+")


def vocabulary_of(lines: Iterable[str]) -> Counter[str]:
    """How often each word occurs in lines, in small letters; of words with hyphens their parts too.

    The last word of a line that ends in a hyphen, and the first of the line after it, are no words.
    """
    words: Counter[str] = Counter()
    parted = False
    for line in lines:
        found = WORD.findall(line.lower().replace("\u2010", "-"))
        ends_parted = line.endswith(tuple(HYPHENS))
        words.update(found[int(parted) : len(found) - int(ends_parted)])
        parted = ends_parted
    return words


def joined(lines: Sequence[str], words: Counter[str]) -> str:
    """Lines as one text with single spaces."""
    text = ""
    for line in lines:
        text = join_two(text, line, words) if text else line
    return " ".join(text.replace("\u00ad", "").split())


def join_two(before: str, after: str, words: Counter[str]) -> str:
    """Two texts as one; a hyphen between them goes, stays, or stands before a space."""
    if not before.endswith(tuple(HYPHENS)) or not after or before[-2:-1].isspace() or len(before) == 1:
        return f"{before} {after}"
    head, first = LAST_PART.search(before), FIRST_PART.match(after)
    if head is None or first is None or before[: head.start()].endswith(("-", "/", "_", ".")):
        return before + after if before[-2:-1].isalnum() and after[:1].isalnum() else f"{before} {after}"
    if before[-1] == "\u00ad" or _is_one_word(head[1], first[0], words):
        return before[:-1] + after
    if first[0] in JOINING and not words[f"{head[1]}-{first[0]}".lower()]:
        return f"{before} {after}"
    return before + after


def _is_one_word(head: str, first: str, words: Counter[str]) -> bool:
    """Whether the two parts around a hyphen at a line end are one word.

    They are if the document has the word elsewhere, more often than with a hyphen. Where it has neither, two parts
    that it has as words, or that would make a word longer than words are, keep their hyphen: "system-specific".
    """
    plain, hyphenated = f"{head}{first}".lower(), f"{head}-{first}".lower()
    if words[plain] or words[hyphenated]:
        return words[plain] >= words[hyphenated]
    if not first[0].islower() or first in JOINING:
        return False
    known = [bool(words[part.lower()]) and len(part) > 2 for part in (head, first)]
    return not all(known) and not (known[0] and len(plain) > LONGEST_WORD)
