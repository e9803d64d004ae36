"""The parts of a query: its sentences, and windows of a few words, each of which can be looked at by itself."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORDS, STEP = 10, 5
"""Number of words of a window, and by how many the next one begins later."""
FEWEST = 3
"""Parts of fewer words say too little to be looked at."""
MOST = 24
"""Number of parts of a text that are looked at; of a text with more, evenly spread ones."""
_END = re.compile(r"(?<=[.!?;:。？！])\s+|[\n\r]+")


def parts_of(text: str) -> list[str]:
    """Split a text into sentences, and sentences longer than a window into windows that overlap.

    Returns:
        the parts in their order; the text alone if it has a single part.
    """
    parts: list[str] = []
    for sentence in _END.split(text):
        words = sentence.split()
        if FEWEST <= len(words) <= WORDS:
            parts.append(" ".join(words))
        elif len(words) > WORDS:
            starts = [*range(0, len(words) - WORDS, STEP), len(words) - WORDS]
            parts += [" ".join(words[start : start + WORDS]) for start in starts]
    if len(parts) > MOST:
        parts = [parts[place] for place in np.linspace(0, len(parts) - 1, MOST).round().astype(int).tolist()]
    return parts if len(parts) > 1 else [text]


def worst(values: NDArray[np.floating], owners: Sequence[int], texts: int) -> tuple[NDArray[np.float64], list[int]]:
    """Find the most abnormal part of each text.

    Args:
        values: (P,) a score of each part, larger if more abnormal.
        owners: (P,) number of the text that each part is of.
        texts: number of texts, each with at least one part.

    Returns:
        (texts,) the largest score of the parts of each, and the place of that part among all parts.
    """
    largest = np.full(texts, -np.inf)
    places = [-1] * texts
    for place, (value, owner) in enumerate(zip(values.tolist(), owners, strict=True)):
        if places[owner] < 0 or value > largest[owner]:
            largest[owner], places[owner] = value, place
    return largest, places
