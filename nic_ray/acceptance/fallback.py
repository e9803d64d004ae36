"""Whether a service with a damaged model answers by its fallback, tried with a copy."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nic_ray.acceptance.starting import Start
from nic_ray.bundle.golden import LEAST_COSINE, cosines_of
from nic_ray.bundle.golden_texts import PLAIN_QUERIES
from nic_ray.bundle.names import WEIGHTS
from nic_ray.bundle.served import Asking, RefusedError, embedded, reached, version_of
from nic_ray.bundle.served_verification import endpoint_of
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import JsonObject, StoredMetadata
from nic_ray.model import base


@dataclass(frozen=True)
class FallbackOutcome:
    """What a service did with a damaged copy of a bundle."""

    damage: str
    version: JsonObject
    """What it said of itself."""
    lowest_cosine: float | None
    """Of its vectors with the base model's; None if it gave none."""
    faults: list[str]


def tried_fallback(folder: Path, metadata: StoredMetadata, start: Start) -> FallbackOutcome:
    """Start a service with a copy of a bundle whose weights are damaged, and the base model as its fallback.

    Raises:
        InputError: the base model is not available.
    """
    base_model = metadata["base_model"]
    # with the prompts of its author, as a service loads it that cannot trust the bundle
    expected = base.load(base_model).model.encode_query(list(PLAIN_QUERIES), show_progress_bar=False)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / folder.resolve().name
        shutil.copytree(folder, copy)
        damage = _damage(copy)
        try:
            with start(copy, base_model) as url, reached(endpoint_of(url, metadata["name"])) as server:
                version = version_of(server)
                vectors = embedded(server, PLAIN_QUERIES, Asking("query"))
        except (InputError, RunError, RefusedError) as error:
            return FallbackOutcome(damage, {}, None, [f"the service did not answer: {error}"])
    lowest = None
    faults = []
    if vectors.shape == expected.shape:
        lowest = float(np.nan_to_num(cosines_of(vectors, expected), nan=-1).min())
    if lowest is None or lowest < LEAST_COSINE["fp32"]:
        faults.append(
            f"its vectors are not those of {base_model}" + ("" if lowest is None else f" (cosine {lowest:.4f})")
        )
    if version.get("fallback") is not True:
        faults.append(f"/version does not say that the fallback is served, but fallback: {version.get('fallback')}")
    elif not version.get("reason"):
        faults.append("/version does not say why the fallback is served")
    return FallbackOutcome(damage, version, lowest, faults)


def _damage(folder: Path) -> str:
    """Turn one bit in the middle of a bundle's weights."""
    path = next(iter(sorted(folder.glob(WEIGHTS))), None) or next(iter(sorted(folder.rglob("*.safetensors"))))
    with path.open("r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        (byte,) = file.read(1)
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    return f"one bit of {path.relative_to(folder)} turned"
