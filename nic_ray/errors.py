"""The two errors that end a command, and tests for faults that can occur anywhere: a full disk, text not in UTF-8."""

import errno
from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""The messages of libraries that wrap the system's error in an error of their own."""


class InputError(ValueError):
    """The user's files, values or arguments cannot be used; the command exits with code 2.

    The message states the place, the value found there, the rule it breaks, and a remedy.
    """


class RunError(RuntimeError):
    """The run failed although the input was valid; the command exits with code 1."""


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8.

    Command-line arguments that are not UTF-8, and escapes in YAML, can put surrogates into a text.
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)


def in_one_line(said: BaseException | str) -> str:
    """An error's message, or what a program has said, without line breaks; of more than 200 characters, the first."""
    text = " ".join(str(said).split())
    return text if len(text) <= 200 else f"{text[:196].rsplit(' ', 1)[0]} ..."


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, or one in its chain of causes, reports that a disk is full."""
    return any(
        (isinstance(cause, OSError) and cause.errno in FULL) or any(words in str(cause) for words in FULL_IN_WORDS)
        for cause in causes_of(error)
    )


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that led to it or were being handled when it came, the latest first."""
    seen: set[int] = set()
    left: BaseException | None = error
    while left is not None and id(left) not in seen:
        seen.add(id(left))
        yield left
        left = left.__cause__ or left.__context__
