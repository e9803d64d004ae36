"""The exported folder: its files, model card, ONNX graph and comparisons. `load` is for services."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load(folder: Path, fallback: str | None = None) -> "SentenceTransformer":
    """Load a verified model for a service: the bundle's or else the fallback's, never a damaged one; see `files.load`.

    Raises:
        InputError: the folder is a damaged bundle or no bundle, and there is no fallback; or the fallback cannot be
            loaded.
    """
    from nic_ray.bundle import files  # only callers that load a model pay for these imports

    return files.load(folder, fallback)
