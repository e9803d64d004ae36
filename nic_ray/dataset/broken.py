"""Detection of English queries without a subject that a passage could be about."""

import re
import unicodedata

import regex

from nic_ray.stop_words import OF_SCIKIT_LEARN

# The stop words of scikit-learn include words for things and actions in a manual ("fire", "fill", "front"), which are
# removed here.
QUESTION_WORDS = (
    OF_SCIKIT_LEARN
    - frozenset(
        (
            "back bill bottom call cry describe empty fill fire front full interest mill mine move side thick thin top"
        ).split()
    )
) | frozenset(
    "based cause caused causes did diagnose does explain happen happened happens help know look looks mean meaning "
    "means need needed needs tell use used uses using versus vs want wants work works".split()
)
"""English words that ask, and say nothing about what is asked for."""

# Words for parts of the manual itself, and for references to them.
_MANUAL_WORDS = frozenset(
    "alphabetical annex appendix attention caution cautions ch chap chapter chapters column columns contd content "
    "contents continued cont document documents ed edition example examples fig figs figure figures foreword glossary "
    "heading headings illustration illustrations important index introduction list lists manual manuals nos note "
    "notes notice notices nr num number numbers overview page pages para paragraph paragraphs pg pp preface ref "
    "reference references refs remark remarks rev revision row rows sec section sections step steps summary table "
    "tables title titles tm toc vol volume warning warnings".split()
)

# Words that fit every passage about any machine. Verbs without an object ("how do I test?") are not among them, since
# the manual of a small device has a single passage that answers such a query.
_WORDS_OF_ANY_MACHINE = frozenset(
    "additional applicable available basic certain common component components condition conditions correct data date "
    "dates definition definitions description descriptions details device devices different equipment feature features "
    "following function functions general info information initial instruction instructions issue issues item items "
    "kind kinds known location locations main method methods miscellaneous names necessary new option options parts "
    "possible preliminary problem problems procedure procedures process processes product products proper purpose "
    "purposes question questions reason reasons required requirement requirements requires requiring result results "
    "scope solution solutions special specific stuff systems thing things total type types unit units various way "
    "ways".split()
)

_CONTRACTION = re.compile(r"n['’]t\b|['’](?:s|re|ve|ll|d|m)\b")
_LEADER = re.compile(r"(?:\.\s?){4,}")  # dots between a heading and its page number
_REFERENCE = re.compile(
    r"\b(?:appendix|chapter|fig|figure|page|para|paragraph|pg|sec|section|step|table)s?\b\.?\s*[a-z]?[-.]?\d[\w.-]*"
)
_APPENDIX_NUMBER = re.compile(r"(?<![\w-])[a-z][-.]\d+(?:[-.]\d+)*\.(?!\w)")  # "a-2.", but not "r-22"
# single letters that name a thing: "r-22", "a/c", "b+"
_SHORT_NAME = re.compile(r"(?<![\w/-])(?:[a-z]-\d+|[a-z]/[a-z]|[a-z]\+)(?![\w/-])")
_TOKEN = regex.compile(r"[^\W_]+")  # unlike in `re`, a vowel sign is part of its word
_ASCII_TOKEN = re.compile(r"[a-z0-9]+")
_DIGIT = re.compile(r"\d")
_WORD_OF_ONE = regex.compile(r"[\p{Han}\p{Hangul}]")  # 泵 alone means "pump"
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")


def why_broken(query: str) -> str | None:
    """Say why an English query names no subject that a passage could be about; None if it names one.

    A subject is any word that does not merely ask, name a part of the manual ("page", "caution") or fit any machine
    ("unit", "information"); or a code such as "p0420" or "r-22". Numbers, ordinals and single letters are no subjects,
    and neither is a line of a table of contents. Whether the sentence makes sense is not checked: "how do I gearbox?"
    does name a gearbox.
    """
    text = unicodedata.normalize("NFKC", query).lower()  # "H₂O" is a code like "h2o"
    # each pattern is looked for only where a character of its own stands, which few queries have
    if "'" in text or "’" in text:
        text = _CONTRACTION.sub(" ", text)
    if text.count(".") >= 4 and _LEADER.search(text):
        return "line of a table of contents"
    if _DIGIT.search(text):
        text = _APPENDIX_NUMBER.sub(" 0 ", _REFERENCE.sub(" 0 ", text))
    found = _ASCII_TOKEN.findall(text) if text.isascii() else _TOKEN.findall(text)
    tokens = [token for token in found if token not in QUESTION_WORDS]
    if _has_short_name(text) or any(map(_names_something, tokens)):
        return None
    if not tokens:
        return "no word besides the question"
    if _WORDS_OF_ANY_MACHINE.isdisjoint(tokens):
        return "only numbers, single letters or parts of the manual"
    return "only words that fit any machine"


def _has_short_name(text: str) -> bool:
    return any(sign in text for sign in "-/+") and _SHORT_NAME.search(text) is not None


def _names_something(token: str) -> bool:
    if token.isalpha():
        long_enough = len(token) > 1 or _WORD_OF_ONE.match(token) is not None
        return long_enough and token not in _MANUAL_WORDS and token not in _WORDS_OF_ANY_MACHINE
    # letters with digits form a code, such as "e5", "12v" or "p0420"; letters with vowel signs form a word
    return any(map(str.isalpha, token)) and not _ORDINAL.fullmatch(token)
