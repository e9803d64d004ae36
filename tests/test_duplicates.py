"""Nearly equal texts, against a double loop over all pairs, and by pairs whose answer is known."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.dataset.duplicates import _word_ids, near_duplicates
from nic_ray.words import words

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
TYPED = SHARED / "faults/near_duplicates_en_zh.jsonl"
REAL = SHARED / "data/training_pairs.jsonl"
WORDS = [f"word{number}" for number in range(200)]


def pairs_of_words(text: str) -> set[tuple[str, ...]]:
    found = ["^", *text.lower().replace(".", " ").replace(",", " ").split(), "$"]
    return set(itertools.pairwise(found))


def groups_by_loops(texts: list[str], threshold: float) -> list[int]:
    """Compare all pairs, and let the lower number spread until nothing changes."""
    numbers, held = list(range(len(texts))), [pairs_of_words(text) for text in texts]
    near = [
        (i, j)
        for (i, left), (j, right) in itertools.combinations(enumerate(held), 2)
        if len(left & right) / len(left | right) >= threshold
    ]
    for _ in texts:
        for i, j in near:
            numbers[i] = numbers[j] = min(numbers[i], numbers[j])
    order = list(dict.fromkeys(numbers))
    return [order.index(number) for number in numbers]


def together(*texts: str) -> bool:
    return len(set(near_duplicates(texts).tolist())) == 1


texts_of_few_words = st.lists(
    st.lists(st.sampled_from(["oil", "Oil.", "pump", "seal"]), min_size=1, max_size=9).map(" ".join), max_size=12
)


@given(
    texts=texts_of_few_words,
    threshold=st.sampled_from([0.2, 0.5, 0.6, 0.75, 0.8, 1.0]),
    entries=st.sampled_from([1, 7, 2**20]),
)
def test_the_groups_are_those_of_a_double_loop(texts, threshold, entries):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nic_ray.dataset.duplicates._BLOCK_ENTRIES", entries)
        found = near_duplicates(texts, threshold=threshold)
    assert found.tolist() == groups_by_loops(texts, threshold)


@given(st.integers(0, 2**32), st.sampled_from([0.6, 0.8, 0.9]))
def test_revisions_of_very_different_length_are_those_of_a_double_loop(seed, threshold):
    luck, texts = np.random.default_rng(seed), []
    for _ in range(4):
        passage = luck.integers(12, size=luck.integers(3, 40)).astype(str).tolist()
        for _ in range(5):
            place = int(luck.integers(len(passage) + 1))
            passage[place : place + int(luck.integers(3))] = luck.integers(12, size=luck.integers(3)).astype(str)
            texts.append(" ".join([*passage, "."]) if passage else "0")
    assert near_duplicates(texts, threshold=threshold).tolist() == groups_by_loops(texts, threshold)


def test_edited_passages_between_headers_are_found_as_by_a_double_loop():
    generator = np.random.default_rng(0)
    texts = []
    for _ in range(40):
        passage = generator.integers(30, size=60).astype(str)
        for edits in range(5):
            passage[generator.integers(60, size=edits)] = "edited"
            texts.append("Workshop manual, part two. " + " ".join(passage) + " Subject to change without notice.")
    expected = groups_by_loops(texts, 0.8)
    assert 40 < len(set(expected)) < 200
    assert near_duplicates(texts).tolist() == expected


# n words are n + 1 pairs, and a changed word costs two on either side: 16 of 20 pairs are shared at 17 words
@pytest.mark.parametrize(("length", "changed"), [(17, 1), (35, 2), (53, 3), (89, 5)])
def test_one_word_in_seventeen_may_be_another_and_no_more(length, changed):
    def other(length: int) -> str:
        return " ".join(f"other{n}" if n % 5 == 2 and n < 5 * changed else WORDS[n] for n in range(length))

    assert together(" ".join(WORDS[:length]), other(length))
    assert not together(" ".join(WORDS[: length - 1]), other(length - 1))


def test_in_texts_of_eleven_words_nothing_may_differ():
    text = " ".join(WORDS[:11])
    assert not together(text, f"{text} more")
    assert not together(text, text.replace("word4", "other"))
    assert together(f"{text} word11", f"{text} word11 more")  # of twelve words


def test_one_changed_word_in_45_is_nearly_the_same():
    for place in range(45):
        assert together(" ".join(WORDS[:45]), " ".join([*WORDS[:place], "another", *WORDS[place + 1 : 45]]))


def test_three_exchanged_numbers_in_a_hundred_words_are_nearly_the_same():
    def section(first: int, second: int, third: int) -> str:
        return " ".join([*WORDS[:30], str(first), *WORDS[30:60], str(second), *WORDS[60:97], str(third)])

    assert together(section(40, 12, 3), section(60, 18, 5))


def test_the_same_words_in_another_order_are_not_nearly_the_same():
    luck = np.random.default_rng(0)
    assert not together(" ".join(WORDS[:60]), " ".join(luck.permutation(WORDS[:60])))
    assert not together("oil flows from the pump to the tank", "oil flows from the tank to the pump")


def test_a_sentence_may_stand_elsewhere():
    first, second, third = (" ".join(WORDS[start : start + 15]) for start in (0, 15, 30))
    assert together(f"{first}. {second}. {third}.", f"{third}. {first}. {second}.")


def labelled_pairs(monkeypatch, seed):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from near_duplicates import labelled_pairs

    return labelled_pairs(seed)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_only_shares_words_with_another_text_is_not_nearly_the_same_in_ten_languages(monkeypatch, seed):
    wrong = [pair for pair in labelled_pairs(monkeypatch, seed) if not pair.near and together(pair.left, pair.right)]
    # there, short texts that differ in nothing but their name may: a word is finer where there are no spaces
    finer = {("same form, only the name", language) for language in ("Chinese", "Japanese", "Thai")}
    assert {(pair.kind, pair.language) for pair in wrong} <= finer


@pytest.mark.parametrize("seed", [0, 1])
def test_variants_and_revisions_are_nearly_the_same_in_ten_languages(monkeypatch, seed):
    near = [pair for pair in labelled_pairs(monkeypatch, seed) if pair.near]
    missed = [pair for pair in near if not together(pair.left, pair.right)]
    assert len(missed) <= 0.05 * len(near)
    # what is missed are short sections with many numbers
    assert {pair.kind for pair in missed} <= {"three numbers changed", "every number changed"}


@pytest.mark.skipif(not TYPED.is_file(), reason="the typed passages are not beside the repository")
def test_passages_that_differ_in_one_number_are_one_group_in_english_and_in_chinese():
    rows = [json.loads(line) for line in TYPED.read_text(encoding="utf-8").splitlines()]
    for domain in ("en", "zh"):
        texts = [row["positive"] for row in rows if row["domain"] == domain]
        assert len(texts) == 40
        assert together(*texts)


@pytest.mark.parametrize("path", [ROOT / "data/reference/pairs.jsonl", REAL], ids=["reference", "public"])
def test_the_passages_of_real_manuals_do_not_collapse_into_few_groups(path):
    if not path.is_file():
        pytest.skip("the file is not beside the repository")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = list(dict.fromkeys(row["positive"] for row in rows))
    sizes = np.bincount(near_duplicates(texts))
    assert len(sizes) > 0.98 * len(texts)
    assert sizes.max() <= 5


def test_a_catalogue_of_short_texts_stays_apart():
    texts = [f"Machine MX-{n:04d}: its door is opened with the key, number {n * 7 % 101} on it." for n in range(400)]
    assert len(set(near_duplicates(texts).tolist())) == 400


def test_case_punctuation_and_line_ends_do_not_count():
    assert together("Set the parking brake, then stop.", "set the PARKING\nbrake then (stop)")


def test_short_texts_are_compared_as_a_whole():
    assert near_duplicates(["check oil", "Check oil!", "check the oil", "oil check"]).tolist() == [0, 0, 1, 2]


def test_texts_without_a_word_equal_only_themselves():
    assert near_duplicates(["---", "***", "--- ", ""]).tolist() == [0, 1, 0, 2]


def test_texts_without_a_word_stand_between_others():
    assert near_duplicates(["oil", "--- ", "", "oil!", "***", "---", "pump -- seal", "pump seal"]).tolist() == [
        *[0, 1, 2, 0, 3, 1, 4, 4]
    ]


@given(st.lists(st.text(st.sampled_from("ab-.’é泵 \u00a0\u0301\u00ad"), max_size=8), max_size=6))
def test_words_are_those_that_a_text_has_as_a_whole(texts):
    ids, lengths = _word_ids(texts)
    kept = [[*words(text)] or [f"\n{text.strip()}"] for text in texts]
    assert lengths.tolist() == [len(own) + 1 for own in kept]
    numbers = dict.fromkeys(word for own in kept for word in own)
    named = {ids[at]: word for at, word in zip(np.flatnonzero(ids), [w for own in kept for w in own], strict=True)}
    assert len(named) == len(numbers) == len({*named.values()})
    assert [named.get(number, "") for number in ids] == ["", *[word for own in kept for word in [*own, ""]]]


def test_texts_are_together_through_a_third():
    chain = [" ".join([f"new{n}" for n in range(start)] + WORDS[start:20]) for start in range(3)]
    assert near_duplicates([chain[0], chain[2]]).tolist() == [0, 1]
    assert near_duplicates(chain).tolist() == [0, 0, 0]


def test_groups_are_numbered_as_they_appear():
    assert near_duplicates(["b", "a", "c", "a", "b"]).tolist() == [0, 1, 2, 1, 0]


def test_no_texts_have_no_groups():
    assert near_duplicates([]).shape == (0,)


def test_a_passage_in_a_thousand_copies_is_one_group():
    text = " ".join(WORDS[:26])
    assert set(near_duplicates([f"{text} {number}" for number in range(1000)]).tolist()) == {0}


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be > 0 and <= 1, got"):
        near_duplicates(["a"], threshold=threshold)
