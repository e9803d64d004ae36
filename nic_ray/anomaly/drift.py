"""Whether a log's share of flagged queries stays within what chance allows, and what the flagged ones share."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

WINDOW = 200
"""Number of queries of a log that are counted together."""
CONFIDENCE = 0.99
"""Chance that all windows of a log without drift lie within their bands."""
LEAST = 3
"""Number of flagged queries that must share a word before it is named."""
_WORD = re.compile(r"\w{3,}")


@dataclass(frozen=True)
class Band:
    """Some consecutive queries of a log."""

    first: int
    """Number of its first query, from 1."""
    queries: int
    flagged: int
    low: int
    """Fewest flagged queries that chance allows."""
    high: int
    """Most of them."""

    @property
    def drifts(self) -> bool:
        """Whether more queries are flagged than chance allows."""
        return self.flagged > self.high


def bands(
    flags: NDArray[np.bool_], share: float, *, window: int = WINDOW, confidence: float = CONFIDENCE
) -> list[Band]:
    """Count the flagged queries of each window of a log, beside the band that chance allows.

    Args:
        flags: (N,) which queries were flagged, in the order of the log. A remainder of less than half a window is
            counted with the window before it.
        share: share of normal queries that are flagged, in (0, 1).
        window: number of queries of a window, at least 1.
        confidence: chance that all windows are within their bands if a share of `share` is flagged independently;
            it is divided among the windows after Bonferroni.
    """
    if not len(flags):
        return []
    starts = [*range(0, max(len(flags) - (window + 1) // 2 + 1, 1), window)]
    ends = [*starts[1:], len(flags)]
    miss = (1 - confidence) / (2 * len(starts))
    return [
        Band(
            start + 1,
            end - start,
            int(flags[start:end].sum()),
            int(binom.ppf(miss, end - start, share)),
            int(binom.ppf(1 - miss, end - start, share)),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def common_words(texts: Sequence[str], flags: NDArray[np.bool_], *, most: int = 8) -> list[tuple[str, int, int]]:
    """Find the words that flagged queries share and others lack.

    Returns:
        each word with the numbers of flagged queries and of others that hold it, the most telling first by the ratio
        of the shares of queries; only words of at least `LEAST` flagged queries and of twice the others' share.
    """
    counts = {True: Counter[str](), False: Counter[str]()}
    for text, flagged in zip(texts, flags.tolist(), strict=True):
        counts[flagged].update({word.casefold() for word in _WORD.findall(text)})
    total = {True: int(flags.sum()), False: int((~flags).sum())}

    def ratio(word: str) -> float:
        shares = {side: (counts[side][word] + 0.5) / (total[side] + 1) for side in (True, False)}
        return shares[True] / shares[False]

    telling = [word for word, count in counts[True].items() if count >= LEAST and ratio(word) >= 2]
    telling.sort(key=lambda word: (-ratio(word), -counts[True][word], word))
    return [(word, counts[True][word], counts[False][word]) for word in telling[:most]]
