"""Questions from statements: what something is, where, when and why it does what it does, and whether it may."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from nic_ray.questions.clauses import Statement, head_of, is_participle, statement_of
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import BE, DETERMINERS, FINITE, HARM, PREPOSITIONS, joined, lowered, without_pronouns
from nic_ray.questions.quantities import WHAT, values_in
from nic_ray.questions.verbs import base_of_third

_NO_OBJECTS = ("leave", "replace", "use", "start", "enter", "reach", "exceed", "restart", "end")
"""Verbs whose object nobody asks for: "leaves the factory"."""
WHETHER = "whether"
"""The form of questions that ask whether a statement is so; they come after all others."""
_SHORT = 6
"""Words of a question that says little alone: "what is the dry capacity"."""
_PASSING = frozenset("now also sometimes then still already always usually often therefore thus currently both".split())
_PLACES = frozenset("in on at behind beneath under below above beside between inside near outside".split())
_STANDING = frozenset("sit stand lie".split())
_MEASURING = frozenset(
    """
    hold carry deliver weigh contain take accept need require measure supply draw provide give produce absorb
    read
    """.split()
)
_DIMENSIONS = frozenset("long wide deep thick high tall apart".split())
_QUANTITIES = frozenset(
    """
    gap clearance play pressure torque voltage level speed temperature limit setting resistance output range
    length distance capacity weight interval time ratio diameter width thickness depth tension current power
    load delay frequency stroke height tolerance drop travel rate value consumption radius backlash charge
    preload
    """.split()
)
_BREAKS = (
    ",",
    ":",
    "because",
    "since",
    "when",
    "if",
    "once",
    "until",
    "while",
    "unless",
    "so",
    "but",
    "and",
    "which",
    "that",
    "after",
    "before",
    "as",
    "where",
    "then",
    "or",
)


def from_statement(clause: Sequence[str], source: str, names: frozenset[str]) -> Iterator[Draft]:
    """Make questions of a declarative clause.

    Args:
        clause: its tokens.
        source: what it was taken from.
        names: words that keep their capital letter, see `language.names_in`.
    """
    found = statement_of(clause)
    if found is None or not without_pronouns(found.subject) or ":" in clause[:12]:
        return
    subject = (lowered(found.subject[0], names), *found.subject[1:])
    state = Statement(subject, found.finite, found.base, found.rest, found.plural)
    if HARM & {word.lower() for word in state.rest} or (state.base and _has_second_verb(state)):
        return
    if len(subject) == 1 and subject[0].lower() == subject[0] and not state.plural:
        return
    queries = [*_values(state), *_circumstances(state), *_yes_or_no(state), *_objects(state)]
    for query in dict.fromkeys(queries):
        yield Draft(question(query), "direct", source, needs_topic=len(query.split()) <= _SHORT)
    if not queries and (query := _whether(state)):
        yield Draft(question(query), "direct", source, form=WHETHER, needs_topic=True)


def _has_second_verb(state: Statement) -> bool:
    """Whether what was taken for the verb is a plural noun: "heading changes above 4 degrees blank the overlay"."""
    main = [word.lower() for word in _main(state)]
    return (
        bool(main)
        and main[0] in PREPOSITIONS
        and any(
            word in ("the", "a", "an") and main[place - 1] not in PREPOSITIONS
            for place, word in enumerate(main)
            if place > 1
        )
    )


def _whether(state: Statement) -> str:
    """Ask whether a statement is so; empty if that would hardly be asked."""
    main = _main(state)
    if (
        not 2 <= len(main) <= 9
        or not without_pronouns(main)
        or state.finite in ("may", "shall")
        or len(state.subject) > 5
    ):
        return ""
    if main[-1].lower() in PREPOSITIONS | DETERMINERS | {"not", "only"} or "not" in main or "," in state.rest[:3]:
        return ""
    small = [word.lower() for word in main]
    if state.finite in BE and not is_participle(small[0]) and small[0] not in PREPOSITIONS:
        return ""  # "are usual causes storage without power?"
    if any(base_of_third(word) or word in FINITE or word in _PASSING for word in small) or (
        values_in(main) and small[small[0] == "be"][0].isdigit()
    ):
        return ""
    return _asked(_with_the(state) if not state.plural else state, main)


def _main(state: Statement) -> tuple[str, ...]:
    """The rest up to the first clause or comma."""
    for place, word in enumerate(state.rest):
        if word.lower() in _BREAKS:
            return state.rest[:place]
    return state.rest


def _asked(state: Statement, rest: Sequence[str]) -> str:
    return joined(Statement(state.subject, state.finite, state.base, tuple(rest), state.plural).asked)


def _values(state: Statement) -> Iterator[str]:
    main = _main(state)
    values = values_in(main)
    if not values:
        return
    value = values[0]
    before = main[: value.start]
    small = [word.lower() for word in before]
    if state.finite in ("is", "are") and not before:
        after = main[value.end : value.end + 1]
        if after and after[0] in _DIMENSIONS:
            yield f"how {after[0]} {_asked(state, ())}"
        elif _names_quantity(state.subject):
            yield f"what {_asked(_with_the(state), ())}"
    elif state.finite in ("must", "should") and small == ["be"] and _names_quantity(state.subject):
        yield f"what {_asked(_with_the(state), ('be',))}"
    elif state.base in _MEASURING and not before and not {",", ":"} & set(main):
        after = main[value.end : value.end + 1]
        if not after or after[0].lower() not in ("of",):
            yield f"{_how_many(value.how_many)} {_asked(state, ())}"
    elif small[-1:] == ["at"] and value.quantity in WHAT and len(before) < 6:
        yield f"at what {value.quantity} {_asked(state, before[:-1])}"
    elif small[-1:] in (["after"], ["within"], ["for"]) and value.quantity == "time" and len(before) < 6:
        start = {"after": "after how long", "within": "how soon", "for": "how long"}[small[-1]]
        yield f"{start} {_asked(state, before[:-1])}"
    elif small[-1:] == ["every"] and len(before) < 6:
        yield f"how often {_asked(state, before[:-1])}"


def _with_the(state: Statement) -> Statement:
    """Put "the" before a subject that has no article, as in a manual's short style."""
    first, head = state.subject[0], head_of(state.subject)
    if first.lower() in DETERMINERS or first[:1].isupper() or first[0].isdigit() or "or" in state.subject:
        return state
    if any(character.isdigit() for character in head):
        return state  # "cylinder 1", "relay R3"
    return replace(state, subject=("the", *state.subject))


def _names_quantity(subject: Sequence[str]) -> bool:
    return head_of(subject).lower().removesuffix("s") in _QUANTITIES


def _how_many(words: str) -> str:
    return words[:1].lower() + words[1:]


def _circumstances(state: Statement) -> Iterator[str]:
    rest = [word.lower() for word in state.rest]
    for place, word in enumerate(rest):
        before = state.rest[:place]
        if before and before[-1] == ",":
            before = before[:-1]
        if len(before) > 8 or {",", ":"} & set(before) or not without_pronouns(before):
            return
        if word in FINITE or base_of_third(word) or word == "but":
            return  # a second verb
        if (not before and not state.base) or (before and before[-1].lower() in ("and", "or", "only", "even")):
            if before and before[-1].lower() == "only" and word in ("when", "if"):
                yield f"when {_asked(state, before[:-1])}"
                return
            if word in ("when", "if", "because", "until"):
                return
        if state.finite == "may":
            return  # "may fail when": nobody asks when something may
        if word in ("when", "if", "once") and rest[place + 1 : place + 2] and rest[place + 1].endswith("ing"):
            return  # "when estimating the reaction": no time
        if word in ("when", "if", "once") or rest[place : place + 3] == ["as", "soon", "as"]:
            yield f"when {_asked(state, before)}"
            return
        if word in ("because", "since") or rest[place : place + 2] in (
            ["so", "that"],
            ["to", "prevent"],
            ["to", "avoid"],
        ):
            yield f"why {_asked(state, before)}"
            return
    if state.finite in ("is", "are") and len(rest) > 2:
        place = 1 if is_participle(rest[0]) else 0
        if rest[place] in _PLACES and rest[place + 1] in DETERMINERS and (place == 0 or _is_placing(rest[0])):
            yield f"where {_asked(_with_the(state), ())}"
    elif state.base in _STANDING and rest[0] in _PLACES and rest[1:2] and rest[1] in DETERMINERS:
        yield f"where {_asked(state, ())}"


def _is_placing(participle: str) -> bool:
    return participle in (
        "located fitted mounted bolted installed placed fastened fixed attached stored stowed kept clamped housed "
        "clipped screwed riveted pinned hung".split()
    )


def _yes_or_no(state: Statement) -> Iterator[str]:
    main = _main(state)
    small = [word.lower() for word in main]
    if (
        not 1 <= len(main) <= 9
        or not without_pronouns(main)
        or main[-1].lower() in ("the", "a", "only", "at", "to", "not")
    ):
        return
    if state.finite == "cannot":
        yield f"can {joined((*state.subject, *main))}"
    elif state.finite in ("must", "should", "may", "can", "shall") and small[0] in ("not", "never", "only"):
        verb = "may" if small[0] != "only" else state.finite
        rest = main[1:] if small[0] != "only" else main
        if len(rest) > 1:
            yield f"{verb} {joined((*state.subject, *rest))}"
    elif state.finite == "must" and len(main) > 1:
        yield f"{'do' if state.plural else 'does'} {joined(state.subject)} have to {joined(main)}"
    elif state.subject == ("you",) and state.finite in ("can", "should") and len(main) > 1:
        yield f"{'can I' if state.finite == 'can' else 'do I have to'} {joined(main)}"
    elif state.finite in ("is", "are") and small[0] in ("never", "only", "not") and len(main) > 2:
        yield f"{state.finite} {joined((*state.subject, *(main[1:] if small[0] != 'only' else main)))}"


def _objects(state: Statement) -> Iterator[str]:
    if state.base and state.rest[0].lower() in ("the", "a", "an", "both", "all") and len(state.subject) > 1:
        if state.base not in (
            "have",
            "need",
            "allow",
            "let",
            "make",
            "remain",
            "be",
            "return",
            "read",
            "show",
            *_NO_OBJECTS,
        ):
            yield f"what {_asked(state, ())}"
        if state.base == "show" or state.base == "read":
            yield f"what {_asked(state, ())}"
