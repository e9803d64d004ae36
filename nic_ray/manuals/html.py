"""Manuals in HTML."""

from pathlib import Path

from bs4.dammit import EncodingDetector

from nic_ray.errors import InputError
from nic_ray.manuals.blocks import Document
from nic_ray.manuals.files import western
from nic_ray.manuals.markup import document_of_html

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_html(path: Path) -> Document:
    """Read a page.

    Raises:
        InputError: it holds no text in the encoding that it names, or names none and is in none that can be told.
    """
    content = path.read_bytes()
    if not content.startswith(tuple(mark for mark, _ in _BOMS)) and b"\0" in content:
        raise InputError("holds no HTML (there are zero bytes in it); remove it, or name it by what it is")
    return document_of_html(_decoded(content), path.stem)


def _decoded(content: bytes) -> str:
    marked = next((encoding for mark, encoding in _BOMS if content.startswith(mark)), None)
    declared = marked or EncodingDetector.find_declared_encoding(content, is_html=True, search_entire_document=False)
    if not declared:
        return _undeclared(content)
    # a declaration that can be read byte by byte is not in UTF-16, whatever it says: so the standard of HTML
    known = {"iso-8859-1": "windows-1252", "latin-1": "windows-1252", "ascii": "windows-1252"}
    encoding = known.get(declared, "utf-8" if not marked and declared.startswith(("utf-16", "utf-32")) else declared)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        fault = f"byte 0x{content[error.start]:02x} at position {error.start + 1:,}"
    except (LookupError, UnicodeError):
        fault = "which is not known"
    raise InputError(f"is not in the encoding that it names, {declared} ({fault}); correct the name, or convert it")


def _undeclared(content: bytes) -> str:
    """Decode a page that names no encoding as browsers do: UTF-8, else Windows-1252, if that gives likely words."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if (text := western(content)) is not None:
            return text
        raise InputError(
            f"names no encoding, and is not UTF-8 (byte 0x{content[error.start]:02x} at position {error.start + 1:,}); "
            'name it in the page: <meta charset="...">'
        ) from None
