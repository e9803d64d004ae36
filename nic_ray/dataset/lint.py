"""Faults in readable pairs that spoil training or its metrics, row by row."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.broken import why_broken
from nic_ray.dataset.characters import first_control, first_mojibake, quoted
from nic_ray.dataset.duplicates import near_duplicates
from nic_ray.dataset.pairs import Pair, count_by_domain
from nic_ray.dataset.rules import RULES
from nic_ray.domains import AT_EACH_END
from nic_ray.metrics.intervals import MIN_PASSAGES
from nic_ray.tokens import NO_PROMPTS, Prompts

HELD_BACK_SHARE = 0.2
"""Share of a domain's passages that the default split holds back for validation, and again for the test."""


@dataclass(frozen=True)
class Example:
    """A row of a finding: its line number, from 1, and a text in which unprintable characters are escaped."""

    line: int
    text: str
    positive: int = 0
    """Which of the line's positives has the fault, from 1; 0 if all have."""


@dataclass(frozen=True)
class Finding:
    """All rows with the same fault."""

    code: str
    what: str
    effect: str
    detail: str
    """Further figures, in a sentence; may be empty."""
    lines: tuple[int, ...]
    """Line numbers of the rows, ascending; of rows that are copies of each other, the first is not included."""
    examples: tuple[Example, ...]
    unit: str = "line"
    """What the numbers count; see `Pair`."""
    positives: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Line with several positives, each of which is a row -> those with the fault, from 1, ascending."""

    @property
    def rows(self) -> int:
        """Number of rows with the fault: lines, or positives of a line with several."""
        return sum(len(self.positives.get(line, (0,))) for line in self.lines)


@dataclass(frozen=True)
class KnownDomains:
    """What the anomaly detector of an exported model was fitted to."""

    bundle: str
    domains: Collection[str]


EXAMPLES = 3
"""Largest number of examples per finding."""


@dataclass(frozen=True)
class _Found:
    by_row: Mapping[int, str]
    """Index of a row -> the text to show for it."""
    detail: str = ""


def lint_pairs(
    pairs: Sequence[Pair],
    tokens: Mapping[str, int],
    max_tokens: int,
    prompts: Prompts = NO_PROMPTS,
    known: KnownDomains | None = None,
) -> list[Finding]:
    """Find the faults in the rows of a file, in the order of `RULES`; a code without rows is left out.

    Texts are equal if they are identical, and nearly equal if `near_duplicates` puts them into one group.

    Args:
        pairs: rows as they were read; their line numbers identify them.
        tokens: number of the base model's tokens, special tokens included, in the texts of `profile.texts_to_count`;
            a text that was not counted is not found to be cut off.
        max_tokens: number of tokens that the model reads of a text.
        prompts: prompts that are prepended to queries and passages.
        known: the domains that a detector knows; None for none to compare with.
    """
    texts = texts_of(pairs)
    groups = dict(zip(texts, near_duplicates(texts).tolist(), strict=True))
    of_rows = np.array([[groups[pair.query] for pair in pairs], [groups[pair.positive] for pair in pairs]])
    answers = _answers(pairs)
    nth = numbers_in_lines(pairs)
    by_code = {
        "broken-query": _broken_queries(pairs),
        "query-is-positive": _queries_that_are_positives(pairs, of_rows),
        **_duplicate_rows(pairs, of_rows, nth),
        **_false_negatives(pairs, answers, groups),
        "near-duplicate-passage": _near_duplicate_passages(pairs, of_rows[1], nth),
        "domain-conflict": _domain_conflicts(pairs),
        "several-passages": _several_passages(pairs, answers),
        "cut-off": _cut_off(pairs, tokens, max_tokens, prompts),
        "mojibake": _rows_with(pairs, texts, first_mojibake),
        "control-characters": _rows_with(pairs, texts, first_control),
        "small-domain": _small_domains(pairs, groups),
        "unknown-domain": _Found({}) if known is None else _unknown_domains(pairs, known),
    }
    return [_finding(code, by_code[code], pairs, nth) for code in RULES if by_code[code].by_row]


def _finding(code: str, found: _Found, pairs: Sequence[Pair], nth: Sequence[int]) -> Finding:
    positives: dict[int, list[int]] = defaultdict(list)
    for row in found.by_row:
        if nth[row]:
            positives[pairs[row].line].append(nth[row])
    return Finding(
        code=code,
        what=RULES[code].what,
        effect=RULES[code].effect,
        detail=found.detail,
        lines=tuple(sorted({pairs[row].line for row in found.by_row})),
        examples=_examples(found.by_row, pairs, nth),
        unit=pairs[0].unit,
        positives={line: tuple(sorted(numbers)) for line, numbers in sorted(positives.items())},
    )


def _examples(by_row: Mapping[int, str], pairs: Sequence[Pair], nth: Sequence[int]) -> tuple[Example, ...]:
    """Return the first rows, by line, whose shown texts differ."""
    first: dict[str, int] = {}
    for row in sorted(by_row, key=lambda row: (pairs[row].line, nth[row])):
        first.setdefault(by_row[row], row)
    shown = [*first.values()][:EXAMPLES]
    several = {pairs[row].line for row in shown if nth[row]}
    in_part = {
        pair.line for row, pair in enumerate(pairs if several else ()) if pair.line in several and row not in by_row
    }
    return tuple(Example(line := pairs[row].line, by_row[row], nth[row] if line in in_part else 0) for row in shown)


def numbers_in_lines(pairs: Sequence[Pair]) -> list[int]:
    """Number the rows of each line that holds several positives, from 1; 0 for the only row of a line."""
    sizes = Counter(pair.line for pair in pairs if pair.line)
    if not sizes or max(sizes.values()) == 1:
        return [0] * len(pairs)
    numbers = Counter[int]()
    nth = []
    for pair in pairs:
        numbers[pair.line] += 1
        nth.append(numbers[pair.line] if sizes[pair.line] > 1 else 0)
    return nth


def texts_of(pairs: Sequence[Pair], prompts: Prompts = NO_PROMPTS) -> list[str]:
    """Return the distinct texts of rows, each after its prompt, in order of first appearance."""
    texts: dict[str, None] = {}
    for pair in pairs:
        texts[prompts.query + pair.query] = None
        for text in (pair.positive, *pair.negatives):
            texts[prompts.passage + text] = None
    return list(texts)


def describe_finding(finding: Finding, places: Mapping[int, str] | None = None) -> str:
    """Describe a finding in lines of text, with one line per example.

    Args:
        places: where the lines of several files are, which count on through them; none for a single file.
    """
    where = places or {}
    examples = [
        _with_number(where.get(example.line, f"{finding.unit} {example.line}"), example.positive) + f": {example.text}"
        for example in finding.examples
    ]
    more = finding.rows - len(examples)
    rest = [f"... and {more:,} more"] if more else []
    return "\n  ".join([f"{finding.code}: {finding.what}", *filter(None, [finding.detail]), *examples, *rest])


def _with_number(place: str, positive: int) -> str:
    """Name the place of a row, of which a line may hold several."""
    return f"{place}, positive {positive}" if positive else place


def _broken_queries(pairs: Sequence[Pair]) -> _Found:
    reasons = {row: (pair.query, reason) for row, pair in enumerate(pairs) if (reason := why_broken(pair.query))}
    counts = Counter(reason for _, reason in reasons.values())
    return _Found(
        {row: f"{quoted(query)}: {reason}" for row, (query, reason) in reasons.items()},
        "; ".join(f"{count:,} {reason}" for reason, count in counts.most_common()),
    )


def _texts(pair: Pair) -> Iterator[tuple[str, str]]:
    """Yield each text of a row, after the name of its field."""
    yield "query", pair.query
    yield "positive", pair.positive
    for text in pair.negatives:
        yield "negative", text


def _answers(pairs: Sequence[Pair]) -> dict[str, set[str]]:
    """Map the queries of several rows, or of rows with negatives, to their answers; others have a single one."""
    rows = Counter(pair.query for pair in pairs)
    answers: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        if pair.negatives or rows[pair.query] > 1:
            answers[pair.query].add(pair.positive)
    return answers


def _queries_that_are_positives(pairs: Sequence[Pair], groups: NDArray[np.int64]) -> _Found:
    same = np.flatnonzero(groups[0] == groups[1]).tolist()
    return _Found({row: quoted(pairs[row].query) for row in same})


def _duplicate_rows(pairs: Sequence[Pair], groups: NDArray[np.int64], nth: Sequence[int]) -> dict[str, _Found]:
    """Find rows like earlier ones; `groups` (2, N) are those of each row's query and positive."""
    exact: dict[int, str] = {}
    near: dict[int, str] = {}
    first: dict[tuple[str, str], str] = {}
    first_near: dict[int, str] = {}
    both = groups[0] * (groups.max() + 1) + groups[1]
    _, kind, times = np.unique(both, return_inverse=True, return_counts=True)
    for row in np.flatnonzero(times[kind] > 1).tolist():
        pair, group, place = pairs[row], kind[row], _with_number(pairs[row].place, nth[row])
        texts = pair.query, pair.positive
        if texts in first:
            exact[row] = f"{quoted(pair.query)}: as {first[texts]}"
        elif group in first_near:
            near[row] = f"{quoted(pair.query)}: nearly as {first_near[group]}"
        first.setdefault(texts, place)
        first_near.setdefault(group, place)
    return {"duplicate-row": _Found(exact), "near-duplicate-row": _Found(near)}


def _false_negatives(pairs: Sequence[Pair], answers: dict[str, set[str]], groups: dict[str, int]) -> dict[str, _Found]:
    same: dict[int, str] = {}
    others: dict[int, str] = {}
    near: dict[int, str] = {}
    for row, pair in [(row, pair) for row, pair in enumerate(pairs) if pair.negatives]:
        known = answers[pair.query]
        near_known = {groups[text] for text in known}
        for text in pair.negatives:
            if text == pair.positive:
                same[row] = quoted(text)
            elif text in known:
                others[row] = f"{quoted(pair.query, 60)}: {quoted(text, 60)}"
            elif groups[text] in near_known:
                near[row] = quoted(text)
    return {
        "negative-near-positive": _Found(near),
        "negative-is-positive": _Found(same),
        "negative-answers-query": _Found(others),
    }


def _near_duplicate_passages(pairs: Sequence[Pair], groups: NDArray[np.int64], nth: Sequence[int]) -> _Found:
    first: dict[int, int] = {}
    copies: dict[str, int] = {}
    by_row = {}
    group_of = {pair.positive: group for pair, group in zip(pairs, groups.tolist(), strict=True)}
    several = np.bincount([*group_of.values()]) > 1
    for row in np.flatnonzero(several[groups]).tolist():
        text = pairs[row].positive
        earlier = first.setdefault(group_of[text], row)
        wholes = {pair.cut_from or pair.positive for pair in (pairs[earlier], pairs[row])}
        if pairs[earlier].positive != text and len(wholes) > 1:  # what was cut from one passage is known to be alike
            copies[text] = group_of[text]
            by_row[row] = f"{quoted(text)}: nearly as in {_with_number(pairs[earlier].place, nth[earlier])}"
    return _Found(by_row, f"{len(copies):,} passages are nearly one of {len(set(copies.values())):,} others")


def _domain_conflicts(pairs: Sequence[Pair]) -> _Found:
    first: dict[str, str] = {}
    several = {pair.positive for pair in pairs if first.setdefault(pair.positive, pair.domain) != pair.domain}
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        if pair.positive in several:
            rows[pair.positive][pair.domain] += 1
    # the same rule as in the split: the domain with most rows, then the first by name
    owner = {text: min(counts, key=lambda name: (-counts[name], name)) for text, counts in rows.items()}
    return _Found(
        {
            row: f"{quoted(pair.positive)}: {pair.domain} here, mostly {owner[pair.positive]}"
            for row, pair in enumerate(pairs)
            if owner.get(pair.positive, pair.domain) != pair.domain
        },
        f"{len(several):,} passages stand under several domains",
    )


def _several_passages(pairs: Sequence[Pair], answers: Mapping[str, set[str]]) -> _Found:
    several = {query: len(texts) for query, texts in answers.items() if len(texts) > 1}
    return _Found(
        {row: f"{quoted(p.query)}: {several[p.query]} passages" for row, p in enumerate(pairs) if p.query in several},
        f"{len(several):,} queries name {max(several.values(), default=0):,} passages at most",
    )


def _cut_off(pairs: Sequence[Pair], tokens: Mapping[str, int], max_tokens: int, prompts: Prompts) -> _Found:
    by_row = {}
    beyond_limit = {text for text, length in tokens.items() if length > max_tokens}
    for row, pair in enumerate(pairs):
        if prompts.query + pair.query in beyond_limit or prompts.passage + pair.positive in beyond_limit:
            texts = [(name, prompts.before(is_query=name == "query") + text) for name, text in _texts(pair)]
            long = [f"{name} of {tokens[text]:,} tokens" for name, text in texts if text in beyond_limit]
            by_row[row] = ", ".join(long)
    queries, all_queries = _counted({prompts.query + pair.query for pair in pairs}, tokens)
    passages, all_passages = _counted(
        {prompts.passage + text for pair in pairs for text in (pair.positive, *pair.negatives)}, tokens
    )
    beyond = np.maximum(0, passages - max_tokens)
    detail = (
        f"{np.count_nonzero(beyond):,} of {len(passages):,} passages (positives and negatives) and "
        f"{np.count_nonzero(queries > max_tokens):,} of {len(queries):,} queries have more than {max_tokens} tokens"
    )
    if len(passages) < all_passages or len(queries) < all_queries:
        detail += f"; others of the {all_passages:,} passages and {all_queries:,} queries were not counted"
    if beyond.any():
        share = beyond.sum() / passages.sum()
        detail += (
            f"; the passages {np.median(beyond[beyond > 0]):,.0f} more in the median and {beyond.max():,} at most, "
            f"{share:.1%} of all their tokens"
        )
    return _Found(by_row, detail)


def _counted(texts: Collection[str], tokens: Mapping[str, int]) -> tuple[NDArray[np.int64], int]:
    """Return the numbers of tokens in those of some texts that were counted, and the number of texts."""
    return np.array([tokens[text] for text in texts if text in tokens], dtype=np.int64), len(texts)


def _rows_with(pairs: Sequence[Pair], texts: Sequence[str], find: Callable[[str], int | None]) -> _Found:
    """Find the rows with a place that is found in any text; the first one of a row is shown with its surroundings."""
    spots = {text: spot for text in texts if (spot := find(text)) is not None}
    by_row: dict[int, str] = {}
    for row, pair in enumerate(pairs if spots else ()):
        for name, text in _texts(pair):
            if text in spots:
                by_row.setdefault(row, f"{name}: {quoted(text[max(0, spots[text] - 25) :], 60)}")
    return _Found(by_row)


def _small_domains(pairs: Sequence[Pair], groups: Mapping[str, int]) -> _Found:
    """Find domains with too few passages; near duplicates count as one, as they do in the split and in an interval."""
    passages: dict[str, set[int]] = defaultdict(set)
    for pair in pairs:
        passages[pair.domain].add(groups[pair.positive])
    small = {name: len(ids) for name, ids in sorted(passages.items()) if HELD_BACK_SHARE * len(ids) < MIN_PASSAGES}
    counted = count_by_domain([pair for pair in pairs if pair.domain in small])
    texts = {name: counts["positives"] for name, counts in counted.items()}
    sentences = {
        name: f"{name} has {count:,} passages{' that are not nearly the same' * (count < texts[name])}"
        for name, count in small.items()
    }
    named = [*sentences.values()][:AT_EACH_END]
    more = f"; {len(sentences) - len(named):,} domains more have too few" if len(sentences) > len(named) else ""
    want = int(np.ceil(MIN_PASSAGES / HELD_BACK_SHARE))
    return _Found(
        {row: sentences[pair.domain] for row, pair in enumerate(pairs) if pair.domain in small},
        f"{'; '.join(named)}{more}; want {want}, of which a share of {HELD_BACK_SHARE} comes to {MIN_PASSAGES}",
    )


def _unknown_domains(pairs: Sequence[Pair], known: KnownDomains) -> _Found:
    counts = Counter(pair.domain for pair in pairs if pair.domain not in known.domains)
    return _Found(
        {
            row: f"domain {pair.domain}: {counts[pair.domain]:,} rows"
            for row, pair in enumerate(pairs)
            if counts[pair.domain]
        },
        f"fit it again, to the pairs of all domains: python -m nic_ray.anomaly fit {shlex.quote(known.bundle)} PAIRS",
    )
