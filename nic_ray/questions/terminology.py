"""Terms of a domain: what its sections say often, and general text and other domains do not."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nic_ray.manuals.sections import Section
from nic_ray.questions.glossary import Glossary, Term
from nic_ray.questions.keywords import is_verb_form, terms_of
from nic_ray.questions.quantities import UNITS
from nic_ray.questions.verbs import VERBS, base_of_gerund, base_of_participle, base_of_third
from nic_ray.words import words

SHOWN = 12
"""Terms of a domain that are printed; the file holds all."""
LONGEST = 4
"""Words of a term."""
FEWEST = 2
"""Occurrences that a term needs, and sections that it needs to stand in."""


@dataclass(frozen=True)
class Proposed:
    """A term that a glossary could hold."""

    term: str
    count: int
    """Occurrences in the domain, those in longer terms included."""
    sections: int
    """Sections of the domain that hold it."""
    score: float


def propose_terms(
    sections: Sequence[Section],
    general: Sequence[str],
    *,
    top: int,
    done: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Proposed]]:
    """Propose the terms of each domain, best first.

    The score is the product of the C-value, which favours terms of several words that do not stand inside longer ones
    only, and of the term's log-odds in the domain against all other text, with a Dirichlet prior of its rate in all
    text. Plural forms count with the singular where both occur.

    Args:
        sections: of all domains.
        general: other texts.
        top: largest number of terms a domain.
        done: called with the number of further sections done.

    Returns:
        domain -> its terms, domains in alphabetical order.

    Source: Frantzi, Ananiadou and Mima 2000, "Automatic recognition of multi-word terms: the C-value/NC-value method",
    with log2(words + 1) for its log2(words), so that single words count (Barrón-Cedeño et al. 2009); Monroe, Colaresi
    and Quinn 2008, "Fightin' words", for the log-odds.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    holding: dict[str, Counter[str]] = defaultdict(Counter)
    of_words: dict[str, Counter[str]] = defaultdict(Counter)
    for section in sections:
        found = terms_of(section.passage, LONGEST)
        counts[section.domain].update(found)
        holding[section.domain].update(set(found))
        of_words[section.domain].update(words(section.passage))
        done(1)
    elsewhere, lengths = Counter[str](), {domain: sum(of.values()) for domain, of in of_words.items()}
    for text in general:
        elsewhere.update(terms_of(text, LONGEST))
    length_of_general = sum(len(words(text)) for text in general)
    for of_domain in counts.values():
        elsewhere.update(of_domain)
    total = sum(lengths.values()) + length_of_general
    proposed = {}
    for domain in sorted(counts):
        merged, sections_of = _with_plurals(counts[domain]), _with_plurals(holding[domain])
        values = _c_values({term: count for term, count in merged.items() if _may_be_term(term)})
        scored = [
            Proposed(term, merged[term], sections_of[term], value * odds)
            for term, value in values.items()
            if merged[term] >= FEWEST
            and sections_of[term] >= FEWEST
            and (odds := _log_odds(merged[term], lengths[domain], max(elsewhere[term], merged[term]), total)) > 0
        ]
        best = sorted(scored, key=lambda each: (-each.score, each.term))[:top]
        text = "\n".join(section.passage for section in sections if section.domain == domain)
        proposed[domain] = [replace(each, term=_as_written(each.term, text)) for each in best]
    return proposed


def _as_written(term: str, text: str) -> str:
    """Return the spelling of a folded term that a text has most often: "load-holding valve", "LPG cylinder"."""
    pattern = r"[\s-]".join(map(re.escape, term.split()))
    found = Counter(re.findall(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE))
    # at the start of a sentence any term has a capital letter
    small = {form: count for form, count in found.items() if not form[0].isupper() or form[1:2].isupper()}
    return min(small or found or {term: 1}, key=lambda form: (-found[form], form))


def _with_plurals(counts: Counter[str]) -> Counter[str]:
    merged = Counter[str]()
    for term, count in counts.items():
        singular = term[:-1] if term.endswith("s") and not term.endswith("ss") else term
        merged[singular if singular in counts else term] += count
    return merged


def _may_be_term(term: str) -> bool:
    first, *others = parts = term.split()
    last = parts[-1]
    if len(first) < 2 or len(last) < 2 or last in UNITS or first in UNITS:
        return False
    if not others:
        return not (is_verb_form(first) or first in VERBS or base_of_third(first) is not None) or first in _NOUNS
    if is_verb_form(last) or (base_of_third(last) is not None and last not in _NOUNS):
        return False
    # "reversing valve" and "heated sensor" are terms, "replacing valve" and "removed sensor" are none
    return (base_of_gerund(first) or base_of_participle(first) or first) not in _LEADING_VERBS


_NOUNS = frozenset("relay valve pump gear clutch brake gauge lever lock guard fork forks strut".split())
_LEADING_VERBS = frozenset(
    "check fit remove replace tighten loosen set turn press close raise measure connect disconnect use clean drain "
    "fill push pull switch adjust install inspect move keep hold wait confirm select read save enter apply add new "
    "correct declare renew".split()
)


def _c_values(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the C-value of each term: log2(words + 1) times its count without the mean count of those around it."""
    around: dict[str, list[int]] = defaultdict(list)
    for term, count in counts.items():
        parts = term.split()
        for size in range(1, len(parts)):
            for start in range(len(parts) - size + 1):
                if (inner := " ".join(parts[start : start + size])) in counts and count >= FEWEST:
                    around[inner].append(count)
    return {
        term: math.log2(len(term.split()) + 1)
        * (count - (sum(around[term]) / len(around[term]) if around[term] else 0.0))
        for term, count in counts.items()
    }


def _log_odds(count: int, length: int, everywhere: int, total: int) -> float:
    """Return the log-odds of a term in a domain against other text, in nats, with a prior of its rate in all text."""
    prior = 500 * everywhere / total
    outside, rest = everywhere - count, total - length
    inside = (count + prior) / (length + 500 - count - prior)
    return math.log(inside) - math.log((outside + prior) / (rest + 500 - outside - prior))


def as_glossary(proposed: Mapping[str, Sequence[Proposed]], existing: Glossary) -> dict[str, list[Term]]:
    """Join proposed terms with a glossary: its entries with shop words come first and stay as they are.

    Returns:
        domain -> terms; those proposed have no shop words yet.
    """
    glossary = {}
    for domain in dict.fromkeys((*existing, *proposed)):
        filled = [term for term in existing.get(domain, ()) if term.shop]
        known = {term.term.lower() for term in filled}
        new = [Term(each.term, ()) for each in proposed.get(domain, ()) if each.term.lower() not in known]
        glossary[domain] = [*filled, *new]
    return glossary
