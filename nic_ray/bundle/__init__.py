"""The exported folder: its files, its card, its graph, what it is compared with. `load` is for services."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load(folder: Path, fallback: str | None = None) -> "SentenceTransformer":
    """A verified model for a service: the bundle's, or else the fallback's, never a damaged one; see `files.load`.

    Raises:
        InputError: the bundle is damaged or none, and there is no fallback; or the fallback cannot be loaded.
    """
    from nic_ray.bundle import files  # only whoever loads a model pays for what that needs

    return files.load(folder, fallback)
