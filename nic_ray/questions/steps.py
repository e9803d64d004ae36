"""Questions from orders: where, how far, how long, with what, why, and what comes next."""

import itertools
import random
from collections.abc import Iterator, Sequence

from nic_ray.questions.clauses import Order, noun_phrase, order_of
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import DETERMINERS, PRONOUNS, SUBORDINATORS, joined, without_pronouns
from nic_ray.questions.quantities import Value, values_in

_PLACING = frozenset(
    """
    insert place put fit connect mount attach install hook measure apply route fasten hang position park secure
    pour inject screw clamp bolt fix stow store lay set slide
    """.split()
)
_PLACES = frozenset(
    """
    in on at into onto beneath under below behind above beside between through inside over across against to
    near
    """.split()
)
_REACHING = frozenset("raise lower turn move extend retract tilt open close push pull slide unscrew fill lift".split())
_LASTING = frozenset(
    "hold run wait idle pump charge bleed drain press keep soak drive crank warm leave operate".split()
)
_NO_STEPS = frozenset("use allow keep note observe see refer consult let leave avoid treat hold".split())
_ADJECTIVES = frozenset("lower dry clean empty open free level".split())
_SETTING = frozenset("set adjust inflate tension preload charge calibrate tighten torque reduce".split())


def orders_in(clause: Sequence[str]) -> list[Order]:
    """Split a clause at its commas and "and" into the orders that it gives, in their order."""
    pieces: list[list[str]] = [[]]
    for place, word in enumerate(clause):
        rest = list(clause[place + 1 :])
        if (
            word.lower() in (",", "and", "then", "or")
            and rest
            and pieces[-1]
            and order_of(_after_and(rest)) is not None
            and not _is_adjective(_after_and(rest))
        ):
            pieces.append([])
        elif not (word.lower() in ("and", "then") and not pieces[-1]):
            pieces[-1].append(word)
    if pieces and order_of(pieces[0]) is None:
        return []
    return [order for piece in pieces if piece and (order := order_of(_trimmed(piece))) is not None]


def _after_and(words: list[str]) -> list[str]:
    return words[1:] if words and words[0].lower() in ("and", "then") else words


def _is_adjective(words: Sequence[str]) -> bool:
    """Whether a word that may be a verb stands before a noun: "and lower control arm bushes"."""
    return words[0].lower() in _ADJECTIVES and words[1].lower() not in DETERMINERS | PRONOUNS


def _trimmed(piece: list[str]) -> list[str]:
    while piece and piece[-1] in (",", ":"):
        piece = piece[:-1]
    return piece


def from_orders(clause: Sequence[str], source: str, rng: random.Random) -> Iterator[Draft]:
    """Make questions of a clause that gives one order or several."""
    orders, has_choice = orders_in(clause), "or" in map(str.lower, clause)
    for place, order in enumerate(orders):
        if order.never:
            yield from _forbidden(order, source, rng)
            continue
        if not order.object or not without_pronouns(order.object):
            continue
        yield from _details(order, source, rng)
        if place + 1 < len(orders) and not orders[place + 1].never and is_step(order) and not has_choice:
            yield from _sequence(order, orders[place + 1], source, rng)
    for before, order in itertools.pairwise(orders):
        if order.verb == "wait" and is_step(before):
            yield Draft(
                question(f"how long do I wait after I {joined(before.all)}"), "direct", source, needs_topic=True
            )


def is_step(order: Order) -> bool:
    """Whether an order can be named in a few words as a step that has been done."""
    return (
        4 <= len(order.all) <= 11
        and order.verb not in _NO_STEPS
        and not SUBORDINATORS & set(order.all)
        and not {"daily", "weekly", "monthly", "every", "each"} & set(order.all)
        and without_pronouns(order.all)
        and not {",", ":"} & set(order.all)
        and bool(order.object)
    )


def _forbidden(order: Order, source: str, rng: random.Random) -> Iterator[Draft]:
    words = _until(order.words, (",", ":", "because", "so", "since", "or", "as", "and"))
    if {"until", "unless", "before", "while", "if", "when"} & set(words):
        return  # never before: allowed at some time
    if 2 <= len(words) <= 11 and without_pronouns(words) and words[-1].lower() not in ("the", "a"):
        start = rng.choice(["can I", "may I", "is it OK to", "am I allowed to"])
        yield Draft(question(f"{start} {order.verb} {joined(_positive(words))}"), "direct", source)


def _positive(words: Sequence[str]) -> list[str]:
    return ["a" if word == "any" else word for word in words]


def _until(words: Sequence[str], stops: Sequence[str]) -> tuple[str, ...]:
    for place, word in enumerate(words):
        if word.lower() in stops:
            return tuple(words[:place])
    return tuple(words)


def _details(order: Order, source: str, rng: random.Random) -> Iterator[Draft]:
    what = f"{order.verb} {joined(order.object)}"
    rest = [word.lower() for word in order.rest]
    first = rest[0] if rest else ""
    verb = order.verb.split()[0]
    values = values_in(order.rest)
    for query in _asked_values(order, what, values):
        yield Draft(
            question(query), "direct", source, detail=query.endswith(what) or query.endswith(joined(order.object))
        )
    if (
        verb in _PLACING
        and first in _PLACES
        and rest[1:2]
        and rest[1] in DETERMINERS
        and not (values and values[0].start <= 2)
    ):
        yield Draft(question(f"where do I {what}"), "direct", source)  # not "hook the unit on the pump"
    if first == "until" and len(rest) > 2:
        start = "how far" if verb in _REACHING else "how long" if verb in _LASTING else "until when"
        if start != "until when":
            yield Draft(question(f"{start} do I {what}"), "direct", source, detail=True)
    if first == "by" and rest[1:2] and rest[1].endswith("ing"):
        yield Draft(question(f"how do I {what}"), "direct", source)
    if first == "with" and rest[1:2] and rest[1] in ("a", "an", "two") and (tool := noun_phrase(order.rest[1:])):
        after = rest[len(tool) + 1 : len(tool) + 2]
        if not after or after[0] in (",", ":", "and", "until", "to", "in", "on", "at", "from"):
            start = rng.choice(["what do I need to", "what do I use to"])
            yield Draft(question(f"{start} {what}"), "direct", source, detail=True)
    for place, word in enumerate(rest):
        if word in ("because", "otherwise") or rest[place : place + 2] in (
            ["so", "that"],
            ["to", "avoid"],
            ["to", "prevent"],
        ):
            before = order.rest[:place]
            if before and before[-1] == ",":
                before = before[:-1]
            is_result = word == "so" and bool(values_in(rest[place:]))  # "so that the gap is 2 mm": no reason
            if not is_result and not {",", ":"} & set(before) and without_pronouns(before) and len(before) < 8:
                yield Draft(question(f"why do I {what} {joined(before)}"), "direct", source)
            break
        if place == 0 and word in ("if", "when", "once") and len(rest) > 3:
            yield Draft(question(f"when do I {what}"), "direct", source)
    if (
        first in ("before", "after")
        and verb not in ("identify", "read", "check", "make", "wait")
        and rest[1:2]
        and (rest[1].endswith("ing") or rest[1] in DETERMINERS)
    ):
        yield Draft(question(f"when do I {what}"), "direct", source)


def _asked_values(order: Order, what: str, values: Sequence[Value]) -> Iterator[str]:
    if not values:
        return
    value, rest = values[0], order.rest
    before = [word.lower() for word in rest[: value.start]]
    verb = order.verb.split()[0]
    thing = joined(order.object)
    if value.quantity == "torque" and before[-1:] == ["to"] and not {",", ":"} & set(before):
        yield f"what is the torque for {thing}"
        if verb in ("tighten", "torque", "screw", "turn"):
            yield f"how tight do I {what}"
    elif before[-1:] == ["to"] and verb in _SETTING and len(before) <= 3:
        yield f"what do I {what} to"
    elif before == ["for"] and value.quantity == "time":
        yield f"how long do I {what}"
    elif before == [] and value.unit == "times":
        yield f"how many times do I {what}"
    elif before == [] and value.unit == "turns":
        yield f"how many turns do I {what}"
    elif before == ["every"] or (before == [] and rest and rest[0].lower() == "every"):
        yield f"how often do I {what}"
    elif before == ["at"] and value.quantity in (
        "torque",
        "pressure",
        "temperature",
        "speed",
        "frequency",
        "voltage",
        "current",
    ):
        yield f"at what {value.quantity} do I {what}"
    elif before == [] and value.quantity == "length" and verb in _REACHING:
        yield f"how far do I {what}"


def _sequence(order: Order, following: Order, source: str, rng: random.Random) -> Iterator[Draft]:
    if following.verb == "wait":
        return
    start = rng.choice(["what do I do after I", "what is the next step after I", "what comes next once I"])
    yield Draft(question(f"{start} {joined(order.all)}"), "direct", source, form="next", needs_topic=True)
