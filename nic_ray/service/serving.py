"""One version of a model as it is served: verified, with its index and its detector, or the fallback in its place."""

import asyncio
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray import __version__
from nic_ray.anomaly.windows import parts_of
from nic_ray.bundle import files as bundles
from nic_ray.bundle.assessed import Verdict, verdicts
from nic_ray.bundle.detector import BundleDetector, read_detector, weights_sha256
from nic_ray.bundle.golden import read_golden
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.service.batches import Batcher, Observe
from nic_ray.service.engine import Engine, engine_of, fallback_engine, same_engine
from nic_ray.service.index import Index, index_of
from nic_ray.service.settings import Settings, Version
from nic_ray.sources import Sources, as_sources

log = logging.getLogger("nic_ray.service")

COUNTED_AT_ONCE = 10_000
"""Number of characters whose tokens are counted in less than some milliseconds."""


@dataclass(frozen=True)
class Serving:
    """A loaded version."""

    name: str
    """The name under which clients ask for it, that of the bundle, whatever is served in its place."""
    served: str
    """What computes the embeddings: the bundle's name, or the fallback's."""
    weights_sha256: str | None
    """As of `detector.weights_sha256`; None for a fallback."""
    base_model: str | None
    reason: str | None
    """Why the fallback is served; None if the bundle is."""
    engine: Engine
    dimensions: Sequence[int]
    """Numbers of dimensions that an embedding may be asked for, all of them first."""
    index: Index | None
    detector: BundleDetector | None
    warnings: Sequence[str]
    """What is missing, or not as it should be."""
    reload: int
    """Number of the reload by which it was loaded, as of `Version`."""
    verified: bool
    """Whether the files have the hashes of the export, and the golden texts their vectors."""
    batcher: Batcher


def load_serving(settings: Settings, version: Version, observe: Observe) -> Serving:
    """Load a version of a bundle; where it is not sound, the fallback.

    Args:
        observe: called after each batch, as for `Batcher`.

    Raises:
        InputError: neither can be loaded, or the corpus cannot be read.
    """
    folder = Path(version.bundle)
    try:
        metadata, golden = bundles.read_metadata(folder), read_golden(folder)
        weights = weights_sha256(metadata)
        if settings.form == "auto":
            engine = same_engine(folder, golden, weights=weights, threads=settings.threads)
        else:
            engine = engine_of(folder, settings.form, golden, threads=settings.threads)
    except InputError as error:
        if settings.fallback is None:
            raise
        log.error("%s is served instead of %s: %s", settings.fallback, folder, error)
        return _fallback(settings, version, observe, reason=str(error))
    warnings = []
    if version.weights_sha256 not in (None, weights):
        warnings.append(f"{folder}: holds another version than the one that this reload was asked for")
    if golden is None:
        warnings.append(f"{folder}: was exported without golden texts, so that its vectors could not be verified")
    detector = None
    if settings.anomaly == "flag":
        try:
            detector = read_detector(folder)
        except InputError as error:
            warnings.append(f"queries are not assessed: {error}")
    for line in warnings:
        log.warning("%s", line)
    trained = metadata.get("config", {}).get("train", {}).get("dimensions", ())
    smaller = sorted((int(size) for size in trained if int(size) < engine.dimensions), reverse=True)
    corpus = _corpus(settings)
    return Serving(
        name=metadata["name"],
        served=metadata["name"],
        weights_sha256=weights,
        base_model=metadata["base_model"],
        reason=None,
        engine=engine,
        dimensions=(engine.dimensions, *smaller),
        index=None if corpus is None else index_of(corpus, engine, metadata, weights),
        detector=detector,
        warnings=warnings,
        reload=version.reload,
        verified=golden is not None,
        batcher=batcher_of(engine, observe),
    )


def _fallback(settings: Settings, version: Version, observe: Observe, *, reason: str) -> Serving:
    assert settings.fallback is not None
    folder, corpus = Path(version.bundle), _corpus(settings)
    engine, weights = fallback_engine(settings.fallback, threads=settings.threads)
    try:
        name = bundles.read_metadata(folder)["name"]
    except InputError:
        name = folder.name
    return Serving(
        name=name,
        served=settings.fallback,
        weights_sha256=None,
        base_model=settings.fallback,
        reason=reason,
        engine=engine,
        dimensions=(engine.dimensions,),
        index=None if corpus is None else index_of(corpus, engine, None, weights),
        detector=None,
        warnings=[f"{settings.fallback} is served in place of {folder}: {reason}"],
        reload=version.reload,
        verified=False,
        batcher=batcher_of(engine, observe),
    )


def _corpus(settings: Settings) -> Sources | None:
    return as_sources([Path(place) for place in settings.corpus]) if settings.corpus else None


def described(serving: Serving) -> JsonObject:
    """What `GET /version` answers."""
    return {
        "name": serving.name,
        "served": serving.served,
        "weights_sha256": serving.weights_sha256,
        "base_model": serving.base_model,
        "format": serving.engine.form,
        "milliseconds": serving.engine.milliseconds,
        "dimensions": list(serving.dimensions),
        "max_tokens": serving.engine.max_tokens,
        "fallback": serving.reason is not None,
        "reason": serving.reason,
        "verified": serving.verified,
        "warnings": list(serving.warnings),
        "reload": serving.reload,
        "detector": serving.detector is not None,
        "passages": None if serving.index is None else len(serving.index.passages),
        "ranking": None if serving.index is None else str(serving.index.ranking),
        "caveat": None if serving.index is None else serving.index.caveat,
        "nic_ray": __version__,
        "pid": os.getpid(),
    }


async def embed_and_assess(
    serving: Serving, queries: Sequence[str], tokens: Sequence[int]
) -> tuple[NDArray[np.float32], list[Verdict] | None]:
    """Embed queries, (n, D), and assess them if there is a detector, with all their parts in the same batches."""
    if serving.detector is None:
        return await serving.batcher.embed(queries, tokens, is_query=True), None
    if sum(map(len, queries)) < COUNTED_AT_ONCE:
        parts, counts = _parts_and_tokens(serving.engine, queries)
    else:
        parts, counts = await asyncio.to_thread(_parts_and_tokens, serving.engine, queries)
    limit = serving.engine.max_tokens
    texts = [*queries, *parts]
    embeddings = await serving.batcher.embed(texts, [*tokens, *(min(count, limit) for count in counts)], is_query=True)
    known = dict(zip(texts, embeddings, strict=True))
    detector = serving.detector
    said = await asyncio.to_thread(verdicts, queries, detector, lambda texts: np.stack([known[text] for text in texts]))
    return embeddings[: len(queries)], said


def _parts_and_tokens(engine: Engine, queries: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct parts of queries, beside the queries themselves, and their numbers of tokens."""
    whole = set(queries)
    parts = [*dict.fromkeys(part for query in queries for part in parts_of(query) if part not in whole)]
    return parts, engine.count_tokens(parts, True) if parts else []


class QueryLog:
    """A file that queries are appended to, one JSON object a line, as `python -m nic_ray.anomaly watch` reads it.

    Only its user may read it, if it is not there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._complained = path, threading.Lock(), False

    def write(self, queries: Sequence[str], said: Sequence[Verdict] | None) -> None:
        """Append queries, with what is said of them; a full disk is told in the log, once."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lines = []
        for place, query in enumerate(queries):
            row: dict[str, object] = {"when": now, "query": query}
            if said is not None:
                own = said[place]
                row |= {"flagged": own.flagged, "p_value": own.p_value, "objection": own.objection}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        try:
            content = "".join(lines).encode("utf-8", "backslashreplace")
            # unbuffered: what is appended at once stands together, whichever process writes beside
            with self._lock, open(self._path, "ab", buffering=0, opener=_for_its_user) as file:
                file.write(content)
        except OSError as error:
            if not self._complained:
                log.warning("%s: queries are not written (%s)", self._path, error)
            self._complained = True


def _for_its_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def verdict_fields(verdict: Verdict) -> Mapping[str, object]:
    """A verdict as it is answered, without the query."""
    return {key: value for key, value in asdict(verdict).items() if key != "query"}


def batcher_of(engine: Engine, observe: Observe) -> Batcher:
    """Put a queue in front of an engine, which computes in a thread of its own.

    Args:
        observe: called after each batch, as for `Batcher`.
    """

    def embed_batch(texts: Sequence[str], asks: Sequence[bool]) -> NDArray[np.float32]:
        if not engine.two_sided or all(asks):
            return engine.embed_queries(texts)
        if not any(asks):
            return engine.embed_passages(texts)
        places = np.asarray(asks)
        embeddings = np.empty((len(texts), engine.dimensions), np.float32)
        for selected, by in ((places, engine.embed_queries), (~places, engine.embed_passages)):
            embeddings[selected] = by([texts[place] for place in np.flatnonzero(selected).tolist()])
        return embeddings

    return Batcher(embed_batch, ThreadPoolExecutor(1, thread_name_prefix="embed"), observe=observe)
