"""The settings of a search that goes on from an exported model: that model as the base, and where its pairs lie."""

from collections.abc import Sequence
from pathlib import Path

from nic_ray.bundle.files import read_metadata
from nic_ray.config_file import load_config
from nic_ray.errors import InputError
from nic_ray.run_folder import RunFolder
from nic_ray.sources import is_hub, listed


def continued_settings(model: Path | None, replay: Sequence[Path]) -> dict[str, object]:
    """Return the settings by which a search goes on from a model, by dotted name; none without a model.

    Whether the pairs are still those that the model was tuned on is checked where they are read.

    Args:
        model: a folder that nic_ray has exported.
        replay: where its files of pairs lie, the oldest first; if empty, where the run that made it says.

    Raises:
        InputError: the folder is none that nic_ray has exported, or the settings of its run are gone; or files of old
            pairs are named without a model.
    """
    if model is None:
        if replay:
            listed = ", ".join(map(str, replay))
            raise InputError(
                f"--replay {listed}: names the pairs that a model was tuned on; name the model with --from"
            )
        return {}
    files = [path if is_hub(path) else path.absolute() for path in replay or _files_of(model)]
    return {"train.base_model": str(model.absolute()), "data.replay": [str(path) for path in files]}


def _files_of(model: Path) -> list[Path]:
    run = read_metadata(model).get("run")
    way_out = "name the pairs that it was tuned on with --replay, the oldest first"
    if run is None:
        raise InputError(f"{model}: does not say which run made it; {way_out}")
    settings = RunFolder(Path(run)).config
    try:
        data = load_config(settings).data
    except InputError as error:
        raise InputError(f"{model}: the settings of the run that made it cannot be read ({error}); {way_out}") from None
    return [*data.replay, *listed(data.pairs)]
