"""The layout of a run folder: the only module that defines the names of its files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, and the path of each file in it."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings of the run."""
        return self.path / "config.yaml"

    @property
    def start(self) -> Path:
        """The starting point and target of a search: settings, data, split, base model, bundle."""
        return self.path / "run.json"

    @property
    def training_start(self) -> Path:
        """The starting point of the training of a single configuration."""
        return self.path / "data.json"

    @property
    def study(self) -> Path:
        """Optuna's study, an SQLite database."""
        return self.path / "study.db"

    @property
    def ended(self) -> Path:
        """How each trial ended, one line per trial that has ended."""
        return self.path / "ended.jsonl"

    @property
    def readings(self) -> Path:
        """The readings of the test rows that the run has held back, one line per reading."""
        return self.path / "readings.jsonl"

    @property
    def log(self) -> Path:
        """The log messages of the search, of Ray and of Optuna."""
        return self.path / "search.log"

    @property
    def trials(self) -> Path:
        """A table with one row per trial, with its sampled hyperparameters and its best evaluation."""
        return self.path / "trials.csv"

    @property
    def result(self) -> Path:
        """The results of a search, for programs."""
        return self.path / "result.json"

    @property
    def domains(self) -> Path:
        """The results for every domain; where there are many domains, tables and pictures show only both ends."""
        return self.path / "domains.csv"

    @property
    def queries(self) -> Path:
        """The passages that the winner retrieved for each test query."""
        return self.path / "queries.json"

    @property
    def curve(self) -> Path:
        """The winner's results at growing shares of the training passages."""
        return self.path / "curve.json"

    @property
    def report(self) -> Path:
        """The report for human readers."""
        return self.path / "report.html"

    @property
    def trained(self) -> Path:
        """The best model of the training of a single configuration."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of the training of a single configuration, one folder per epoch."""
        return self.path / "checkpoints"

    @property
    def training_log(self) -> Path:
        """The log of the training of a single configuration."""
        return self.path / "training.log"

    @property
    def lock(self) -> Path:
        """The lock that is held by the process that works on the run."""
        return self.path / ".lock"

    @property
    def trial_folders(self) -> Path:
        """The folders of the trials, with their logs and Ray Train's files of trials that run in several processes."""
        return self.path / "train"

    @property
    def refits(self) -> Path:
        """The checkpoints of the trainings on the rows of all parts, one folder per trial."""
        return self.path / "refit"

    @property
    def folds(self) -> Path:
        """The checkpoints of the trainings of `protocol: cross_fit`, one folder per fold."""
        return self.path / "folds"

    @property
    def results(self) -> tuple[Path, ...]:
        """The files that hold the results when a search has ended."""
        return self.trials, self.result, self.domains, self.queries, self.report
