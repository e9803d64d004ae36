"""Lines joined to one, as a reader reads them, and words that were parted at the ends of lines."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from nic_ray.manuals.blocks import Block

# "two-" before "and four-wheel" is no part of a word that goes on
_HYPHEN = re.compile(r"(?<=\w)[-‐][ \t]*\n\s*(?!(?:and|or|to|und|oder|bis|sowie|et|ou|à|y|o|e|en|of)\b)(?=\w)")
MANY = 400
"""Number of different words from which a document is taken to have the parts of its compounds as words."""
_INVISIBLE = re.compile("(?<!-)\u00ad|\u200b")
_PARTED = re.compile(r"([^\W\d_]+)-\u00ad([^\W\d_]+)")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*(?!-\u00ad)")


def one_line(text: str) -> str:
    """Join lines with single spaces, but with none after a hyphen within a word: "load-" and "holding" on two lines.

    A soft hyphen is left behind such a hyphen, by which `with_whole_words` knows it.
    """
    return " ".join(_HYPHEN.sub("-\u00ad", _INVISIBLE.sub("", text)).split())


def with_whole_words(blocks: Sequence[Block]) -> list[Block]:
    """Take out the hyphens that lines have brought into words, by the words of the document itself.

    "hydrau-lic" is "hydraulic" if the document has this word elsewhere and not the one with the hyphen, or if it has at
    least `MANY` words but none of these and neither of the two parts: those of "load-holding" are words.
    """
    if not any("\u00ad" in block.text for block in blocks):
        return list(blocks)
    words = Counter[str]()
    for block in blocks:
        for word in _WORD.findall(_PARTED.sub(" ", block.text).lower()):
            words.update({word, *word.split("-")})

    def whole(parted: re.Match[str]) -> str:
        first, second = parted[1].lower(), parted[2].lower()
        plain, hyphenated = words[first + second], words[f"{first}-{second}"]
        unknown = len(words) >= MANY and not (plain or hyphenated or words[first] or words[second])
        joined = parted[2].islower() and (plain > hyphenated or unknown)
        return f"{parted[1]}{'' if joined else '-'}{parted[2]}"

    return [replace(block, text=_PARTED.sub(whole, block.text).replace("\u00ad", "")) for block in blocks]
