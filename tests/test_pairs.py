"""Reading, refusing, counting and numbering pairs."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.dataset.pairs import (
    Pair,
    count_by_domain,
    count_pairs,
    describe_problems,
    find_problems,
    index_pairs,
    read_pairs,
    relevant_passages,
)
from nic_ray.errors import InputError

ROOT = Path(__file__).parent.parent
REAL = ROOT / "../shared/data/training_pairs.jsonl"
SOUND = {"query": "q", "positive": "p", "domain": "radar"}
BASE = [SOUND | {"positive": f"base {number}"} for number in range(3)]  # enough passages for the domain


def write(folder: Path, *rows: Any) -> Path:
    """Rows after three sound ones: objects as JSON, text and bytes as they are; the first is line 4."""
    path = folder / "pairs.jsonl"
    lines = [row if isinstance(row, (str, bytes)) else json.dumps(row) for row in [*BASE, *rows]]
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def without(field: str) -> dict[str, str]:
    return {name: text for name, text in SOUND.items() if name != field}


def test_a_row_is_read_as_it_stands(tmp_path):
    row = {
        "query": " Wie heiß?",
        "positive": "p\n",
        "domain": "radar",
        "negative": ["a", "b"],
        "source_section": "S",
    }
    assert read_pairs(write(tmp_path, row))[3] == Pair(" Wie heiß?", "p\n", "radar", ("a", "b"), "S", line=4)


def test_a_text_of_many_rows_is_in_memory_once(tmp_path):
    row = SOUND | {"negative": ["n"], "source_section": "section", "document": "document", "kind": "direct"}
    *_, first, second = read_pairs(write(tmp_path, row, row | {"query": "another", "cut_from": "whole"}))
    for name in ("positive", "domain", "source_section", "document", "kind"):
        assert getattr(first, name) is getattr(second, name)
    assert first.negatives[0] is second.negatives[0]
    assert (second.query, second.cut_from, first.cut_from) == ("another", "whole", None)


@pytest.mark.parametrize(
    ("given", "negatives"),
    [({}, ()), ({"negative": None}, ()), ({"negative": []}, ()), ({"negative": "n"}, ("n",))],
)
def test_one_negative_needs_no_list_and_none_is_fine(tmp_path, given, negatives):
    assert read_pairs(write(tmp_path, SOUND | given))[3].negatives == negatives


def test_unknown_fields_are_ignored(tmp_path):
    row = SOUND | {"hard_negative": True, "chapter": "typo", "nested": {"a": [1, None]}}
    assert read_pairs(write(tmp_path, row))[3] == Pair("q", "p", "radar", line=4)


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    assert [pair.line for pair in read_pairs(write(tmp_path, "", "  \t", SOUND))] == [1, 2, 3, 6]


def test_a_byte_order_mark_and_windows_line_ends_are_tolerated(tmp_path):
    path = write(tmp_path, SOUND)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_pairs(path)[3] == Pair("q", "p", "radar", line=4)


def test_line_separators_inside_a_text_do_not_end_the_line(tmp_path):
    row = SOUND | {"query": "one\u2028two\x85three"}
    assert read_pairs(write(tmp_path, json.dumps(row, ensure_ascii=False)))[3].query == row["query"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("domain"), '"domain" is missing (found: positive, query)'),
        ({}, '"query" is missing (found: nothing)'),
        (SOUND | {"query": ""}, '"query" is empty'),
        (SOUND | {"positive": " \n"}, '"positive" is empty'),
        (SOUND | {"positive": []}, '"positive" is an empty list'),
        (SOUND | {"positive": ["p", 1]}, '"positive" item 2 must be text, got a number'),
        (SOUND | {"query": None}, '"query" must be text, got null'),
        (SOUND | {"query": 7}, '"query" must be text, got a number'),
        (SOUND | {"query": True}, '"query" must be text, got true'),
        (SOUND | {"query": {}}, '"query" must be text, got an object'),
        (SOUND | {"negative": 1.5}, '"negative" must be text or a list of texts, got a number'),
        (SOUND | {"negative": " "}, '"negative" is empty'),
        (SOUND | {"negative": ["n", ""]}, '"negative" item 2 is empty'),
        (SOUND | {"negative": ["n", None]}, '"negative" item 2 must be text, got null'),
        (SOUND | {"source_section": 3}, '"source_section" must be text or null, got a number'),
        (SOUND | {"domain": "a/b"}, '"domain" must be printable, without "/"'),
        (SOUND | {"domain": "a\tb"}, r"got 'a\tb'"),
        (SOUND | {"domain": "/" * 10_000}, f"got '{'/' * 39}…'"),
        (
            SOUND | {"domain": "radar "},
            "without \"/\" and spaces at its ends: metric keys end in it; got 'radar '",
        ),
        (SOUND | {"domain": "macro"}, '"domain" must not be "macro", which names a figure over all domains'),
        (SOUND | {"domain": "worst"}, '"domain" must not be "worst"'),
        ([SOUND], "must be a JSON object, got a list"),
        ("null", "must be a JSON object, got null"),
        ('"text"', "must be a JSON object, got text"),
        ('{"query":', "not JSON: EOF while parsing a value at column 9"),
        ("{query: 'q'}", "not JSON: key must be a string at column 2"),
        (r'{"query": "\ud800"}', "not JSON: "),
        ("[" * 100_000, "not JSON: recursion limit exceeded"),
        ('{"query": "9' + "9" * 10_000, "not JSON: EOF while parsing a string"),
        ('{"query": "caf\u00e9"}'.encode("latin-1"), "not UTF-8 (byte 0xe9 at position 15)"),
    ],
)
def test_an_unusable_line_is_named_with_what_was_found(tmp_path, row, message):
    pairs, problems = find_problems(write(tmp_path, row))
    assert len(pairs) == 3
    assert {problem.line for problem in problems} == {4}
    assert message in problems[0].message


def test_every_fault_of_every_line_is_found(tmp_path):
    path = write(tmp_path, {"query": "", "positive": 1, "domain": "radar"}, SOUND, "{")
    assert [problem.line for problem in find_problems(path)[1]] == [4, 4, 6]


def test_the_error_lists_the_lines_and_the_way_out(tmp_path):
    path = write(tmp_path, without("domain"), SOUND, SOUND | {"query": "", "positive": None})
    expected = f"""{path}: 2 of 6 lines are unusable
  line 4: "domain" is missing (found: positive, query)
  line 6: "query" is empty
  line 6: "positive" must be text or a list of texts, got null
  Correct them, or see all findings with: python -m nic_ray.check {path}"""
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        read_pairs(path)


def test_the_error_stops_after_twenty_findings_and_the_full_list_does_not(tmp_path):
    path = write(tmp_path, *('{"' + "q" * width for width in range(23)))
    with pytest.raises(
        InputError, match=r"23 of 26 lines are unusable(\n  line .*){20}\n  \.\.\. and 3 more\n  Correct"
    ) as error:
        read_pairs(path)
    assert str(error.value).count("line ") == 20
    assert describe_problems(path, *find_problems(path)).count("line ") == 23


@pytest.mark.parametrize(("content", "message"), [("", "holds no rows"), ("\n \n", "holds no rows")])
def test_a_file_without_rows_is_refused(tmp_path, content, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=f"pairs.jsonl: {message}; want a JSON object a line"):
        read_pairs(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: no such file; one that comes along is data/reference"):
        read_pairs(tmp_path / "none.jsonl")


def test_a_folder_is_no_file_of_pairs(tmp_path):
    with pytest.raises(InputError, match="is a folder; name a file in it, or a folder in BEIR form"):
        read_pairs(tmp_path)


def test_a_path_through_a_file_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
        read_pairs(write(tmp_path) / "pairs.jsonl")


def test_a_domain_of_two_passages_is_too_small_and_one_of_three_is_not(tmp_path):
    rows = [SOUND | {"positive": f"p{number}", "domain": "hvac"} for number in range(3)]
    with pytest.raises(InputError, match=r'pairs\.jsonl: domain "hvac" has too few .* passages, 2; want 3: '):
        read_pairs(write(tmp_path, *rows[:2]))
    assert len(read_pairs(write(tmp_path, *rows))) == 6


def test_domains_that_cannot_be_split_are_named_together(tmp_path):
    rows = [{"query": str(number), "positive": "p", "domain": name} for name in ("b", "a") for number in range(5)]
    with pytest.raises(
        InputError,
        match=r'2 problems\n  domain "a" has too few distinct positive passages, 1; want 3: .*\n  domain "b"',
    ):
        read_pairs(write(tmp_path, *rows))


def test_counts_are_those_counted_by_hand():
    pairs = [
        Pair("q1", "p1", "b", ("p2", "n1")),
        Pair("q1", "p2", "b"),
        Pair("q2", "p1", "a", ("n1",)),
    ]
    assert count_pairs(pairs) == {
        "rows": 3,
        "queries": 2,
        "positives": 2,
        "passages": 3,
        "rows_with_negatives": 2,
    }
    assert [(name, counts["rows"]) for name, counts in count_by_domain(pairs).items()] == [("a", 1), ("b", 2)]


def test_texts_are_numbered_by_first_appearance():
    collection = index_pairs([Pair("q", "p", "a", ("n", "m")), Pair("r", "n", "b"), Pair("q", "o", "b", ("p",))])
    assert collection.texts == ("q", "p", "n", "m", "r", "o")
    assert collection.query.tolist() == [0, 4, 0]
    assert collection.positive.tolist() == [1, 2, 5]
    assert collection.negatives.tolist() == [[2, 3], [-1, -1], [1, -1]]
    assert collection.domains == ("a", "b", "b")
    assert collection.corpus.tolist() == [1, 2, 3, 5]


def test_a_text_that_is_a_query_and_a_passage_has_a_number_as_each():
    collection = index_pairs([Pair("q", "p", "a", ("r",)), Pair("r", "q", "a")])
    assert [collection.texts[number] for number in collection.query] == ["q", "r"]
    assert [collection.texts[number] for number in collection.positive] == ["p", "q"]
    assert collection.texts[collection.negatives[0, 0]] == "r"
    assert collection.is_query.tolist() == [text in collection.query for text in range(len(collection.texts))]
    assert not collection.is_query[collection.corpus].any()


def test_rows_without_negatives_have_none():
    collection = index_pairs([Pair("q", "p", "a")])
    assert collection.negatives.shape == (1, 0)
    assert collection.corpus.tolist() == [1]


words = st.sampled_from("abcdef")
some_pairs = st.lists(
    st.builds(Pair, words, words, words, st.lists(words, max_size=3).map(tuple)), min_size=1, max_size=30
)


@given(some_pairs)
def test_the_numbers_lead_back_to_the_texts(pairs):
    collection = index_pairs(pairs)
    assert len(set(zip(collection.texts, collection.is_query.tolist(), strict=True))) == len(collection.texts)
    for row, pair in enumerate(pairs):
        assert collection.texts[collection.query[row]] == pair.query
        assert collection.texts[collection.positive[row]] == pair.positive
        numbers = collection.negatives[row]
        assert tuple(collection.texts[number] for number in numbers[numbers >= 0]) == pair.negatives
    passages = {pair.positive for pair in pairs}.union(*(pair.negatives for pair in pairs))
    assert {collection.texts[number] for number in collection.corpus} == passages
    assert (np.diff(collection.corpus) > 0).all()


@given(some_pairs)
def test_relevant_is_every_passage_named_for_the_query_text(pairs):
    collection = index_pairs(pairs)
    found = {
        collection.texts[query]: [collection.texts[passage] for passage in passages]
        for query, passages in relevant_passages(collection).items()
    }
    for query in {pair.query for pair in pairs}:
        named = {pair.positive for pair in pairs if pair.query == query}
        first = {collection.texts[number]: number for number in collection.corpus.tolist()}
        assert found.pop(query) == sorted(named, key=first.__getitem__)
    assert not found


def test_the_reference_set_has_ten_queries_for_each_of_its_400_passages():
    pairs = read_pairs(ROOT / "data/reference/pairs.jsonl")
    collection = index_pairs(pairs)
    assert count_pairs(pairs) == {
        "rows": 4000,
        "queries": 4000,
        "positives": 400,
        "passages": 400,
        "rows_with_negatives": 0,
    }
    assert set(np.bincount(collection.positive)[collection.corpus]) == {10}


@pytest.mark.skipif(not REAL.exists(), reason="the real training pairs are not beside this repository")
def test_the_real_file_is_usable_and_has_the_known_counts():
    assert count_pairs(read_pairs(REAL)) == {
        "rows": 4010,
        "queries": 4010,
        "positives": 986,
        "passages": 2285,
        "rows_with_negatives": 4010,
    }


def test_the_retention_set_is_of_twelve_other_topics_each_with_as_much_to_confuse():
    reference = read_pairs(ROOT / "data" / "reference" / "pairs.jsonl")
    rows = read_pairs(ROOT / "data" / "retention" / "pairs.jsonl")
    topics = {row.domain for row in rows}
    assert len(topics) == 12
    assert not topics & {row.domain for row in reference}
    for topic in topics:
        own = [row for row in rows if row.domain == topic]
        assert len({row.positive for row in own}) == 15
        assert len({row.query for row in own}) == len(own) == 45


def test_texts_that_are_nearly_the_same_have_one_number_which_travels_with_the_collection():
    text = "Put the gasket on, fit the cover and tighten its six bolts crosswise with a torque wrench to {} Nm."
    collection = index_pairs([Pair("a", text.format(40), "d"), Pair("b", text.format(60), "d", ("c",))])
    assert collection.near_group.tolist() == [0, 1, 2, 1, 3]
    sent = pickle.loads(pickle.dumps(collection))
    assert vars(sent)["near_group"].tolist() == [0, 1, 2, 1, 3]  # nobody looks for them again


def test_reading_pairs_does_not_load_scipy():
    code = "import sys, nic_ray.dataset.pairs; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
