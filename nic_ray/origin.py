"""The origin of a run's rows, as runs and bundles store it: files of pairs, and how they were split."""

from collections.abc import Mapping
from typing import NotRequired

from typing_extensions import TypedDict  # before Python 3.12, pydantic refuses the one in `typing`

METADATA = "metadata.json"
"""The file of an exported folder that tells its origin, with the SHA-256 of every other file."""


class StoredSplit(TypedDict, total=False):
    """How the pairs of a run were split."""

    protocol: str
    splits: str
    """"own" where the rows kept the splits that they came with, whatever the protocol; else absent."""
    group_by: str
    """What rows stayed together by; absent where that was their passage."""
    synthetic: str
    """"as_others" where synthetic rows were split as the others were; else absent."""
    seed: int
    sample_share: float
    validation_share: float
    test_share: float
    query_share: float
    rows: Mapping[str, int]
    """Part -> number of rows."""
    sha256: str
    """Hash of the assignment of rows to parts."""


class StoredFile(TypedDict):
    """One of several files of pairs."""

    name: str
    sha256: str


class ReplayedPairs(TypedDict):
    """Pairs that the base model of a run had been tuned on, and that are trained on again."""

    pairs: str
    """Name of the file; of several, by commas."""
    sha256: str
    files: NotRequired[list[StoredFile]]
    """As in `StoredData`."""
    split: StoredSplit
    """How they were split then."""
    format: NotRequired[str]
    """As in `StoredData`."""
    columns: NotRequired[Mapping[str, str]]
    """As in `StoredData`."""


class StoredCorpus(TypedDict):
    """Passages that no row of a run names, ranked beside those that rows name."""

    path: str
    """Name of the file or folder."""
    sha256: str
    passages: int
    sampled: int
    """Number of those that every evaluation ranks; where there are more, only the test rows rank all of them."""


class StoredData(TypedDict, total=False):
    """The pairs of a run."""

    pairs: str
    """Name of the file; of several, by commas."""
    sha256: str
    files: list[StoredFile]
    """The files that were read together, in their order; absent for a single one."""
    format: str
    """The format that the user named; absent where it was found by the file's ending."""
    columns: Mapping[str, str]
    """Field -> the column that the user named for it; absent where all were found by their names."""
    replay: list[ReplayedPairs]
    """The files of old pairs, the oldest first; absent if there are none."""
    rows: int
    """Number of all rows, old ones included."""
    passages: int
    """Number of distinct passages that rows name."""
    corpus: StoredCorpus
    """Absent if the run had none."""
    domains: Mapping[str, int]
    """Domain -> number of rows."""
    synthetic: Mapping[str, int]
    """Part -> number of rows whose question was made from its passage; absent if there are none."""


class StoredGeneralTexts(TypedDict):
    """The general texts of a run."""

    source: str
    """Name of the file or folder; without one, the version of the Python whose language reference was read."""
    sha256: Mapping[str, str]
    """Of those that measure what is forgotten ("measuring") and of those that trials may hold ("held"), if any."""


class DataAndSplit(TypedDict):
    """The pairs of a run, how they were split, and its general texts if it reads any."""

    data: StoredData
    split: StoredSplit
    general_texts: NotRequired[StoredGeneralTexts]
