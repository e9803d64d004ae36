"""English words with a grammatical role, and texts taken apart into sentences, clauses and tokens."""

import re
from collections.abc import Sequence

DETERMINERS = frozenset("the a an both all each every any either neither no its your our their another".split())
PRONOUNS = frozenset(
    "it they them he she we us this these that those there here such one ones former latter itself themselves which "
    "who whose what its their otherwise so nearby elsewhere thereafter afterwards afterward".split()
)
PREPOSITIONS = frozenset(
    "about above across after against along among around at before behind below beneath beside besides between beyond "
    "by during except for from in inside into near of off on onto out outside over past per since through throughout "
    "to toward towards under until up upon via with within without as than".split()
)
SUBORDINATORS = frozenset("when if while until once because unless whenever whereas although where whether".split())
MODALS = frozenset("must may can should will shall".split())
BE = frozenset("is are".split())
FINITE = MODALS | BE | frozenset("was were has have does do cannot had could would might".split())
HARM = frozenset("injury injuries death burns frostbite suffocation harm poisoning".split())
"""What warnings warn of: nobody asks what causes it, or whether."""
NUMBER_WORDS = frozenset(
    (
        "one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty sixty ninety "
        "half"
    ).split()
)

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|approx|max|min|no|nos|fig|figs|vs|cf|etc|dia|temp|sec|ref|dr|mr|st)\.)$", re.I
)
_PARENTHESIS = re.compile(r"\s*[(\[][^()\[\]]*[)\]]")
_TOKEN = re.compile(r"[,;:!?]|\.(?=\s|$)|(?:[^\s,;:!?.]|[.,:](?=\w)|\.(?=\S))+")
_CAPITAL_INSIDE = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?:-[A-Za-z]+)*")
_SMALL = re.compile(r"(?<![\w'-])[a-z]+(?:-[a-z]+)*")
_NO_SPACE_BEFORE = re.compile(r"\s+([,;:.!?])(?=\s|$)")


def sentences(text: str) -> list[str]:
    """Split a text into sentences; abbreviations and decimal points end none."""
    found: list[str] = []
    for piece in _SENTENCE_END.split(text.strip()):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {piece}"
        elif piece.strip():
            found.append(piece.strip())
    return found


def clauses(sentence: str) -> list[str]:
    """Split a sentence at semicolons; parentheses are left out, and so is the sign at its end."""
    plain = _PARENTHESIS.sub("", sentence).strip().rstrip(".!")
    return [part.strip() for part in plain.split(";") if part.strip()]


def tokens(clause: str) -> list[str]:
    """Split a clause into words, numbers with their signs, and punctuation."""
    return _TOKEN.findall(clause)


def joined(words: Sequence[str]) -> str:
    """Join tokens to a text."""
    return _NO_SPACE_BEFORE.sub(r"\1", " ".join(words))


_OPENINGS = tuple(
    opening.split()
    for opening in (
        "for example ,",
        "for instance ,",
        "however ,",
        "by default ,",
        "in general ,",
        "generally ,",
        "normally ,",
        "typically ,",
        "in addition ,",
        "also ,",
        "additionally ,",
        "therefore ,",
        "note that",
        "please",
        "by default",
        "on the other hand ,",
        "usually ,",
        "in fact ,",
        "of course ,",
        "as a result ,",
        "finally ,",
        "first ,",
        "next ,",
    )
)


def without_opening(clause: list[str]) -> list[str]:
    """Leave out what joins a clause to the one before: "However, ...", "Note that ..."."""
    small = [word.lower() for word in clause[:5]]
    for opening in _OPENINGS:
        if small[: len(opening)] == opening and len(clause) > len(opening) + 2:
            return clause[len(opening) :]
    return clause


def is_word(token: str) -> bool:
    """Whether a token is no punctuation."""
    return token[0].isalnum() or len(token) > 1


def lowered(word: str, names: frozenset[str]) -> str:
    """Return a word in lower case, unless it is a name, a code or an abbreviation.

    Args:
        names: as `names_in` finds them.
    """
    parts = [part for part in word.split("-") if part]
    plain = all(part[:1] + part[1:].lower() == part and part.replace("'", "").isalpha() for part in parts)
    if not plain or (len(word) == 1 and word != "A") or word.lower() in names:
        return word
    return word.lower()


def names_in(texts: Sequence[str]) -> frozenset[str]:
    """Collect words, in lower case, that texts write with a capital letter inside sentences, and nowhere without."""
    capital: set[str] = set()
    small: set[str] = set()
    for text in texts:
        capital.update(word.lower() for word in _CAPITAL_INSIDE.findall(text))
        small.update(_SMALL.findall(text))
    return frozenset(capital - small)


def without_pronouns(words: Sequence[str]) -> bool:
    """Whether no token refers to something outside."""
    return not any(word.lower() in PRONOUNS for word in words)
