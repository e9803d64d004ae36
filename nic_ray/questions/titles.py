"""Titles of sections: their type, and the questions that follow from it."""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nic_ray.dataset.broken import why_broken
from nic_ray.manuals.sections import Section
from nic_ray.questions.clauses import is_participle
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import BE, DETERMINERS, PREPOSITIONS, PRONOUNS, joined, lowered, tokens
from nic_ray.questions.verbs import NOUNS_AND_VERBS, VERBS, base_of_gerund, base_of_third, gerund_of

Type = Literal["question", "other", "procedure", "fault", "code", "specification", "layout", "component"]

ACTIONS = dict(
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
_NOMINAL = frozenset(
    "replacement removal adjustment inspection installation measurement disassembly lubrication calibration".split()
)
"""Names of actions that are no names of parts."""
_STARTS = frozenset("before after weekly daily monthly yearly annual spring summer autumn winter".split())
FAULT_WORDS = frozenset(
    """
    fault faults error errors failure leak leaks noise wear drift creep overheating icing lock-up loss trip
    tripping overcharging gassing hesitation wander misfire inoperative stuck shorted slow low high missing
    overrange undervoltage overload faulty
    """.split()
)
SPECIFICATION = frozenset(
    "data capacities capacity limits limit settings specifications specification torques torque grades dimensions "
    "intervals ratings pressures pressure colours colors schedule".split()
)
LAYOUT = frozenset("layout location locations overview positions".split())
WORKING = frozenset("operation mode modes function functions interlock cycle protection system principle".split())
_CODE = re.compile(r"(?:(?:fault|error|trouble|alarm)\s+)?(?:code\s+)?(?=[A-Z\d-]*\d)[A-Z]{0,3}-?\d{1,5}[A-Z]?", re.I)
_NUMBERING = re.compile(
    r"^\s*(?:(?:chapter|appendix|part|section)\s+[\dA-Z]+[.:]?|\d+\.|\d+(?:\.\d+)+\.?|[A-Z]\.(?:\d+\.?)*|[IVX]+\.(?:\d+\.?)*)\s+",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"(?:how|why|what|where|when|which|who|can|does|do|is|are|should|may|must)\s+\S+\s+\S+", re.IGNORECASE
)
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
    counts = Counter(name_of(section.section) for section in sections)
    refused = {}
    for section in sections:
        name = name_of(section.section)
        if counts[name] > 1:
            refused[name] = "shared"
        elif (len(name.split()) < 2 and not any(character.isdigit() for character in name)) or why_broken(name):
            refused[name] = "generic"
    return refused


def name_of(title: str) -> str:
    """Return a title folded, without its number."""
    return fold(_NUMBERING.sub("", title))


def fold(text: str) -> str:
    """Return a text for comparisons: its words in lower case."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_title(title: str, names: frozenset[str], vocabulary: Collection[str] = ()) -> Title:
    """Find out what a title names.

    Args:
        names: words that keep their capital letter, see `language.names_in`.
        vocabulary: words that may be the base of a gerund, such as all words of the documents.
    """
    plain = _NUMBERING.sub("", " ".join(title.split())).rstrip(" .:")
    plain = re.sub(r"\s*\([^)]*\)", "", plain).strip() or plain
    if plain.endswith("?") or _ASKS.match(plain):
        return Title(plain, "question")
    if ":" in plain:
        return Title(plain, "other")
    found = _STARTS_WITH_CODE.match(plain)
    if found:
        rest = joined([lowered(word, names) for word in tokens(found["rest"] or "")])
        code = found["code"]
        code = code if code.split()[0].isupper() or " " not in code else code[0].lower() + code[1:]
        return Title(f"{code} {rest}".strip(), "code", thing=code, rest=rest)
    words = [word if place and word == "A" else lowered(word, names) for place, word in enumerate(tokens(plain))]
    text = joined(words)
    return _procedure(words, text, vocabulary) or _other(words, text)


def _procedure(words: Sequence[str], text: str, vocabulary: Collection[str]) -> Title | None:
    first = words[0].lower()
    base = base_of_gerund(first, vocabulary)
    is_part = first in _NOUNS or (len(words) > 2 and head_and_rest(words)[0][-1] in _NOMINAL)  # "Timing belt removal"
    if base and len(words) > 1 and (not is_part or words[1] in DETERMINERS):
        if words[1] == "and" and len(words) > 3 and (second := base_of_gerund(words[2].lower(), vocabulary)):
            return _named("procedure", text, words[3:], f"{base} and {second}")
        if words[1] not in BE | PREPOSITIONS | {"and", ","} and not base_of_third(words[1]):
            return _named("procedure", text, words[1:], base)
        return None
    if len(words) > 2 and words[2] in DETERMINERS and (base := base_of_gerund(words[1].lower())):
        return _named("procedure", text, words[2:], f"{first} {base}")  # "pressure testing the pipes"
    if (
        words[1:2]
        and words[1] in DETERMINERS
        and first not in DETERMINERS | PREPOSITIONS
        and not first.endswith("ing")
        and words[1] not in ("no", "both")
    ):
        return _named("procedure", text, words[1:], first)
    head, rest = head_and_rest(words)
    action = head[-1] if head else ""
    if action not in ACTIONS or len(head) < 2 or is_interval(head[0]):
        return None
    verb, things = ACTIONS[action].replace("_", " "), list(head[:-1])
    if things[-1] == "and" and len(things) > 2 and things[-2] in ACTIONS:
        verb, things = f"{ACTIONS[things[-2]]} and {verb}", things[:-2]
    if things[-1] in ("and", "or", ",") or any(word in ACTIONS or base_of_gerund(word) for word in things[1:-1]):
        return Title(text, "procedure", "carry out", joined(head), rest=joined(rest))
    if ACTIONS[action] in ("test", "service", "inspect", "check", "assemble") and not _can_be_done_to(
        things[-1], action
    ):
        return Title(text, "procedure", "carry out", joined(head), rest=joined(rest))
    if is_participle(things[-1]):
        return Title(text, "procedure", "carry out", joined(head), rest=joined(rest))
    return Title(text, "procedure", verb, joined(things), _is_plural(things), joined(rest))


def is_interval(word: str) -> bool:
    """Whether a word at the start of a title says when or how often something is done: "weekly", "500-hour"."""
    return word in _STARTS or word[0].isdigit() or word.endswith(("-month", "-monthly", "-yearly", "-hour", "-week"))


def _can_be_done_to(thing: str, action: str) -> bool:
    if action in ("test", "testing", "service", "servicing"):
        return thing in ("pump", "valve", "relay", "switch", "sensor", "motor", "fan", "battery")
    return thing not in ("leak", "wear", "moisture", "damage", "holding")


_NOUNS = frozenset(
    """
    wiring opening mounting steering cooling engineering bearing housing heating lighting operating starting
    parking fitting warning hard warming turning towing measuring running terminating connecting locking driving
    retaining sealing holding sliding rotating switching lifting working timing
    """.split()
)
"""Words in -ing that stand before a noun as parts of its name."""


def _named(kind: Type, text: str, words: Sequence[str], verb: str) -> Title:
    thing = list(words)
    return Title(text, kind, verb, joined(thing), _is_plural(thing))


def head_and_rest(words: Sequence[str]) -> tuple[list[str], list[str]]:
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
    head, _ = head_and_rest(words)
    if "of" in head[1:]:
        head = head[: head.index("of", 1)]
    return head[-1].endswith("s") and not head[-1].endswith(("ss", "us", "is"))


def _other(words: Sequence[str], text: str) -> Title:
    head, rest = head_and_rest(words)
    small = [word.lower() for word in head]
    named = {"thing": joined(head), "rest": joined(rest), "plural": _is_plural(head)}
    if _is_statement(words) or small[-1] == "diagnosis" or FAULT_WORDS & set(small[-2:]) or small[0] in ("low", "hard"):
        return Title(text, "fault", **named)  # type: ignore[arg-type]
    if small[-1] in LAYOUT:
        return Title(text, "layout", **named)  # type: ignore[arg-type]
    if small[-1] in SPECIFICATION:
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


def with_article(thing: str) -> str:
    """Put "the" before a noun phrase that has no article and neither begins nor ends with a number."""
    words = thing.split()
    first, head = words[0], head_and_rest(words)[0][-1]
    if len(words) > 1 and head[0].isdigit():
        return thing  # "heated oxygen sensor 1"
    if first.lower() in DETERMINERS | PREPOSITIONS | PRONOUNS | {"i"} or first[0].isdigit():
        return thing
    return f"the {thing}"


def from_title(title: Title, rng: random.Random) -> list[Draft]:
    """Make questions of a title, by its type, in the order of a draw; those of one form say much the same."""
    forms = [*_FORMS[title.type](title)]
    rng.shuffle(forms)
    return forms


def _direct(text: str) -> Draft:
    return Draft(question(text), "direct", "title", form="title")


def _symptom(text: str) -> Draft:
    return Draft(text, "symptom", "title", form="title symptom")


def _with_rest(thing: str, title: Title) -> str:
    if title.rest.startswith(","):
        return f"{thing}{title.rest}"
    return f"{thing} {title.rest}" if title.rest else thing


_IN_NEED = {
    "replace": ("{the} {is_} shot, how do I replace {it}?", "{the} {is_} worn out, how do I replace {it}?"),
    "clean": ("{the} {is_} dirty, how do I clean {it}?",),
    "tension": ("{the} {is_} slack, how do I tension {it}?",),
    "adjust": ("{the} {is_} out of adjustment, what do I do?", "{the} {is_} off, how do I get {it} right?"),
    "set": ("{the} {is_} off, how do I get {it} right?",),
    "install": ("new {bare} here, how {does} {they} go in?",),
    "fit": ("new {bare} here, how {does} {they} go in?",),
    "mount": ("new {bare} here, how {does} {they} go on?",),
    "calibrate": ("{the} {reads} wrong, what do I do?",),
    "test": ("how do I tell whether {the} {is_} bad?", "how do I know {the} {is_} still good?"),
    "inspect": ("how do I know {the} {is_} still good?", "when {is_} {the} too far gone to keep?"),
    "check": ("how do I know {the} {is_} still good?",),
    "service": ("{the} {is_} due for service, what is to be done?",),
    "lubricate": ("{the} {is_} dry, how do I grease {it}?",),
    "update": ("{the} {is_} out of date, how do I get {it} up to date?",),
    "bleed": ("air got into {the}, how do I bleed {it}?",),
    "charge": ("{the} {is_} flat, how do I charge {it}?",),
    "overhaul": ("{the} {is_} worn, how do I rebuild {it}?",),
    "repair": ("{the} {is_} damaged, how do I repair {it}?",),
    "remove": ("need to get at what is behind {the}, how {does} {they} come off?",),
}


def _of_procedure(title: Title) -> Iterator[Draft]:
    # a title such as "Making flare connections" has its articles
    first = title.text.split()[0].lower()
    thing = title.thing if base_of_gerund(first) == title.verb.split()[0] else with_article(title.thing)
    what = f"{title.verb} {_with_rest(thing, title)}"
    yield _direct(f"how do I {what}")
    yield _direct(f"what is the procedure to {what}")
    yield _direct(f"what are the steps to {what}")
    yield Draft(f"how to {what}", "direct", "title", form="title")
    yield Draft(f"I have to {what}, where do I start?", "direct", "title", form="title")
    if " " not in title.verb and title.verb != "carry out":
        yield _direct(f"what do I have to watch when {gerund_of(title.verb)} {_with_rest(thing, title)}")
    if (
        " and " not in title.thing
        and not title.rest
        and not head_and_rest(tokens(title.thing))[1]
        and title.thing.split()[-1] not in NOT_THINGS
    ):
        words = {
            "the": with_article(title.thing),
            "is_": "are" if title.plural else "is",
            "it": "them" if title.plural else "it",
            "bare": title.thing.removeprefix("the "),
            "they": "they" if title.plural else "it",
            "does": "do" if title.plural else "does",
            "reads": "read" if title.plural else "reads",
        }
        for form in _IN_NEED.get(title.verb, ()):
            yield _symptom(form.format(**words))


NOT_THINGS = frozenset(
    (
        "level gap pressure timing time speed mixture stroke oil fluid tension play water control voltage current "
        "resistance output gain system wear damage leak zero"
    ).split()
)
"""Heads of noun phrases that name nothing that can be taken in the hand."""


def _of_fault(title: Title) -> Iterator[Draft]:
    text, words = title.text, title.text.split()
    if words[-1] == "diagnosis":
        what = " ".join(words[:-1])
        yield _symptom(f"What causes {what}?")
        yield _symptom(f"{what}, what do I check?")
        yield _symptom(f"how do I track down {what}")
        return
    if _is_statement(tokens(text)):
        the = text if words[0].endswith("s") and words[1] not in VERBS else with_article(text)
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
    yield _direct(f"what does {code} mean")
    yield _symptom(f"{code} came up, what do I check?")
    yield _symptom(f"{code} keeps coming back, what is the cause?")
    if title.rest:
        yield _symptom(f"{title.rest} - {code}, how do I fix it")
        yield _direct(f"which code stands for {title.rest}")


def _of_specification(title: Title) -> Iterator[Draft]:
    be = "are" if title.plural else "is"
    what = _with_rest(with_article(title.thing), title)
    yield _direct(f"what {be} {what}")
    yield _direct(f"where do I find {what}")


def _of_layout(title: Title) -> Iterator[Draft]:
    thing = title.thing.rsplit(" ", 1)[0]
    yield _direct(_with_rest(f"what sits where on the {thing}", title))
    yield _direct(_with_rest(f"how is the {thing} laid out", title))


def _of_component(title: Title) -> Iterator[Draft]:
    words = title.thing.split()
    what = _with_rest(title.thing, title)
    if words[-1] in ("operation", "function", "functions") and len(words) > 1 and "and" not in words:
        inner = words[:-1]
        yield _direct(f"how {'do' if _is_plural(inner) else 'does'} {with_article(' '.join(inner))} work")
    elif words[-1] in WORKING and "and" not in words and words[-1] != "functions":
        yield _direct(f"how {'do' if title.plural else 'does'} {with_article(title.thing)} work")
    elif words[-1] == "description" and len(words) > 1 and "and" not in words:
        yield _direct(f"what is the {' '.join(words[:-1])} made up of")
    elif words[-1] == "procedure" and len(words) > 1:
        yield _direct(f"what is the {what}")
    elif is_interval(words[0]) or words[-1] in ("checks", "maintenance"):
        yield _direct(f"what is done at the {what}" if words[-1] == "service" else f"what belongs to the {what}")
    first = words[0].lower()
    if first in PREPOSITIONS or (first in VERBS and first not in NOUNS_AND_VERBS):
        return
    if words[-1] == "description" and len(words) > 1:
        what = _with_rest(" ".join(words[:-1]), title)
    named = words[0][:1].isupper() or any(map(str.isdigit, title.thing)) or (len(words) == 1 and title.plural)
    about = (
        what
        if named
        or (len(words) == 1 and first.endswith("ing"))
        or (base_of_gerund(first) and (first not in _NOUNS or len(words) == 1 or words[1] == "and"))
        else with_article(what)
    )
    yield _direct(f"what do I need to know about {about}")


def _of_question(title: Title) -> Iterator[Draft]:
    yield Draft(title.text, "direct", "title", form="title")


def _of_other(title: Title) -> Iterator[Draft]:
    """No question: what the title says is not sure."""
    return iter(())


_FORMS = {
    "question": _of_question,
    "other": _of_other,
    "procedure": _of_procedure,
    "fault": _of_fault,
    "code": _of_code,
    "specification": _of_specification,
    "layout": _of_layout,
    "component": _of_component,
}
