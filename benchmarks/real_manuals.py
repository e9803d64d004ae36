"""Sections of real manuals: a summary of each, some sections to read, and how well HTML and PDF of one manual agree.

    python benchmarks/real_manuals.py [--packages nut-doc ...] [--show 20] [--seed 0]

The manuals are those of Debian packages (apt-get install nut-doc apcupsd-doc ngspice-doc linuxcnc-doc-en avr-libc).
They are looked for under /usr/share/doc, or where NIC_RAY_MANUALS says: a folder in which each package is unpacked into
a folder of its name (dpkg-deb -x). Packages that are absent are left out. The headings and words of nut-doc's HTML are
compared with those of its PDFs.
"""

import argparse
import difflib
import itertools
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nic_ray.manuals.blocks import Block
from nic_ray.manuals.extraction import extract_sections
from nic_ray.manuals.numbering import without_numbers
from nic_ray.manuals.readers import read_document
from nic_ray.manuals.sections import Section
from nic_ray.manuals.summary import show_summary
from nic_ray.words import words

PACKAGES = {
    "nut-doc": "nut-doc",
    "apcupsd-doc": "apcupsd",
    "ngspice-doc": "ngspice-doc",
    "linuxcnc-doc-en": "linuxcnc",
    "avr-libc": "avr-libc",
}
"""Debian package -> the folder of its manuals under /usr/share/doc."""
TWICE = ("FAQ", "cables", "developer-guide", "packager-guide", "solaris-usb", "user-manual")
"""Manuals that nut-doc has as HTML, a file a chapter, and as PDF."""


@dataclass(frozen=True)
class Agreement:
    """How well one manual's PDF agrees with its HTML."""

    manual: str
    headings: float
    """Share of the headings of the HTML, without the title, that the PDF has in the same order."""
    words: float
    """Share of the words of the HTML, with their numbers, that the PDF has."""
    glued: tuple[str, ...]
    """Words of the PDF that are two successive words of the HTML, and none of its words."""
    missing: tuple[str, ...]
    """Headings of the HTML that the PDF lacks at their place."""


def main() -> None:
    """Read what is installed, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--show", type=int, default=0, help="number of random sections of each that are printed")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of sections")
    given = parser.parse_args()
    for package in given.packages:
        place = place_of(package)
        print(f"\n=== {package}: {place or 'not installed'}")
        if place is None:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            extracted = extract_sections(place, Path(folder) / "sections.jsonl")
        show_summary(extracted)
        for fault in extracted.faults:
            print(f"could not be used: {fault}")
        print(f"{time.perf_counter() - started:.0f} s")
        for section in random.Random(given.seed).sample(extracted.sections, min(given.show, len(extracted.sections))):
            print(shown(section))
        if package == "nut-doc":
            for manual in TWICE:
                print(agreement_of(place, manual))


def place_of(package: str) -> Path | None:
    """Return the folder of a package's manuals; None if it is not there."""
    folder = PACKAGES[package]
    places = [Path("/usr/share/doc") / folder]
    if given := os.environ.get("NIC_RAY_MANUALS"):
        places = [Path(given) / package / "usr/share/doc" / folder, Path(given) / folder, *places]
    return next((place for place in places if place.is_dir()), None)


def agreement_of(place: Path, manual: str) -> Agreement:
    """Compare a manual's PDF with its HTML.

    Args:
        place: the folder of nut-doc.
        manual: one of `TWICE`.
    """
    pages = sorted((place / "html" / manual).glob("*.html"), key=_reading_order)
    html = [block for page in pages for block in read_document(page).blocks]
    pdf = list(read_document(place / "pdf" / f"{manual}.pdf").blocks)
    wanted, found = headings_of(html[1:] if html[0].kind == "heading" else html), headings_of(pdf)
    matched = difflib.SequenceMatcher(None, wanted, found, autojunk=False).get_matching_blocks()
    kept = {match.a + step for match in matched for step in range(match.size)}
    missing = tuple(heading for place, heading in enumerate(wanted) if place not in kept)
    ours, theirs = words_of(html), words_of(pdf)
    shared = Counter(ours) & Counter(theirs)
    pairs = {f"{one}{two}" for one, two in itertools.pairwise(ours)}
    glued = tuple(sorted((pairs & set(theirs)) - set(ours)))
    return Agreement(manual, 1 - len(missing) / len(wanted), shared.total() / len(ours), glued, missing)


def headings_of(blocks: Iterable[Block]) -> list[str]:
    """Return the headings without numbers, as words."""
    headings = [block.text for block in blocks if block.kind == "heading"]
    return [" ".join(words(heading)) for heading in without_numbers(headings)]


def words_of(blocks: Iterable[Block]) -> list[str]:
    """Return all words; those of headings too, since the PDF shows some paragraphs in bold as headings."""
    listed = list(blocks)
    named = iter(headings_of(listed))
    texts = [next(named) if block.kind == "heading" else block.text for block in listed]
    return [word for text in texts for word in words(text)]


def shown(section: Section) -> str:
    """Write a section for a reader."""
    path = " > ".join(part for part in (section.document, section.chapter, section.section) if part)
    return f"\n[{path}] {section.source}{'' if section.page is None else f', page {section.page}'}\n  {section.text}"


def _reading_order(page: Path) -> Sequence[object]:
    # DocBook calls the parts of appendices "ap...", and those of chapters "ar..."
    return (page.stem.startswith("ap"), page.stem != "index", page.stem)


if __name__ == "__main__":
    main()
