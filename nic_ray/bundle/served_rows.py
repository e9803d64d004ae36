"""The rows of a file of pairs, embedded by a server and scored as any model is."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.bundle.noted import noted_reading
from nic_ray.bundle.rows import chosen_rows, data_for, domains_of, form_on, queries_of, split_on, split_sha256_on
from nic_ray.bundle.served import BATCH, RefusedError, Role, Server
from nic_ray.bundle.served_prompts import Way, embed_served
from nic_ray.bundle.wanted import other_corpus
from nic_ray.dataset.pairs import Collection, read_pairs
from nic_ray.errors import RunError
from nic_ray.evidence import StoredMetadata
from nic_ray.metrics.intervals import Queries
from nic_ray.model.evaluation import Asked, texts_to_score
from nic_ray.progress import View
from nic_ray.sources import Sources

AT_ONCE = 2
"""Requests that are on their way at once."""


@dataclass(frozen=True)
class Rows:
    """Test rows of some pairs, and what is known of them."""

    collection: Collection
    rows: list[int]
    queries: Queries
    own: bool
    """Whether the model was trained on these pairs, so that its split is known and its figures are of these rows."""
    warnings: list[str]


def held_back_rows(folder: Path, metadata: StoredMetadata, pairs: Sources, command: str) -> Rows:
    """Read the test rows of a bundle's pairs, or of others by the default split, and record that they are read.

    Raises:
        InputError: the pairs cannot be used.
    """
    read = read_pairs(pairs, domains_of(metadata), form_on(metadata, pairs))
    data = data_for(metadata, pairs, "test", folder)
    collection, rows = chosen_rows(read, "test", data, split_sha256_on(metadata, pairs))
    own = split_on(metadata, pairs) is not None
    warnings = [*noted_reading(str(folder), metadata, "test", command)] if own else []
    warnings += other_corpus(str(folder), metadata, None) if own else ()
    return Rows(collection, rows, queries_of(collection, rows), own, warnings)


def asked_of_server(
    server: Server, way: Way, prompts: Mapping[str, str], rows: Rows, view: View, what: str = "the test rows"
) -> Asked:
    """Embed the queries of rows and the whole corpus by a server.

    Args:
        server, way, prompts: as for `embed_served`.
        rows: the rows.
        view: shows the progress.
        what: what is embedded, for the line of progress.

    Raises:
        InputError, RunError: as `served.embedded`.
    """
    collection = rows.collection
    numbers = texts_to_score(collection, rows.rows)
    with view.work(f"embedding {what} by {server.endpoint.url}", len(numbers)) as done:
        vectors = _by_role(server, way, prompts, collection, numbers, done)
    return Asked(vectors, numbers, collection, rows.rows, "cosine")


def _by_role(
    server: Server,
    way: Way,
    prompts: Mapping[str, str],
    collection: Collection,
    numbers: NDArray[np.int64],
    done: Callable[[int], None],
) -> NDArray[np.float32]:
    asks = collection.is_query[numbers]
    kinds: tuple[tuple[Role, NDArray[np.int64]], ...] = (
        ("query", np.flatnonzero(asks)),
        ("document", np.flatnonzero(~asks)),
    )
    batches = [
        (role, places[start : start + BATCH].tolist())
        for role, places in kinds
        for start in range(0, len(places), BATCH)
    ]

    def embed(batch: tuple[Role, Sequence[int]]) -> NDArray[np.float32]:
        role, places = batch
        texts = [collection.texts[number] for number in numbers[list(places)].tolist()]
        try:
            return embed_served(server, way, role, texts, prompts)
        except RefusedError as error:
            raise RunError(f"{server.base}: refuses texts of the pairs ({error})") from None

    parts = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for part in pool.map(embed, batches):
            parts.append(part)
            done(len(part))
    order = np.concatenate([places for _, places in batches])
    vectors: NDArray[np.float32] = np.concatenate(parts)[np.argsort(order)]
    return vectors
