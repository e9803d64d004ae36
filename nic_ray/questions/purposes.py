"""Questions from what something is for, and from how an aim is reached: "To drain the tank, open the cock"."""

import random
from collections.abc import Iterator, Sequence

from nic_ray.questions.clauses import noun_phrase, order_of, statement_of
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import PREPOSITIONS, joined, lowered, without_pronouns
from nic_ray.questions.verbs import VERBS

_ENDS = frozenset(", : by with using if when where because so unless which that and or as via".split())
_ENABLING = frozenset("allows allow enables enable lets let permits permit".split())
_WANTING = (["want", "to"], ["need", "to"], ["wish", "to"], ["would", "like", "to"], ["have", "to"])
_NO_AIMS = frozenset("be have do make see note get avoid prevent ensure keep take go need use show".split())


def from_purpose(clause: Sequence[str], source: str, rng: random.Random, names: frozenset[str]) -> Iterator[Draft]:
    """Make questions of a clause that says how an aim is reached, or what something is for.

    Args:
        clause: its tokens.
        source: what it was taken from.
        names: words that keep their capital letter, see `language.names_in`.
    """
    small = [word.lower() for word in clause]
    for aim in (_after_to(clause, small), _after_wanting(clause, small), _after_enabling(clause, small)):
        if aim:
            start = rng.choice(["how do I", "how can I", "what do I do to", "how to"])
            text = f"{start} {joined(aim)}"
            yield Draft(text if start == "how to" else question(text), "direct", source, form="aim")
            break
    yield from _of_use(clause, source, names)


def _after_to(clause: Sequence[str], small: Sequence[str]) -> list[str]:
    """Return the aim of "To drain the tank, open the cock" or "Use a pump to drain the tank"."""
    start = 3 if small[:3] == ["in", "order", "to"] else 1
    if small[0] == "to" or start == 3:
        aim = aim_of(clause[start:])
        return aim if small[start + len(aim) : start + len(aim) + 1] in ([","], ["with"], ["using"], ["when"]) else []
    if small[0] == "use" and (order := order_of(clause)) and order.object and order.rest[:1] == ("to",):
        return aim_of(order.rest[1:])
    return []


def _after_wanting(clause: Sequence[str], small: Sequence[str]) -> list[str]:
    """Return the aim of "If you want to drain the tank, ..." or "You can drain the tank by ..."."""
    for wanting in _WANTING:
        if small[:2] == ["if", "you"] and small[2 : 2 + len(wanting)] == wanting:
            return aim_of(clause[2 + len(wanting) :])
    if small[:2] in (["you", "can"], ["you", "may"]):
        aim = aim_of(clause[2:])
        if small[2 + len(aim) : 3 + len(aim)] in (["by"], ["with"], ["using"], ["via"]):
            return aim
    return []


def _after_enabling(clause: Sequence[str], small: Sequence[str]) -> list[str]:
    """Return the aim of "The cock allows you to drain the tank"."""
    for place, word in enumerate(small[:9]):
        if word in _ENABLING and small[place + 1 : place + 2] == ["you"]:
            start = place + 2 if word in ("lets", "let") else place + 3
            if start == place + 2 or small[place + 2 : place + 3] == ["to"]:
                return aim_of(clause[start:])
    return []


def aim_of(words: Sequence[str]) -> list[str]:
    """Return the clause in the base form that words begin with; empty if it cannot stand alone."""
    end = next((n for n, word in enumerate(words) if word.lower() in _ENDS), len(words))
    aim = list(words[:end])
    if not 2 <= len(aim) <= 9 or aim[0] not in VERBS or aim[0] in _NO_AIMS or not without_pronouns(aim):
        return []
    start = 2 if aim[1].lower() in ("up", "off", "on", "out", "down", "back") else 1
    if aim[-1].lower() in PREPOSITIONS | {"the", "a", "an", "not"} or not noun_phrase(aim[start:]):
        return []
    return aim


def _of_use(clause: Sequence[str], source: str, names: frozenset[str]) -> Iterator[Draft]:
    state = statement_of(clause)
    if state is None or not without_pronouns(state.subject) or state.finite not in ("is", "are", "can"):
        return
    subject = joined([lowered(state.subject[0], names), *state.subject[1:]])
    rest = [word.lower() for word in state.rest]
    if state.finite == "can" and rest[:3] in (["be", "used", "to"], ["be", "used", "for"]):
        yield Draft(question(f"what can {subject} be used for"), "direct", source)
    elif rest[:2] in (["used", "to"], ["used", "for"]):
        yield Draft(question(f"what {state.finite} {subject} used for"), "direct", source)
    elif state.finite == "is" and rest[0] in ("a", "an") and len(rest) > 3 and len(state.subject) <= 4:
        yield Draft(question(f"what is {subject}"), "direct", source)
