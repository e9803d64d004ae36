"""Sides of a comparison, timed in turn, so that whatever else the machine does meets all of them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turn(sides: Mapping[str, Callable[[int], T]], rounds: int, *, warm_up: int = 1) -> dict[str, list[T]]:
    """What each side gives for the number of a round, one side after the other.

    Args:
        warm_up: rounds before the first one that counts.
    """
    found: dict[str, list[T]] = {side: [] for side in sides}
    for number in range(warm_up + rounds):
        for side, run in sides.items():
            value = run(number)
            if number >= warm_up:
                found[side].append(value)
    return found


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """One side by another, in each of the rounds that they had together."""
    return [one / other for one, other in zip(upper, lower, strict=True)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """A median with its range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
