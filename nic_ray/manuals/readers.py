"""The formats of manuals: found by a file's ending, checked by its first bytes, read by a function."""

import errno
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nic_ray.errors import InputError, in_one_line
from nic_ray.manuals.blocks import Document
from nic_ray.manuals.files import MAX_PACKED, MAX_TEXT, sign_of, unpacked

VERSION = 1
"""Raised whenever a reader gives other blocks, or blocks are packed in another way: what was kept is then read anew."""
INSTALL = "pip install -c constraints.txt -e '.[manuals]'"


def _pdf(path: Path) -> Document:
    from nic_ray.manuals.pdf import read_pdf

    try:
        return read_pdf(path)
    except InputError as error:  # which names the file, as the caller does
        raise InputError(str(error).removeprefix(f"{path}: ")) from None


def _html(path: Path) -> Document:
    from nic_ray.manuals.html import read_html

    return read_html(path)


def _markdown(path: Path) -> Document:
    from nic_ray.manuals.markdown import read_markdown

    return read_markdown(path)


def _restructured(path: Path) -> Document:
    from nic_ray.manuals.restructured import read_restructured

    return read_restructured(path)


def _docx(path: Path) -> Document:
    from nic_ray.manuals.word import read_docx

    return read_docx(path)


def _text(path: Path) -> Document:
    from nic_ray.manuals.plain_text import read_text

    return read_text(path)


@dataclass(frozen=True)
class Format:
    """A format of manuals."""

    name: str
    endings: tuple[str, ...]
    """In lower case; the first is the usual one."""
    read: Callable[[Path], Document]
    """Raises `InputError` for a file that it cannot read; imports its libraries itself."""
    sign: str = ""
    """The ending that `sign_of` finds in the first bytes of such a file; empty for text, which has no sign."""
    limit: int = MAX_TEXT
    """Largest size of a file, in bytes."""


FORMATS = (
    Format("HTML", (".html", ".htm", ".xhtml"), _html),
    Format("Markdown", (".md", ".markdown", ".mkd"), _markdown),
    Format("reStructuredText", (".rst", ".rest"), _restructured),
    Format("plain text", (".txt", ".text"), _text),
    Format("DOCX", (".docx", ".docm"), _docx, sign=".docx", limit=MAX_PACKED),
    Format("PDF", (".pdf",), _pdf, sign=".pdf", limit=MAX_PACKED),
)
ENDINGS = {ending: form for form in FORMATS for ending in form.endings}
PACKED = ".gz"


def format_of(path: Path) -> Format | None:
    """Return the format of a file by its ending, within one of gzip too; None if no format has it."""
    name = path.name.lower().removesuffix(PACKED)
    return next((form for ending, form in ENDINGS.items() if name.endswith(ending) and name != ending), None)


def read_document(path: Path) -> Document:
    """Read a manual of any format, through gzip if its name ends in .gz.

    Raises:
        InputError: it cannot be read; the message says what is wrong, and leaves the file to the caller to name.
    """
    form = format_of(path)
    if form is None:
        raise InputError(f"is of no format that is known; known are {', '.join(ENDINGS)}")
    try:
        if not path.name.lower().endswith(PACKED):
            return _checked(path, form)
        with tempfile.TemporaryDirectory(prefix="nic_ray-") as folder:
            inner = Path(folder) / path.name[: -len(PACKED)]
            unpacked(path, inner, form.limit)
            return _checked(inner, form)
    except ImportError as error:
        raise InputError(f"{form.name} needs the package {error.name}; install it with: {INSTALL}") from None
    except RecursionError:
        raise InputError("its parts lie too deep in each other; convert it to another format") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"cannot be read ({error.strerror or in_one_line(error)}); make it readable") from None


def refuse_size(path: Path) -> None:
    """Check the size of a file before anything of it is read.

    Raises:
        InputError: it is empty, or larger than manuals of its format are.
    """
    size, form = path.stat().st_size, format_of(path)
    if not size:
        raise InputError("is empty; remove it, or copy it again")
    if form is not None and size > form.limit:
        raise InputError(
            f"is of {size / 2**20:,.0f} MiB, more than the {form.limit // 2**20:,} MiB of {form.name}; split it"
        )


def _checked(path: Path, form: Format) -> Document:
    refuse_size(path)
    with path.open("rb") as file:
        held, ending = sign_of(file.read(1024))
    if held and ending != form.sign:
        what = f"holds {held}, not {form.name}"
        raise InputError(f"{what}; name it *{ending}" if ending and ending != form.sign else f"{what}; save it anew")
    if form.sign and not held:
        raise InputError(f"is no {form.name}, or a damaged one; copy it again, or name it by what it is")
    try:
        return form.read(path)
    except (InputError, ImportError, RecursionError, OSError):
        raise
    except Exception as error:
        # libraries raise what they please for what they do not expect, and the other manuals are to be read
        fault = f"{type(error).__name__}: {in_one_line(error)}"
        raise InputError(f"is damaged, or {form.name} of an unknown kind ({fault}); save it anew") from error
