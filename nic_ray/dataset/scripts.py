"""Scripts of the letters in texts: how many of which there are, and whether a text mixes writing systems."""

from collections.abc import Sequence

import numpy as np
import regex
from numpy.typing import NDArray

SCRIPTS = (
    *"Latin Cyrillic Greek Han Hiragana/Katakana Hangul Arabic Hebrew Devanagari Thai".split(),
    "other",
)
_SYSTEMS = (("Han", "Hiragana/Katakana"), ("Han", "Hangul"))
"""Scripts that are written side by side: Japanese, Korean."""
_LETTER = regex.compile(r"[\p{L}--[\p{Script=Common}\p{Script=Inherited}]]", regex.V1)
_PATTERNS = [regex.compile("|".join(rf"\p{{Script={script}}}" for script in name.split("/"))) for name in SCRIPTS[:-1]]
_NO_LETTER = -1
_CHUNK = 4_000_000
"""Number of characters that are looked at together."""


def script_of(character: str) -> str | None:
    """The script that a letter belongs to, a name in `SCRIPTS`; None for other characters.

    Letters that several scripts have in common, such as "µ" for micro, belong to none.

    Source: the properties Script and General_Category of the Unicode Character Database (Unicode Standard Annex 24),
    as the package `regex` has them; Python's `unicodedata` has no scripts.
    """
    number = _script_number(character)
    return None if number == _NO_LETTER else SCRIPTS[number]


def letters_by_script(texts: Sequence[str]) -> NDArray[np.int64]:
    """Count the letters of each of T texts by script, as of `script_of`.

    Returns:
        (T, len(SCRIPTS)) numbers of letters.
    """
    found = np.zeros((len(texts), len(SCRIPTS)), dtype=np.int64)
    ends = np.cumsum([0, *map(len, texts)])
    script_at = np.full(0x110000, _NO_LETTER, dtype=np.int8)
    known = np.zeros(0x110000, dtype=np.bool_)
    start = 0
    while start < len(texts):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + _CHUNK, side="right")) - 1)
        joined = "".join(texts[start:stop])
        points = np.frombuffer(joined.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
        for point in np.unique(points[~known[points]]).tolist():
            script_at[point], known[point] = _script_number(chr(point)), True
        script = script_at[points]
        cell = np.repeat(np.arange(stop - start) * len(SCRIPTS), np.diff(ends[start : stop + 1])) + script
        counts = np.bincount(cell[script != _NO_LETTER], minlength=(stop - start) * len(SCRIPTS))
        found[start:stop] = counts.reshape(stop - start, len(SCRIPTS))
        start = stop
    return found


def mixes_scripts(letters: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell which texts hold letters of several writing systems.

    Japanese writes Han beside kana, and Korean Han beside Hangul, which is no mixture. Several scripts of "other" are
    not told apart.

    Args:
        letters: (T, len(SCRIPTS)) as of `letters_by_script`.

    Returns:
        (T,) True if the letters belong to no single system.

    Source: Unicode Technical Standard 39, section 5.1, "Mixed-script detection".
    """
    has = letters > 0
    mixed: NDArray[np.bool_] = has.sum(axis=1) > 1
    for system in _SYSTEMS:
        mixed &= has[:, [name not in system for name in SCRIPTS]].any(axis=1)
    return mixed


def _script_number(character: str) -> int:
    if not _LETTER.match(character):
        return _NO_LETTER
    return next((number for number, pattern in enumerate(_PATTERNS) if pattern.match(character)), len(SCRIPTS) - 1)
