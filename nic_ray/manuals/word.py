"""Manuals in DOCX."""

import zipfile
from pathlib import Path

import mammoth

from nic_ray.errors import InputError
from nic_ray.manuals.blocks import Document
from nic_ray.manuals.files import MAX_TEXT
from nic_ray.manuals.markup import document_of_html

STYLES = """
p[style-name='Title'] => h1.title:fresh
p[style-name^='TOC'] => !
p[style-name='Table of Figures'] => !
p[style-name='Header'] => !
p[style-name='Footer'] => !
p[style-name='Caption'] => p:fresh
"""
"""What becomes of paragraphs, besides mammoth's own headings, lists and tables."""


def read_docx(path: Path) -> Document:
    """Read a file of Word, without its headers, footers, pictures, contents and footnotes.

    Raises:
        InputError: it is damaged, no file of Word, or too large.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            sizes = {entry.filename: entry.file_size for entry in packed.infolist()}
    except zipfile.BadZipFile as error:
        raise InputError(f"is damaged ({error}); copy it again") from None
    if "word/document.xml" not in sizes:
        raise InputError("is a zip file, but none of Word: there is no word/document.xml in it; save it as .docx again")
    # a tree of XML takes fifty times as much memory
    if sum(size for name, size in sizes.items() if name.lower().endswith((".xml", ".rels"))) > MAX_TEXT:
        raise InputError(f"holds more than {MAX_TEXT // 2**20} MiB of XML; split it")
    with path.open("rb") as file:
        page = mammoth.convert_to_html(
            file, style_map=STYLES, convert_image=mammoth.images.img_element(lambda image: {"src": ""})
        ).value
    return document_of_html(page, path.stem)
