"""Glossaries: what is read, what is refused, and shop words in questions."""

import json
from pathlib import Path

import pytest

from nic_ray.errors import InputError
from nic_ray.questions.glossary import Term, as_json, read_glossary, swaps_of

REFERENCE = "data/reference/glossary.json"


def written(tmp_path, content):
    path = tmp_path / "glossary.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_reference_glossary_is_read_and_written_back():
    path = Path(__file__).parent.parent / REFERENCE
    glossary = read_glossary(path)
    assert {domain: len(terms) for domain, terms in glossary.items()} == dict.fromkeys(glossary, 32)
    assert json.loads(as_json(glossary)) == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "must be a JSON object"),
        ({"d": {}}, '"d": must be a list of terms'),
        ({"d": ["pump"]}, '"d", entry 1: must be an object'),
        ({"d": [{"term": ""}]}, '"term" must be text'),
        ({"d": [{"term": "pump", "shop": "heart"}]}, '"shop" must be a list of texts'),
        ({"d": [{"term": "pump", "shop": [3]}]}, '"shop" must hold texts only'),
        ({"d": [{"term": "pump", "shop": ["Pump"]}]}, "is the term itself"),
        ({"d": [{"term": "pump"}, {"term": "Pump "}]}, "is entry 1 already"),
    ],
)
def test_a_bad_glossary_is_refused_by_place(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(InputError, match="glossary") as raised:
        read_glossary(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_glossary_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_glossary(tmp_path / "none.json")


def test_all_faults_are_listed_up_to_twenty(tmp_path):
    path = written(tmp_path, {"d": [{"term": ""}] * 30})
    with pytest.raises(InputError) as raised:
        read_glossary(path)
    assert str(raised.value).count("entry ") == 20
    assert "... and 10 more" in str(raised.value)


def test_a_glossary_that_is_not_filled_in_swaps_nothing(tmp_path):
    terms = read_glossary(written(tmp_path, {"d": [{"term": "pump", "shop": []}, {"term": "tank"}]}))["d"]
    assert terms == [Term("pump", ()), Term("tank", ())]
    assert swaps_of(terms).swapped("is the pump dry?", [0]) is None


SWAPS = swaps_of(
    [
        Term("circuit breaker", ("popper",)),
        Term("relay", ("ice cube",)),
        Term("relay output module", ("clicker",)),
        Term("lift chain", ("bike chain",)),
        Term("forks", ("tines",)),
        Term("engine cover", ("doghouse",)),
        Term("body control module", ("BCM", "comfort box")),
        Term("battery", ("juicer",)),
        Term("lightning strip", ("whiskers",)),
        Term("gauge set", ("MPG",)),
    ]
)


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("How do I test the relay?", "How do I test the ice cube?"),
        ("is the relay output module hot", "is the clicker hot"),
        ("Relay panel layout", "Ice cube panel layout"),
        ("are the lift chains slack?", "are the bike chains slack?"),
        ("a relay clicks", "an ice cube clicks"),
        ("An engine cover rattles", "A doghouse rattles"),
        ("A gauge set leaks", "An MPG leaks"),
        ("do the forks bend", "do the tines bend"),
        ("both batteries are flat", "both juicers are flat"),
        ("two body control modules", "two BCMs"),
        ("where is the lightning strip?", None),
        ("is a lightning strip torn?", None),
        ("the relay-driven lamp", None),
        ("relays feed the circuit breaker", "ice cubes feed the popper"),
        ("nothing of that", None),
    ],
)
def test_shop_words_take_the_place_of_terms(text, swapped):
    assert SWAPS.swapped(text, [0]) == swapped


def test_the_draw_chooses_among_shop_words():
    assert {SWAPS.swapped("the body control module", [number]) for number in (0, 1)} == {"the BCM", "the comfort box"}
