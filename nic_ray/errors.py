"""The two ways in which a command ends badly, and what any line can meet: a full disk, text that is no UTF-8."""

import errno
from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""As libraries put it that wrap the error in one of their own."""


class InputError(ValueError):
    """The user's files, values or arguments cannot be used: exit code 2.

    The message names the place, the value found, the rule, and the way out.
    """


class RunError(RuntimeError):
    """The input was fine and the run failed all the same: exit code 1."""


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8. Arguments that are other bytes, and escapes of YAML, hold surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def in_one_line(error: BaseException) -> str:
    """What an error says, without line breaks and cut off at 200 characters."""
    return " ".join(str(error).split())[:200]


def wants_room(error: BaseException) -> bool:
    """Whether an exception, or one behind it, says that a disk is full."""
    return any(
        (isinstance(each, OSError) and each.errno in FULL) or any(words in str(each) for words in FULL_IN_WORDS)
        for each in _behind(error)
    )


def _behind(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: BaseException | None = error
    while left is not None and id(left) not in seen:
        seen.add(id(left))
        yield left
        left = left.__cause__ or left.__context__
