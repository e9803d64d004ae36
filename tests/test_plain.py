"""Rows that are read without a validation of each: they are as if each had been validated."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nic_ray.dataset import pairs as module
from nic_ray.dataset.columns import Columns
from nic_ray.dataset.fields import Fields
from nic_ray.dataset.pairs import read_file
from nic_ray.dataset.plain import plain_fields

SOUND = {"query": "why?", "positive": "because", "domain": "pumps"}

values = st.sampled_from(["why?", "because é", "", " ", "all", "a/b", "pumps", "pumps ", "\ud800", 1, 2.5, None, True])
fields = {
    "query": st.just("q") | values,
    "positive": st.just("p") | values | st.lists(values, max_size=2),
    "domain": st.just("pumps") | values,
}
others = {"negative": values | st.lists(values, max_size=2), "source_section": values, "more": values}
rows = st.fixed_dictionaries(fields) | st.fixed_dictionaries({}, optional=fields | others)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows | st.just(SOUND), min_size=1, max_size=6))
def test_rows_are_read_as_if_each_had_been_validated(tmp_path, given):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([SOUND, *given]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "plain_fields", lambda *_: lambda row: None)
        validated = read_file(path)
    assert read_file(path) == validated


def test_plain_rows_are_read_without_a_validation(tmp_path, monkeypatch):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([SOUND] * 10))
    calls = []
    monkeypatch.setattr(module, "_pairs_of", lambda *given, own=module._pairs_of: calls.append(1) or own(*given))
    assert len(read_file(path).pairs) == 10
    assert len(calls) == 1  # the first of its domain


def test_a_passage_of_many_rows_is_in_memory_once():
    plain = plain_fields(Fields(Columns({"query": ("q",), "positive": ("p",)}), {"domain": "pumps"}), {"pumps"})
    one, other = (plain({"q": "why?", "p": "".join(["be", "cause"])}) for _ in range(2))
    assert one == other == ("why?", "because", "pumps")
    assert one[1] is other[1]


HALF = re.compile("holds half a character|not JSON: .* hex escape")


@pytest.mark.parametrize("field", ["query", "positive", "negative", "source_section", "document"])
@pytest.mark.parametrize("names", [{}, {"query": "question"}], ids=["our names", "other names"])
@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_half_a_character_is_refused_in_every_field_and_row(tmp_path, form, names, field):
    texts = ["why \ud800?", "\udc00", "one 😀", "Öl"]
    rows = [SOUND | {names.get(name, name): SOUND[name] for name in SOUND} for _ in range(5)]
    rows = [{name: text for name, text in row.items() if name not in names} for row in rows]
    rows[1:] = [row | {names.get(field, field): text} for row, text in zip(rows[1:], texts, strict=True)]
    path = tmp_path / f"pairs.{form}"
    path.write_text(json.dumps(rows) if form == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    found = read_file(path)
    assert [problem.line for problem in found.problems] == [2, 3]
    assert all(HALF.search(each.message) for each in found.problems), found.problems
    assert [pair.line for pair in found.pairs] == [1, 4, 5]
    for text in [text for pair in found.pairs for text in (pair.query, pair.positive, *pair.negatives)]:
        text.encode()


@pytest.mark.parametrize("value", ["\ud800", "a\udfff"])
def test_a_plain_row_with_half_a_character_is_left_to_the_validation(value):
    plain = plain_fields(Fields(Columns({name: (name,) for name in SOUND}), {}), {"pumps"})
    assert plain(SOUND) == ("why?", "because", "pumps")
    assert plain(SOUND | {"query": "Öl 😀"}) == ("Öl 😀", "because", "pumps")
    assert plain(SOUND | {"query": value}) is None
    assert plain(SOUND | {"positive": value}) is None


@pytest.mark.parametrize(
    "more",
    [
        {"negative": ("n",)},
        {"source_section": ("s",)},
        {"positive": ("p", "p2")},
        {"document": ("m",)},
        {"score": ("r",)},
    ],
)
def test_files_with_other_fields_are_validated(more):
    columns = Columns({"query": ("q",), "positive": ("p",), "domain": ("d",), **more})
    assert plain_fields(Fields(columns, {}), {"pumps"})({"q": "why?", "p": "because", "d": "pumps"}) is None
