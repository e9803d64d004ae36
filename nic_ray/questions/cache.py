"""Answers that were paid for: one JSON file each, written the moment it arrives, and never asked for again."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject

LOCK = ".lock"


class Answer(BaseModel):
    """What an endpoint answered to one request."""

    model_config = ConfigDict(strict=True, frozen=True)

    content: str
    finish_reason: str | None = None
    """"length" if it was cut off."""
    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]
    estimated: bool = False
    """Whether the numbers of tokens are estimated, since the endpoint gave none."""
    most_tokens: int
    """Number of tokens after which it would have been cut off."""

    @property
    def tokens(self) -> int:
        """Number of tokens that are paid for."""
        return self.prompt_tokens + self.completion_tokens


def key_of(request: JsonObject) -> str:
    """Return the key of a request: the SHA-256 of its JSON, with sorted keys."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def read_answer(cache_dir: Path, key: str, most_tokens: int) -> Answer | None:
    """Read the answer to a request.

    Args:
        cache_dir: the folder of answers.
        key: see `key_of`.
        most_tokens: number of tokens that an answer may have now.

    Returns:
        None if it was never asked, if the file is damaged, or if the answer was cut off at fewer tokens than are
        allowed now.
    """
    try:
        answer = Answer.model_validate(json.loads((cache_dir / f"{key}.json").read_bytes())["answer"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return None
    return None if answer.finish_reason == "length" and answer.most_tokens < most_tokens else answer


def keep_answer(cache_dir: Path, key: str, answer: Answer, about: JsonObject) -> None:
    """Write an answer to the disk; whoever is killed meanwhile leaves the whole file or none.

    Args:
        cache_dir: the folder of answers.
        key: see `key_of`.
        answer: the answer.
        about: what a reader of the file wants to know of the request.
    """
    draft = cache_dir / f".{key}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with draft.open("w", encoding="utf-8") as file:
            # a model can write half a character, which is no UTF-8; as an escape, it can be stored
            json.dump({**about, "answer": answer.model_dump()}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(cache_dir / f"{key}.json")
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def held(cache_dir: Path) -> Iterator[None]:
    """Create the folder of answers, if need be, and hold it, so that no second run asks for the same answers.

    Raises:
        InputError: it is no folder, cannot be written to, or another process holds it.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache_dir / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{cache_dir}: another process is asking for these answers; wait for it, or name another output"
        ) from None
    except OSError as error:
        raise InputError(
            f"{cache_dir}: cannot be used as the folder of answers ({error.strerror}); name another output"
        ) from None
    try:
        for draft in cache_dir.glob(".*.tmp"):  # of a process that was killed
            draft.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
