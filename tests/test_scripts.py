"""Scripts of letters: against Unicode's names of characters, and worked by hand."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.dataset import scripts
from nic_ray.dataset.scripts import SCRIPTS, letters_by_script, mixes_scripts, script_of

BY_NAME = {"CJK UNIFIED IDEOGRAPH": "Han", "HIRAGANA": "Hiragana/Katakana", "KATAKANA": "Hiragana/Katakana"} | {
    name.upper(): name for name in "Latin Cyrillic Greek Hangul Arabic Hebrew Devanagari Thai".split()
}
"""How the name of a letter begins, as `unicodedata` has it -> its script."""


def counted(*texts):
    return [
        {name: number for name, number in zip(SCRIPTS, row, strict=True) if number}
        for row in letters_by_script(texts).tolist()
    ]


def mixed(*texts):
    return mixes_scripts(letters_by_script(texts)).tolist()


def test_letters_belong_to_the_script_that_their_names_begin_with():
    wrong = []
    for point in range(0x30000):
        letter = chr(point)
        start = next((start for start in BY_NAME if unicodedata.name(letter, "").startswith(f"{start} ")), None)
        is_a_letter = unicodedata.category(letter) in ("Ll", "Lu", "Lt", "Lo") and "HALFWIDTH" not in letter
        if start and is_a_letter and script_of(letter) != BY_NAME[start]:
            wrong.append(letter)
    assert wrong == []


@pytest.mark.parametrize(
    ("letter", "script"),
    [("Ω", "Greek"), ("K", "Latin"), ("ｱ", "Hiragana/Katakana"), ("々", "Han"), ("ა", "other"), ("ב", "Hebrew")],
)
def test_letters_whose_names_begin_otherwise_belong_to_their_script_too(letter, script):
    assert script_of(letter) == script


@pytest.mark.parametrize("character", "µ ー 5 ५ . ° ℃ 😀 \n \u0301 \ud800".split(" "))
def test_what_is_no_letter_or_one_of_many_scripts_belongs_to_none(character):
    assert script_of(character) is None


def test_the_letters_of_each_text_are_counted():
    assert counted("ab 12 Ω", "", "насос P1", "ポンプを交換") == [
        {"Latin": 2, "Greek": 1},
        {},
        {"Latin": 1, "Cyrillic": 5},
        {"Han": 2, "Hiragana/Katakana": 4},
    ]


@given(st.lists(st.text(max_size=12), max_size=8))
def test_texts_are_counted_together_as_alone(texts):
    whole = letters_by_script(texts)
    for text, row in zip(texts, whole, strict=True):
        letters = [script_of(letter) for letter in text]
        assert row.tolist() == [letters.count(name) for name in SCRIPTS]


def test_many_characters_are_counted_in_parts(monkeypatch):
    texts = ["oil", "", "насос", "a" * 40, "ωμ", "b"]
    whole = letters_by_script(texts)
    for size in (1, 5, 8, 45):
        monkeypatch.setattr(scripts, "_CHUNK", size)
        np.testing.assert_array_equal(letters_by_script(texts), whole)


def test_a_text_mixes_scripts_that_no_language_writes_side_by_side():
    assert mixed("oil", "масло", "oil масло", "5 Ω", "R 5 Ω", "12 µm", "", "オイル交換", "교환 交換") == [
        False, False, True, False, True, False, False, False, False
    ]  # fmt: skip
    assert mixed("オイルoil", "교환 する", "交換 oil", "ことば 교환 交換") == [True, True, True, True]
