"""What a query looks like, whatever it means: length, kinds of characters, scripts, repetition."""

import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

FEATURES = (
    "length", "words", "longest_word", "letters", "digits", "signs", "spaces", "capitals", "latin", "mixed_words",
    "invisible", "styled", "marks", "beyond_ascii", "repeated_words", "compression", "vowels", "code_signs",
)  # fmt: skip
"""Names of the features, in the order of their columns."""
LIMIT = 20.0
"""Largest distance from the median that is told apart, in robust standard deviations."""
_LATIN, _LETTER = regex.compile(r"\p{Latin}"), regex.compile(r"\p{L}")
_SCRIPTS = [regex.compile(rf"\p{{{name}}}") for name in ("Latin", "Cyrillic", "Han", "Arabic", "Hebrew")]
# without the letters of units and formulas, as in kΩ
_SCRIPTS.append(regex.compile(r"(?![ΩωμΔδφθλπΣσβγη\u2126])\p{Greek}"))
_STYLES = ("<wide>", "<narrow>", "<font>", "<circle>", "<square>", "<compat> 0028")
"""Decompositions of letters and digits that look like others, in the end those in brackets; not those of superscripts,
ligatures and units."""
_LEAST_SCALE = {
    "length": 0.3, "words": 0.3, "longest_word": 0.15, "compression": 0.1, "vowels": 0.06, "repeated_words": 0.04,
    "code_signs": 0.01, "mixed_words": 0.035, "invisible": 0.035, "styled": 0.035,
}  # fmt: skip
_LEAST = 0.03
_ENOUGH = 20
"""Shares of texts with fewer characters are drawn towards nothing unusual, since one sign changes them a lot."""


@dataclass(frozen=True)
class Scale:
    """What is usual among normal queries."""

    middle: NDArray[np.float64]
    """(F,) median of each feature."""
    spread: NDArray[np.float64]
    """(F,) robust standard deviation of each, never below a least value, so that a feature that never varies among
    normal queries does not make the smallest difference count."""


def features(texts: Sequence[str]) -> NDArray[np.float64]:
    """Compute the features of T texts.

    Returns:
        (T, len(FEATURES)) logarithms of the lengths, in characters and words; shares of the characters, but of those
        that no keyboard writes ("mixed_words", "invisible", "styled") the logarithms of their numbers, since a few tell
        as much in a long text as in a short one; the logarithm of the length over that of the compressed text.
    """
    return np.array([_features(text) for text in texts], dtype=np.float64).reshape(len(texts), len(FEATURES))


def fit(values: NDArray[np.float64]) -> Scale:
    """Find what is usual: the median, and the spread by the 5th and the 95th percentile.

    Args:
        values: (N, F) features of normal queries, N at least 1.
    """
    low, middle, high = np.percentile(values, [5, 50, 95], axis=0)
    least = np.array([_LEAST_SCALE.get(name, _LEAST) for name in FEATURES])
    return Scale(middle, np.maximum((high - low) / 3.29, least))


def scaled(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Express features as signed distances from the median in robust standard deviations, (T, F), within `LIMIT`."""
    return np.clip((values - scale.middle) / scale.spread, -LIMIT, LIMIT)


def score(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """(T,) how far a text lies outside what is usual: the root of the sum of squares beyond two deviations."""
    beyond = np.maximum(np.abs(scaled(values, scale)) - 2.0, 0.0)
    distances: NDArray[np.float64] = np.sqrt((beyond**2).sum(axis=1))
    return distances


def most_unusual(values: NDArray[np.float64], scale: Scale) -> list[str]:
    """Name the feature of each text that lies farthest outside what is usual."""
    return [FEATURES[place] for place in np.abs(scaled(values, scale)).argmax(axis=1).tolist()]


def _features(text: str) -> list[float]:
    size, words = max(len(text), 1), text.split()
    kinds = Counter(unicodedata.category(character) for character in text)
    letters = [character for character in text if _LETTER.match(character)]
    enough = max(size, _ENOUGH)
    count = {kind: sum(kinds[name] for name in kinds if name[0] == kind) for kind in "LNPSZMC"}
    folded = [word.casefold().strip(".,;:!?") for word in words]
    packed = text.encode("utf-8", errors="surrogatepass")
    return [
        math.log1p(len(text)),
        math.log1p(len(words)),
        math.log1p(max(map(len, words), default=0)),
        (count["L"] + count["M"]) / size if size >= _ENOUGH or not letters else 1 - (size - len(letters)) / enough,
        count["N"] / enough,
        (count["P"] + count["S"]) / enough,
        abs(count["Z"] / enough - (len(words) - 1) / enough),
        kinds["Lu"] / enough,
        sum(1 for letter in letters if _LATIN.match(letter)) / max(len(letters), 1) if letters else 0.0,
        math.log1p(sum(1 for word in words if sum(1 for script in _SCRIPTS if script.search(word)) > 1)),
        math.log1p(kinds["Cf"] + kinds["Cc"] + kinds["Co"] + kinds["Cn"] - sum(map(text.count, "\t\r\n"))),
        math.log1p(sum(1 for character in text if unicodedata.decomposition(character).startswith(_STYLES))),
        count["M"] / enough,
        sum(1 for character in text if ord(character) > 0x2FF) / enough,
        1 - len(set(folded)) / max(len(folded), 1),
        math.log((len(packed) + 12) / (len(zlib.compress(packed, 9)) + 4)),
        _vowels(text),
        sum(text.count(sign) for sign in "{}[]<>=_\\|;$#@*`~^%&") / enough,
    ]


def _vowels(text: str) -> float:
    """The share of vowels among Latin letters; a usual value where there are few such letters."""
    found = re.findall(r"[a-z]", unicodedata.normalize("NFKD", text.casefold()))
    return (sum(1 for letter in found if letter in "aeiouy") + 4.0) / (len(found) + 10.0)
