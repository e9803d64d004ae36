"""Nearly equal texts, against a double loop over all pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.duplicates import near_duplicates

WORDS = "abcdefghijklmnopqrstuvwxyz"


def sequences(text: str, words: int) -> set[tuple[str, ...]]:
    found = text.lower().replace(".", " ").split()
    if len(found) < words:
        return {tuple(found)}
    return {tuple(found[start : start + words]) for start in range(len(found) - words + 1)}


def groups_by_loops(texts: list[str], threshold: float, words: int) -> list[int]:
    """Compare all pairs, and let the lower number spread until nothing changes."""
    numbers, held = list(range(len(texts))), [sequences(text, words) for text in texts]
    for _ in texts:
        for i, left in enumerate(held):
            for j, right in enumerate(held):
                if len(left & right) / len(left | right) >= threshold:
                    numbers[i] = numbers[j] = min(numbers[i], numbers[j])
    order = list(dict.fromkeys(numbers))
    return [order.index(number) for number in numbers]


texts_of_few_words = st.lists(
    st.lists(st.sampled_from(["oil", "Oil.", "pump", "seal"]), min_size=1, max_size=9).map(" ".join), max_size=12
)


@given(
    texts=texts_of_few_words,
    threshold=st.sampled_from([0.2, 0.5, 0.6, 0.75, 0.8, 1.0]),
    words=st.integers(1, 5),
    entries=st.sampled_from([1, 7, 2**20]),
)
def test_the_groups_are_those_of_a_double_loop(texts, threshold, words, entries):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nic_ray.duplicates._BLOCK_ENTRIES", entries)
        found = near_duplicates(texts, threshold=threshold, words=words)
    assert found.tolist() == groups_by_loops(texts, threshold, words)


def test_edited_passages_between_headers_are_found_as_by_a_double_loop():
    generator = np.random.default_rng(0)
    texts = []
    for _ in range(40):
        passage = generator.integers(30, size=60).astype(str)
        for edits in range(3):  # each moves up to five of 56 sequences and more
            passage[generator.integers(60, size=edits)] = "edited"
            texts.append("Workshop manual, part two. " + " ".join(passage) + " Subject to change without notice.")
    expected = groups_by_loops([text.replace(",", "") for text in texts], 0.8, 5)
    assert 40 < len(set(expected)) < 120
    assert near_duplicates(texts).tolist() == expected


# 13 words are 9 sequences of 5; another last word leaves 8 of them, of 10 in all. 12 words: 7 of 9.
@pytest.mark.parametrize(("length", "groups"), [(13, [0, 0]), (12, [0, 1])])
def test_four_fifths_of_the_sequences_are_enough_and_fewer_are_not(length, groups):
    words = list(WORDS[:length])
    assert near_duplicates([" ".join(words), " ".join([*words[:-1], "other"])]).tolist() == groups


def test_case_punctuation_and_line_ends_do_not_count():
    assert near_duplicates(["Set the parking brake, then stop.", "set the PARKING\nbrake then (stop)"]).tolist() == [
        0,
        0,
    ]


def test_short_texts_are_compared_as_a_whole():
    assert near_duplicates(["check oil", "Check oil!", "check the oil", "oil check"]).tolist() == [0, 0, 1, 2]


def test_texts_without_a_word_equal_only_themselves():
    assert near_duplicates(["---", "***", "--- ", ""]).tolist() == [0, 1, 0, 2]


def test_texts_are_together_through_a_third():
    words = [f"w{number}" for number in range(13)]
    chain = [" ".join(words[start:] + [f"new{n}" for n in range(start)]) for start in range(3)]
    assert near_duplicates([chain[0], chain[2]]).tolist() == [0, 1]
    assert near_duplicates(chain).tolist() == [0, 0, 0]


def test_groups_are_numbered_as_they_appear():
    assert near_duplicates(["b", "a", "c", "a", "b"]).tolist() == [0, 1, 2, 1, 0]


def test_no_texts_have_no_groups():
    assert near_duplicates([]).shape == (0,)


def test_a_passage_in_a_thousand_copies_is_one_group():
    text = " ".join(WORDS)
    assert set(near_duplicates([f"{text} {number}" for number in range(1000)]).tolist()) == {0}


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be > 0 and <= 1, got"):
        near_duplicates(["a"], threshold=threshold)


def test_sequences_of_no_words_are_refused():
    with pytest.raises(ValueError, match="words must be at least 1, got 0"):
        near_duplicates(["a"], words=0)
