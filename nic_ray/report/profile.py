"""The profile of the pairs as text: sentences, and cells of tables. Loads nothing that draws."""

from collections.abc import Iterator

from nic_ray.dataset.profile import BANDS, MORE, Counts, Lengths, Part, Profile, sampled
from nic_ray.domains import omitted_domains, shown_domains

NONE = "–"
KINDS_NAMED = 20
"""Number of kinds of questions that are named; any others are only counted."""
COLUMNS = (
    "domain",
    "query tokens",
    "passage tokens",
    "cut off",
    "questions a passage",
    "several answers",
    "words shared",
    "letters",
)
"""Headings of `cells_of`, short enough for a terminal."""
HEADINGS = (
    "domain",
    "query tokens: 5 %, median, 95 %, max",
    "queries cut off",
    "passage tokens: 5 %, median, 95 %, max",
    "passages cut off",
    "questions a passage: median, max",
    "passages with 1, 2, 3-5, 6-10, more questions",
    "passages a question: median, max",
    "questions with several passages",
    "words of a question in its passage, median",
    "letters",
    "texts that mix scripts",
)
"""Headings of `all_cells_of`."""


def cells_of(name: str, part: Part) -> list[str]:
    """A domain's most important figures as text, under `COLUMNS`."""
    return [
        name,
        _tokens(part.queries, "median"),
        _tokens(part.passages, "median"),
        _share(part.passages.cut_off),
        f"{part.questions_a_passage.median:g}",
        f"{part.passages_a_question.several:,}",
        _share(part.shared_words.median),
        next((f"{script} {share:.0%}" for script, share in part.letters.shares.items()), NONE),
    ]


def rows_of(profile: Profile) -> Iterator[list[str]]:
    """The rows of a table under `COLUMNS`: the domains, an empty one, and the whole."""
    for name in shown_domains(sizes_of(profile)):
        yield [omitted_domains(sizes_of(profile))] if name is None else cells_of(name, profile.domains[name])
    yield []
    yield cells_of("all", profile.whole)


def all_cells_of(name: str, part: Part) -> list[str]:
    """A domain's figures as text, under `HEADINGS`."""

    def four(lengths: Lengths) -> str:
        return ", ".join(_tokens(lengths, quantile) for quantile in ("p5", "median", "p95", "max"))

    asked, answers = part.questions_a_passage, part.passages_a_question
    return [
        name,
        four(part.queries),
        _share(part.queries.cut_off),
        four(part.passages),
        _share(part.passages.cut_off),
        f"{asked.median:g}, {asked.largest:,}",
        ", ".join(f"{number:,}" for number in asked.bands.values()),
        f"{answers.median:g}, {answers.largest:,}",
        f"{answers.several:,}",
        _share(part.shared_words.median),
        ", ".join(f"{script} {_share(share)}" for script, share in part.letters.shares.items()) or NONE,
        f"{part.letters.mixed:,}",
    ]


def describe_profile(profile: Profile) -> Iterator[str]:
    """The figures of the whole, in sentences."""
    whole = profile.whole
    yield f"queries: {_described_lengths(whole.queries, profile.max_tokens)}"
    yield f"passages: {_described_lengths(whole.passages, profile.max_tokens)}"
    yield f"questions a passage: {_described_counts(whole.questions_a_passage, 'passages')}"
    yield f"passages a question: {_described_counts(whole.passages_a_question, 'questions')}"
    if whole.shared_words.measured:
        shares = f"{_share(whole.shared_words.median)} in the median, {_share(whole.shared_words.mean)} in the mean"
        yield f"words of a question that stand in its passage: {shares}"
    letters = ", ".join(f"{script} {_share(share)}" for script, share in whole.letters.shares.items()) or "none"
    yield f"letters: {letters}; {whole.letters.mixed:,} of {whole.letters.measured:,} texts mix scripts"
    if profile.synthetic:
        yield (
            f"synthetic rows, whose question was made from its passage: {profile.synthetic:,} of {profile.rows:,} "
            f"({_share(profile.synthetic / profile.rows)})"
        )
    if profile.kinds:
        yield f"kinds of questions: {_described_kinds(profile)}"
    if notes := list(sampled(profile)):
        yield f"measured on samples: {'; '.join(notes)}"


def _described_kinds(profile: Profile) -> str:
    listed = [f"{kind} {number:,}" for kind, number in list(profile.kinds.items())[:KINDS_NAMED]]
    if (further := len(profile.kinds) - KINDS_NAMED) > 0:
        listed.append(f"{further:,} further kinds")
    without = profile.rows - sum(profile.kinds.values())
    return ", ".join([*listed, *([f"none named {without:,}"] if without else [])])


def _described_lengths(lengths: Lengths, max_tokens: int) -> str:
    if lengths.cut_off is None:
        return f"{lengths.texts:,}"
    own = {name: _tokens(lengths, name) for name in lengths.tokens}
    return (
        f"{lengths.texts:,}; tokens: {own['median']} in the median, {own['p5']} to {own['p95']} for nine in ten, "
        f"{own['min']} at least, {own['max']} at most; "
        f"{f'{_share(lengths.cut_off)} are' if lengths.cut_off else 'none is'} cut off at {max_tokens}"
    )


def _described_counts(counts: Counts, what: str) -> str:
    bands = list[str]()
    for name, number in counts.bands.items():
        if number:
            asked = f"more than {max(BANDS.values())}" if name == MORE else name.replace("-", " to ")
            noun = "" if bands else f" {what.removesuffix('s') if number == 1 else what}"
            bands.append(f"{number:,}{noun} {'has' if number == 1 else 'have'} {asked}")
    return f"{counts.median:g} in the median, {counts.largest:,} at most; {', '.join(bands)}"


def _tokens(lengths: Lengths, quantile: str) -> str:
    return f"{lengths.tokens[quantile]:,}" if lengths.tokens else NONE


def _share(value: float | None) -> str:
    if value is None:
        return NONE
    return "under 0.1%" if 0 < value < 0.0005 else f"{value:.1%}"


def sizes_of(profile: Profile) -> dict[str, float]:
    """Domain -> number of its passages, by which the domains that are shown are chosen."""
    return {name: float(part.passages.texts) for name, part in profile.domains.items()}
