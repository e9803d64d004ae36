"""Bytes and texts of manuals, with the limits and checks that every format needs."""

import gzip
import re
import zlib
from pathlib import Path

from nic_ray.dataset.characters import first_mojibake
from nic_ray.dataset.layout import BYTE_ORDER_MARKS
from nic_ray.errors import InputError

MAX_TEXT = 64 * 2**20
"""Largest size of a text or an HTML page, in bytes; a manual of a thousand pages has about three million."""
MAX_PACKED = 2**30
"""Largest size of another file, in bytes, after gzip has unpacked it."""
MOST_ACCENTS = 0.12
"""Largest share of the letters that are not ASCII in a text of Windows-1252; French and Czech have less."""
_MIB = 2**20
_SIGNS = (
    (b"%PDF-", "a PDF", ".pdf"),
    (b"PK\x03\x04", "a zip file, as .docx, .odt and .epub are", ".docx"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word file, or one that is encrypted", ""),
    (b"\x1f\x8b", "a gzip file", ".gz"),
    (b"{\\rtf", "RTF", ".rtf"),
    (b"\x89PNG", "a picture", ".png"),
    (b"\xff\xd8\xff", "a picture", ".jpg"),
)
_MARKUP = re.compile(rb"<(script|style)\b.*?</\1|<[^<>]*>", re.DOTALL | re.IGNORECASE)


def sign_of(start: bytes) -> tuple[str, str]:
    """Return what a file holds by its first bytes, and the ending of that; two empty texts if it is not known."""
    shown = start.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n\t ") if start[:4] != b"PK\x03\x04" else start
    return next(((name, ending) for sign, name, ending in _SIGNS if shown.startswith(sign)), ("", ""))


def unpacked(path: Path, out: Path, limit: int) -> None:
    """Unpack a gzip file.

    Raises:
        InputError: it is damaged, or holds more than `limit` bytes.
    """
    try:
        with gzip.open(path) as packed, out.open("wb") as unpacked_file:
            left = limit
            while chunk := packed.read(_MIB):
                left -= len(chunk)
                if left < 0:
                    raise InputError(f"unpacks to more than {limit // _MIB} MiB; split it")
                unpacked_file.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"is a damaged gzip file ({error}); copy it again") from None


def text_of_file(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file, with line ends of Unix, and what the user should know of it, a sentence each.

    It is in UTF-8, in UTF-16 or UTF-32 with their marks, or in Windows-1252 if that gives words of a Latin script.

    Raises:
        InputError: it holds no such text.
    """
    content = path.read_bytes()
    wide = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "")
    encoding = wide or "utf-8-sig"
    if not wide and b"\0" in content[: 2**16]:
        raise InputError("holds no text (there are zero bytes in it); remove it, or name it by what it is")
    notes: tuple[str, ...] = ()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = wide.upper() or "UTF-8"
        what = f"is not {name} (byte 0x{content[error.start]:02x} at position {error.start + 1:,})"
        found = None if wide else western(content)
        if found is None:
            raise InputError(f"{what}; convert it, for instance with: iconv -f OLD -t UTF-8") from None
        text, notes = found, (f"{what} and was read as Windows-1252; if letters are wrong, convert it",)
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def western(content: bytes) -> str | None:
    """Return a text or page in Windows-1252; None if it is in another encoding: one with too many or unlikely signs."""
    try:
        text = content.decode("windows-1252")
    except UnicodeDecodeError:
        return None
    shown = _MARKUP.sub(b" ", content).decode("windows-1252")
    others = sum(not character.isascii() for character in shown)
    letters = sum(character.isalpha() for character in shown)
    return text if others <= MOST_ACCENTS * letters and first_mojibake(shown) is None else None


def refuse_html(text: str, form: str) -> None:
    """Refuse a page that is named as a text.

    Args:
        text: that of the file.
        form: what its name says.

    Raises:
        InputError: it is a page.
    """
    if text.lstrip()[:14].lower().startswith(("<!doctype html", "<html")):
        raise InputError(f"holds HTML, not {form}; name it *.html")
