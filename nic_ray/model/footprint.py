"""What a base model costs where it is deployed: its size, and the time that it takes to embed a query."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nic_ray.model.encoder import Encoder

TIMED = 20
"""Number of queries that are embedded, one at a time."""
WARM_UP = 3
"""Number of queries before those, which also allocate memory."""
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a parameter by number format."""


@dataclass(frozen=True)
class Footprint:
    """The size and the speed of a base model."""

    parameters: int
    dimensions: int
    """Of an embedding."""
    blocks: int
    mib: float
    """Size of the weights in MiB, in the number format that they are stored in."""
    ms_per_query: float
    """Median time in milliseconds to embed a query alone, on this machine's CPUs."""


def footprint(encoder: Encoder, queries: Sequence[str]) -> Footprint:
    """Measure a base model by Sentence Transformers' own `encode_query`, on the CPUs.

    Args:
        queries: at least one; repeated if there are fewer than are timed.
    """
    parameters = sum(value.numel() for value in encoder.model.parameters())
    seconds = []
    for number in range(WARM_UP + TIMED):
        began = time.perf_counter()
        encoder.model.encode_query([queries[number % len(queries)]], show_progress_bar=False)
        seconds.append(time.perf_counter() - began)
    return Footprint(
        parameters=parameters,
        dimensions=encoder.model.get_embedding_dimension() or 0,
        blocks=encoder.blocks,
        mib=parameters * BYTES[encoder.stored_in] / 2**20,
        ms_per_query=1000 * float(np.median(seconds[WARM_UP:])),
    )
