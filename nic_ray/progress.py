"""The display of progress: a live view in a terminal, lines of text elsewhere, nothing if the user wants none."""

import collections
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nic_ray.domains import changes_of, omitted_domains, shown_domains
from nic_ray.metrics.table import maximised, metrics_in

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

log = logging.getLogger("nic_ray.progress")

END_STATUSES = ("finished", "stopped", "failed", "repeated")
BAR = 24
"""Number of characters in a full bar."""
DOMAINS = 12
"""Largest number of domains that have a line; of more, the worst and the best are shown."""
MAX_SHOWN_TRIALS = 10
"""Largest number of running trials that have a line; the best trial and the counts below must stay visible."""
REFRESHES_PER_S = 2
"""Number of times per second that the live view is drawn; each drawing costs the trials a few milliseconds."""


@dataclass(frozen=True)
class TrialBatch:
    """Trials that are run together."""

    name: str
    trials: int
    epochs: float
    """Largest number of epochs that a trial trains for."""
    objective: str
    base: Mapping[str, float]
    """Flat validation metrics of the base model."""
    deadline: float = math.inf
    """Time after which no trial continues, in seconds of the monotonic clock."""
    best: tuple[str, Mapping[str, float]] | None = None
    """The best trial of an earlier part of the search, and its metrics."""


class View:
    """A view that shows nothing. Every event is written to the logger "nic_ray.progress", one line per event."""

    def __init__(self) -> None:
        self._trials, self._ended = 0, 0

    def note(self, line: str) -> None:
        """Write a line to the log."""
        log.info(line)

    def say(self, line: str) -> None:
        """Report something that the user should see as a line."""
        self.note(line)

    def dashboard(self, address: str) -> None:
        """Report the address of Ray's dashboard."""
        self.note(f"dashboard: {address}")

    def begin(self, trials: TrialBatch) -> None:
        """Report that a batch of trials is about to be run."""
        self._trials, self._ended = trials.trials, 0

    def started(self, trial: str, sample: str) -> None:
        """Report that a trial has been given its configuration."""
        self.note(f"{trial}: {sample}")

    def evaluated(self, trial: str, metrics: Mapping[str, float]) -> None:
        """Report an evaluation of a trial; for `metrics`, see `headline`."""
        self.note(f"{trial}: {headline(metrics)}")

    def restarted(self, trial: str, reason: str) -> None:
        """Report that a trial has died and resumes from its last checkpoint."""
        self.say(f"{trial}: {reason}; it goes on from its last checkpoint")

    def ended(self, trial: str, status: str, reason: str = "") -> None:
        """Report that a trial has ended.

        Args:
            status: "finished", "stopped", "repeated" (trained again for as long as another trial) or "failed".
            reason: why it failed.
        """
        self._ended += 1
        how = {"stopped": "stopped early", "failed": f"failed: {reason}"}.get(status, status)
        self.note(f"{trial}: {how} ({self._ended} of {self._trials} done)")

    def end(self) -> None:
        """Report that all trials of the batch have ended."""

    @contextlib.contextmanager
    def work(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Report work on `total` texts; the yielded function is called with the number of further texts done."""
        self.note(what)
        yield lambda _: None


class Lines(View):
    """A view that writes one line per event, for files, pipes and terminals that cannot do more."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def note(self, line: str) -> None:
        """Write a line to the log and to the output."""
        super().note(line)
        self._write(line)


@dataclass
class Running:
    """A trial that is running."""

    sample: str
    epoch: float = 0.0
    value: float | None = None
    """The objective at its last evaluation."""
    rate: float | None = None
    """Training pairs per second."""


@dataclass
class Board:
    """The data from which the live view is drawn."""

    dashboard: str = ""
    round: TrialBatch | None = None
    begun: float = 0.0
    """Start of the batch, in seconds of the clock that is used for drawing."""
    running: dict[str, Running] = field(default_factory=dict)
    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    best: tuple[str, Mapping[str, float]] | None = None
    """A trial and its metrics."""
    work: str = ""
    done: int = 0
    total: int = 0


class Live(View):
    """A table that is redrawn continually at the bottom of a terminal; lines are printed above it."""

    def __init__(self, console: "Console", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.board = Board()
        self._console, self._clock = console, clock

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw until the end of the block."""
        from rich.live import Live as Drawing

        def picture() -> "RenderableType":
            return drawn(self.board, self._clock())

        with Drawing(console=self._console, get_renderable=picture, refresh_per_second=REFRESHES_PER_S, transient=True):
            yield

    def say(self, line: str) -> None:
        """Write a line above the table."""
        super().say(line)
        self._print(line)

    def dashboard(self, address: str) -> None:
        """Keep the address of the dashboard visible."""
        super().dashboard(address)
        self.board.dashboard = address

    def begin(self, trials: TrialBatch) -> None:
        """Empty the table. The best trial so far stays, since it is still the best."""
        super().begin(trials)
        self.board.round, self.board.begun = trials, self._clock()
        self.board.running, self.board.ends = {}, collections.Counter()
        self.board.best = self.board.best or trials.best

    def started(self, trial: str, sample: str) -> None:
        """Add a row for the trial; a trial that is started again keeps its row."""
        super().started(trial, sample)
        if trial not in self.board.running:
            self.board.running = self.board.running | {trial: Running(sample)}

    def evaluated(self, trial: str, metrics: Mapping[str, float]) -> None:
        """Update the trial's row and, if its objective is higher, the best trial so far."""
        super().evaluated(trial, metrics)
        assert self.board.round is not None
        objective = self.board.round.objective
        sample = self._known(trial).sample
        now = Running(sample, metrics["epoch"], metrics[objective], metrics.get("pairs_per_second"))
        self.board.running = self.board.running | {trial: now}
        if self.board.best is None or maximised(metrics, objective) > maximised(self.board.best[1], objective):
            self.board.best = (trial, dict(metrics))

    def ended(self, trial: str, status: str, reason: str = "") -> None:
        """Remove the trial's row, and print a permanent line about it above the table."""
        super().ended(trial, status, reason)
        last = self._known(trial)
        self.board.running = {name: state for name, state in self.board.running.items() if name != trial}
        self.board.ends[status] += 1
        value = "" if last.value is None else f" at {last.value:.4f} after {last.epoch:.2f} epochs"
        self._print(
            f"{trial}: {status}{value}{f': {reason}' if reason else ''}{f'  ({last.sample})' if last.sample else ''}"
        )

    def end(self) -> None:
        """Stop drawing the table of trials."""
        self.board.round = None

    @contextlib.contextmanager
    def work(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Draw a progress bar below the table."""
        self.say(what)
        self.board.work, self.board.done, self.board.total = what, 0, total

        def more(count: int) -> None:
            self.board.done += count

        try:
            yield more
        finally:
            self.board.work = ""

    def _known(self, trial: str) -> Running:
        # a trial that failed before it started was never announced
        return self.board.running.get(trial, Running(""))

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line), soft_wrap=True)


@contextlib.contextmanager
def view(*, quiet: bool) -> Iterator[View]:
    """The view that suits stdout: a live view in a terminal, else lines; one that shows nothing if `quiet`."""
    import rich
    import typer

    console = rich.get_console()
    if quiet:
        yield View()
    elif console.is_terminal and not console.is_dumb_terminal:
        live = Live(console)
        with live.drawing():
            yield live
    else:

        def write(line: str) -> None:
            typer.echo(line)
            console.file.flush()

        yield Lines(write)


def headline(metrics: Mapping[str, float]) -> str:
    """Describe an evaluation in one line.

    Args:
        metrics: flat; "epoch", "loss", the macro metrics and, if it was measured, "pairs_per_second".
    """
    rate = metrics.get("pairs_per_second")
    macro = "".join(f"  {name}/macro {metrics[f'{name}/macro']:.4f}" for name in metrics_in(metrics))
    return (
        f"epoch {metrics['epoch']:.2f}  loss {metrics['loss']:.3f}{macro}"
        f"{'' if rate is None else f'  {rate:.0f} pairs/s'}"
    )


def drawn(board: Board, now: float) -> "RenderableType":
    """Draw a board.

    Args:
        now: seconds, by the clock that `board.begun` was read from.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if board.round is not None:
        parts += [Text(), _running(board, board.round)]
        if board.best is not None:
            parts += [Text(), *_best(board.best, board.round)]
        parts += [Text(), Text(_counts(board, board.round, now))]
    if board.work:
        share = board.done / max(1, board.total)
        parts.append(Text(f"{board.work}  {_filled(share)} {share:.0%}"))
    if parts and board.dashboard:
        parts.append(Text(f"dashboard: {board.dashboard}", style="dim"))
    return Group(*parts)


def _running(board: Board, trials: TrialBatch) -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
    for name in ("trial", "epoch", trials.objective, "pairs/s"):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    table.add_column("configuration", ratio=1, no_wrap=True, overflow="ellipsis")
    for name, state in list(board.running.items())[:MAX_SHOWN_TRIALS]:
        value = "" if state.value is None else f"{state.value:.4f}"
        rate = "" if state.rate is None else f"{state.rate:.0f}"
        row = (name, f"{state.epoch:.1f} of {trials.epochs:g}", value, rate, state.sample)
        table.add_row(*(Text(cell) for cell in row))
    if len(board.running) > MAX_SHOWN_TRIALS:
        table.add_row(Text(f"and {len(board.running) - MAX_SHOWN_TRIALS} more"))
    return table


def _best(best: tuple[str, Mapping[str, float]], trials: TrialBatch) -> "list[RenderableType]":
    from rich.text import Text

    trial, metrics = best
    metric = trials.objective.partition("/")[0]
    changes = changes_of({"base": trials.base, "best": metrics}, metric)
    macro = ["macro"] if f"{metric}/macro" in metrics else []
    names = [*shown_domains(changes, many=DOMAINS, ends=DOMAINS // 2), *macro]
    lines = [Text(f"best so far: {trial}, {trials.objective} {metrics[trials.objective]:.4f} (base model beside it)")]
    width = max((len(name) for name in names if name), default=0)
    for name in names:
        if name is None:
            lines.append(Text(omitted_domains(changes, many=DOMAINS, ends=DOMAINS // 2)))
            continue
        value, base = metrics[f"{metric}/{name}"], trials.base.get(f"{metric}/{name}", 0.0)
        style = "bold" if name == "macro" else ""
        lines.append(
            Text.assemble(
                (f"{name:{width}}  ", style),
                (_filled(value), "cyan"),
                (f" {value:.3f}  {base:.3f} ({value - base:+.3f})", style),
            )
        )
    return list(lines)


def _counts(board: Board, trials: TrialBatch, now: float) -> str:
    ended = sum(board.ends.values())
    counts = ", ".join(
        f"{board.ends[status]} {status}" for status in END_STATUSES if board.ends[status] or status != "repeated"
    )
    elapsed = now - board.begun
    share = (ended + sum(min(1.0, state.epoch / trials.epochs) for state in board.running.values())) / trials.trials
    # below 5 %, the start-up of the first trials dominates the elapsed time
    rest = elapsed * (1 - share) / share if share >= 0.05 else math.inf
    until = max(0.0, trials.deadline - now)
    if math.isinf(min(rest, until)):
        left = "time left unknown"
    else:
        left = f"about {_clock(rest)} left" if rest <= until else f"at most {_clock(until)} left"
    return f"{trials.name}: {ended} of {trials.trials} trials ended ({counts}), {_clock(elapsed)} gone, {left}"


def _filled(share: float) -> str:
    """A bar of `BAR` characters, filled to the given share, to the nearest eighth of a character."""
    eighths = round(min(1.0, max(0.0, share)) * BAR * 8)
    return ("█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")).ljust(BAR, "·")


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
