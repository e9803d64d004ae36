"""Questions from what stands after a colon: values in tables and lists, and what to do in a case."""

import random
from collections.abc import Iterator, Sequence

from nic_ray.questions.clauses import order_of
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import DETERMINERS, FINITE, PREPOSITIONS, joined, lowered, without_pronouns
from nic_ray.questions.quantities import values_in
from nic_ray.questions.verbs import base_of_third

_NAMED = frozenset(
    "torque pressure voltage current resistance temperature speed frequency gap clearance play length".split()
)

_SAYING = frozenset("indicates indicate means mean suggests suggest".split())
_TELLING = frozenset("contain hold carry have consist allow provide supply require need use".split())
"""Base forms of verbs that say what something is like, not what goes wrong."""


def from_label(clause: Sequence[str], source: str, rng: random.Random, names: frozenset[str]) -> Iterator[Draft]:
    """Make questions of a clause such as "Keeper bolts: 85 Nm" or "Lamp off: measure from the terminal".

    Args:
        clause: its tokens.
        source: what it was taken from.
        names: words that keep their capital letter, see `language.names_in`.
    """
    if ":" not in clause[1:8]:
        return
    place = list(clause).index(":")
    label, after = clause[:place], clause[place + 1 :]
    if not after or "," in label or not without_pronouns(label) or set(map(str.lower, label)) & FINITE:
        return
    if order_of(label) is not None:
        return
    name = joined([lowered(label[0], names), *label[1:]])
    if any(word.lower() in DETERMINERS for word in label[1:]):
        return
    if label[0].lower() == "every" and values_in(label):
        yield Draft(question(f"what has to be done {name}"), "direct", source)
        return
    if _SAYING & set(label) or any(base_of_third(word) in _TELLING for word in label):
        return  # "The core contains magnets: keep tools away": no sign of anything
    order = order_of(after)
    if order is not None and len(label) >= 2 and not order.never:
        yield Draft(
            rng.choice([f"{name}, what do I do?", f"{name}, what now?"]),
            "symptom",
            source,
        )
        return
    values = values_in(after)
    if values and values[0].start == 0 and label[0].lower() not in PREPOSITIONS and len(label) <= 6:
        quantity = values[0].quantity
        if label[-1].lower() in _NAMED:
            yield Draft(question(f"what is the {name}"), "direct", source)
        elif quantity in ("torque", "pressure", "voltage", "current", "resistance", "temperature", "speed"):
            yield Draft(
                question(f"what {quantity} for the {name}" if label[0][0].isalpha() else f"what {quantity} for {name}"),
                "direct",
                source,
            )
            if len(label) <= 3 and not PREPOSITIONS & set(label):
                yield Draft(f"{name} {quantity}", "keyword", source)
        elif quantity in ("volume", "mass"):
            yield Draft(question(f"how many {values[0].how_many[9:]} for the {name}"), "direct", source)
