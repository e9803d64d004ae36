"""Whether a folder is still what was exported: its files, its detector, its base model and its vectors."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.bundle.detector import detector_faults
from nic_ray.bundle.files import find_faults, load, read_metadata
from nic_ray.bundle.golden import LEAST_COSINE, Embed, golden_faults, read_golden
from nic_ray.errors import InputError
from nic_ray.model.base import base_faults


@dataclass(frozen=True)
class Verification:
    """What was found of a folder."""

    faults: list[str]
    """One line each; empty if the folder is sound."""
    files: int
    base_model: str
    base_checked: bool
    """Whether the base model is on this machine, so that its weights could be compared."""
    golden: int | None
    """Number of golden texts whose vectors were compared; None if none were: the folder has none, its files are
    damaged, or the packages that run it are missing."""


def verified(folder: Path) -> Verification:
    """Verify an exported folder, or one that was converted from it, by all that it holds.

    Raises:
        InputError: the folder is not a bundle.
    """
    metadata = read_metadata(folder)
    faults = find_faults(folder) + detector_faults(folder)
    allowed = bool(metadata.get("config", {}).get("trust_remote_code"))
    base = base_faults(metadata["base_model"], metadata.get("base_weights_sha256"), trust_remote_code=allowed)
    compared = None
    if not faults:
        try:
            faults, compared = _compared(folder)
        except InputError as error:
            faults = [str(error)]
    return Verification(
        faults + (base or []), len(metadata["files"]), metadata["base_model"], base is not None, compared
    )


def runs_as(folder: Path) -> str:
    """The precision that a folder's model is run in, as a key of `LEAST_COSINE`."""
    return "int8" if read_metadata(folder).get("format") == "int8" else "fp32"


def embedders(folder: Path) -> tuple[Embed, Embed]:
    """What embeds queries and what embeds passages, each text by itself, with a verified folder's model.

    Raises:
        InputError: the model cannot be loaded.
    """
    metadata = read_metadata(folder)
    if "converted_from" not in metadata:
        model = load(folder)

        def by_model(role: str) -> Embed:
            encode = model.encode_query if role == "query" else model.encode_document
            return lambda texts: encode(list(texts), batch_size=1, show_progress_bar=False)

        return by_model("query"), by_model("passage")
    from nic_ray.bundle.onnx import embedder

    embed = embedder(folder)

    def by_graph(role: str) -> Embed:
        prompt = metadata.get("prompts", {}).get(role, "")

        def alone(texts: Sequence[str]) -> NDArray[np.float32]:
            return np.concatenate([embed([prompt + text]) for text in texts])

        return alone

    return by_graph("query"), by_graph("passage")


def _compared(folder: Path) -> tuple[list[str], int | None]:
    """The faults of the vectors that a folder with sound files gives here, and the number of texts."""
    golden = read_golden(folder)
    is_graph = "converted_from" in read_metadata(folder)
    if golden is None or (is_graph and importlib.util.find_spec("onnxruntime") is None):
        return [], None
    faults = golden_faults(*embedders(folder), golden, LEAST_COSINE[runs_as(folder)])
    return faults, len(golden.queries) + len(golden.documents)
