"""The ends of sentences, for texts of any script."""

import re

from nic_ray.manuals.languages import abbreviations

# a run of marks is tried once, from its first
_END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s+(?=[\"'“‘«(\[¿¡]*[^\W_])|(?<![。！？])[。！？]++[”’」』）]*+\s*(?=\S)"
)
_WORD_BEFORE = re.compile(r"[\w.°]+\Z")
_NUMBERED = re.compile(r"(?:^|\s)[\w]{1,3}\Z")
_NEAR = 40
"""Characters around an end that decide whether a sentence ends there."""


def sentences(text: str, language: str = "en") -> list[str]:
    """Cut a text at the ends of its sentences; joined by spaces, they are the text again where spaces part sentences.

    A sentence ends with a full stop, an exclamation or a question mark if a capital letter, a digit, or a letter of a
    script without capitals follows after a space, and if no abbreviation, initial or number of a list stands before it.
    """
    cut, start = list[str](), 0
    for end in _END.finditer(text):
        if _ends_here(text, end, start, language):
            cut.append(text[start : end.end()].strip())
            start = end.end()
    return [*cut, *([rest] if (rest := text[start:].strip()) else [])]


def _ends_here(text: str, end: re.Match[str], start: int, language: str) -> bool:
    following = text[end.end() : end.end() + _NEAR].lstrip("\"'“‘«([¿¡")[:1]
    if following.islower():
        return False
    mark = end[0].strip()
    if not mark.startswith(".") or mark.startswith(".."):
        return True
    word = _WORD_BEFORE.search(text, max(start, end.start() - _NEAR), end.start())
    if word is None:
        return True
    plain = word[0].lower()
    # "3. Remove the cover" is one sentence where it begins a step
    numbered = word.start() == start and _NUMBERED.fullmatch(word[0]) is not None
    initial = len(plain) == 1 and plain.isalpha() and word[0].isupper() and text[word.start() - 1 : word.start()] != "-"
    units = plain in ("v", "a", "w", "c", "k", "n")  # "at 24 V. Then"
    return not (numbered or plain in abbreviations(language) or (initial and not units))
