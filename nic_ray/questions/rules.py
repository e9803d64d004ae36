"""Questions of sections without a language model: by the type of the title, from sentences, terms and shop words."""

import functools
import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nic_ray.dataset.broken import why_broken
from nic_ray.errors import RunError
from nic_ray.manuals.parallel import Run, one_by_one
from nic_ray.manuals.sections import Section
from nic_ray.questions.cells import from_row
from nic_ray.questions.cloze import from_first_sentence
from nic_ray.questions.conditions import from_cause, from_condition, from_meaning
from nic_ray.questions.draft import Draft
from nic_ray.questions.everyday import as_typed, in_everyday_words, in_first_person
from nic_ray.questions.glossary import Glossary, Swaps, swaps_of
from nic_ray.questions.kept import keep, opened, read_kept
from nic_ray.questions.keywords import Terms, count_terms, keyword_queries
from nic_ray.questions.labels import from_label
from nic_ray.questions.language import clauses, names_in, sentences, tokens, without_opening
from nic_ray.questions.purposes import from_purpose
from nic_ray.questions.question import Question
from nic_ray.questions.statements import WHETHER, from_statement
from nic_ray.questions.steps import from_orders
from nic_ray.questions.titles import Title, fold, from_title, name_of, read_title, refused_titles
from nic_ray.questions.topics import is_part, topics_of
from nic_ray.questions.typos import with_typos
from nic_ray.words import words

_MOST_OF_SHOP = 16
_MOST_OF_TYPOS = 4
_LONGEST = 20
"""Words of a question."""
_MOST_OF_FORM = 2
"""Questions of a section that are alike in form."""
_COMMON = 0.02
"""Share of the sections that a word may be in and still tell one section from most others."""
_SHORT = 11
"""Words of a question before which a topic is put."""
_SPOKEN = 0.35
_SPOKEN_SYMPTOMS = 0.6
"""Shares of shop questions and of symptoms in which words of manuals become everyday words."""
_MOST_KEYWORDS = 7
_NAMING = re.compile(r"\w{4,}")
"""Words of a title that name something, not "of" and "the"."""


@dataclass(frozen=True)
class _Known:
    """What the rules know about all sections."""

    names: frozenset[str]
    vocabulary: frozenset[str]
    """All words of the texts."""
    terms: Terms
    swaps: Mapping[str, Swaps]
    english: bool


def ask_by_rules(
    sections: Sequence[Section],
    glossary: Glossary,
    *,
    seed: int,
    language: str = "en",
    run: Run = one_by_one,
    parts: Path | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> list[Question]:
    """Make questions of sections; there may be more than are wanted, the better ones of each section and kind first.

    The draws of a section are seeded by its content, so that a further section changes little in others' questions.

    Args:
        glossary: shop words by domain; may be empty.
        language: of the sections, such as "en"; in others than English there are questions of titles, keywords and
            spelling mistakes only.
        run: how documents are worked on: here, or as tasks of a cluster.
        parts: folder in which the questions of each document are kept, so that another start goes on; None for nowhere.
        done: called with the number of further sections done.

    Raises:
        RunError: the process of a document died.
    """
    known = _Known(
        names=names_in([section.text for section in sections]),
        vocabulary=frozenset(word for section in sections for word in words(section.text)),
        terms=count_terms(sections),
        swaps={domain: swaps_of(terms) for domain, terms in glossary.items()},
        english=language.split("-")[0].lower() == "en",
    )
    refused = refused_titles(sections)
    titles = [
        None if name_of(section.section) in refused else read_title(section.section, known.names, known.vocabulary)
        for section in sections
    ]
    documents = defaultdict[tuple[str, str], list[_Asked]](list)
    for number, (section, title, topic) in enumerate(zip(sections, titles, topics_of(titles), strict=True)):
        documents[section.domain, section.document].append(_Asked(number, section, title, topic))
    kept = None if parts is None else opened(parts, sections, glossary, seed=seed, language=language)
    questions = list[Question]()
    for _, found in run(functools.partial(_of_document, known, seed, kept), [*documents.values()], _died):
        questions += found.questions
        done(found.sections)
    return sorted(questions, key=lambda each: each.section)


@dataclass(frozen=True)
class _Asked:
    """A section with its number, and what its title says."""

    number: int
    section: Section
    title: Title | None
    """None where several sections share it, or it says nothing."""
    topic: str


@dataclass(frozen=True)
class _Found:
    sections: int
    questions: list[Question]


def _of_document(known: _Known, seed: int, kept: Path | None, document: Sequence[_Asked]) -> _Found:
    """Make the questions of a document, or take those that an earlier start has kept in a folder."""
    part = None if kept is None else kept / f"{document[0].number}.json"
    if part is not None and (found := read_kept(part)) is not None:
        return _Found(len(document), found)
    questions = []
    for asked in document:
        rng = random.Random(f"{seed} {hashlib.sha256(asked.section.passage.encode()).hexdigest()}")
        seen = set[str]()
        for draft in _of_section(asked.section, asked.title, asked.topic, known, rng):
            query = " ".join(draft.query.split())
            if 2 <= len(query.split()) <= _LONGEST and query.lower() not in seen:
                seen.add(query.lower())
                questions.append(Question(query, draft.kind, asked.number, draft.text))
    if part is not None:
        keep(questions, part)
    return _Found(len(document), questions)


def _died(document: Sequence[_Asked]) -> _Found:
    raise RunError(f"{document[0].section.document}: the process that made its questions died; start again")


def _of_section(
    section: Section, title: Title | None, topic: str, known: _Known, rng: random.Random
) -> Iterator[Draft]:
    """Yield the questions of a section: plain ones and symptoms, then shop words, keywords and misspelt ones."""
    typed = keyword_queries(section, known.terms, rng, english=known.english)
    queries = [Draft(query, "keyword", "keywords") for query in typed]
    if known.english:
        plain = _plain(section, title, topic, known, rng)
        shop = [*_in_shop_words(plain, queries, title, known.swaps.get(section.domain), rng)]
        yield from (replace(each, query=_as_asked(each, rng)) for each in plain)
        yield from shop
    else:
        plain = [] if title is None else [Draft(section.section, "direct", "title")]
        yield from plain
    yield from queries
    yield from _misspelt([*plain[:6], *queries[:2]], rng)


def _as_asked(draft: Draft, rng: random.Random) -> str:
    """Write a plain question or a symptom as people do: what goes wrong is mostly told in everyday words."""
    query = draft.query
    if draft.kind == "symptom" and rng.random() < _SPOKEN_SYMPTOMS:
        query = in_everyday_words(query, rng) or query
    return as_typed(query, rng)


def _plain(section: Section, title: Title | None, topic: str, known: _Known, rng: random.Random) -> list[Draft]:
    """Return the plain questions and symptoms, in an order that takes from each source in turn."""
    by_source: dict[str, list[Draft]] = defaultdict(list)
    if title is not None:
        by_source["title"] = from_title(title, rng)
    by_source["cloze"] = [*from_first_sentence(section, rng, known.names)]
    for number, sentence in enumerate(sentences(section.text)):
        row = from_row(sentence, f"{number}", rng, known.names)
        if row is not None:
            by_source[f"{number}"] += row
            continue
        for part, clause in enumerate(clauses(sentence)):
            found = _of_clause(tokens(clause), f"{number}.{part}", rng, known.names)
            by_source[f"{number}"] += [replace(draft, query=in_first_person(draft.query)) for draft in found]
    for drafts in by_source.values():
        rng.shuffle(drafts)
        drafts.sort(key=lambda draft: draft.form == WHETHER)
    order = [source for source in by_source if by_source[source]]
    rng.shuffle(order)
    turns = _in_turn([by_source[source] for source in order])
    named = (_with_topic(draft, topic, section.section, known.terms, rng) for draft in turns)
    taken = Counter[str]()
    plain = []
    for draft in named:
        if draft is not None and (
            not draft.form or taken[draft.form] < (1 if draft.form == WHETHER else _MOST_OF_FORM)
        ):
            taken[draft.form] += 1
            plain.append(draft)
    return plain


def _of_clause(clause: Sequence[str], source: str, rng: random.Random, names: frozenset[str]) -> list[Draft]:
    clause = without_opening(list(clause))
    if len(clause) < 3:
        return []
    if labelled := [*from_label(clause, source, rng, names)]:
        return labelled
    return [
        *from_condition(clause, source, rng, names),
        *from_meaning(clause, source, rng, names),
        *from_cause(clause, source, rng, names),
        *from_purpose(clause, source, rng, names),
        *from_orders(clause, source, rng),
        *from_statement(clause, source, names),
    ]


def _in_turn(parts: Sequence[Sequence[Draft]]) -> list[Draft]:
    longest = max(map(len, parts), default=0)
    found = [part[turn] for turn in range(longest) for part in parts if turn < len(part)]
    return sorted(found, key=lambda draft: draft.form == WHETHER)


def _with_topic(draft: Draft, topic: str, title: str, terms: Terms, rng: random.Random) -> Draft | None:
    """Say what a question is about if it must or if its words are those of many sections; None if it cannot be said."""
    if draft.source == "title":
        return draft
    if _is_specific(draft.query, terms):
        of_title = _NAMING.findall(fold(title))
        if not draft.needs_topic or not topic or set(of_title) & set(fold(draft.query).split()):
            return draft
    own = set(fold(topic).split())
    if not topic or own <= set(fold(draft.query).split()) or len(draft.query.split()) > _LONGEST - 6:
        return None
    return replace(draft, query=_about(topic, draft, rng))


def _is_specific(query: str, terms: Terms) -> bool:
    few = max(2, _COMMON * terms.sections)
    found = {word: terms.holding[word] for word in words(query) if terms.holding[word] and why_broken(word) is None}
    return len(found) > 1 and min(found.values()) <= few


def _about(topic: str, draft: Draft, rng: random.Random) -> str:
    """Put a topic before a question, or after one that ends in a part of it."""
    query = draft.query
    if (
        draft.detail
        and query.endswith("?")
        and not topic.split()[-1][-1].isdigit()
        and is_part(topic)
        and not set(fold(topic).split()) & set(fold(query).split())
    ):
        return f"{query[:-1]} on the {topic}?"
    small = query if query.split()[0] == "I" or query[1:2].isupper() else query[:1].lower() + query[1:]
    return rng.choice((f"{topic}: {small}", f"{topic} - {small}", f"{topic}, {small}"))


def _in_shop_words(
    plain: Sequence[Draft], keywords: Sequence[Draft], title: Title | None, swaps: Swaps | None, rng: random.Random
) -> Iterator[Draft]:
    # questions that are kept as plain ones come last, so that the shop words come in others
    drafts, made = [*plain[4:], *plain[:4]], 0
    if swaps is not None and swaps.pattern is not None:
        topic = [] if title is None else swaps.terms_in(title.text)
        typed = [*_typed_in_shop_words(keywords, topic, swaps, rng)][:2]
        titles = [draft for draft in drafts if draft.source == "title"]
        others = [draft for draft in drafts if draft.source != "title"]
        asked = [each for draft in others if (each := _in_shop_word(draft, topic, swaps, rng)) is not None]
        named = [each for draft in titles if (each := _in_shop_word(draft, [], swaps, rng)) is not None]
        for draft in [*named[:1], *asked[:2], *typed[:1], *asked[2:], *named[1:2], *typed[1:], *named[2:]]:
            made += 1
            yield draft
    for draft in drafts:
        query = in_everyday_words(draft.query, rng)
        if query is not None and made < _MOST_OF_SHOP:
            yield replace(draft, query=as_typed(query, rng), kind="shop")
            made += 1


def _in_shop_word(draft: Draft, topic: Sequence[str], swaps: Swaps, rng: random.Random) -> Draft | None:
    """Put shop words for the terms of a question, or before it one for its section's topic."""
    choose = [rng.randrange(1000) for _ in range(3)]
    query = swaps.swapped(draft.query, choose)
    if (
        query is None
        and topic
        and draft.source != "cloze"
        and len(draft.query.split()) <= _SHORT
        and ": " not in draft.query
    ):
        short = swaps.swapped(topic[0], choose)
        query = None if short is None else _about(short, draft, rng)
    if query is None:
        return None
    if rng.random() < _SPOKEN:
        query = in_everyday_words(query, rng) or query
    return replace(draft, query=as_typed(query, rng), kind="shop")


def _typed_in_shop_words(
    keywords: Sequence[Draft], topic: Sequence[str], swaps: Swaps, rng: random.Random
) -> Iterator[Draft]:
    for draft in keywords:
        choose = [rng.randrange(1000)]
        query = swaps.swapped(draft.query, choose)
        if query is None and topic and (short := swaps.swapped(topic[0], choose)) is not None:
            query = f"{short} {draft.query}"
        if query is not None and len(query.split()) <= _MOST_KEYWORDS:
            yield Draft(query, "shop", draft.source)


def _misspelt(drafts: Sequence[Draft], rng: random.Random) -> Iterator[Draft]:
    drawn = list(drafts)
    rng.shuffle(drawn)
    for draft in drawn[:_MOST_OF_TYPOS]:
        query = with_typos(as_typed(draft.query, rng), rng)
        if query is not None:
            yield replace(draft, query=query, kind="typo")
