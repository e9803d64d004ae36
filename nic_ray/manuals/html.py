"""Manuals in HTML."""

from pathlib import Path

from bs4.dammit import EncodingDetector

from nic_ray.errors import InputError
from nic_ray.manuals.blocks import Document
from nic_ray.manuals.markup import document_of_html

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_UNDECLARED = "windows-1252"
"""What browsers read a page as that names no encoding, if it is not UTF-8."""


def read_html(path: Path) -> Document:
    """Read a page.

    Raises:
        InputError: it holds no text in the encoding that it names.
    """
    content = path.read_bytes()
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in content:
        raise InputError("holds no HTML (there are zero bytes in it); remove it, or name it by what it is")
    return document_of_html(_decoded(content), path.stem)


def _decoded(content: bytes) -> str:
    marked = next((encoding for mark, encoding in _BOMS if content.startswith(mark)), None)
    declared = marked or EncodingDetector.find_declared_encoding(content, is_html=True, search_entire_document=False)
    for encoding in (declared,) if declared else ("utf-8", _UNDECLARED):
        try:
            return content.decode("windows-1252" if encoding in ("iso-8859-1", "latin-1", "ascii") else encoding)
        except UnicodeDecodeError as error:
            fault = f"byte 0x{content[error.start]:02x} at position {error.start + 1:,}"
        except LookupError:
            fault = "which is not known"
    raise InputError(
        f"is not in the encoding that it names, {declared or _UNDECLARED} ({fault}); correct the name, or convert it"
    )
