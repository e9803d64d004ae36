"""The reference manuals come back from every format, without what stands beside their text."""

import gzip
from pathlib import Path

import pytest

from nic_ray.manuals.packing import sections_of
from nic_ray.manuals.readers import read_document
from nic_ray.manuals.sections import Section
from tests.rendered_manuals import (
    APPENDIX,
    DOMAINS,
    MARGIN,
    ROW_SENTENCES,
    TABLE,
    WRITERS,
    reference_manual,
    share_found,
)


def sections(path: Path) -> list[Section]:
    return sections_of(read_document(path), domain="d", source=path.name, language="en")


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_manual_comes_back_from_its_file(tmp_path, ending, domain):
    manual, path = reference_manual(domain), tmp_path / f"manual{ending}"
    WRITERS[ending](manual, path)
    found = sections(path)
    assert share_found(manual.titles, [each.section for each in found]) >= 0.99
    assert share_found(manual.passages, [each.passage for each in found]) >= 0.99
    # nothing else comes with it
    assert len(found) <= len(manual.titles) + 2
    assert {each.document for each in found} == {manual.title}
    chapters = [(chapter.title, title) for chapter in manual.chapters for title, _ in chapter.sections]
    assert [(each.chapter, each.section) for each in found] == [*chapters, (APPENDIX, TABLE)]
    assert found[-1].text == " ".join(ROW_SENTENCES)
    assert not any(MARGIN in each.passage or "no text of the manual" in each.passage for each in found)


def test_a_file_is_read_through_gzip(tmp_path):
    manual = reference_manual(DOMAINS[0])
    WRITERS[".html"](manual, tmp_path / "a.html")
    (tmp_path / "b.html.gz").write_bytes(gzip.compress((tmp_path / "a.html").read_bytes()))
    assert read_document(tmp_path / "b.html.gz") == read_document(tmp_path / "a.html")
