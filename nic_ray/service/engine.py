"""What turns texts into embeddings: an exported model in PyTorch, or its ONNX graph, whichever is measured faster."""

import functools
import importlib.util
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from nic_ray.bundle import files as bundles
from nic_ray.bundle.golden import LEAST_COSINE, Golden, golden_faults
from nic_ray.bundle.names import WEIGHTS
from nic_ray.bundle.onnx import embedder
from nic_ray.errors import InputError
from nic_ray.evidence import StoredMetadata
from nic_ray.model import base
from nic_ray.service.kept import own_folder
from nic_ray.tokens import Prompts, prompts_of

log = logging.getLogger("nic_ray.service")

Form = Literal["torch", "onnx", "int8"]
GRAPHS: tuple[Form, ...] = ("int8", "onnx")
"""The forms that `nic_ray.convert` writes beside an exported folder."""
TIMED = 60
"""Number of queries by which engines are timed, after a tenth as many to warm up."""
BATCH = 64
TYPICAL = "How often must the hydraulic oil and the return line filter be changed?"


@dataclass(frozen=True)
class Engine:
    """A model that is ready to embed texts."""

    form: Form
    embed_queries: Callable[[Sequence[str]], NDArray[np.float32]]
    """(n, D) embeddings of n queries, as `encode_query` of the exported folder gives them."""
    embed_passages: Callable[[Sequence[str]], NDArray[np.float32]]
    """(n, D) embeddings of n passages, as `encode_document` gives them."""
    count_tokens: Callable[[Sequence[str], bool], list[int]]
    """Number of tokens of each text with its prompt, uncut; the second argument says whether they are queries."""
    dimensions: int
    max_tokens: int
    """Texts with more tokens are cut off there."""
    prompts: Prompts
    two_sided: bool
    """Whether a text has one embedding as a query and another as a passage."""
    similarity: str
    """Name of the model's similarity function."""
    milliseconds: Mapping[Form, float] = field(default_factory=dict)
    """Median time of a query in each form that was tried; empty if there was nothing to choose from."""


def torch_engine(model: SentenceTransformer) -> Engine:
    """Return the engine of a loaded model, in the format and on the device that it was loaded to."""
    prompts = prompts_of(model.prompts, model.default_prompt_name)

    def embed(encode: Callable[..., object], texts: Sequence[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(encode(list(texts), batch_size=BATCH, show_progress_bar=False), np.float32)

    dimensions, limit = model.get_embedding_dimension(), model.max_seq_length
    assert dimensions is not None
    assert limit is not None  # a model without a tokenizer is not loaded
    return Engine(
        "torch",
        functools.partial(embed, model.encode_query),
        functools.partial(embed, model.encode_document),
        # a tokenizer of its own: that of the model is set anew by each call, perhaps in another thread
        _counter(Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str()), prompts),
        dimensions,
        limit,
        prompts,
        prompts.query != prompts.passage or type(model[0]).__name__ == "Router",
        model.similarity_fn_name or "cosine",
    )


def graph_engine(folder: Path, form: Form, reference: Engine, *, threads: int) -> Engine:
    """Return the engine of a converted folder.

    Args:
        reference: that of the model that it was converted from.
        threads: number of threads that compute.

    Raises:
        InputError: the folder is damaged, or onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise InputError(
            f"{folder}: needs onnxruntime; install it with: pip install -c constraints.txt -e '.[onnx]', or serve with "
            "--format torch"
        )
    if faults := bundles.find_faults(folder):
        raise InputError(f"{folder}: {'; '.join(faults[:3])}; convert the model again")
    run, prompts = embedder(folder, threads=threads), reference.prompts
    return Engine(
        form,
        lambda texts: run([prompts.query + text for text in texts]),
        lambda texts: run([prompts.passage + text for text in texts]),
        reference.count_tokens,
        reference.dimensions,
        reference.max_tokens,
        prompts,
        reference.two_sided,
        reference.similarity,
    )


def engine_of(folder: Path, form: Form | Literal["auto"], golden: Golden | None, *, threads: int) -> Engine:
    """Load a verified bundle in the form that was asked for, or in the fastest that is there.

    Converted folders are those that `nic_ray.convert` writes beside the bundle: BUNDLE-onnx and BUNDLE-int8.

    Args:
        form: "auto" times the model and each converted folder of it on single queries.
        golden: what the model gave for some texts when it was exported; a form that differs is not used. None checks
            nothing.
        threads: number of threads that compute.

    Raises:
        InputError: the bundle is not sound, or not in that form, or does not give the golden vectors.
    """
    torch.set_num_threads(threads)
    reference = torch_engine(bundles.load(folder))
    metadata, offered = bundles.read_metadata(folder), [reference]
    _refuse_other(folder, reference, golden)
    for name in GRAPHS:
        converted = folder.with_name(f"{folder.name}-{name}")
        if form == name or (form == "auto" and _is_of(converted, metadata)):
            try:
                if not _is_of(converted, metadata):
                    raise InputError(
                        f"{converted}: holds no graph of {folder}; make it with: python -m nic_ray.convert {folder} "
                        f"--format {name}"
                    )
                engine = graph_engine(converted, name, reference, threads=threads)
                _refuse_other(converted, engine, golden)
            except InputError as error:
                if form == name:
                    raise
                log.warning("%s is not used: %s", converted, error)
            else:
                offered.append(engine)
    if form != "auto":
        return next(engine for engine in offered if engine.form == form)
    return _fastest(offered)


def same_engine(folder: Path, golden: Golden | None, *, weights: str, threads: int) -> Engine:
    """Load a verified bundle in its fastest form, the same in all processes of this machine, now and later.

    Which one it is is measured once and kept: vectors of several forms differ a little, and measuring takes seconds.

    Args:
        weights: hash of the model's weights, by which the choice is recognised.

    Raises:
        InputError: as for `engine_of`.
    """
    try:
        offered = [form for form in GRAPHS if folder.with_name(f"{folder.name}-{form}").exists()]
        path = own_folder() / "-".join([weights[:32], str(threads), *offered, "form"])
        with FileLock(f"{path}.lock"):
            known = path.read_text(encoding="utf-8") if path.exists() else ""
            for form in ("torch", *GRAPHS):
                if form == known:
                    with suppress(InputError):  # a folder that has gone since
                        return engine_of(folder, form, golden, threads=threads)
            engine = engine_of(folder, "auto", golden, threads=threads)
            path.write_text(engine.form, encoding="utf-8")
            return engine
    except OSError as error:
        log.warning("which form is fastest is not kept for the next start: %s", error)
        return engine_of(folder, "auto", golden, threads=threads)


def fallback_engine(name: str, *, threads: int) -> tuple[Engine, str]:
    """Load a base model to be served in the place of a bundle that is not sound.

    Returns:
        its engine, and the hash of its weights.

    Raises:
        InputError: it cannot be loaded.
    """
    torch.set_num_threads(threads)
    encoder = base.load(name)
    return torch_engine(encoder.model), encoder.weights_sha256


def _refuse_other(place: Path, engine: Engine, golden: Golden | None) -> None:
    if golden is None:
        return
    least = LEAST_COSINE["int8" if engine.form == "int8" else "fp32"]
    faults = golden_faults(engine.embed_queries, engine.embed_passages, golden, least)
    if faults:
        raise InputError(
            f"{place}: does not give the embeddings that it was exported with ({'; '.join(faults[:2])}); look at the "
            "installed versions, or export the model again"
        )


def _is_of(converted: Path, metadata: StoredMetadata) -> bool:
    """Whether a folder holds a graph of a model, by the hash of its weights."""
    with suppress(InputError):
        source = bundles.read_metadata(converted).get("converted_from")
        return isinstance(source, Mapping) and source.get("weights_sha256") == metadata["files"].get(WEIGHTS)
    return False


def _fastest(engines: Sequence[Engine]) -> Engine:
    """The engine with the lowest median time for one query; they take turns, so that a busy moment affects them all."""
    if len(engines) == 1:
        return engines[0]
    taken: dict[Form, list[float]] = {engine.form: [] for engine in engines}
    for number in range(TIMED + TIMED // 10):
        for engine in engines:
            started = time.perf_counter()
            engine.embed_queries([TYPICAL])
            if number >= TIMED // 10:
                taken[engine.form].append(1000 * (time.perf_counter() - started))
    medians = {form: round(float(np.median(times)), 2) for form, times in taken.items()}
    return replace(min(engines, key=lambda engine: medians[engine.form]), milliseconds=medians)


def _counter(tokenizer: Tokenizer, prompts: Prompts) -> Callable[[Sequence[str], bool], list[int]]:
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str], is_query: bool) -> list[int]:
        prompt = prompts.before(is_query=is_query)
        return [len(encoding.ids) for encoding in tokenizer.encode_batch([prompt + text for text in texts])]

    return count
