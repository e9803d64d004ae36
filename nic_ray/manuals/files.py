"""Bytes and texts of manuals, with the limits and checks that every format needs."""

import gzip
import zlib
from pathlib import Path

from nic_ray.errors import InputError

MAX_TEXT = 64 * 2**20
"""Largest size of a text or an HTML page, in bytes; a manual of a thousand pages has about three million."""
MAX_PACKED = 2**30
"""Largest size of another file, in bytes, after gzip has unpacked it."""
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
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


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


def text_of_file(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with its mark; line ends are those of Unix.

    Raises:
        InputError: it holds no such text.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
    if encoding != "utf-16" and b"\0" in content[: 2**16]:
        raise InputError("holds no text (there are zero bytes in it); remove it, or name it by what it is")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at position {error.start + 1:,}"
        raise InputError(
            f"is not UTF-8 ({byte}); convert it, for instance with: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
