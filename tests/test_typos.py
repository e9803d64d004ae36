"""Spelling mistakes: few, near, and never where they would change what is meant."""

import random

import pytest

from nic_ray.questions.typos import NEIGHBOURS, with_typos

QUESTION = "How do I bleed brake accumulator ABS-2 with P0420 or 45 kg at terminals W1x, BMS and J1939?"


def edits(one: str, other: str) -> int:
    """Damerau's distance with transpositions of neighbours: insertions, deletions, substitutions, swaps."""
    table = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i, a in enumerate(one, start=1):
        for j, b in enumerate(other, start=1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a != b))
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@pytest.mark.parametrize("seed", range(60))
def test_at_most_two_words_are_misspelt_by_one_letter_each(seed):
    typed = with_typos(QUESTION, random.Random(seed))
    before, after = QUESTION.split(), typed.split()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert 1 <= len(changed) <= 2
    for word, misspelt in changed:
        assert word in ("bleed", "brake", "accumulator", "terminals")
        assert edits(word, misspelt) == 1
        assert misspelt[0] == word[0]


def test_a_question_of_short_words_and_codes_stays_as_it_is():
    assert with_typos("P0420 on the ECU?", random.Random(0)) is None


def test_keys_touch_each_other():
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)
    assert set(NEIGHBOURS["s"]) == set("awedxz")
    assert set(NEIGHBOURS["q"]) == set("wa")
