"""The profile of pairs, worked by hand on small files, and on samples of larger ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.dataset import profile
from nic_ray.dataset.pairs import Pair
from nic_ray.dataset.profile import as_json, profile_pairs, sampled, texts_to_count
from nic_ray.report.profile import describe_profile
from nic_ray.tokens import Prompts

PAIRS = [
    Pair("drain the oil", "drain old oil", "pumps", ("new oil",)),
    Pair("what is the flow", "flow is 5", "pumps"),
    Pair("leaks", "flow is 5", "pumps"),
    Pair("leaks", "tighten the gasket", "pumps"),
    Pair("настройка антенны", "настройка P1", "radar"),
]


def tokens_of(pairs, prompts=Prompts()):  # noqa: B008
    return {text: len(text.split()) for text in texts_to_count(pairs, prompts)}


def profiled(pairs, max_tokens=100, prompts=Prompts()):  # noqa: B008
    return profile_pairs(pairs, tokens_of(pairs, prompts), max_tokens, prompts)


def test_lengths_are_those_of_distinct_texts():
    found = profiled(PAIRS, max_tokens=2).domains["pumps"]
    assert found.queries.tokens == {"min": 1, "p5": 1, "median": 3, "p95": 4, "max": 4}
    assert (found.queries.texts, found.queries.counted) == (3, 3)
    assert found.queries.cut_off == pytest.approx(2 / 3)
    assert found.passages.tokens == {"min": 2, "p5": 2, "median": 3, "p95": 3, "max": 3}
    assert (found.passages.texts, found.passages.cut_off) == (4, 0.75)


def test_prompts_count_towards_the_lengths():
    found = profiled(PAIRS, prompts=Prompts("find me ", "passage: ")).whole
    assert (found.queries.tokens["min"], found.passages.tokens["min"]) == (3, 3)


def test_quantiles_are_lengths_of_that_share_of_the_texts():
    pairs = [Pair("oil " * (number + 1), "oil", "pumps") for number in range(100)]
    assert profiled(pairs).whole.queries.tokens == {"min": 1, "p5": 5, "median": 50, "p95": 95, "max": 100}


def test_questions_of_a_passage_and_passages_of_a_question_are_counted_once():
    found = profiled([*PAIRS, PAIRS[0]]).domains["pumps"]
    asked, answers = found.questions_a_passage, found.passages_a_question
    assert asked.bands == {"1": 2, "2": 1, "3-5": 0, "6-10": 0, "more": 0}
    assert (asked.several, asked.median, asked.largest) == (1, 1.0, 2)
    assert answers.bands == {"1": 2, "2": 1, "3-5": 0, "6-10": 0, "more": 0}
    assert (answers.several, answers.median, answers.largest) == (1, 1.0, 2)


def test_counts_fall_into_their_bands():
    sizes = [1, 2, 3, 5, 6, 10, 11, 300]
    pairs = [Pair(f"q{size} {n}", f"p{size}", "pumps") for size in sizes for n in range(size)]
    found = profiled(pairs).whole.questions_a_passage
    assert found.bands == {"1": 1, "2": 1, "3-5": 2, "6-10": 2, "more": 2}
    assert (found.several, found.median, found.largest) == (7, 5.5, 300)


def test_words_shared_are_those_of_the_question_that_are_no_question_words():
    # of "drain oil" both stand in the passage; of "flow" one; of "leaks" none in either; of the last, one of two
    found = profiled(PAIRS)
    assert found.domains["pumps"].shared_words == profile.SharedWords(4, 4, 0.5, 0.5)
    assert found.domains["radar"].shared_words == profile.SharedWords(1, 1, 0.5, 0.5)
    assert found.whole.shared_words == profile.SharedWords(5, 5, 0.5, 0.5)
    none = profiled([Pair("how?", "oil", "pumps")]).whole.shared_words
    assert none == profile.SharedWords(1, 0, None, None)


def test_letters_are_those_of_queries_and_passages():
    found = profiled(PAIRS).domains["radar"].letters
    assert (found.texts, found.measured, found.mixed) == (2, 2, 1)
    assert found.shares == pytest.approx({"Cyrillic": 25 / 26, "Latin": 1 / 26})
    assert [*found.shares] == ["Cyrillic", "Latin"]
    assert profiled([Pair("1", "2", "pumps")]).whole.letters.shares == {}


def test_a_histogram_holds_every_text_and_is_not_widened_by_a_single_long_one():
    pairs = [Pair("oil " * (number % 40) + f"{number}", f"oil {number}", "pumps") for number in range(400)]
    found = profiled([*pairs, Pair("oil " * 5000, "a long one", "pumps")])
    queries = found.histograms["queries"]
    assert queries.width == 3  # 400 of 401 queries have 1 to 40 tokens
    assert queries.counts == (20, *[30] * 12, 20, *[0] * 6, 1)
    assert found.histograms["passages"].counts[:4] == (0, 0, 400, 1)


def test_domains_are_in_order_and_a_single_one_is_the_whole():
    assert [*profiled(PAIRS[::-1]).domains] == ["pumps", "radar"]
    alone = profiled(PAIRS[:4])
    assert alone.domains == {"pumps": alone.whole}


rows = st.builds(
    Pair,
    query=st.sampled_from(["a1", "b1 a1", "c1", "why?"]),
    positive=st.sampled_from(["a1 b1", "c1", "d1 a1"]),
    domain=st.sampled_from(["pumps", "radar"]),
    negatives=st.lists(st.sampled_from(["a1 b1", "e1", "f1"]), max_size=2).map(tuple),
)


@given(st.lists(rows, min_size=1, max_size=12))
def test_each_domain_is_profiled_as_if_it_were_alone(pairs):
    found = profiled(pairs)
    for name, part in found.domains.items():
        assert part == profiled([pair for pair in pairs if pair.domain == name]).whole
    assert found.whole.queries.texts == len({pair.query for pair in pairs})
    assert found.whole.passages.texts == len({text for p in pairs for text in (p.positive, *p.negatives)})
    assert found.whole.shared_words.pairs == len({(pair.query, pair.positive) for pair in pairs})


def test_of_many_texts_a_sample_is_measured_and_that_is_said(monkeypatch):
    pairs = [Pair(f"oil {'x ' * (n % 7)}{n}", f"oil no. {n // 2}", "pumps" if n % 4 else "radar") for n in range(4000)]
    whole = profiled(pairs)
    assert list(sampled(whole)) == []
    monkeypatch.setattr(profile, "MOST_MEASURED", 1999)
    monkeypatch.setattr(profile, "SAMPLE", 1000)
    found = profiled(pairs)
    assert list(sampled(found)) == [
        "token lengths from 1,000 of 4,000 queries",
        "token lengths from 1,000 of 2,000 passages",
        "shared words from 1,000 of 4,000 pairs",
        "scripts from 1,000 of 6,000 texts",
    ]
    assert as_json(found)["sampled"] == list(sampled(found))
    assert found == profiled(pairs)
    assert found.whole.questions_a_passage == whole.whole.questions_a_passage
    assert found.whole.queries.tokens["median"] == whole.whole.queries.tokens["median"]
    assert found.whole.shared_words.mean == pytest.approx(whole.whole.shared_words.mean, abs=0.05)
    parts = found.domains.values()
    assert sum(part.queries.counted for part in parts) == 1000
    assert sum(part.shared_words.measured for part in parts) == 1000


def test_a_domain_of_which_nothing_was_drawn_says_so(monkeypatch):
    pairs = [Pair(f"q{n}", f"p{n}", f"d{n}") for n in range(10)]
    monkeypatch.setattr(profile, "MOST_MEASURED", 9)
    monkeypatch.setattr(profile, "SAMPLE", 2)
    parts = profiled(pairs).domains.values()
    empty = [part for part in parts if not part.queries.counted]
    assert len(empty) == 8
    assert {(len(part.queries.tokens), part.queries.cut_off) for part in empty} == {(0, None)}
    assert np.sum([part.letters.measured for part in parts]) == 2


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([1], "1 in the median, 1 at most; 1 passage has 1"),
        ([7, 7], "7 in the median, 7 at most; 2 passages have 6 to 10"),
        ([1, 3, 4, 11], "3.5 in the median, 11 at most; 1 passage has 1, 2 have 3 to 5, 1 has more than 10"),
    ],
)
def test_bands_are_told_as_sentences(sizes, told):
    pairs = [Pair(f"q{size} {n}", f"p{at}", "pumps") for at, size in enumerate(sizes) for n in range(size)]
    assert f"questions a passage: {told}" in list(describe_profile(profiled(pairs)))


def test_that_no_text_is_cut_off_is_told_in_words():
    first, second, *_ = describe_profile(profiled(PAIRS, max_tokens=4))
    assert first.endswith("4 at most; none is cut off at 4")
    assert second.endswith("3 at most; none is cut off at 4")
    first, second, *_ = describe_profile(profiled(PAIRS, max_tokens=3))
    assert first.endswith("; 25.0% are cut off at 3")
