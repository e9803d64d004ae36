"""Characters that show that a text was damaged on its way, decoded wrongly or lost; and texts quoted on one line."""

import re

from ftfy.badness import BADNESS_RE

# Unicode's category Cc except tabs and line breaks; and U+FFFD, which stands for a character that was lost
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
_SPACES = re.compile(r"[ \t\r\n]+")
WIDEST = 8
"""Most characters that a match of ftfy's pattern may have. Each has one that is not ASCII."""
_NOT_ASCII = re.compile(rf"[^\x00-\x7f]+(?:[\x00-\x7f]{{1,{2 * WIDEST}}}[^\x00-\x7f]+)*")


def first_mojibake(text: str) -> int | None:
    """Find where a text was first decoded with the wrong character set; None if it was not.

    Source: the package `ftfy`, whose pattern is looked for only where there are other characters than ASCII.
    """
    if text.isascii():
        return None
    for part in _NOT_ASCII.finditer(text):
        if match := BADNESS_RE.search(text, max(0, part.start() - WIDEST), part.end() + WIDEST):
            return int(match.start())
    return None


def first_control(text: str) -> int | None:
    """Find the first lost character, or control character other than tabs and line breaks; None if there is none."""
    if text.isprintable() and "\ufffd" not in text:
        return None
    match = _CONTROL.search(text)
    return None if match is None else match.start()


def quoted(text: str, width: int = 100) -> str:
    """Quote a text on one line, cut to about `width` characters; control characters are escaped for the terminal."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _SPACES.sub(" ", text))
    return f'"{line}"' if len(line) <= width else f'"{line[:width]}…"'
