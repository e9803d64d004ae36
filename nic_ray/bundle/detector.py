"""The anomaly detector of a bundle: its two files, and what it says of queries."""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from typing_extensions import TypedDict

from nic_ray.anomaly.assessor import Assessor, as_arrays, from_arrays
from nic_ray.bundle.files import read_metadata
from nic_ray.bundle.names import DETECTOR_ARRAYS, DETECTOR_RECORD, GOLDEN_VECTORS
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import StoredMetadata
from nic_ray.stored import read_object

log = logging.getLogger("nic_ray.bundle")
QUESTIONS = "questions"
"""The array of the embeddings of normal questions, beside those of the assessor."""


class StoredShare(TypedDict):
    """A share of queries that are flagged."""

    kind: str
    queries: int
    shares: Mapping[str, float]
    """Share by what flags: "detector", or the name of a detector of embeddings by itself."""
    low: NotRequired[float | None]
    """The 95 % interval of the share of "detector" over passages, of normal queries; None for too few passages."""
    high: NotRequired[float | None]


class StoredDetector(TypedDict):
    """detector.json."""

    weights_sha256: str
    """Of the model whose embeddings it was fitted to, as of `weights_sha256`."""
    sha256: str
    """Of the file of arrays."""
    detector: str
    """Name of the detector of embeddings."""
    false_alarms: float
    """Share of normal queries that may be flagged."""
    pairs: Mapping[str, str]
    """"name" and "sha256" of the pairs."""
    domains: Sequence[str]
    """Domains of the training rows; questions of any other are unknown to it."""
    rows: Mapping[str, int]
    """Part -> number of rows: "train" fitted, "validation" calibrated, "test" read."""
    normal: Sequence[StoredShare]
    """Shares of the test rows that are flagged: all of them first, then each kind."""
    abnormal: Sequence[StoredShare]
    """Shares of generated abnormal queries that are flagged, by kind, each by a classifier that was fitted without
    that kind."""
    questions: Sequence[str]
    """The normal questions that it was fitted to."""
    caution: str | None
    """Why the figures may be too good; None if nothing is known."""


@dataclass(frozen=True)
class BundleDetector:
    """A detector with what is stored beside it."""

    assessor: Assessor
    record: StoredDetector
    questions: NDArray[np.float32]
    """(N, D) unit embeddings of the normal questions."""


def weights_sha256(metadata: StoredMetadata) -> str:
    """The SHA-256 that stands for all files of weights of a bundle: of their names and their hashes."""
    digest = hashlib.sha256()
    for name, own in sorted(metadata["files"].items()):
        if name.endswith(".safetensors") and name != GOLDEN_VECTORS:
            digest.update(f"{name} {own}\n".encode())
    return digest.hexdigest()


def write_detector(folder: Path, detector: BundleDetector) -> None:
    """Store a detector in a bundle, in the place of an older one.

    Raises:
        RunError: the files cannot be written.
    """
    arrays = as_arrays(detector.assessor) | {QUESTIONS: detector.questions.astype(np.float16)}
    content = save_arrays({name: np.asarray(values, order="C") for name, values in arrays.items()})
    record = {**detector.record, "sha256": hashlib.sha256(content).hexdigest()}
    written = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    try:
        # a reader that meets a new file beside an old one sees by the hash that they do not belong together
        for name, data in ((DETECTOR_ARRAYS, content), (DETECTOR_RECORD, written)):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                temporary.write_bytes(data)
                os.replace(temporary, path)  # noqa: PTH105 - Path.replace is the same call
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: the detector cannot be written ({error}); make room, and fit again") from error


def read_detector(folder: Path) -> BundleDetector:
    """Read the detector of a bundle.

    Raises:
        InputError: the folder is no bundle or has no detector, or that is damaged or belongs to another model.
    """
    metadata, again = read_metadata(folder), f"fit it with python -m nic_ray.anomaly fit {folder}"
    absent = f"{folder}: holds no anomaly detector (no sound {DETECTOR_RECORD}); {again}"
    record = read_object(folder / DETECTOR_RECORD, StoredDetector, absent=absent, way_out=again)
    if record["weights_sha256"] != weights_sha256(metadata):
        raise InputError(f"{folder}: its anomaly detector was fitted to the embeddings of another model; {again}")
    try:
        content = (folder / DETECTOR_ARRAYS).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / DETECTOR_ARRAYS}: cannot be read ({error.strerror}); {again}") from None
    if (digest := hashlib.sha256(content).hexdigest()) != record["sha256"]:
        raise InputError(
            f"{folder / DETECTOR_ARRAYS}: SHA-256 is {digest[:16]}..., want {record['sha256'][:16]}...; {again}"
        )
    try:
        arrays = load_arrays(content)
        questions = arrays.pop(QUESTIONS).astype(np.float32)
        return BundleDetector(from_arrays(arrays), record, questions)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{folder / DETECTOR_ARRAYS}: damaged ({error}); {again}") from None


def load_detector(folder: Path) -> BundleDetector | None:
    """Read the detector of a bundle for a service, which goes on without one: then None, with a warning in the log."""
    try:
        return read_detector(folder)
    except InputError as error:
        log.warning("no query is assessed: %s", error)
        return None


def detector_faults(folder: Path) -> list[str]:
    """List the faults of a bundle's detector, one line each; empty if it is sound, or if there is none.

    Raises:
        InputError: the folder is not a bundle.
    """
    read_metadata(folder)
    if not any((folder / name).exists() for name in (DETECTOR_ARRAYS, DETECTOR_RECORD)):
        return []
    try:
        read_detector(folder)
    except InputError as error:
        return [str(error)]
    return []


def has_detector(folder: Path) -> bool:
    """Whether a bundle has the files of a detector, sound or not."""
    return (folder / DETECTOR_RECORD).is_file()
