"""Manuals of Debian packages, where they are installed: read to the end, without navigation, HTML and PDF alike."""

import importlib
import re
from pathlib import Path

import pytest

from nic_ray.manuals.extraction import extract_sections
from nic_ray.manuals.packing import MOST
from nic_ray.manuals.parallel import one_by_one
from nic_ray.words import count_words

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NAVIGATION = re.compile(r"\b(Prev(ious)?|Next|Up)\b\W+\b(Home|Up|Next|Table of Contents)\b")


@pytest.fixture
def real_manuals(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("real_manuals")


def place_of(real_manuals, package: str) -> Path:
    place = real_manuals.place_of(package)
    if place is None:
        pytest.skip(f"{package} is not installed, and not in NIC_RAY_MANUALS")
    return place


@pytest.mark.parametrize(
    ("package", "inside", "least"),
    [
        ("nut-doc", "html/user-manual", 300), ("nut-doc", "html/FAQ.html", 70), ("apcupsd-doc", "manual", 380),
        ("linuxcnc-doc-en", "gcode.html", 6), ("avr-libc", "avr-libc-user-manual/FAQ.html", 40),
    ],
)  # fmt: skip
def test_real_manuals_become_sections_without_navigation(real_manuals, tmp_path, package, inside, least):
    place = place_of(real_manuals, package) / inside
    extracted = extract_sections(place, tmp_path / "s.jsonl", run=one_by_one)
    assert extracted.faults == []
    assert len(extracted.sections) >= least
    assert all(1 <= count_words(section.text) <= MOST for section in extracted.sections)
    assert not any(NAVIGATION.search(section.text) for section in extracted.sections)
    assert not any(re.match(r"\d+(\.\d+)*\.?\s", section.section) for section in extracted.sections)


@pytest.mark.parametrize("manual", ["FAQ", "packager-guide", "solaris-usb"])
def test_a_manual_is_the_same_in_html_and_pdf(real_manuals, manual):
    place = place_of(real_manuals, "nut-doc")
    pytest.importorskip("nic_ray.manuals.pdf")
    found = real_manuals.agreement_of(place, manual)
    assert found.headings >= 0.95, found.missing
    assert found.words >= 0.98
    assert found.glued == ()
