"""English clauses taken apart: orders ("Remove the cover"), statements ("The valve opens at 85 bar"), conditions."""

from collections.abc import Sequence
from dataclasses import dataclass

from nic_ray.questions.language import (
    BE,
    DETERMINERS,
    FINITE,
    MODALS,
    NUMBER_WORDS,
    PREPOSITIONS,
    PRONOUNS,
    SUBORDINATORS,
    is_word,
)
from nic_ray.questions.verbs import NOUNS_AND_VERBS, VERBS, base_of_participle, base_of_third

_PARTICLES = frozenset("off on out up down back in over away together apart through".split())
_NO_NOUNS = frozenset(
    "tighten loosen remove install replace disconnect unscrew renew insert apply inspect lubricate unplug".split()
)
"""Verbs that no noun is spelt like."""
_LONGEST_SUBJECT = 8
_ADVERBS = frozenset(
    "also always then only often usually normally now again still automatically first finally next therefore".split()
)
_LINKING = frozenset("stay remain go turn feel sound run stick read drop rise fail keep smell spin".split())
"""Verbs that adjectives and nouns follow: "stays dark", "reads zero"."""
_SENTENCE_ADVERBS = frozenset("sometimes however often usually also perhaps maybe thus hence instead".split())
_NOT_IN_SUBJECT = (
    SUBORDINATORS
    | PRONOUNS - {"this"}
    | frozenset("that and or but not never to how see refer following".split())
    | FINITE
)


@dataclass(frozen=True)
class Order:
    """An imperative clause."""

    verb: str
    """In its base form, with its particle: "switch off"."""
    words: tuple[str, ...]
    """What follows the verb."""
    never: bool = False
    """Whether it forbids: "never touch the pads"."""

    @property
    def object(self) -> tuple[str, ...]:
        """The noun phrase after the verb; empty if there is none that is sure to be one."""
        return noun_phrase(self.words)

    @property
    def rest(self) -> tuple[str, ...]:
        """What follows the noun phrase."""
        return self.words[len(self.object) :]

    @property
    def all(self) -> tuple[str, ...]:
        """The clause in the base form: "switch off the supply"."""
        return (*self.verb.split(), *self.words)


@dataclass(frozen=True)
class Statement:
    """A declarative clause: a noun phrase, a finite verb and the rest."""

    subject: tuple[str, ...]
    finite: str
    """As it stands: "is", "must", "closes"."""
    base: str
    """The base form of a full verb; empty after "is", "are" and modal verbs."""
    rest: tuple[str, ...]
    plural: bool

    @property
    def asked(self) -> tuple[str, ...]:
        """The clause in the order of a question: "does the valve open at 85 bar"."""
        if self.base:
            return ("do" if self.plural else "does", *self.subject, self.base, *self.rest)
        return (self.finite, *self.subject, *self.rest)


def order_of(tokens: Sequence[str]) -> Order | None:
    """Take an imperative clause apart; None if it is none."""
    words = list(tokens)
    never = False
    while words and words[0].lower() in ("then", "finally", "next", "first", "now", "always", ",", "also", "only"):
        words = words[1:]
    lower = [word.lower() for word in words[:3]]
    if lower[:1] == ["never"]:
        never, words = True, words[1:]
    elif lower[:2] in (["do", "not"], ["must", "not"]):
        never, words = True, words[2:]
    if len(words) < 2 or words[0].lower() not in VERBS or not is_word(words[1]):
        return None
    if words[0].lower() in NOUNS_AND_VERBS and words[1][0].isdigit():
        return None  # "pin 86 positive"
    verb, rest = words[0].lower(), words[1:]
    if len(rest) > 1 and rest[0].lower() in _PARTICLES and _starts_phrase(rest[1:]):
        verb, rest = f"{verb} {rest[0].lower()}", rest[1:]
    if not _follows_verb(verb, rest):
        return None
    return Order(verb, tuple(rest), never)


def _follows_verb(verb: str, rest: Sequence[str]) -> bool:
    """Whether what follows a word that may be a noun too shows that it is a verb."""
    first = rest[0].lower()
    if first in DETERMINERS or first in PRONOUNS or first in ("that", "whether") or first in NUMBER_WORDS:
        return True
    if first in ("and", "or") and (rest[1:2] == [] or rest[1].lower() not in VERBS or rest[2:3] in ([], ["of"], [","])):
        return False  # "oil and filter of the transmission"
    for token in rest[:7]:
        if token in ",;:" or token.lower() in SUBORDINATORS | {"that", "so"}:
            break
        if token.lower() in FINITE:
            return False
    # not "the test overlays", "a check of"
    may_be_verb = base_of_third(first) is not None and verb not in _NO_NOUNS  # not in "tighten screws to 5 Nm"
    return not (first in FINITE or first == "of" or may_be_verb)


def _starts_phrase(words: Sequence[str]) -> bool:
    return words[0].lower() in DETERMINERS | PRONOUNS or words[0].lower() in (
        "with",
        "until",
        "for",
        "from",
        "at",
        "to",
    )


def noun_phrase(words: Sequence[str]) -> tuple[str, ...]:
    """Return the noun phrase that tokens begin with; empty if they begin with none that is sure to be one."""
    end = 0
    for place, word in enumerate(words):
        small = word.lower()
        if place > 0 and small == "of" and place + 1 < len(words):
            continue
        if not is_word(word) or small in PREPOSITIONS | SUBORDINATORS | FINITE | PRONOUNS:
            break
        if small in ("and", "or"):
            if not _goes_on(words[place + 1 :]):
                break
            continue
        if small in (
            "so",
            "then",
            "again",
            "fully",
            "firmly",
            "that",
            "not",
            "carefully",
            "evenly",
            "back",
            "only",
            "just",
            "even",
        ):
            break
        if place > 0 and (small.endswith("ly") and small not in ("assembly", "supply", "relay", "ply")):
            break
        if (
            place > 1
            and base_of_third(small)
            and words[place - 1].lower() not in DETERMINERS
            and _is_verb_here(words[place + 1 :])
        ):
            break
        end = place + 1
    phrase = tuple(words[:end])
    if not phrase or len(phrase) > 9 or not phrase[-1][-1].isalnum():
        return ()
    if phrase[0].lower() in DETERMINERS and len(phrase) == 1:
        return ()
    if phrase[0].lower() in ("its", "their", "another", "either"):
        return ()
    if phrase[0].lower() not in DETERMINERS and not _is_bare_noun(phrase):
        return ()
    return phrase


def _is_bare_noun(phrase: Sequence[str]) -> bool:
    last = phrase[-1]
    return (
        last.endswith("s")
        or any(character.isdigit() or character.isupper() for character in last[1:])
        or len(phrase) > 1
    )


def _goes_on(words: Sequence[str]) -> bool:
    """Whether a phrase goes on after "and": with a noun, not with another order or clause."""
    if not words or not is_word(words[0]):
        return False
    first = words[0].lower()
    if first in PREPOSITIONS | SUBORDINATORS | PRONOUNS | FINITE | _ADVERBS | {"then", "not", "never"}:
        return False
    if first in VERBS and len(words) > 1 and words[1].lower() in DETERMINERS | PRONOUNS | PREPOSITIONS | _PARTICLES:
        return False
    if base_of_third(first) and len(words) > 1 and words[1].lower() in DETERMINERS | PREPOSITIONS:
        return False
    # a second noun phrase of its own
    return first not in VERBS or (len(words) > 1 and is_word(words[1]))


def _is_verb_here(after: Sequence[str]) -> bool:
    if not after:
        return False
    first = after[0].lower()
    return (
        first in DETERMINERS | PREPOSITIONS - {"of"} | SUBORDINATORS | NUMBER_WORDS | _ADVERBS | {"not", "by"}
        or first[0].isdigit()
        or (first.endswith("ly") and len(first) > 4)
    )


def statement_of(tokens: Sequence[str]) -> Statement | None:
    """Take a declarative clause apart; None if its subject or its verb is not sure."""
    words = list(tokens)
    for place, word in enumerate(words[: _LONGEST_SUBJECT + 1]):
        small = word.lower()
        if not is_word(word):
            return None
        if place and small in BE | MODALS | {"cannot"}:
            return _statement(words, place, "")
        if place and (base := base_of_third(small)) and _is_verb_here(words[place + 1 :]):
            if base_of_third(words[place - 1].lower()):
                return None  # "moisture blocks lines in winter"
            later = [token.lower() for token in words[place + 1 : place + 12]]
            stop = next(
                (n for n, token in enumerate(later) if token in SUBORDINATORS | {",", "and", "that", "so", "but"}), 12
            )
            if not FINITE & set(later[:stop]):
                return _statement(words, place, base)
        if small in _NOT_IN_SUBJECT and small not in ("and", "or"):
            return None
    return None


def _statement(words: Sequence[str], place: int, base: str) -> Statement | None:
    subject, finite, rest = tuple(words[:place]), words[place].lower(), tuple(words[place + 1 :])
    if not _is_subject(subject) or not rest:
        return None
    last = head_of(subject)
    plural = (
        finite == "are"
        or last.lower() in ("you", "we")
        or (finite != "is" and not base and last.endswith("s") and not last.endswith("ss"))
    )
    return Statement(subject, finite, base, rest, plural)


def head_of(subject: Sequence[str]) -> str:
    """Return the noun that a noun phrase is about: the last one before a preposition."""
    for place, word in enumerate(subject):
        if place and word.lower() in PREPOSITIONS:
            return subject[place - 1]
    return subject[-1]


def _is_subject(subject: Sequence[str]) -> bool:
    small = [word.lower() for word in subject]
    if "example" in small or small[0] in PRONOUNS | PREPOSITIONS | SUBORDINATORS | _ADVERBS | {
        "both",
        "neither",
        "all",
        "not",
        "more",
        "less",
    }:
        return False
    if small[0] in DETERMINERS and len(subject) < 2:
        return False
    if (small[0].endswith("ly") and small[0] not in ("assembly", "supply")) or small[0] in _SENTENCE_ADVERBS:
        return False
    if any(word in ("the", "a", "an") and small[place] not in PREPOSITIONS for place, word in enumerate(small[1:])):
        return False  # two noun phrases: not sure which is the subject
    if small[0].endswith("ing") and len(small) > 1 and small[1] in DETERMINERS:
        return False
    if small[0] in VERBS and len(small) > 1 and small[1] in DETERMINERS | PREPOSITIONS:
        return False
    if small[-1] in PREPOSITIONS | _ADVERBS | {"and", "or"} or (
        small[-1].endswith("ly") and small[-1] not in ("assembly", "supply")
    ):
        return False
    # a verb inside would make it a clause
    return not any(
        word in VERBS and place and place + 1 < len(small) and small[place + 1] in DETERMINERS
        for place, word in enumerate(small)
    )


def is_clause(tokens: Sequence[str]) -> bool:
    """Whether tokens are a clause with a subject and a finite verb, as a condition needs."""
    if statement_of(tokens) is not None:
        return True
    small = [word.lower() for word in tokens]
    for place, word in enumerate(small[1:8], start=1):
        if word in BE | MODALS | {"has", "have", "cannot", "does", "do"}:
            return small[0] not in PREPOSITIONS
        if place > 1 or small[0] not in DETERMINERS:
            # a plural subject: "the wheels turn freely"
            if word in VERBS and small[place - 1].endswith("s") and not small[place - 1].endswith("ss"):
                return place + 1 == len(small) or _is_verb_here(tokens[place + 1 :])
            if base_of_third(word) in _LINKING or (base_of_third(word) and place + 1 == len(small)):
                return True
    return False


def is_participle(word: str) -> bool:
    """Whether a word is a past participle of a known verb."""
    return base_of_participle(word.lower()) is not None or (word.endswith("ed") and len(word) > 4)
