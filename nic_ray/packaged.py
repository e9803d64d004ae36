"""Files that come along with nic_ray: the configurations, the reference pairs, the probe.

In a checkout they lie in `tune_configs/` and `data/` beside the package; a wheel carries the same folders within it.
"""

from importlib.resources import files
from pathlib import Path

PLACES = (Path(str(files("nic_ray") / "packaged_files")), Path(__file__).resolve().parent.parent)
"""Within a wheel's package; in a checkout."""


def packaged(path: Path) -> Path:
    """Where a file is: at its path if there is one, else where it comes along under that name; else its path.

    So `data/reference/pairs.jsonl` is found in any working folder, unless that folder has a file of this name itself.
    """
    if path.is_absolute() or path.exists():
        return path
    return next((place / path for place in PLACES if (place / path).is_file()), path)
