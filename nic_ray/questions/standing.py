"""How far asking has got, and its display: a bar in a terminal, a line now and then elsewhere."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LINES_S = 15.0
"""Time between two lines where there is no terminal."""


@dataclass(frozen=True)
class Standing:
    """How far asking has got; all numbers but `tokens` are of sections."""

    total: int
    cached: int = 0
    """Answered by an earlier run."""
    answered: int = 0
    failed: int = 0
    tokens: int = 0
    """Spent by this run."""
    elapsed_s: float = 0.0
    note: str = ""
    """Something that happened, to be shown as a line of its own."""

    @property
    def done(self) -> int:
        """Number of sections that are not waited for any more."""
        return self.cached + self.answered + self.failed

    @property
    def per_s(self) -> float:
        """Sections a second in this run; 0 before the first."""
        return (self.answered + self.failed) / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float:
        """Expected time left, in seconds; infinite before the first answer."""
        left = self.total - self.done
        return 0.0 if not left else left / self.per_s if self.per_s else math.inf

    def line(self) -> str:
        """Describe it in one line."""
        return "; ".join(self.parts())

    def parts(self) -> tuple[str, str]:
        """Describe it in two short lines: what became of the sections; cost and time."""
        rate = f", {60 * self.per_s:,.0f} sections a minute" if self.per_s else ""
        left = f", about {_clock(self.left_s)} left" if 0 < self.left_s < math.inf else ""
        return (
            f"{self.done:,} of {self.total:,} sections: {self.answered:,} answered, {self.cached:,} kept, "
            f"{self.failed:,} failed",
            f"{self.tokens:,} tokens{rate}{left}",
        )


@contextlib.contextmanager
def display(write: Callable[[str], None] | None) -> Iterator[Callable[[Standing], None]]:
    """Show how far asking has got, on stderr if that is a terminal; the yielded function is called with each standing.

    Args:
        write: writes a line where there is no terminal; None to show nothing at all.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if write is None:
        yield lambda _: None
    elif console.is_terminal and not console.is_dumb_terminal:
        with _bar(console) as show:
            yield show
    else:
        yield in_lines(write)


def in_lines(write: Callable[[str], None], every_s: float = LINES_S) -> Callable[[Standing], None]:
    """Return a function that writes a line for a note, for the last section, and at most one in `every_s` seconds."""
    last = time.monotonic()

    def show(standing: Standing) -> None:
        nonlocal last
        if standing.note:
            write(standing.note)
        elif standing.done == standing.total or time.monotonic() - last >= every_s:
            write(standing.line())
            last = time.monotonic()

    return show


@contextlib.contextmanager
def _bar(console: object) -> Iterator[Callable[[Standing], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    assert isinstance(console, Console)
    columns = (BarColumn(bar_width=14), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("asking", total=None)

        def show(standing: Standing) -> None:
            if standing.note:
                console.print(Text(standing.note), soft_wrap=True)
            bars.update(bar, total=standing.total, completed=standing.done, description="\n".join(standing.parts()))

        yield show


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
