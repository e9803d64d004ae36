"""Texts of several requests, embedded together: batches by number of tokens, made while the model is busy.

A batch takes what has arrived while the one before was computed, so a lone request never waits for others. Requests
take turns: one with two thousand texts does not hold up one with a single text.
"""

import asyncio
import collections
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

EmbedBatch = Callable[[Sequence[str], Sequence[bool]], NDArray[np.float32]]
"""(n, D) embeddings of n texts; for each, whether it is a query."""
Observe = Callable[[int, int, float], None]
"""Called after each batch with its number of texts, its number of tokens and its seconds."""

MOST_TOKENS = 2048
"""Largest number of tokens of a batch of several texts. More make no text cheaper on a CPU, and each waits longer."""
AT_ONCE = 16
"""Number of texts that a request adds to a batch before it is the next one's turn."""


@dataclass(eq=False)
class _Waiting:
    """A request of which some texts have not been embedded."""

    texts: Sequence[str]
    is_query: bool
    tokens: Sequence[int]
    done: "asyncio.Future[NDArray[np.float32]]"
    taken: int = 0
    """Number of texts that are embedded, or in a batch."""
    parts: list[NDArray[np.float32]] = field(default_factory=list)


class Batcher:
    """A queue of requests in front of one model. It belongs to the event loop in which it is used."""

    def __init__(
        self, embed: EmbedBatch, executor: Executor, *, observe: Observe, most_tokens: int = MOST_TOKENS
    ) -> None:
        self._embed, self._executor, self._observe, self._most_tokens = embed, executor, observe, most_tokens
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._working: asyncio.Task[None] | None = None
        self.since: float | None = None
        """When the batch that is being computed was begun, by `time.monotonic`; None if there is none."""

    async def embed(self, texts: Sequence[str], tokens: Sequence[int], *, is_query: bool) -> NDArray[np.float32]:
        """Embed texts together with those of other requests.

        Args:
            texts: at least one.
            tokens: the number of tokens of each.
            is_query: whether they are queries.

        Returns:
            (n, D) embeddings.
        """
        loop = asyncio.get_running_loop()
        request = _Waiting(texts, is_query, tokens, loop.create_future())
        self._waiting.append(request)
        if self._working is None or self._working.done():
            self._working = loop.create_task(self._work())
        return await request.done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            texts = [text for request, places in batch for text in request.texts[places]]
            asks = [request.is_query for request, places in batch for _ in request.texts[places]]
            tokens = sum(sum(request.tokens[places]) for request, places in batch)
            self.since = time.monotonic()
            try:
                embeddings = await loop.run_in_executor(self._executor, self._embed, texts, asks)
                self._observe(len(texts), tokens, time.monotonic() - self.since)
                _hand_out(batch, embeddings)
            except Exception as error:  # whatever failed, no request waits for ever
                for request, _ in batch:
                    if not request.done.done():
                        request.done.set_exception(error)
            finally:
                self.since = None

    def _next_batch(self) -> list[tuple[_Waiting, slice]]:
        """Take texts of the requests in turn, up to the number of tokens; always at least one text if any waits."""
        batch: list[tuple[_Waiting, slice]] = []
        tokens = 0
        while self._waiting:
            request = self._waiting.popleft()
            if request.done.done():  # given up, or failed with an earlier batch
                continue
            first, turn = request.taken, min(request.taken + AT_ONCE, len(request.texts))
            while request.taken < turn and not _overflows(tokens, request.tokens[request.taken], self._most_tokens):
                tokens += request.tokens[request.taken]
                request.taken += 1
            if request.taken > first:
                batch.append((request, slice(first, request.taken)))
            if request.taken < turn:
                self._waiting.appendleft(request)  # the first of the next batch
                break
            if turn < len(request.texts):
                self._waiting.append(request)
        return batch


def _overflows(tokens: int, more: int, most: int) -> bool:
    """Whether a text of `more` tokens does not fit into a batch that has `tokens`; an empty batch takes any."""
    return tokens > 0 and tokens + more > most


def _hand_out(batch: Sequence[tuple[_Waiting, slice]], embeddings: NDArray[np.float32]) -> None:
    start = 0
    for request, places in batch:
        stop = start + places.stop - places.start
        request.parts.append(embeddings[start:stop])
        start = stop
        if sum(map(len, request.parts)) == len(request.texts) and not request.done.done():
            request.done.set_result(np.concatenate(request.parts))
