"""Questions from conditions: what to do, what happens or what is wrong if something is the case."""

import random
from collections.abc import Iterator, Sequence

from nic_ray.questions.clauses import Order, is_clause, order_of, statement_of
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import DETERMINERS, FINITE, HARM, PREPOSITIONS, joined, lowered, without_pronouns

_OPENERS = frozenset("if when whenever should where once".split())
_LOOKING = frozenset("check measure inspect test examine look verify suspect".split())
_CHANGING = frozenset("replace renew change".split())
_FAULTY = frozenset(
    """
    defective faulty open shorted worn broken blocked leaking damaged bad loose dirty clogged failed burnt
    cracked weak slipping stuck exhausted empty low frozen
    """.split()
)
_SOUND = frozenset(
    """
    correct normal good right ok satisfactory necessary required possible intact clear present cold new stopped
    parked stationary lit reached removed installed fitted complete completed finished done
    """.split()
)
_COMPARING = frozenset("larger smaller greater higher bigger longer shorter more less".split())
"""Words that refer to a value that was named before."""
_MEANS = {
    "indicates": "does",
    "indicate": "do",
    "means": "does",
    "mean": "do",
    "suggests": "does",
    "suggest": "do",
}
_SHORT_SIGN = 3
"""Words of a sign that says little alone: "a slow drip"."""
_POINTS = {"points": "does", "point": "do"}


def from_condition(clause: Sequence[str], source: str, rng: random.Random, names: frozenset[str]) -> Iterator[Draft]:
    """Make questions of a clause with a condition at its start ("If the lamp stays dark, replace the fuse") or end.

    Args:
        clause: its tokens.
        source: what it was taken from.
        names: words that keep their capital letter, see `language.names_in`.
    """
    if clause[0].lower() in _OPENERS and clause[0].lower() not in ("should", "where", "once"):
        comma = _comma(clause)
        if comma is not None:
            yield from _of_condition(clause[1:comma], clause[comma + 1 :], source, rng, names)
        return
    for place, word in enumerate(clause):
        if (
            place >= 3
            and word.lower() in ("if", "when")
            and clause[place - 1].lower() not in ("and", "or", "even", "as")
        ):
            main = clause[:place]
            if not {"that", "which"} & set(main[-4:]) and ":" not in main:  # the condition of a part of it only
                yield from _of_condition(clause[place + 1 :], main, source, rng, names)
            return


def _comma(clause: Sequence[str]) -> int | None:
    for place, word in enumerate(clause):
        if word == "," and place >= 4 and is_clause(clause[1:place]):
            return place
    return None


def _of_condition(
    condition: Sequence[str], main: Sequence[str], source: str, rng: random.Random, names: frozenset[str]
) -> Iterator[Draft]:
    if "," in condition or ":" in condition or not usable(condition):
        return
    case = joined([lowered(condition[0], names), *condition[1:]])
    order = order_of(main)
    for query in _answers(case, order, main, rng):
        yield Draft(query, "symptom", source)


def _answers(case: str, order: Order | None, main: Sequence[str], rng: random.Random) -> list[str]:
    if order is not None and order.never:
        return []
    if order is not None and order.verb in _LOOKING:
        return [
            rng.choice([f"What do I check if {case}?", f"{case}, what should I check?", f"{case}, where do I look?"])
        ]
    if order is not None and order.verb in _CHANGING and order.object:
        part = joined(order.object)
        return [rng.choice([f"What do I replace if {case}?", f"{case}, do I have to {order.verb} {part}?"])]
    if order is not None:
        return [
            rng.choice(
                [f"What do I do if {case}?", f"{case}, what do I do?", f"what to do when {case}", f"{case}, what now?"]
            )
        ]
    state = statement_of(main)
    if state is None:
        return []
    if set(state.rest[:3]) & _FAULTY and state.finite in ("is", "are", "may"):
        return [rng.choice([f"What is wrong if {case}?", f"{case}, what is the cause?", f"{case}, which part is bad?"])]
    if state.base or state.finite in ("is", "are", "will", "must", "cannot"):
        return [rng.choice([f"What happens if {case}?", f"What happens when {case}?", f"what if {case}"])]
    return []


def from_meaning(clause: Sequence[str], source: str, rng: random.Random, names: frozenset[str]) -> Iterator[Draft]:
    """Make questions of a clause that says what a sign means: "A slow drip means that the level is correct"."""
    for place, word in enumerate(clause[:14]):
        helper = _MEANS.get(word)
        if word in _POINTS and clause[place + 1 : place + 2] == ["to"]:
            helper = _POINTS[word]
        if helper is None or not place >= 2:
            continue
        sign = clause[:place]
        if (
            sign[0][0].isdigit()
            or sign[0].lower() in PREPOSITIONS - {"above", "below", "over", "under", "without"}
            or "," in sign
            or ":" in sign
            or not without_pronouns(sign)
            or _COMPARING & set(sign)
            or order_of(sign)
            or is_clause(sign)
        ):
            return
        case = joined([lowered(sign[0], names), *sign[1:]])
        verb = {"points": "point to", "point": "point to"}.get(word, word.rstrip("s") if helper == "does" else word)
        short = len(sign) <= _SHORT_SIGN
        yield Draft(question(f"what {helper} {case} {verb}"), "symptom", source, needs_topic=short)
        asked = [f"{case}, what does that mean?"]
        if not _SOUND & {meant.lower() for meant in clause[place + 1 :]}:
            asked += [f"{case}, what is wrong?", f"{case}, what is the cause?"]
        yield Draft(rng.choice(asked), "symptom", source, needs_topic=short)
        return


def usable(condition: Sequence[str]) -> bool:
    """Whether a condition can be said without what stands before it."""
    return (
        3 <= len(condition) <= 16
        and without_pronouns(condition)
        and is_clause(condition)
        # "the voltage is correct", "the engine is cold": nobody asks for this, unless something else is wrong
        and ("not" in condition or not _SOUND & {word.lower() for word in condition})
        and condition[-1].lower() not in ("and", "or", "the", "turns", "turn", "works", "work", "runs", "run")
    )


def from_cause(clause: Sequence[str], source: str, rng: random.Random, names: frozenset[str]) -> Iterator[Draft]:
    """Make questions of a clause that says what causes something: "A worn bearing causes noise in neutral"."""
    for place, word in enumerate(clause[1:9], start=1):
        small = word.lower()
        if small in ("causes", "cause") and clause[place - 1].lower() not in DETERMINERS and place > 1:
            effect = list(clause[place + 1 :])
        elif (
            small == "caused" and clause[place - 1].lower() in ("is", "are") and clause[place + 1 : place + 2] == ["by"]
        ):
            effect = list(clause[: place - 1])
        else:
            continue
        end = next((n for n, token in enumerate(effect) if token in (",", ":", "and", "but", "because")), len(effect))
        effect = effect[:end]
        if (
            not 2 <= len(effect) <= 9
            or not without_pronouns(effect)
            or order_of(clause) is not None
            or {"to"} & set(effect)
            or effect[0] in FINITE
            or effect[-1].lower() in PREPOSITIONS
            or HARM & {word.lower() for word in effect}
        ):
            return
        case = joined([lowered(effect[0], names), *effect[1:]])
        if case.split()[0] in ("be", "the", "no"):
            case = case.removeprefix("the ")
        yield Draft(
            rng.choice([f"{case}, what is the cause?", f"What causes {case}?", f"{case}, where does it come from?"]),
            "symptom",
            source,
        )
        return
