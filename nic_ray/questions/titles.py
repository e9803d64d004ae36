"""Titles of sections: their type, and the questions that follow from it."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nic_ray.dataset.broken import why_broken
from nic_ray.manuals.sections import Section
from nic_ray.questions.clauses import order_of
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import BE, DETERMINERS, PREPOSITIONS, joined, lowered, tokens
from nic_ray.questions.verbs import VERBS, base_of_gerund, base_of_third, gerund_of

Type = Literal["procedure", "fault", "code", "specification", "layout", "component"]

_ACTIONS = dict(
    pair.split(":")
    for pair in """
    replacement:replace removal:remove adjustment:adjust adjusting:adjust inspection:inspect installation:install
    fitting:fit test:test testing:test check:check checking:check calibration:calibrate cleaning:clean bleeding:bleed
    change:change measurement:measure configuration:configure setup:set_up overhaul:overhaul repair:repair
    alignment:align lubrication:lubricate greasing:grease opening:open draining:drain shimming:shim resealing:reseal
    refill:refill drain:drain assembly:assemble disassembly:disassemble connection:connect wiring:wire
    setting:set service:service servicing:service regeneration:regenerate charging:charge exchange:exchange
    registration:register initialisation:initialize initialization:initialize matching:match aiming:aim
    download:download update:update installing:install upgrade:upgrade flushing:flush selection:select
    addressing:address stowage:stow disabling:disable centring:centre centering:center
    """.split()
)
_STARTS = frozenset("before after weekly daily monthly six-monthly two-yearly".split())
_FAULT_WORDS = frozenset(
    "fault faults error errors failure leak leaks noise wear drift creep overheating icing lock-up loss trip tripping "
    "hesitation wander misfire inoperative stuck shorted slow low high missing overrange undervoltage overload faulty "
    "flashing".split()
)
_SPECIFICATION = frozenset(
    "data capacities capacity limits limit settings specifications specification torques torque grades dimensions "
    "intervals ratings pressures pressure colours colors schedule".split()
)
_LAYOUT = frozenset("layout location locations overview positions".split())
_WORKING = frozenset("operation mode modes function functions interlock cycle protection system principle".split())
_CODE = re.compile(r"(?:(?:fault|error|trouble|alarm)\s+)?(?:code\s+)?(?=[A-Z\d-]*\d)[A-Z]{0,3}-?\d{1,5}[A-Z]?", re.I)
_STARTS_WITH_CODE = re.compile(
    r"(?P<code>(?:(?:fault|error|trouble|alarm|diagnostic)\s+(?:code\s+)?)?(?:[A-Z]{1,2}\d{1,5}|(?<=code )\d{1,4}))"
    r"(?:[\s,:–-]+(?P<rest>.*))?$",
    re.I,
)


@dataclass(frozen=True)
class Title:
    """A title as rules use it."""

    text: str
    """With the case of running text."""
    type: Type
    verb: str = ""
    """Of a procedure, what is done, in its base form; two verbs joined by "and"."""
    thing: str = ""
    """What it is done to, or what is named, without an article."""
    plural: bool = False
    rest: str = ""
    """What follows the thing: "for system 1 and system 2"."""


def refused_titles(sections: Sequence[Section]) -> dict[str, str]:
    """Find the titles that are no questions: folded title -> why, "generic" or "shared"."""
    counts = Counter(fold(section.section) for section in sections)
    refused = {}
    for section in sections:
        name = fold(section.section)
        if counts[name] > 1:
            refused[name] = "shared"
        elif (len(name.split()) < 2 and not any(character.isdigit() for character in name)) or why_broken(name):
            refused[name] = "generic"
    return refused


def fold(text: str) -> str:
    """Return a text for comparisons: its words in lower case."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_title(title: str, lower: frozenset[str]) -> Title:
    """Find out what a title names.

    Args:
        lower: words that the documents write in lower case.
    """
    plain = re.sub(r"^\s*(?:\d+(?:\.\d+)*|[A-Z](?:\.\d+)+)[.)]?\s+", "", " ".join(title.split())).rstrip(" .:")
    plain = re.sub(r"\s*\([^)]*\)", "", plain)
    found = _STARTS_WITH_CODE.match(plain)
    if found:
        rest = joined([lowered(word, lower) for word in tokens(found["rest"] or "")])
        code = found["code"]
        code = code if code.split()[0].isupper() or " " not in code else code[0].lower() + code[1:]
        return Title(f"{code} {rest}".strip(), "code", thing=code, rest=rest)
    words = [lowered(word, lower) for word in tokens(plain)]
    text = joined(words)
    return _procedure(words, text) or _other(words, text)


def _procedure(words: Sequence[str], text: str) -> Title | None:
    first = words[0].lower()
    base = base_of_gerund(first)
    if base and len(words) > 1 and (first not in _NOUNS or words[1] in DETERMINERS):
        if words[1] == "and" and len(words) > 3 and (second := base_of_gerund(words[2].lower())):
            return _named("procedure", text, words[3:], f"{base} and {second}")
        if words[1] not in BE and not base_of_third(words[1]) and words[1] != "and" and words[1] not in PREPOSITIONS:
            return _named("procedure", text, words[1:], base)
        return None
    if first in VERBS and words[1:2] and words[1] in DETERMINERS and order_of(words):
        return _named("procedure", text, words[1:], first)
    head, rest = _head(words)
    action = head[-1] if head else ""
    if action not in _ACTIONS or len(head) < 2:
        return None
    verb, things = _ACTIONS[action].replace("_", " "), list(head[:-1])
    if things[-1] == "and" and len(things) > 2 and things[-2] in _ACTIONS:
        verb, things = f"{_ACTIONS[things[-2]]} and {verb}", things[:-2]
    if things[-1] in ("and", "or", ",") or things[0] in _STARTS or things[-1] in _ACTIONS:
        return None
    if things[-1] == "level" or (action in ("check", "checking") and things[-1] == "level"):
        things = things
    return Title(text, "procedure", verb, joined(things), _is_plural(things), joined(rest))


_NOUNS = frozenset(
    "wiring opening mounting steering cooling engineering bearing housing heating lighting operating starting parking "
    "setting fitting warning hard warming turning towing".split()
)
"""Words in -ing that stand before a noun as parts of its name."""


def _named(kind: Type, text: str, words: Sequence[str], verb: str) -> Title:
    thing = list(words)
    return Title(text, kind, verb, joined(thing), _is_plural(thing))


def _head(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a title into its noun phrase and what follows: a preposition or a comma and more."""
    for place, word in enumerate(words):
        if place and (
            word == "," or (word in PREPOSITIONS and word not in ("of", "off", "on", "up", "over", "out", "in"))
        ):
            return list(words[:place]), list(words[place:])
        if place and word in ("in", "on", "over") and place + 1 < len(words):
            return list(words[:place]), list(words[place:])
    return list(words), []


def _is_plural(words: Sequence[str]) -> bool:
    head, _ = _head(words)
    if "of" in head[1:]:
        head = head[: head.index("of", 1)]
    return head[-1].endswith("s") and not head[-1].endswith(("ss", "us", "is"))


def _other(words: Sequence[str], text: str) -> Title:
    head, rest = _head(words)
    small = [word.lower() for word in head]
    named = {"thing": joined(head), "rest": joined(rest), "plural": _is_plural(head)}
    if (
        _is_statement(words)
        or small[-1] == "diagnosis"
        or _FAULT_WORDS & set(small[-2:])
        or small[0] in ("low", "hard")
    ):
        return Title(text, "fault", **named)  # type: ignore[arg-type]
    if small[-1] in _LAYOUT:
        return Title(text, "layout", **named)  # type: ignore[arg-type]
    if _SPECIFICATION & set(small):
        return Title(text, "specification", **named)  # type: ignore[arg-type]
    return Title(text, "component", **named)  # type: ignore[arg-type]


def _is_statement(words: Sequence[str]) -> bool:
    small = [word.lower() for word in words]
    if "not" in small:
        return True
    for place, word in enumerate(small[1:6], start=1):
        after = small[place + 1 : place + 2]
        if (
            base_of_third(word)
            and after
            and (after[0] in PREPOSITIONS | DETERMINERS | {"or", "and"})
            and place + 2 < len(small)
        ):
            # "clicks or stays silent", "slips out of gear", but not "limits and cancellation"
            if after[0] in ("or", "and") and not base_of_third(small[place + 2]):
                continue
            if after[0] in ("for", "of", "in", "and", "on", "at") and not small[place - 1].endswith("r"):
                continue
            return after[0] in ("out", "or", "without", "to", "off")
    return len(small) > 2 and small[0].endswith("s") and small[1] in VERBS and small[2] in ("or", "to", "and")


def with_article(thing: str, *, plural: bool) -> str:
    """Put "the" before a noun phrase that has no article and is no name."""
    first = thing.split()[0]
    if first in DETERMINERS or first in PREPOSITIONS or first[0].isdigit():
        return thing
    del plural
    return f"the {thing}"


def from_title(title: Title, rng: random.Random) -> Iterator[Draft]:
    """Make questions of a title, by its type; each form once, in the order of a draw."""
    forms = [*_FORMS[title.type](title)]
    rng.shuffle(forms)
    yield from forms


def _direct(text: str) -> Draft:
    return Draft(question(text), "direct", "title")


def _symptom(text: str) -> Draft:
    return Draft(text, "symptom", "title")


def _of_procedure(title: Title) -> Iterator[Draft]:
    thing = with_article(title.thing, plural=title.plural)
    where = f" {title.rest}" if title.rest and not title.rest.startswith(",") else ""
    if title.rest.startswith(","):
        where = f" ({title.rest[2:]})"
    what = f"{title.verb} {thing}{where}"
    yield _direct(f"how do I {what}")
    yield _direct(f"what is the procedure to {what}")
    yield _direct(f"what are the steps to {what}")
    yield Draft(f"how to {what}", "direct", "title")
    yield Draft(f"I have to {what}, where do I start?", "direct", "title")
    if " and " not in title.verb and " " not in title.verb:
        yield _direct(f"what do I have to watch when {gerund_of(title.verb)} {thing}{where}")


def _of_fault(title: Title) -> Iterator[Draft]:
    text, words = title.text, title.text.split()
    if words[-1] == "diagnosis":
        what = " ".join(words[:-1])
        yield _symptom(f"What causes {what}?")
        yield _symptom(f"{what}, what do I check?")
        yield _symptom(f"how do I track down {what}")
        return
    if _is_statement(tokens(text)):
        the = with_article(text, plural=title.plural) if not words[0].endswith("s") else text
        yield _symptom(f"{the}, what do I check?")
        yield _symptom(f"{the}, what is the cause?")
        if " does not " in f" {the} ":
            before, _, after = the.partition(" does not ")
            yield _symptom(f"Why does {before} not {after}?")
            yield _symptom(f"{before} won't {after}")
        return
    yield _symptom(f"What causes {text}?")
    yield _symptom(f"{text}, what do I check?")
    yield _symptom(f"What is behind {text}?")


def _of_code(title: Title) -> Iterator[Draft]:
    code = title.thing
    short = code.split()[-1]
    yield _direct(f"what does {code} mean")
    yield _symptom(f"{code} came up, what do I check?")
    yield _symptom(f"{code} keeps coming back, what is the cause?")
    if title.rest:
        yield _symptom(f"{title.rest} - {short if len(short) > 2 else code}, how do I fix it")
        yield _direct(f"which code stands for {title.rest}")


def _of_specification(title: Title) -> Iterator[Draft]:
    be = "are" if title.plural else "is"
    thing = with_article(title.thing, plural=title.plural)
    rest = f" {title.rest}" if title.rest and not title.rest.startswith(",") else ""
    what = f"{thing}{rest}" if not title.rest.startswith(",") else f"{thing} ({title.rest[2:]})"
    yield _direct(f"what {be} {what}")
    yield _direct(f"where do I find {what}")


def _of_layout(title: Title) -> Iterator[Draft]:
    thing = title.thing.rsplit(" ", 1)[0]
    rest = f" {title.rest}" if title.rest and not title.rest.startswith(",") else ""
    yield _direct(f"what sits where on the {thing}{rest}")
    yield _direct(f"how is the {thing} laid out{rest}")


def _of_component(title: Title) -> Iterator[Draft]:
    words = title.thing.split()
    what = title.thing + (f" {title.rest}" if title.rest and not title.rest.startswith(",") else "")
    if words[-1] in ("operation", "function", "functions") and len(words) > 1 and words[0] not in PREPOSITIONS:
        inner = words[:-1]
        helper = "do" if _is_plural(inner) else "does"
        yield _direct(f"how {helper} {with_article(' '.join(inner), plural=False)} work")
    elif words[-1] in _WORKING:
        yield _direct(f"how {'do' if title.plural else 'does'} {with_article(title.thing, plural=False)} work")
    elif words[-1] == "description" and len(words) > 1:
        yield _direct(f"what is the {' '.join(words[:-1])} made up of")
    elif words[-1] == "procedure" and len(words) > 1:
        yield _direct(f"what is the {title.thing}")
    elif words[-1] in ("service", "checks", "inspection", "maintenance") or words[0] in _STARTS:
        yield _direct(f"what is done at the {what}" if words[-1] == "service" else f"what belongs to the {what}")
    yield _direct(f"what do I need to know about {what}")
    yield Draft(f"{what}, how does it go?", "direct", "title")


_FORMS = {
    "procedure": _of_procedure,
    "fault": _of_fault,
    "code": _of_code,
    "specification": _of_specification,
    "layout": _of_layout,
    "component": _of_component,
}
