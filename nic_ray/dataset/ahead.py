"""The faults of pairs, found before the long imports of a command."""

from nic_ray.config import Config
from nic_ray.dataset.form import form_of
from nic_ray.dataset.pairs import read_pairs
from nic_ray.sources import is_hub, listed

QUICKLY_READ = 2**25
"""Largest number of bytes of files that are read once more for this: 100,000 rows or so, in two seconds."""


def refuse_faulty_pairs(config: Config | None) -> None:
    """Read the pairs, unless they are large or compressed, are to be joined with others, or lie in folders or on a hub.

    Args:
        config: None where the settings are not known yet.

    Raises:
        InputError: as for `read_pairs`.
    """
    if config is None or config.data.replay:
        return
    paths = listed(config.data.pairs)
    if any(is_hub(path) or path.is_dir() or path.suffix == ".parquet" for path in paths):
        return
    if sum(path.stat().st_size for path in paths if path.is_file()) <= QUICKLY_READ:
        read_pairs(config.data.pairs, form=form_of(config.data))
