"""The terms that set a section apart from the others, as one types them into a search box."""

import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nic_ray.dataset.broken import QUESTION_WORDS
from nic_ray.manuals.sections import Section
from nic_ray.questions.language import FINITE, PREPOSITIONS
from nic_ray.questions.quantities import UNITS
from nic_ray.questions.verbs import NOUNS_AND_VERBS, VERBS, base_of_gerund, base_of_participle, base_of_third
from nic_ray.stop_words import OF_SCIKIT_LEARN
from nic_ray.words import words

LONGEST = 3
"""Words of a term."""
_FEW = (2, 3)
"""Numbers of terms in a query, a term of several words counting once."""
_ADJECTIVE = re.compile(r".{3}(?:ful|less|ous|ical|ternal|[^t]able|ible)$")
"""Endings of words that say little without their noun."""
_STOPS = (
    OF_SCIKIT_LEARN
    | QUESTION_WORDS
    | FINITE
    | PREPOSITIONS
    | frozenset(
        """
    longer shorter older newer higher larger smaller greater later earlier quicker slower don left-hand right-
    hand using used least fully then never always only must may second turn time new old go goes come comes
    become becomes get gets give gives make makes take takes keep keeps let lets put puts remain remains stay
    stays hold holds carry carries need allow allows long-term term
    ahead straight away irrespective untouched alive overnight intermediate
    """.split()
    )
)


@dataclass(frozen=True)
class Terms:
    """How often terms occur in sections."""

    sections: int
    holding: Counter[str]
    """Term -> number of sections that hold it."""

    def rarity(self, term: str) -> float:
        """Inverse document frequency, in nats: 0 for a term that every section holds."""
        return math.log(self.sections / max(1, self.holding[term]))


def count_terms(sections: Sequence[Section]) -> Terms:
    """Count the sections that hold each term."""
    holding = Counter[str]()
    for section in sections:
        holding.update(set(terms_of(section.passage)))
    return Terms(len(sections), holding)


def terms_of(text: str, longest: int = LONGEST) -> list[str]:
    """Return the terms of a text, in order: runs of words without stop words and numbers, those within others too.

    What hyphens join is kept whole in terms of several words, with its stop words: "off delay timer", but neither
    "delay timer" nor "purpose grease".
    """
    return [*_runs(text, longest)]


def _runs(text: str, longest: int) -> Iterator[str]:
    for piece in re.split(r"[,;:()!?\n]+|\.\s|\.$", text):
        run: list[_Part] = []
        for part in [*_parts(piece), None]:
            if part is not None and (_may_be_in_term(part.word) or (part.is_joined and _may_be_joined(part.word))):
                run.append(part)
                continue
            for size in range(1, longest + 1):
                for start in range(len(run) - size + 1):
                    term = run[start : start + size]
                    if _may_be_in_term(term[0].word) if size == 1 else term[0].begins and term[-1].ends:
                        yield " ".join(each.word for each in term)
            run = []


class _Part(NamedTuple):
    """A word, and its place in what hyphens join."""

    word: str
    begins: bool
    ends: bool

    @property
    def is_joined(self) -> bool:
        return not (self.begins and self.ends)


def _parts(text: str) -> Iterator[_Part]:
    for chunk in text.split():
        found = words(chunk)
        joined = len(found) > 1 and "-" in chunk
        for place, word in enumerate(found):
            yield _Part(word, not joined or place == 0, not joined or place == len(found) - 1)


def _may_be_joined(word: str) -> bool:
    return len(word) > 1 and not word[0].isdigit() and word not in UNITS


def _may_be_in_term(word: str) -> bool:
    if word in _STOPS or word in UNITS or "'" in word or "’" in word or len(word) < 2 or word[0].isdigit():
        return False
    return not (word.endswith("ly") and len(word) > 5 and word not in ("assembly", "supply"))


def best_terms(section: Section, counted: Terms, *, english: bool) -> list[str]:
    """Return the terms of a section by TF-IDF, best first; of terms within each other the better one.

    A term of several words weighs more by the number of its words, since it says more.

    Source: Spärck Jones 1972, "A statistical interpretation of term specificity and its application in retrieval".
    """
    frequency = Counter(terms_of(section.passage))
    in_title = set(terms_of(section.section))
    scored = [
        (-(1 + math.log(count)) * counted.rarity(term) * _weight(term, term in in_title, english=english), term)
        for term, count in frequency.items()
    ]
    chosen: list[str] = []
    for score, term in sorted(scored):
        used = {word for other in chosen for word in other.split()}
        if score < 0 and not used & set(term.split()):
            chosen.append(term)
    return chosen


def _weight(term: str, in_title: bool, *, english: bool) -> float:
    parts = term.split()
    weight = (1.0, 1.7, 1.9)[len(parts) - 1]
    if in_title:
        weight *= 1.3
    if english:
        if any(is_verb_form(part) for part in parts):
            weight *= 0.3
        if not in_title and len(parts) > 1:
            has_verb = any(part in VERBS and part not in NOUNS_AND_VERBS for part in parts)
            weight *= 0.3 if any(map(base_of_third, parts)) else 0.6 if has_verb else 1.0
        if len(parts) == 1 and (parts[0] in VERBS or base_of_third(parts[0]) not in (None, *NOUNS_AND_VERBS)):
            weight *= 0.5
        if len(parts) == 1 and _ADJECTIVE.search(term):
            weight *= 0.4
    return weight


def is_verb_form(word: str) -> bool:
    """Whether a word is a participle or an -ing form of a known verb, and no noun."""
    if base_of_participle(word) is not None and word not in VERBS:
        return True
    return base_of_gerund(word) is not None and word not in (
        "bearing",
        "steering",
        "wiring",
        "housing",
        "fitting",
        "setting",
    )


def keyword_queries(section: Section, counted: Terms, rng: random.Random, *, english: bool) -> list[str]:
    """Put the best terms of a section together as queries of 2 to 6 words."""
    best = best_terms(section, counted, english=english)[:5]
    if not best:
        return []
    queries = []
    for few in _FEW:
        chosen = best[:few]
        while len(" ".join(chosen).split()) > 6 and len(chosen) > 1:
            chosen = chosen[:-1]
        queries.append(" ".join(chosen))
    if len(best) > 2:
        first, second = best[0], rng.choice(best[2:])
        queries.append(f"{first} {second}")
    rng.shuffle(queries)
    return [query for query in dict.fromkeys(queries) if 2 <= len(query.split()) <= 6]
