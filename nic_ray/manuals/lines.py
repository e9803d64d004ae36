"""Lines joined to one, as a reader reads them."""

import re

# "two-" before "and four-wheel" is no part of a word that goes on
_HYPHEN = re.compile(r"(?<=\w)-[ \t]*\n\s*(?!(?:and|or|to|und|oder|bis|sowie|et|ou|à|y|o|e|en|of)\b)(?=\w)")


def one_line(text: str) -> str:
    """Join lines with single spaces, but with none after a hyphen within a word: "load-" and "holding" on two lines."""
    return " ".join(_HYPHEN.sub("-", text).split())
