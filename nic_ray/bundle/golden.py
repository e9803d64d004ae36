"""The golden vectors of a bundle: what its model makes of a few texts, to be compared with what is served.

Hashes tell that the files are those that were exported. Only vectors tell that whoever runs them, be it another version
of a library, another processor or another server, embeds as the exported model did: the same tokens, prompts and
truncation, and the same arithmetic.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from typing_extensions import TypedDict

from nic_ray.bundle.golden_texts import golden_texts
from nic_ray.bundle.names import GOLDEN_TEXTS, GOLDEN_VECTORS
from nic_ray.errors import InputError, RunError
from nic_ray.stored import read_object
from nic_ray.tokens import prompts_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts of one role, without prompts -> their (n, D) embeddings."""

LEAST_COSINE: Mapping[str, float] = {"fp32": 0.9999, "int8": 0.999}
"""Lowest cosine allowed between a vector and the stored one, by the precision that the model is run in."""
SHOWN = 60
"""Characters of a text that a fault repeats."""
_WAY_OUT = "export the model again"


class StoredGolden(TypedDict):
    """golden.json; the rows of the vectors are in the order of the texts."""

    query: Sequence[str]
    document: Sequence[str]
    prompts: Mapping[str, str]
    """"query" and "document" -> prompt that the model was given before such a text."""
    max_tokens: int | None
    """Number of tokens at which the model cuts texts off; None if it does not."""


@dataclass(frozen=True)
class Golden:
    """Texts, and the embeddings that the exported model has of them in fp32 on a CPU."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    query_vectors: NDArray[np.float32]
    """(Q, D), as `encode_query` gives them, of whatever length they are."""
    document_vectors: NDArray[np.float32]
    """(P, D), as `encode_document` gives them."""
    prompts: Mapping[str, str]
    """"query" and "document" -> prompt that the model puts before such a text; the texts here lack it."""
    max_tokens: int | None
    """Number of tokens at which the model cuts texts off; None if it does not."""


def made_golden(model: "SentenceTransformer") -> Golden:
    """Embed the golden texts with a model, in fp32 on its CPU; the model itself stays as it is.

    Raises:
        RunError: an embedding holds NaN or infinity.
    """
    import torch

    if any(value.dtype != torch.float32 for value in model.parameters() if value.is_floating_point()):
        model = copy.deepcopy(model).float()
    queries, documents = golden_texts()
    # one text at a time: padding changes the last bits
    query_vectors = model.encode_query(list(queries), batch_size=1, show_progress_bar=False)
    document_vectors = model.encode_document(list(documents), batch_size=1, show_progress_bar=False)
    for texts, vectors in ((queries, query_vectors), (documents, document_vectors)):
        for text, vector in zip(texts, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise RunError(f"the model's embedding of {_cut(text)} holds NaN or infinity; do not export this model")
    before = prompts_of(model.prompts, model.default_prompt_name)
    prompts = {"query": before.query, "document": before.passage}
    return Golden(queries, documents, query_vectors, document_vectors, prompts, model.max_seq_length)


def store_golden(folder: Path, golden: Golden) -> None:
    """Write golden texts and vectors into a folder.

    Raises:
        OSError: it cannot be written.
    """
    stored: StoredGolden = {
        "query": golden.queries,
        "document": golden.documents,
        "prompts": golden.prompts,
        "max_tokens": golden.max_tokens,
    }
    (folder / GOLDEN_TEXTS).write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    vectors = {"query": golden.query_vectors, "document": golden.document_vectors}
    (folder / GOLDEN_VECTORS).write_bytes(
        save_arrays({role: np.ascontiguousarray(values, np.float32) for role, values in vectors.items()})
    )


def write_golden(folder: Path, model: "SentenceTransformer") -> None:
    """Embed the golden texts with a model, and write both into a folder.

    Raises:
        RunError: an embedding holds NaN or infinity.
        OSError: the folder cannot be written.
    """
    store_golden(folder, made_golden(model))


def read_golden(folder: Path) -> Golden | None:
    """Read the golden texts and vectors of a bundle; None if it was exported by a version that wrote none.

    Raises:
        InputError: one of the two files is missing, or they are damaged or do not belong together.
    """
    texts, vectors = folder / GOLDEN_TEXTS, folder / GOLDEN_VECTORS
    if not (texts.exists() or vectors.exists()):
        return None
    stored = read_object(texts, StoredGolden, absent=f"{texts}: is missing or not JSON; {_WAY_OUT}", way_out=_WAY_OUT)
    try:
        arrays = load_arrays(vectors.read_bytes())
        values = {role: arrays[role].astype(np.float32) for role in ("query", "document")}
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{vectors}: cannot be read ({error}); {_WAY_OUT}") from None
    counts = {"query": len(stored["query"]), "document": len(stored["document"])}
    shapes = {role: array.shape for role, array in values.items()}
    if any(len(shape) != 2 or shape[0] != counts[role] for role, shape in shapes.items()) or (
        len({shape[1] for shape in shapes.values()}) != 1
    ):
        raise InputError(f"{vectors}: arrays of shape {shapes}, want a row for each of {counts} texts; {_WAY_OUT}")
    return Golden(
        tuple(stored["query"]),
        tuple(stored["document"]),
        values["query"],
        values["document"],
        stored["prompts"],
        stored["max_tokens"],
    )


def golden_faults(embed_query: Embed, embed_document: Embed, golden: Golden, least: float) -> list[str]:
    """Compare what embeds with the golden vectors; one line for each role that differs, empty if none does.

    Args:
        embed_query, embed_document: called once each, with all golden texts of that role, without prompts.
        least: lowest cosine allowed, such as one of `LEAST_COSINE`.
    """
    faults = []
    for role, embed, texts, expected in (
        ("queries", embed_query, golden.queries, golden.query_vectors),
        ("passages", embed_document, golden.documents, golden.document_vectors),
    ):
        vectors = np.asarray(embed(texts))
        if vectors.shape != expected.shape:
            faults.append(f"golden {role}: vectors of shape {vectors.shape}, want {expected.shape}")
            continue
        cosines = cosines_of(vectors, expected)
        wrong = ~(cosines >= least)
        if wrong.any():
            worst = int(np.argmin(np.nan_to_num(cosines, nan=-2.0)))
            faults.append(
                f"golden {role}: {int(wrong.sum())} of {len(texts)} vectors are not those of the exported model; that "
                f"of {_cut(texts[worst])} has a cosine of {cosines[worst]:.6f} with it, want {least} at least"
            )
    return faults


def cosines_of(vectors: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) cosines of the rows of two (n, D) arrays; NaN where a row holds NaN or infinity, or is zero."""
    a, b = np.asarray(vectors, np.float64), np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cosines: NDArray[np.float64] = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines


def _cut(text: str) -> str:
    shown = " ".join(text.split())
    return f'"{shown if len(shown) <= SHOWN else shown[: SHOWN - 2] + " …"}"'
