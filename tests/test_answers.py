"""Prompts for a language model, and the reading of what it answers."""

import collections
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.manuals.sections import Section, read_sections
from nic_ray.questions.answers import MOST_WORDS, parsed, response_schema
from nic_ray.questions.prompts import MAX_RARE, prompts_for, rare_words
from nic_ray.questions.question import KINDS, SHARES, kind_counts

COUNTS = kind_counts(10)
REFERENCE = Path(__file__).parent.parent / "data" / "reference"
ITEMS = [
    {"kind": "direct", "query": "How tight is the drain plug?"},
    {"kind": "symptom", "query": "oil on the floor under the pan"},
    {"kind": "keyword", "query": "drain plug torque"},
]
WHOLE = json.dumps({"questions": ITEMS})


def section(heading: str = "Oil change", text: str = "Undo the plug.", chapter: str = "Engine") -> Section:
    return Section("vehicle", "Truck manual", chapter, heading, text, None, "truck.md")


def queries(content: str) -> list[tuple[str, str]] | None:
    found = parsed(content, COUNTS)
    return None if found is None else [(item.kind, item.query) for item in found.items]


ALL = [(item["kind"], item["query"]) for item in ITEMS]


@pytest.mark.parametrize(
    "content",
    [
        WHOLE,
        json.dumps({"questions": ITEMS}, indent=2),
        json.dumps(ITEMS),
        f"```json\n{WHOLE}\n```",
        f"Here are your questions:\n\n{WHOLE}\n\nGood luck!",
        f'<think>{{"questions": [{{"kind": "direct", "query": "A draft?"}}]}}</think>\n{WHOLE}',
        f"the server cut the opening tag off</think>{WHOLE}",
        "\n".join(json.dumps(item) for item in ITEMS),
        json.dumps({"result": {"questions": ITEMS}}),
        WHOLE.replace('"query"', '"question"'),
        WHOLE.replace("symptom", " Symptom "),
    ],
)
def test_questions_are_read_from_json_in_any_wrapping(content):
    assert queries(content) == ALL


@pytest.mark.parametrize(
    "content",
    ["", "I cannot help with that.", "1. How tight is the plug?", "{'kind': 'direct', 'query': 'How tight?'}", "{}",
     '{"error": "none"}', '["How tight is the plug?"]', '{"questions": 3}', "{" * 5000],
)  # fmt: skip
def test_what_is_no_json_of_the_form_is_told_from_an_answer_without_questions(content):
    assert parsed(content, COUNTS) is None
    empty = parsed('{"questions": []}', COUNTS)
    assert empty is not None
    assert empty.items == ()


@given(st.integers(0, len(WHOLE)))
def test_of_an_answer_that_is_cut_off_anywhere_every_whole_item_is_used(length):
    ends = [WHOLE.index(json.dumps(item)) + len(json.dumps(item)) for item in ITEMS]
    whole = [found for found, end in zip(ALL, ends, strict=True) if end <= length]
    assert queries(WHOLE[:length]) == (whole or None)


@given(st.text() | st.text(alphabet='{}[]",: kindqueryt\\ud800'))
def test_no_answer_breaks_the_reading(content):
    parsed(content, COUNTS)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"kind": "riddle", "query": "What has keys?"}, "no such kind"),
        ({"kind": None, "query": "What has keys?"}, "no such kind"),
        ({"kind": "direct"}, "no text"),
        ({"kind": "direct", "query": "  \n "}, "no text"),
        ({"kind": "direct", "query": "?!"}, "no text"),
        ({"kind": "direct", "query": "175."}, "no text"),
        ({"kind": "direct", "query": 12}, "no text"),
        ({"kind": "direct", "query": ["How?"]}, "no text"),
        ({"kind": "direct", "query": "half a \ud800 character"}, "no text"),
        ({"kind": "direct", "query": "word " * (MOST_WORDS + 1)}, "too long"),
        ({"kind": "direct", "query": "how TIGHT, is the drain plug"}, "asked twice"),
        ({"kind": "keyword", "query": "a second one"}, "more than asked for"),
        ({"kind": "direct", "query": "What does the passage say of the plug?"}, "speaks of the passage itself"),
        ({"kind": "direct", "query": "According to this section, how tight?"}, "speaks of the passage itself"),
    ],
)
def test_an_item_that_cannot_be_used_is_dropped_and_its_reason_counted(item, reason):
    found = parsed(json.dumps({"questions": [*ITEMS, item]}), COUNTS)
    assert found is not None
    assert [(item.kind, item.query) for item in found.items] == ALL
    assert found.dropped == {reason: 1}


def test_a_question_of_the_longest_length_is_kept_and_stands_in_one_line():
    longest = "word\n" * MOST_WORDS
    assert queries(json.dumps([{"kind": "shop", "query": longest}])) == [("shop", longest.replace("\n", " ").strip())]


def test_kinds_are_asked_for_in_the_shares_of_the_reference_set():
    with (REFERENCE / "pairs.jsonl").open(encoding="utf-8") as lines:
        kinds = collections.Counter(json.loads(line)["kind"] for line in lines)
    assert {kind: count / kinds.total() for kind, count in kinds.items()} == SHARES
    assert kind_counts(10) == {"direct": 2, "symptom": 2, "shop": 4, "keyword": 1, "typo": 1}
    assert kind_counts(1) == {"direct": 0, "symptom": 0, "shop": 1, "keyword": 0, "typo": 0}


@given(st.integers(1, 200))
def test_no_kind_is_more_than_one_question_away_from_its_share(per_section):
    counts = kind_counts(per_section)
    assert sum(counts.values()) == per_section
    assert all(abs(counts[kind] - SHARES[kind] * per_section) < 1 for kind in KINDS)


def test_rare_words_are_those_of_the_highest_tf_idf():
    passages = ["pump pump seal housing", "seal housing bolt", "housing bolt 175 5"]
    log = math.log
    weights = {"pump": (1 + log(2)) * (1 + log(4 / 2)), "seal": 1 + log(4 / 3), "housing": 1.0}
    assert rare_words(passages)[0] == tuple(sorted(weights, key=lambda word: -weights[word]))
    assert rare_words(passages)[2] == ("bolt", "housing")
    assert rare_words(passages, most=1) == [("pump",), ("bolt",), ("bolt",)]


def test_rare_words_are_those_that_scikit_learn_weighs_most():
    from sklearn.feature_extraction.text import TfidfVectorizer

    from nic_ray.metrics.bm25 import content_words

    passages = [found.passage for found in read_sections(REFERENCE / "hvac.manual.jsonl")]
    vectorizer = TfidfVectorizer(analyzer=lambda text: content_words([text])[0], sublinear_tf=True, norm=None)
    weights, names = vectorizer.fit_transform(passages).toarray(), vectorizer.get_feature_names_out()
    for row, found in zip(weights, rare_words(passages), strict=True):
        eligible = [
            weight
            for weight, word in zip(row, names, strict=True)
            if len(word) >= 3 and any(map(str.isalpha, word)) and weight
        ]
        of_word = dict(zip(names, row, strict=True))
        assert sorted((of_word[word] for word in found), reverse=True) == pytest.approx(
            sorted(eligible, reverse=True)[:MAX_RARE]
        )


def test_a_prompt_says_where_the_section_stands_what_it_says_and_what_is_forbidden():
    asked = section("Oil change", "Undo the plug.")
    other = section("Tyres", "Inflate to 8 bar.", chapter="")
    first, second = prompts_for([asked, other], 10)
    for words in ("vehicle", "Truck manual", "Engine > Oil change", "Undo the plug.", "4 of kind shop", "that of the"):
        assert words in first.user
    assert set(first.forbidden) == {"oil", "change", "undo", "plug"}
    assert ", ".join(first.forbidden) in first.user
    assert "Headings: Tyres\n" in second.user


def test_only_kinds_with_a_share_are_asked_for():
    (prompt,) = prompts_for([section()], 1)
    assert "1 of kind shop" in prompt.user
    assert "of kind direct" not in prompt.user


def test_the_schema_of_answers_demands_what_the_reading_needs():
    item = response_schema()["properties"]["questions"]["items"]
    assert item["properties"]["kind"]["enum"] == list(KINDS)
    assert item["required"] == ["kind", "query"]
