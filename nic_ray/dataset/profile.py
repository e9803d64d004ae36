"""A profile of pairs, for each domain and the whole: lengths, answers, shared words, and scripts.

The figures say what a search can do with the pairs: whether texts fit into the model, how many questions there are to
learn from, and how far a search by words alone would get.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.broken import QUESTION_WORDS
from nic_ray.dataset.pairs import Pair
from nic_ray.dataset.scripts import SCRIPTS, letters_by_script, mixes_scripts
from nic_ray.evidence import JsonObject
from nic_ray.metrics.bm25 import content_words
from nic_ray.tokens import NO_PROMPTS, Prompts

MOST_MEASURED = 50_000
"""Largest number of queries, passages, pairs or texts of which all are looked at for tokens, words or letters."""
SAMPLE = 20_000
"""Number of those that are looked at where there are more."""
QUANTILES = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
BANDS = {"1": 1, "2": 2, "3-5": 5, "6-10": 10}
"""Name of a band of counts -> its largest count; a count above all of them is in the band `MORE`."""
MORE = "more"
BINS = 20
"""Number of bins of a histogram, without the one for everything longer."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of distinct texts in tokens of the base model, prompt and special tokens included."""

    texts: int
    counted: int
    """Number of these texts whose tokens were counted, drawn at random; the other figures are of these."""
    tokens: Mapping[str, int]
    """Name in `QUANTILES` -> number of tokens; empty if none were counted."""
    cut_off: float | None
    """Share of texts that are longer than the model reads; None if none were counted."""


@dataclass(frozen=True)
class Histogram:
    """Number of texts by their length in tokens."""

    width: int
    """Tokens in a bin: bin n begins at n * width."""
    counts: tuple[int, ...]
    """(BINS + 1,) numbers of texts; the last bin has no upper end."""


@dataclass(frozen=True)
class Counts:
    """How many questions a passage has, or how many passages a question has."""

    bands: Mapping[str, int]
    """Name of a band in `BANDS`, or `MORE` -> number of passages or questions with so many of the other."""
    several: int
    """Number of them with more than one of the other."""
    median: float
    largest: int


@dataclass(frozen=True)
class SharedWords:
    """Share of the content words of a question that stand in its passage too.

    These are the words that BM25 compares, except English words that ask, such as "how".
    """

    pairs: int
    """Distinct pairs of a question and a passage that answers it."""
    measured: int
    """Number of these that were looked at, drawn at random, and whose question has a content word."""
    median: float | None
    """None if none were; the mean likewise."""
    mean: float | None


@dataclass(frozen=True)
class Letters:
    """Scripts of the letters in queries and passages."""

    texts: int
    measured: int
    """Number of these texts that were looked at, drawn at random."""
    shares: Mapping[str, float]
    """Name in `SCRIPTS` -> share of all letters, the largest first; scripts without letters are absent."""
    mixed: int
    """Number of the texts looked at whose letters belong to no single writing system."""


@dataclass(frozen=True)
class Part:
    """The profile of a domain, or of the whole."""

    queries: Lengths
    passages: Lengths
    """Positives and negatives."""
    questions_a_passage: Counts
    """Of positives."""
    passages_a_question: Counts
    shared_words: SharedWords
    letters: Letters


@dataclass(frozen=True)
class Profile:
    """The profile of some pairs."""

    max_tokens: int
    """Number of tokens at which the model cuts off a text."""
    whole: Part
    domains: Mapping[str, Part]
    """In alphabetical order."""
    histograms: Mapping[str, Histogram]
    """"queries" and "passages" of the whole; one without counted texts is absent."""
    rows: int = 0
    synthetic: int = 0
    """Number of the rows whose question was made from its passage."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Kind of question -> number of rows, the most frequent one first; rows that name none are left out."""


def texts_to_count(pairs: Sequence[Pair], prompts: Prompts = NO_PROMPTS) -> list[str]:
    """The texts whose tokens are counted, each after its prompt: all distinct ones, or a sample of each kind.

    Of more than `MOST_MEASURED` queries, or passages, `SAMPLE` are drawn at random, the same in each call.
    """
    queries = dict.fromkeys(pair.query for pair in pairs)
    passages = dict.fromkeys(text for pair in pairs for text in (pair.positive, *pair.negatives))
    chosen: dict[str, None] = {}
    for prompt, texts in ((prompts.query, list(queries)), (prompts.passage, list(passages))):
        chosen |= dict.fromkeys(prompt + texts[number] for number in _drawn(len(texts)).tolist())
    return list(chosen)


def profile_pairs(
    pairs: Sequence[Pair], tokens: Mapping[str, int], max_tokens: int, prompts: Prompts = NO_PROMPTS
) -> Profile:
    """Describe pairs in figures: those of the whole, and of each domain.

    Where there are more than `MOST_MEASURED` pairs or texts, words and letters are those of a sample.

    Args:
        pairs: at least one row.
        tokens: number of the base model's tokens, special tokens included, in the texts of `texts_to_count`.
        max_tokens: number of tokens that the model reads of a text.
        prompts: prompts that are prepended to queries and passages.
    """
    table = _numbered(pairs)
    measured = _Measured(
        max_tokens=max_tokens,
        queries=np.array([tokens.get(prompts.query + text, -1) for text in table.queries], dtype=np.int64),
        passages=np.array([tokens.get(prompts.passage + text, -1) for text in table.passages], dtype=np.int64),
        shared=_shared_words(table),
        letters=_letters(table),
    )
    order = np.argsort(table.domain, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(table.domain[order])) + 1)
    domains = {table.domains[table.domain[own[0]]]: _part(table, measured, own) for own in rows}
    kinds = {"queries": measured.queries, "passages": measured.passages}
    return Profile(
        max_tokens,
        _part(table, measured, order),
        {name: domains[name] for name in sorted(domains)},
        {kind: _histogram(lengths[lengths >= 0]) for kind, lengths in kinds.items() if (lengths >= 0).any()},
        rows=len(pairs),
        synthetic=sum(pair.synthetic for pair in pairs),
        kinds=dict(Counter(pair.kind for pair in pairs if pair.kind is not None).most_common()),
    )


def as_json(profile: Profile) -> JsonObject:
    """A profile as JSON values."""
    return asdict(profile) | {"sampled": list(sampled(profile))}


def sampled(profile: Profile) -> Iterator[str]:
    """Say which figures are of a sample, and how large it is."""
    whole = profile.whole
    for kind, lengths in (("queries", whole.queries), ("passages", whole.passages)):
        if lengths.counted < lengths.texts:
            yield f"token lengths from {lengths.counted:,} of {lengths.texts:,} {kind}"
    if whole.shared_words.pairs > MOST_MEASURED:
        yield f"shared words from {SAMPLE:,} of {whole.shared_words.pairs:,} pairs"
    if whole.letters.measured < whole.letters.texts:
        yield f"scripts from {whole.letters.measured:,} of {whole.letters.texts:,} texts"


@dataclass(frozen=True)
class _Numbered:
    """N rows with H negatives in all, by numbers of their distinct texts and domains."""

    queries: Sequence[str]
    passages: Sequence[str]
    domains: Sequence[str]
    query: NDArray[np.int64]
    """(N,) index into `queries`; those below are like it."""
    positive: NDArray[np.int64]
    domain: NDArray[np.int64]
    negative: NDArray[np.int64]
    """(H,)"""
    negative_of: NDArray[np.int64]
    """(H,) row of each negative."""

    def pairs_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(P,) ascending numbers of the distinct pairs of query and positive: query * number of passages + passage."""
        return _distinct(self.query[rows] * len(self.passages) + self.positive[rows])

    def passages_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ascending numbers of the distinct positives and negatives."""
        of_these = np.zeros(len(self.query), dtype=np.bool_)
        of_these[rows] = True
        return _distinct(np.concatenate([self.positive[rows], self.negative[of_these[self.negative_of]]]))


def _numbered(pairs: Sequence[Pair]) -> _Numbered:
    queries: dict[str, int] = {}
    passages: dict[str, int] = {}
    domains: dict[str, int] = {}
    query = [queries.setdefault(pair.query, len(queries)) for pair in pairs]
    positive = [passages.setdefault(pair.positive, len(passages)) for pair in pairs]
    domain = [domains.setdefault(pair.domain, len(domains)) for pair in pairs]
    negative = [passages.setdefault(text, len(passages)) for pair in pairs for text in pair.negatives]
    return _Numbered(
        queries=list(queries),
        passages=list(passages),
        domains=list(domains),
        query=np.array(query),
        positive=np.array(positive),
        domain=np.array(domain),
        negative=np.array(negative, dtype=np.int64),
        negative_of=np.repeat(np.arange(len(pairs)), [len(pair.negatives) for pair in pairs]),
    )


@dataclass(frozen=True)
class _Measured:
    max_tokens: int
    queries: NDArray[np.int64]
    """Number of tokens of each query; -1 if they were not counted."""
    passages: NDArray[np.int64]
    shared: tuple[NDArray[np.int64], NDArray[np.float64]]
    """Ascending numbers of pairs, as of `_Numbered.pairs_of`, and the share of words in each; NaN without words."""
    letters: NDArray[np.int32]
    """(queries + passages, len(SCRIPTS)) numbers of letters; -1 if a text was not looked at."""


def _part(table: _Numbered, measured: _Measured, rows: NDArray[np.int64]) -> Part:
    queries, passages, pairs = _distinct(table.query[rows]), table.passages_of(rows), table.pairs_of(rows)
    query, passage = np.divmod(pairs, len(table.passages))
    looked_at, shares = measured.shared
    found = shares[np.isin(looked_at, pairs, assume_unique=True) & ~np.isnan(shares)]
    return Part(
        queries=_lengths(measured.queries[queries], measured.max_tokens),
        passages=_lengths(measured.passages[passages], measured.max_tokens),
        questions_a_passage=_counts(np.bincount(np.searchsorted(passages, passage))),
        passages_a_question=_counts(np.bincount(np.searchsorted(queries, query))),
        shared_words=_shared(len(pairs), found),
        letters=_scripts(measured.letters[np.concatenate([queries, passages + len(table.queries)])]),
    )


def _lengths(tokens: NDArray[np.int64], max_tokens: int) -> Lengths:
    counted = tokens[tokens >= 0]
    if not len(counted):
        return Lengths(len(tokens), 0, {}, None)
    # lengths that occur, and no means of two
    values = np.quantile(counted, list(QUANTILES.values()), method="inverted_cdf").tolist()
    over = float((counted > max_tokens).mean())
    return Lengths(len(tokens), len(counted), dict(zip(QUANTILES, map(int, values), strict=True)), over)


def _histogram(tokens: NDArray[np.int64]) -> Histogram:
    """Bins that hold 99 % of the texts, so that a single long one does not make them all wide."""
    width = int(np.quantile(tokens, 0.99, method="inverted_cdf")) // BINS + 1
    return Histogram(width, tuple(np.bincount(np.minimum(tokens // width, BINS), minlength=BINS + 1).tolist()))


def _counts(values: NDArray[np.int64]) -> Counts:
    values = values[values > 0]  # a negative that is no positive has no question
    band = np.searchsorted(list(BANDS.values()), values)
    numbers = np.bincount(band, minlength=len(BANDS) + 1).tolist()
    bands = dict(zip([*BANDS, MORE], numbers, strict=True))
    return Counts(bands, int((values > 1).sum()), float(np.median(values)), int(values.max()))


def _shared(pairs: int, shares: NDArray[np.float64]) -> SharedWords:
    if not len(shares):
        return SharedWords(pairs, 0, None, None)
    return SharedWords(pairs, len(shares), float(np.median(shares)), float(shares.mean()))


def _shared_words(table: _Numbered) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    pairs = table.pairs_of(np.arange(len(table.query)))
    pairs = pairs[_drawn(len(pairs))]
    shares = np.full(len(pairs), np.nan)
    last, words = -1, frozenset[str]()
    # by passage, so that the words of each are looked for once
    for place in np.argsort(pairs % len(table.passages), kind="stable").tolist():
        query, passage = divmod(int(pairs[place]), len(table.passages))
        if passage != last:
            last, words = passage, frozenset(content_words([table.passages[passage]])[0])
        if own := frozenset(content_words([table.queries[query]])[0]) - QUESTION_WORDS:
            shares[place] = len(own & words) / len(own)
    return pairs, shares


def _letters(table: _Numbered) -> NDArray[np.int32]:
    texts = [*table.queries, *table.passages]
    chosen = _drawn(len(texts))
    found = np.full((len(texts), len(SCRIPTS)), -1, dtype=np.int32)
    found[chosen] = letters_by_script([texts[number] for number in chosen.tolist()])
    return found


def _scripts(letters: NDArray[np.int32]) -> Letters:
    looked_at = letters[letters[:, 0] >= 0]
    totals = looked_at.sum(axis=0, dtype=np.int64)
    shares = {SCRIPTS[at]: float(totals[at] / totals.sum()) for at in np.argsort(-totals, kind="stable") if totals[at]}
    return Letters(len(letters), len(looked_at), shares, int(mixes_scripts(looked_at).sum()))


def _distinct(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort numbers from 0 on, each once; np.unique makes a hash table of them first, which takes longer."""
    ordered = np.sort(numbers)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def _drawn(count: int) -> NDArray[np.int64]:
    """Ascending numbers below `count`: all, or of more than `MOST_MEASURED` a sample, the same in each call."""
    if count <= MOST_MEASURED:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))
