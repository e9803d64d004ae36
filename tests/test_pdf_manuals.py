"""The reference manuals, set as PDF with the faults of printed ones, come back as they were."""

import re
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import pytest

pytest.importorskip("pypdfium2", reason="the extra manuals is not installed")
pytest.importorskip("reportlab", reason="PDFs are set with reportlab")

from nic_ray.manuals.blocks import Document
from nic_ray.manuals.pdf import read_pdf
from tests.typeset import Passage, Style, passages_of, typeset

STYLES = {
    "one column": Style(),
    "two columns": Style(columns=2),
    "three ragged columns": Style(columns=3, justify=False),
    "no outline": Style(outline=False),
    "two columns without outline and numbers": Style(outline=False, numbers=False, columns=2),
    "bold headings in the size of the text": Style(outline=False, numbers=False, heading_sizes=(14.0, 10.0)),
}


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def share_in_order(wanted: list[str], found: list[str]) -> float:
    # Words that occur often only go on a match, and begin none: far faster, and never more than the true share.
    matcher = SequenceMatcher(None, wanted, found)
    return sum(block.size for block in matcher.get_matching_blocks()) / len(wanted)


def titles_of(passages: list[Passage]) -> list[str]:
    """Chapters and sections in their order."""
    titles = []
    for before, passage in zip([None, *passages], passages, strict=False):
        if before is None or before.chapter != passage.chapter:
            titles.append(passage.chapter)
        titles.append(passage.section)
    return titles


def headings_of(document: Document) -> list[str]:
    return [block.text for block in document.blocks if block.kind == "heading"]


def check(document: Document, passages: list[Passage]) -> None:
    wanted = [word for passage in passages for word in words_of(passage.text)]
    found = [word for block in document.blocks if block.kind != "heading" for word in words_of(block.text)]
    shared = sum((Counter(wanted) & Counter(found)).values())
    assert share_in_order(titles_of(passages), headings_of(document)) >= 0.97
    assert shared >= 0.99 * len(wanted)
    assert shared >= 0.99 * len(found)
    assert share_in_order(wanted, found) >= 0.99
    known = {word for passage in passages for word in words_of(f"{passage.chapter} {passage.section} {passage.text}")}
    glued = [
        word for word in set(found) - known if any({word[:cut], word[cut:]} <= known for cut in range(3, len(word) - 2))
    ]
    assert glued == []


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_a_manual_comes_back_whatever_its_print_adds(tmp_path: Path, style: Style) -> None:
    passages = passages_of("electronics")
    typeset(tmp_path / "manual.pdf", passages, style)
    document = read_pdf(tmp_path / "manual.pdf")
    check(document, passages)
    assert document.title == "Maintenance Manual MX-40"
    scan = document.pages
    assert f"page {scan} holds no text (scans?); run ocrmypdf IN OUT and read OUT" in document.notes
    assert any(note.startswith("contents or an index on page") for note in document.notes)
    assert any("rotated or skewed characters were left out" in note for note in document.notes)
    assert any("lines that repeat across pages were left out" in note for note in document.notes)
    text = " ".join(block.text for block in document.blocks)
    for added in ("CONFIDENTIAL", "UNCONTROLLED", "Tarnwick Works", "Page 3", "Form 7731", "....", "MX-40"):
        assert added not in text


@pytest.mark.parametrize("domain", ["forklift", "hvac", "radar", "vehicle", "vehicle_civilian"])
def test_every_reference_manual_comes_back_in_two_columns(tmp_path: Path, domain: str) -> None:
    typeset(tmp_path / "manual.pdf", passages_of(domain), Style(columns=2))
    check(read_pdf(tmp_path / "manual.pdf"), passages_of(domain))


def test_levels_and_pages_are_those_of_the_manual(tmp_path: Path) -> None:
    passages = passages_of("hvac")
    chapters = {passage.chapter for passage in passages}
    for style in (Style(), replace(Style(), outline=False)):
        typeset(tmp_path / "manual.pdf", passages, style)
        blocks = [block for block in read_pdf(tmp_path / "manual.pdf").blocks if block.kind == "heading"]
        assert {block.level for block in blocks if block.text in chapters} == {1}
        assert {block.level for block in blocks if block.text not in chapters} == {2}
        pages = [block.page or 0 for block in blocks]
        assert pages == sorted(pages)
        assert pages[0] == 2
