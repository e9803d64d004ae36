"""Questions of sections without a language model: by the type of the title, from sentences, terms and shop words."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nic_ray.manuals.sections import Section
from nic_ray.questions.cloze import from_first_sentence
from nic_ray.questions.conditions import from_condition, from_meaning
from nic_ray.questions.draft import Draft
from nic_ray.questions.everyday import as_typed, in_everyday_words, without_articles
from nic_ray.questions.glossary import Glossary, Swaps, swaps_of
from nic_ray.questions.keywords import Terms, count_terms, keyword_queries
from nic_ray.questions.labels import from_label
from nic_ray.questions.language import clauses, sentences, tokens, words_in_lower_case
from nic_ray.questions.question import Question
from nic_ray.questions.statements import from_statement
from nic_ray.questions.steps import from_orders
from nic_ray.questions.titles import Title, fold, from_title, read_title, refused_titles
from nic_ray.questions.typos import with_typos

_MOST_OF_SHOP = 16
_MOST_OF_TYPOS = 4
_LONGEST = 20
"""Words of a question."""


@dataclass(frozen=True)
class _Known:
    """What the rules know about all sections."""

    lower: frozenset[str]
    terms: Terms
    swaps: Mapping[str, Swaps]
    titles: Mapping[str, str]
    english: bool


def ask_by_rules(
    sections: Sequence[Section],
    glossary: Glossary,
    *,
    seed: int,
    language: str = "en",
    done: Callable[[int], None] = lambda _: None,
) -> list[Question]:
    """Make questions of sections; there may be more than are wanted, the better ones of each section and kind first.

    The draws of a section depend on its content and the seed only, so that a further section changes no other's.

    Args:
        glossary: shop words by domain; may be empty.
        language: of the sections, such as "en"; in others than English there are questions of titles, keywords and
            spelling mistakes only.
        done: called with the number of further sections done.
    """
    known = _Known(
        lower=words_in_lower_case([section.text for section in sections]),
        terms=count_terms(sections),
        swaps={domain: swaps_of(terms) for domain, terms in glossary.items()},
        titles=refused_titles(sections),
        english=language.split("-")[0].lower() == "en",
    )
    questions = []
    for number, section in enumerate(sections):
        rng = random.Random(f"{seed} {hashlib.sha256(section.passage.encode()).hexdigest()}")
        seen = set[str]()
        for draft in _of_section(section, known, rng):
            query = " ".join(draft.query.split())
            if 2 <= len(query.split()) <= _LONGEST and query.lower() not in seen:
                seen.add(query.lower())
                questions.append(Question(query, draft.kind, number, draft.text))
        done(1)
    return questions


def _of_section(section: Section, known: _Known, rng: random.Random) -> Iterator[Draft]:
    """Yield the questions of a section: plain ones and symptoms, then shop words, keywords and misspelt ones."""
    queries = [
        Draft(query, "keyword", "keywords")
        for query in keyword_queries(section, known.terms, rng, english=known.english)
    ]
    title = None if fold(section.section) in known.titles else read_title(section.section, known.lower)
    if known.english:
        plain = _plain(section, title, known, rng)
        shop = [*_in_shop_words(plain, title, known.swaps.get(section.domain), rng)]
        yield from (Draft(as_typed(each.query, rng), each.kind, each.source, each.text) for each in plain)
        yield from shop
    else:
        plain = [] if title is None else [Draft(section.section, "direct", "title")]
        yield from plain
    yield from queries
    yield from _misspelt([*plain, *queries[:1]], rng)


def _plain(section: Section, title: Title | None, known: _Known, rng: random.Random) -> list[Draft]:
    """Return the plain questions and symptoms, in an order that takes from each source in turn."""
    by_source: dict[str, list[Draft]] = defaultdict(list)
    if title is not None:
        by_source["title"] = [*from_title(title, rng)]
    by_source["cloze"] = [*from_first_sentence(section, title, rng, known.lower)]
    for number, sentence in enumerate(sentences(section.text)):
        for part, clause in enumerate(clauses(sentence)):
            found = [*_of_clause(tokens(clause), f"{number}.{part}", rng, known.lower)]
            by_source[f"{number}"].extend(found)
    for drafts in by_source.values():
        rng.shuffle(drafts)
    order = list(by_source)
    rng.shuffle(order)
    return _in_turn([by_source[source] for source in order])


def _of_clause(clause: Sequence[str], source: str, rng: random.Random, lower: frozenset[str]) -> list[Draft]:
    if len(clause) < 3:
        return []
    labelled = [*from_label(clause, source, rng, lower)]
    if labelled:
        return labelled
    return [
        *from_condition(clause, source, rng, lower),
        *from_meaning(clause, source, rng, lower),
        *from_orders(clause, source, rng),
        *from_statement(clause, source, rng, lower),
    ]


def _in_turn(parts: Sequence[Sequence[Draft]]) -> list[Draft]:
    longest = max(map(len, parts), default=0)
    return [part[turn] for turn in range(longest) for part in parts if turn < len(part)]


def _in_shop_words(
    plain: Sequence[Draft], title: Title | None, swaps: Swaps | None, rng: random.Random
) -> Iterator[Draft]:
    made, drafts = 0, list(plain)
    if swaps is not None and swaps.pattern is not None:
        topic = [] if title is None else swaps.terms_in(title.text)
        for draft in drafts:
            choose = [rng.randrange(1000) for _ in range(3)]
            query = swaps.swapped(draft.query, choose)
            if query is None and topic and draft.source not in ("title", "cloze") and _is_short(draft.query):
                short = swaps.swapped(topic[0], choose)
                query = None if short is None else f"{short}: {draft.query[:1].lower()}{draft.query[1:]}"
            if query is not None:
                query = _spoken(query, rng)
                yield Draft(query, "shop", draft.source, draft.text)
                made += 1
            if made == _MOST_OF_SHOP:
                return
    for draft in drafts:
        query = in_everyday_words(draft.query, rng)
        if query is not None and made < _MOST_OF_SHOP:
            yield Draft(as_typed(query, rng), "shop", draft.source, draft.text)
            made += 1


def _is_short(query: str) -> bool:
    return len(query.split()) <= 9


def _spoken(query: str, rng: random.Random) -> str:
    if rng.random() < 0.35:
        query = in_everyday_words(query, rng) or query
    query = as_typed(query, rng)
    return without_articles(query) if rng.random() < 0.2 and query[:1].islower() else query


def _misspelt(drafts: Sequence[Draft], rng: random.Random) -> Iterator[Draft]:
    drawn = list(drafts)
    rng.shuffle(drawn)
    for draft in drawn[:_MOST_OF_TYPOS]:
        query = with_typos(as_typed(draft.query, rng), rng)
        if query is not None:
            yield Draft(query, "typo", draft.source, draft.text)
