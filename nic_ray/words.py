"""Words of texts in any script, told apart as Unicode does it: to compare texts, to search in them, to count."""

import itertools
import math
import unicodedata
from collections.abc import Sequence

import regex

# The words of Unicode Standard Annex 29, of its classes of characters: `regex` has a mode for its boundaries, which
# loses words that begin with a vowel behind an apostrophe. "___" is no word.
_SIGN = r"\p{WB=Extend}\p{WB=ZWJ}"
_LETTER = r"\p{WB=ALetter}\p{WB=Hebrew_Letter}"
_DIGIT = r"\p{WB=Numeric}"
_INSIDE = r"\p{WB=MidNumLet}'"
_LETTERS = rf"[{_LETTER}][{_LETTER}{_SIGN}]*(?:[\p{{WB=MidLetter}}{_INSIDE}][{_SIGN}]*(?=[{_LETTER}]))?"
_NUMBER = rf"{_DIGIT}[{_DIGIT}{_SIGN}]*(?:[\p{{WB=MidNum}}{_INSIDE}][{_SIGN}]*(?={_DIGIT}))?"
_JOINED = rf"(?:{_LETTERS}|{_NUMBER}|\p{{WB=ExtendNumLet}}[{_SIGN}]*)+"
_ALONE = rf"\p{{WB=Katakana}}[\p{{WB=Katakana}}{_SIGN}]*|(?!_)\w[{_SIGN}]*"
_WORD = regex.compile(rf"(?!_+(?!\w))(?:{_JOINED}|{_ALONE})", regex.V1)

# Scripts that put no spaces between words: those of China and Japan, and (lb=SA) of Thailand and its neighbours.
_IDEOGRAPHS = r"[\p{Han}\p{Hiragana}\p{Katakana}ー]"
_UNSPACED = r"\p{lb=SA}"
_UNSPACED_OF_A_WORD = 4  # of Thai, signs not counted, in the mean
_IDEOGRAPHS_OF_A_WORD = 2
_UNSPACED_RUN = regex.compile(rf"(?P<ideographs>{_IDEOGRAPHS}+)|(?P<letters>(?:{_UNSPACED}\p{{M}}*)+)")

# Korean puts spaces, but what belongs to a word hangs on to it
_GLUED = rf"(?:{_IDEOGRAPHS}|{_UNSPACED}|\p{{Hangul}})"
_TERM = regex.compile(rf"((?:{_GLUED}\p{{M}}*)+)|(?=_*[^\W_])(?:(?!{_GLUED})\w){{2,}}")
_CHARACTER = regex.compile(r"\X")

# soft hyphens, joiners, marks of direction; a space of no width parts words
_INVISIBLE = regex.compile(r"[\p{Cf}--\u200b]+", regex.V1)


def words(text: str) -> list[str]:
    """The words of a text in their order, without case and without the variants of a character (NFKC).

    Numbers ("3.5") and words with vowel signs or an apostrophe are whole. Where a script does not put spaces between
    words, an ideograph, a kana of hiragana, or a letter with its signs (Thai, Lao, Khmer, Burmese) is one word.

    Source: Unicode Standard Annex 29, "Unicode text segmentation".
    """
    return _folded(_WORD.findall(_INVISIBLE.sub("", text)))


def search_terms(text: str) -> list[str]:
    """What a search by words compares: runs of two or more letters, digits and their signs, folded like `words`.

    Where a script does not put spaces between words, and in Korean, every two successive characters of a run are a
    term, or its only one, as in Lucene's CJKAnalyzer.
    """
    found: list[str] = []
    for match in _TERM.finditer(_INVISIBLE.sub("", text)):
        if match[1] is None:
            found.append(match[0])
            continue
        characters = _CHARACTER.findall(match[0])
        found += map("".join, itertools.pairwise(characters)) if len(characters) > 1 else characters
    return _folded(found)


def count_words(text: str) -> int:
    """How long a text is, in words as people count them: what stands between spaces, if a letter or digit is in it.

    Where a script does not put spaces between words it is an estimate: a word for two ideographs or kana, or for four
    letters of Thai and its like.
    """
    total = 0
    for piece in text.split():
        rest = piece
        for run in _UNSPACED_RUN.finditer(piece):
            rest = rest.replace(run[0], " ", 1)
            long = _IDEOGRAPHS_OF_A_WORD if run["ideographs"] else _UNSPACED_OF_A_WORD
            total += math.ceil(len(_CHARACTER.findall(run[0])) / long)
        total += any(any(map(str.isalnum, part)) for part in rest.split(" "))
    return total


def _folded(found: Sequence[str]) -> list[str]:
    # NFKC writes an accent that stands alone as a space with an accent
    folded = unicodedata.normalize("NFKC", "\n".join(found)).replace(" ", "").casefold()
    return folded.split("\n") if found else []
