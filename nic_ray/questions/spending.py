"""What asking may cost, and what it has cost: calls and tokens, with those of requests that are on their way."""

import asyncio
import math
from dataclasses import dataclass, field

BYTES_A_TOKEN = 4
"""Estimated, for text of any language: four letters of English, one or two characters of Chinese."""


@dataclass(frozen=True)
class Budget:
    """What may be spent by one run; answers that are kept cost nothing."""

    calls: int | None = None
    """Number of requests that are answered, or whose answer is lost on the way; None: any number."""
    tokens: int | None = None
    """Number of tokens, of prompts and of answers; None: any number."""


@dataclass
class Spending:
    """What has been spent, and what is set aside for the requests that are on their way."""

    budget: Budget
    calls: int = 0
    tokens: int = 0
    closed: bool = False
    """Whether nothing more may be sent."""
    _held: dict[int, int] = field(default_factory=dict)
    _tickets: int = 0
    _estimated: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def reserve(self, estimate: int) -> int | None:
        """Set one call and some tokens aside, waiting for requests on their way if their cost decides.

        Args:
            estimate: number of tokens that the request is likely to cost. If those before it have cost more than
                estimated, it is raised by as much.

        Returns:
            a ticket for `settle`; None if the budget is spent.
        """
        async with self._changed:
            while not self.closed and not self._fits(estimate):
                if not self._held:
                    return None
                await self._changed.wait()
            if self.closed:
                return None
            self._tickets += 1
            self._held[self._tickets] = estimate
            return self._tickets

    async def settle(self, ticket: int, *, calls: int, tokens: int, estimate: int) -> None:
        """Replace what was set aside by what was spent.

        Args:
            ticket: as given by `reserve`.
            calls: number of calls, of this request and of its repetitions.
            tokens: number of tokens.
            estimate: number of tokens that was estimated.
        """
        async with self._changed:
            del self._held[ticket]
            self.calls, self.tokens = self.calls + calls, self.tokens + tokens
            self._estimated += estimate if tokens else 0
            self._changed.notify_all()

    async def close(self) -> None:
        """Let nothing more be sent."""
        async with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _fits(self, estimate: int) -> bool:
        calls, tokens = self.budget.calls, self.budget.tokens
        return (calls is None or self.calls + len(self._held) + 1 <= calls) and (
            tokens is None or self.tokens + self._corrected(sum(self._held.values()) + estimate) <= tokens
        )

    def _corrected(self, estimate: int) -> int:
        return math.ceil(estimate * max(1.0, self.tokens / self._estimated)) if self._estimated else estimate


def estimated_tokens(text: str) -> int:
    """Estimate the number of tokens of a text."""
    return math.ceil(len(text.encode("utf-8", "replace")) / BYTES_A_TOKEN)
