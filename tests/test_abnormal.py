"""Generated abnormal queries: kinds, counts, seeds, and a half that is held back."""

import re
from collections import Counter

import pytest

from nic_ray.anomaly.abnormal import FAMILIES, HALVES, KINDS, PER_KIND, TRICKS, generate

QUESTIONS = ["how do I bleed the brakes?", "engine hums", "which torque for the head bolts", "fuse of the pump"]
HALF_NAMES = [*HALVES]


@pytest.mark.parametrize("half", HALF_NAMES)
def test_every_kind_gives_the_queries_that_are_asked_for_all_different(half):
    made = generate(QUESTIONS, half)
    counts = Counter(each.kind for each in made)
    assert list(counts) == [*KINDS]
    assert len(KINDS) == 14
    few = {"other_language": 24}
    assert counts == {kind: few.get(kind, PER_KIND) for kind in KINDS}
    assert len({(each.kind, each.query) for each in made}) == len(made)
    assert not any(re.search(r"\{[a-z_]+\}", each.query) for each in made if each.kind not in ("code", "commands"))


def test_the_same_seed_gives_the_same_queries_and_another_one_others():
    one, two = generate(QUESTIONS, "development", seed=1), generate(QUESTIONS, "development", seed=1)
    assert one == two
    assert one != generate(QUESTIONS, "development", seed=2)
    alone = generate(QUESTIONS, "development", seed=1, kinds=["code"])
    assert alone == [each for each in one if each.kind == "code"]


def test_the_halves_share_no_template_no_word_for_a_gap_no_keys_and_no_trick():
    one, other = HALVES.values()
    for kind in one.templates:
        # a template of a gap alone says nothing
        shared = {*one.templates[kind]} & {*other.templates[kind]}
        assert {text for text in shared if re.sub(r"\{\w+\}|\W", "", text)} == set(), kind
    words = [{word.casefold() for own in half.words.values() for word in own} for half in (one, other)]
    assert words[0] & words[1] == set()
    assert {*one.keys} & {*other.keys} == set()
    assert {*one.tricks} & {*other.tricks} == set()
    assert {*one.tricks, *other.tricks} == {*TRICKS}


@pytest.mark.parametrize("half", HALF_NAMES)
def test_every_gap_has_words_and_all_words_have_a_gap(half):
    texts = HALVES[half]
    templates = " ".join(text for own in texts.templates.values() for text in own)
    gaps = {*re.findall(r"(?<!\{)\{(\w+)\}", templates)}
    assert gaps - {"question"} == {*texts.words}


def test_an_injection_inside_a_question_holds_the_question_as_it_is():
    for each in generate(QUESTIONS, "held_back", kinds=["injection_inside"]):
        assert any(question in each.query for question in QUESTIONS)
        assert each.query not in QUESTIONS


def test_families_name_kinds():
    assert {*FAMILIES} | {kind for own in FAMILIES.values() for kind in own} <= {*KINDS}
