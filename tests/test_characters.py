"""Damaged characters: found where the whole pattern finds them."""

import re
from re import _parser

import pytest
from ftfy.badness import BADNESS_RE
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_ray.dataset.characters import WIDEST, first_control, first_mojibake

PIECES = [
    "â€™",
    "Ã©",
    "Ã ",
    "a Ã ",
    "Â°",
    "ГўВЂВ.x",
    "\\s",
    "é",
    "°",
    "’",
    "x",
    " ",
    ". ",
    "\n",
    "œ",
    "É¢",
    "y" * 9,
    "z" * 20,
]
texts = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=8).map("".join)


@settings(max_examples=2000)
@given(texts)
def test_mojibake_is_found_where_the_pattern_finds_it_in_the_whole_text(text):
    match = BADNESS_RE.search(text)
    assert first_mojibake(text) == (None if match is None else match.start())


@pytest.mark.parametrize("before", [0, 1, 7, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize("after", [0, 1, 8, 40])
def test_mojibake_is_found_at_any_distance_from_other_characters(before, after):
    text = f"°{'x' * before}a â€™{'x' * after}°"
    match = BADNESS_RE.search(text)
    assert match is not None
    assert first_mojibake(text) == match.start()


def test_the_pattern_is_as_wide_as_is_said():
    assert _parser.parse(BADNESS_RE.pattern, BADNESS_RE.flags).getwidth()[1] < WIDEST


@given(st.text(st.characters(max_codepoint=127) | st.sampled_from("aA .,\\"), max_size=20))
def test_there_is_no_mojibake_in_ascii(text):
    assert BADNESS_RE.search(text) is None


@given(st.text(st.characters() | st.sampled_from("\x00\x07\t\n\r\x1f\x7f\x85\u00ad\u200b\ufffd "), max_size=6))
def test_control_characters_are_those_of_their_category_and_lost_ones(text):
    wanted = re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]", text)
    assert first_control(text) == (None if wanted is None else wanted.start())
