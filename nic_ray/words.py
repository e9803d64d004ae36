"""Segmentation of texts in any script into words by Unicode's rules: for comparing, searching and counting."""

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Sequence

import regex

# Words by Unicode Standard Annex 29, built from its character classes: `regex` has a mode for the annex's boundaries,
# but that mode loses words that begin with a vowel after an apostrophe. "___" is not a word.
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
_UNSPACED_OF_A_WORD = 4  # mean number of letters in a Thai word, not counting signs
_IDEOGRAPHS_OF_A_WORD = 2
_UNSPACED_RUN = regex.compile(rf"(?P<ideographs>{_IDEOGRAPHS}+)|(?P<letters>(?:{_UNSPACED}\p{{M}}*)+)")

# Korean uses spaces, but attaches particles and endings to the word
_GLUED = rf"(?:{_IDEOGRAPHS}|{_UNSPACED}|\p{{Hangul}})"
_TERM = regex.compile(rf"((?:{_GLUED}\p{{M}}*)+)|(?=_*[^\W_])(?:(?!{_GLUED})\w){{2,}}")
_CHARACTER = regex.compile(r"\X")

# The same for lower-case ASCII, in a tenth of the time; and what stands between spaces and is not ASCII
_ASCII_WORD = re.compile(r"_*[a-z0-9]\w*(?:(?:(?<=[a-z])[:.'](?=[a-z])|(?<=\d)[,;.'](?=\d))\w+)*", re.ASCII)
_ASCII_TERM = re.compile(r"(?:[a-z0-9]\w|_+[a-z0-9])\w*", re.ASCII)
_OTHERS = re.compile(r"(?<!\S)((?:\S*[^\x00-\x7f]\S*\s*)+)")

# soft hyphens, joiners, direction marks, variation selectors; not the zero-width space, which separates words
_INVISIBLE = regex.compile(r"[[\p{Cf}--\u200b]\p{Variation_Selector}]+", regex.V1)


def words(text: str) -> list[str]:
    """The words of a text in order, with case and variants of characters folded (NFKC).

    Numbers ("3.5") and words with vowel signs or an apostrophe stay whole. In scripts that do not put spaces between
    words, each ideograph, each hiragana, or each letter with its signs (Thai, Lao, Khmer, Burmese) is one word.

    Source: Unicode Standard Annex 29, "Unicode text segmentation".
    """
    return _by_parts(text, _ASCII_WORD, lambda part: _WORD.findall(_INVISIBLE.sub("", part)))


def search_terms(text: str) -> list[str]:
    """The terms that a lexical search compares: runs of two or more letters, digits and signs, folded as in `words`.

    In scripts that do not put spaces between words, and in Korean, each pair of successive characters in a run is a
    term, or the single character of a run of one, as in Lucene's CJKAnalyzer.
    """
    return _by_parts(text, _ASCII_TERM, _terms)


def count_words(text: str) -> int:
    """The length of a text in words as people count them: pieces between spaces that contain a letter or digit.

    For scripts that do not put spaces between words, this is an estimate: one word per two ideographs or kana, or per
    four letters of Thai and similar scripts.
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


def _by_parts(text: str, pattern: re.Pattern[str], others: Callable[[str], Sequence[str]]) -> list[str]:
    """Find words by a pattern where only ASCII stands between spaces, and by a function elsewhere; all are folded."""
    if text.isascii():
        return pattern.findall(text.lower())
    found: list[str] = []
    for number, part in enumerate(_OTHERS.split(text)):
        found += _folded(others(part)) if number % 2 else pattern.findall(part.lower())
    return found


def _terms(text: str) -> list[str]:
    terms: list[str] = []
    for match in _TERM.finditer(_INVISIBLE.sub("", text)):
        if match[1] is None:
            terms.append(match[0])
            continue
        characters = _CHARACTER.findall(match[0])
        terms += map("".join, itertools.pairwise(characters)) if len(characters) > 1 else characters
    return terms


def _folded(terms: Sequence[str]) -> list[str]:
    # NFKC converts a standalone accent to a space followed by an accent
    folded = unicodedata.normalize("NFKC", "\n".join(terms)).replace(" ", "").casefold()
    return folded.split("\n") if terms else []
