"""Files that are distributed with nic_ray: the configurations, the reference pairs, the retention set.

In a checkout they are in `tune_configs/` and `data/` beside the package; a wheel holds the same folders inside it.
"""

from importlib.resources import files
from pathlib import Path

PLACES = (Path(str(files("nic_ray") / "packaged_files")), Path(__file__).resolve().parent.parent)
"""Folders that hold the files: inside the package of a wheel, and in a checkout."""


def packaged(path: Path) -> Path:
    """Locate a file: at its path if it exists there, else among the packaged files; else the path is returned as it is.

    Thus `data/reference/pairs.jsonl` is found from any working folder, unless that folder has a file with this path.
    """
    if path.is_absolute() or path.exists():
        return path
    return next((place / path for place in PLACES if (place / path).is_file()), path)
