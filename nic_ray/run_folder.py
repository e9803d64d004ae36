"""Where a run keeps what it leaves: the one owner of the names of its files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, and the place of each file in it."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, as they were given."""
        return self.path / "config.yaml"

    @property
    def start(self) -> Path:
        """What a search started from and for: settings, data, split, base model, bundle."""
        return self.path / "run.json"

    @property
    def training_start(self) -> Path:
        """What the training of a single configuration started from."""
        return self.path / "data.json"

    @property
    def study(self) -> Path:
        """Optuna's study, an SQLite database."""
        return self.path / "study.db"

    @property
    def ended(self) -> Path:
        """A line for each trial that came to its end, and how."""
        return self.path / "ended.jsonl"

    @property
    def readings(self) -> Path:
        """A line for each reading of the test rows that the run has held back."""
        return self.path / "readings.jsonl"

    @property
    def log(self) -> Path:
        """What a search, Ray and Optuna had to say."""
        return self.path / "search.log"

    @property
    def trials(self) -> Path:
        """A row for each trial, with its sample and its best evaluation."""
        return self.path / "trials.csv"

    @property
    def result(self) -> Path:
        """What a search found, for programs."""
        return self.path / "result.json"

    @property
    def domains(self) -> Path:
        """The figures of every domain, of which tables and pictures show the ends where they are many."""
        return self.path / "domains.csv"

    @property
    def queries(self) -> Path:
        """What the winner retrieved for each test query."""
        return self.path / "queries.json"

    @property
    def report(self) -> Path:
        """What people read."""
        return self.path / "report.html"

    @property
    def trained(self) -> Path:
        """The best model of the training of a single configuration."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of the training of a single configuration, a folder an epoch."""
        return self.path / "checkpoints"

    @property
    def training_log(self) -> Path:
        """What the training of a single configuration logged."""
        return self.path / "training.log"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.path / ".lock"

    @property
    def trial_folders(self) -> Path:
        """A folder for each trial, with its log and with what Ray Train keeps of trials in several processes."""
        return self.path / "train"

    @property
    def results(self) -> tuple[Path, ...]:
        """What is left to be read when a search has ended."""
        return self.trials, self.result, self.domains, self.queries, self.report
