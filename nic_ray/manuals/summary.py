"""What reading manuals gave, for a person to look through."""

import statistics
from collections.abc import Iterator, Sequence

from nic_ray import console
from nic_ray.manuals.extraction import Extracted
from nic_ray.manuals.folder import shown_endings
from nic_ray.manuals.packing import FEWEST, MOST
from nic_ray.manuals.reading import Outcome
from nic_ray.manuals.repeated import Repeated
from nic_ray.words import count_words

MAX_DOCUMENTS = 40
"""Number of manuals that have a line; of more, those with the most sections are shown."""
MAX_NAMED = 5
MANY_DOMAINS = 12
"""Number of domains beyond which files are probably the chapters of one manual."""
OFFICE = {".doc", ".odt", ".rtf", ".ppt", ".pptx", ".epub", ".adoc", ".xml", ".tex", ".texi", ".org", ".djvu"}
"""Endings of manuals that other programs convert."""


def show_summary(extracted: Extracted) -> None:
    """Print what each manual gave, what was left out and why."""
    console.show(console.table(["manual", "domain", "pages", "sections", "words"], list(_rows(extracted.outcomes))))
    for line in lines_of(extracted):
        console.say(line)


def _rows(outcomes: Sequence[Outcome]) -> Iterator[list[str]]:
    read = [outcome for outcome in outcomes if not outcome.fault]
    ranked = sorted(read, key=lambda outcome: -len(outcome.sections))
    shown = {outcome.source for outcome in ranked[:MAX_DOCUMENTS]}
    for outcome in read:
        if outcome.source in shown:
            yield _row(outcome.title, [outcome])
    if others := ranked[MAX_DOCUMENTS:]:
        yield _row(f"and {len(others):,} more", others)
    yield []
    yield _row("all", read)


def _row(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    sections = [section for outcome in outcomes for section in outcome.sections]
    pages = [outcome.pages for outcome in outcomes if outcome.pages is not None]
    domains = {section.domain for section in sections}
    return [
        _cut(name, 48),
        _cut(domains.pop(), 30) if len(domains) == 1 else f"{len(domains):,}" if domains else "-",
        f"{sum(pages):,}" if pages else "-",
        f"{len(sections):,}",
        f"{sum(count_words(section.text) for section in sections):,}",
    ]


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def lines_of(extracted: Extracted) -> Iterator[str]:
    """Yield what is to be said besides the table, a line each."""
    lengths = sorted(count_words(section.text) for section in extracted.sections)
    short, long = sum(length < FEWEST for length in lengths), sum(length > MOST for length in lengths)
    yield (
        f"words of a section: median {statistics.median(lengths):.0f}, shortest {lengths[0]}, longest {lengths[-1]}; "
        f"{short:,} of {len(lengths):,} have fewer than {FEWEST}" + (f", {long:,} more than {MOST}" if long else "")
    )
    domains = {section.domain for section in extracted.sections}
    if len(domains) > MANY_DOMAINS and not any("/" in section.source for section in extracted.sections):
        yield f"{len(domains):,} domains, one for each file; --domain-from folder makes them one"
    if kept := sum(outcome.kept for outcome in extracted.outcomes):
        yield f"manuals read at an earlier start: {kept:,}"
    if extracted.repeated:
        count = sum(len(group.left_out) for group in extracted.repeated)
        yield f"left out, as they nearly repeat another section: {count:,}, {_repeats(extracted.repeated)}"
    for outcome in extracted.outcomes:
        for note in outcome.notes:
            yield f"{outcome.source}: {note}"
    empty = [outcome.source for outcome in extracted.outcomes if not outcome.fault and not outcome.sections]
    if empty:
        yield f"manuals without any text of a section: {len(empty):,}, {_listed(empty)}"
    if extracted.found.skipped:
        yield f"files of other formats, skipped: {shown_endings(extracted.found.skipped)}"
        if OFFICE & {ending.removesuffix(".gz") for ending in extracted.found.skipped}:
            yield "manuals among them can be read once they are converted: soffice --convert-to docx, or pandoc -t html"
    yield f"written: {extracted.out}, {len(extracted.sections):,} sections"


def _repeats(repeated: Sequence[Repeated]) -> str:
    return _listed(
        [
            f'"{section.section}" of {section.source} (as in {group.kept.source})'
            for group in repeated
            for section in group.left_out
        ]
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"
