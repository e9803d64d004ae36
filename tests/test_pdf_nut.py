"""The manuals of Network UPS Tools, which Debian's package `nut-doc` has as PDF and as HTML: both say the same."""

import os
import re
import warnings
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import pytest

pytest.importorskip("pypdfium2", reason="the extra manuals is not installed")
pytest.importorskip("bs4", reason="the extra manuals is not installed")

from bs4 import BeautifulSoup

from nic_ray.manuals.pdf import read_pdf

PLACES = [
    Path("/usr/share/doc/nut-doc"),
    Path(os.environ.get("NIC_RAY_MANUALS", "/nowhere")) / "nut-doc/usr/share/doc/nut-doc",
]
FOLDER = next((place for place in PLACES if (place / "pdf").is_dir()), None)
MANUALS = ["user-manual", "developer-guide", "packager-guide", "FAQ", "cables", "solaris-usb"]
NUMBER = re.compile(r"^(chapter|appendix)?\s*(\d+|[A-Z])(\.\d+)*\.\s", re.IGNORECASE)

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="needs Debian's package nut-doc, or its folder in NIC_RAY_MANUALS"
)


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower().replace("\u200b", ""))


def letters_of(heading: str) -> str:
    return "".join(c for c in NUMBER.sub("", heading).lower() if c.isalnum())


def reference(name: str) -> tuple[list[str], list[str]]:
    """Headings and words of the HTML of a manual, without navigation, contents and the numbers of headings."""
    assert FOLDER is not None
    folder = FOLDER / "html" / name
    files = [folder.with_suffix(".html")]
    if folder.is_dir():
        index = BeautifulSoup((folder / "index.html").read_bytes(), "lxml")
        links = [link["href"].partition("#")[0] for link in index.select("div.toc a")]
        files = [folder / file for file in dict.fromkeys(links) if file]
    headings, words = [], []
    for file in files:
        page = BeautifulSoup(file.read_bytes(), "lxml")
        for part in page.select("div.navheader, div.navfooter, div.toc, div.titlepage hr, script, style, head"):
            part.decompose()
        for heading in page.select("h1, h2, h3, h4, h5, h6"):
            text = " ".join(heading.get_text(" ").split())
            if not heading.find_parent(class_=re.compile("note|warning|tip|caution|important")):
                headings.append(text)
            heading.string = NUMBER.sub("", text)
        for block in page.find_all(
            ["p", "div", "li", "td", "th", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "dt", "dd"]
        ):
            block.insert_after("\n")
        words += words_of(page.get_text())
    return headings, words


@pytest.mark.parametrize("name", MANUALS)
def test_a_manual_says_the_same_as_pdf_and_as_html(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XHTML is read as HTML
        headings, words = reference(name)
    document = read_pdf(FOLDER / "pdf" / f"{name}.pdf")
    wanted = [letters_of(heading) for heading in headings]
    found = [letters_of(block.text) for block in document.blocks if block.kind == "heading"]
    matched = SequenceMatcher(None, wanted, found, autojunk=False).get_matching_blocks()
    assert sum(block.size for block in matched) >= 0.95 * len(wanted)
    read = Counter(word for block in document.blocks for word in words_of(block.text))
    assert sum((Counter(words) & read).values()) >= 0.98 * len(words)
    known = set(words)
    glued = [
        word
        for word in read
        if word not in known and any({word[:n], word[n:]} <= known for n in range(3, len(word) - 2))
    ]
    assert glued == []
