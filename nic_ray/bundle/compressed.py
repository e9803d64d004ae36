"""What smaller embeddings cost: fewer dimensions, or 8 bits or 1 bit for each, as a vector index would keep them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.pairs import Collection
from nic_ray.errors import InputError
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model.evaluation import Asked, query_scores

Precision = Literal["float32", "int8", "binary"]


@dataclass(frozen=True)
class Compressed:
    """The quality of embeddings of one size."""

    dimensions: int
    precision: Precision
    bytes: int
    """Of one embedding."""
    metrics: dict[str, float]
    """As `ranking.flat_metrics`."""


def parse_precisions(names: str | None) -> list[Precision]:
    """Parse a list of precisions with commas between them; float32 comes first in any case.

    Raises:
        InputError: there is no such precision.
    """
    known = get_args(Precision)
    asked = [] if names is None else [name.strip() for name in names.split(",")]
    if wrong := [name for name in asked if name not in known]:
        raise InputError(f"--precision: {', '.join(wrong)}: no such precision; want {', '.join(known)}, by commas")
    return [name for name in known if name == "float32" or name in asked]


def parse_dimensions(numbers: str | None) -> list[int]:
    """Parse a list of numbers of dimensions with commas between them.

    Raises:
        InputError: something is no number above 0.
    """
    parts = [] if numbers is None else [part.strip() for part in numbers.split(",")]
    if wrong := [part for part in parts if not part.isdigit() or int(part) == 0]:
        raise InputError(
            f"--dimensions: want whole numbers above 0, by commas, such as 256,128; got {', '.join(wrong)}"
        )
    return [int(part) for part in parts]


def results_by_size(asked: Asked, dimensions: Sequence[int], precisions: Sequence[Precision]) -> list[Compressed]:
    """Evaluate embeddings at several sizes.

    Args:
        asked: what a model makes of the texts.
        dimensions: numbers of leading dimensions, besides all of them.
        precisions: from `parse_precisions`.

    Returns:
        all dimensions first, each in all precisions.

    Raises:
        InputError: the model has no more dimensions than are asked for.
    """
    width = asked.embeddings.shape[1]
    if wrong := [number for number in dimensions if number >= width]:
        raise InputError(f"--dimensions: must be fewer than the {width} of the model, got {', '.join(map(str, wrong))}")
    return [
        _scored(asked.embeddings[:, :size], precision, asked.texts, asked.collection, asked.rows)
        for size in (width, *sorted(dimensions, reverse=True))
        for precision in precisions
    ]


def _scored(
    embeddings: NDArray[np.float32],
    precision: Precision,
    texts: NDArray[np.int64],
    collection: Collection,
    rows: Sequence[int],
) -> Compressed:
    """Score embeddings that are cut off already: (n, D), of any length."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    in_corpus = np.isin(texts, collection.corpus)
    asked = Asked(_kept(unit, precision, in_corpus), texts, collection, rows, "dot")
    size = {"float32": 4.0, "int8": 1.0, "binary": 1 / 8}[precision] * unit.shape[1]
    domains = [collection.domains[row] for row in rows]
    return Compressed(unit.shape[1], precision, int(np.ceil(size)), flat_metrics(query_scores(asked), domains))


def _kept(unit: NDArray[np.float32], precision: Precision, in_corpus: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return embeddings as an index keeps them and compares them, by the dot product.

    In 8 bits each dimension has the range of the corpus. With 1 bit a dimension counts by its sign, and the dot product
    ranks as the number of equal signs does.
    """
    from sentence_transformers.util.quantization import quantize_embeddings

    if precision == "float32":
        return unit
    if precision == "binary":
        bits = quantize_embeddings(unit, precision="ubinary")
        return np.unpackbits(bits, axis=1)[:, : unit.shape[1]].astype(np.float32) * 2 - 1
    codes: NDArray[np.int8] = quantize_embeddings(unit, precision="int8", calibration_embeddings=unit[in_corpus])
    return codes.astype(np.float32)
