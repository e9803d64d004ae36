"""Spelling mistakes as people make them on a keyboard."""

import random
import re

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SHIFTS = (0.0, 0.25, 0.75)
"""How far the keys of each row lie to the right, in widths of a key."""
_PLACES = {key: (row, column + _SHIFTS[row]) for row, keys in enumerate(_ROWS) for column, key in enumerate(keys)}
NEIGHBOURS = {
    key: "".join(
        other
        for other, (other_row, other_column) in _PLACES.items()
        if other != key and abs(row - other_row) <= 1 and abs(column - other_column) <= 1
    )
    for key, (row, column) in _PLACES.items()
}
"""Key of an English keyboard -> the keys that touch it."""
_LONG_ENOUGH = 5
_WORD = re.compile(r"(?<![\w'.-])[a-zA-Z]+(?![\w'-])")
_KINDS = ("drop", "drop", "swap", "swap", "double", "neighbour", "undouble")


def with_typos(text: str, rng: random.Random) -> str | None:
    """Misspell one word or two; None if no word is long enough.

    Numbers, codes and abbreviations stay, and so do the first letters of words. A letter is left out, doubled, swapped
    with the next one or hit beside, once in each word.
    """
    words = [found for found in _WORD.finditer(text) if len(found[0]) >= _LONG_ENOUGH and not _is_code(found[0])]
    if not words:
        return None
    count = min(len(words), rng.choice((1, 2, 2)))
    chosen = sorted(rng.sample(range(len(words)), count), reverse=True)
    for number in chosen:
        found = words[number]
        text = text[: found.start()] + _misspelt(found[0], rng) + text[found.end() :]
    return text


def _is_code(word: str) -> bool:
    return any(letter.isupper() for letter in word[1:])


def _misspelt(word: str, rng: random.Random) -> str:
    doubled = [place for place in range(2, len(word)) if word[place] == word[place - 1]]
    kind = rng.choice(_KINDS)
    if kind == "undouble":
        if doubled:
            place = rng.choice(doubled)
            return word[:place] + word[place + 1 :]
        kind = "drop"
    if kind == "swap":
        places = [place for place in range(1, len(word) - 1) if word[place] != word[place + 1]]
        if places:
            place = rng.choice(places)
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        kind = "drop"
    place = rng.randrange(1, len(word))
    if kind == "double":
        return word[:place] + word[place] + word[place:]
    if kind == "neighbour":
        return word[:place] + rng.choice(NEIGHBOURS[word[place].lower()]) + word[place + 1 :]
    return word[:place] + word[place + 1 :]
