"""Frozen activations within a budget: computed once, kept on disk between runs, held in memory where they fit."""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nic_ray.config import ActivationsConfig
from nic_ray.model.activations import Inputs, run_chain
from nic_ray.model.cut import Lower, placed
from nic_ray.model.encoder import Encoder, lower
from nic_ray.progress import View

log = logging.getLogger("nic_ray.cache")

FOLDER = ".activations"
FORMAT = 1
SHARD_TOKENS = 200_000
"""Tokens whose outputs are held at once while they are computed: 300 MB per depth at width 384 in fp32."""

DRAFT_S = 3600
"""Age in seconds after which an unfinished file is assumed to belong to a run that died."""

Chain = Callable[[Sequence[Lower], Sequence[Inputs]], Iterator[list[NDArray[Any]]]]
"""Function that runs blocks over shards; it yields for each shard, in order, the values after each `Lower`."""


@dataclass(frozen=True)
class Budget:
    """Space for activations in memory and on disk, in bytes, and the folder where they are kept."""

    memory: float
    disk: float
    folder: Path
    others: frozenset[Path] = frozenset()
    """Files that are needed although `inputs_by_depth` is not asked for them; `disk` is without their space."""


def budget(config: ActivationsConfig, runs: Path) -> Budget:
    """Return the configured budget; the files lie beside the run folders, so that the next run finds them."""
    return Budget(config.memory_budget_gib * 2**30, config.disk_budget_gib * 2**30, (runs / FOLDER).resolve())


@dataclass(frozen=True)
class StoredInputs:
    """Inputs that are stored in a file and read in place."""

    path: Path
    offsets: NDArray[np.int64]
    depth: int
    unpooled: NDArray[np.int64] | None = None
    fixed: NDArray[np.float32] | None = None


def opened(inputs: Inputs | StoredInputs) -> Inputs:
    """Return inputs as arrays; stored ones are memory-mapped rather than read."""
    if isinstance(inputs, Inputs):
        return inputs
    return Inputs(np.load(inputs.path, mmap_mode="r"), inputs.offsets, inputs.depth, inputs.unpooled, inputs.fixed)


@dataclass(frozen=True)
class Layout:
    """Where the activations of a run are kept, for all depths that the run asks for."""

    wanted: Sequence[int]
    """Depths that have activations, in descending order of priority."""
    cached: Sequence[int]
    """The wanted depths for which there is room."""
    in_memory: int
    """Number of cached depths, counted from the first, that are held in memory."""
    files: dict[int, Path]
    """Files of the cached depths that are kept on disk, by depth."""
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    """(T, W) of one depth: number of tokens of all texts, and width."""

    @property
    def size(self) -> int:
        """Size of one depth's activations in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def layout_of(encoder: Encoder, tokens: Inputs, depths: Sequence[int], room: Budget, *, bf16: bool) -> Layout:
    """Plan where `inputs_by_depth` keeps activations; nothing is computed, read or written.

    Args:
        tokens, depths, room: as for `inputs_by_depth`.
        bf16: whether 16 bits per value are kept instead of 32.
    """
    wanted = [depth for depth in depths if depth > 0] if encoder.can_be_cut else []
    dtype = np.dtype(np.uint16 if bf16 else np.float32)
    if not wanted:
        return Layout([], [], 0, {}, dtype, (len(tokens.values), 0))
    shape = (len(tokens.values), int(encoder.transformer.config.hidden_size))  # type: ignore[union-attr, arg-type]
    size = math.prod(shape) * dtype.itemsize
    in_memory, on_disk = int(room.memory // size), int(room.disk // size)
    cached = wanted[: max(in_memory, on_disk)]
    files = {depth: _file(room.folder, encoder, tokens, depth, dtype) for depth in cached[:on_disk]}
    return Layout(wanted, cached, min(in_memory, len(cached)), files, dtype, shape)


def what_is_left(room: Budget, layout: Layout) -> Budget:
    """Return the space that the activations of one base model leave for those of another."""
    memory, disk = room.memory - layout.in_memory * layout.size, room.disk - len(layout.files) * layout.size
    return replace(room, memory=memory, disk=disk, others=room.others | set(layout.files.values()))


def inputs_by_depth(
    encoder: Encoder,
    tokens: Inputs,
    depths: Sequence[int],
    room: Budget,
    *,
    bf16: bool,
    chain: Chain,
    view: View,
) -> dict[int, Inputs | StoredInputs]:
    """Return the inputs of the trained part at each depth: activations, or token ids where there are none.

    Token ids are used at depth 0, for an encoder that cannot be cut, and for a depth that fits into neither budget.

    Args:
        tokens: token ids of all texts.
        depths: values of frozen_layers in descending order of priority: the first ones are held in memory.
        room: memory holds as many depths as fit; the rest is mapped from disk. Files that this run does not use are
            removed to make room, the longest unused first.
        chain: runs the frozen blocks.
        view: shows the user what is computed and where it is kept.
    """
    inputs: dict[int, Inputs | StoredInputs] = {depth: replace(tokens, depth=depth) for depth in depths}
    layout = layout_of(encoder, tokens, depths, room, bf16=bf16)
    if not layout.wanted:
        return inputs
    cached, in_memory, files = layout.cached, layout.in_memory, layout.files
    here = {depth: path for depth, path in files.items() if _is_sound(path, layout.shape, layout.dtype)}
    _make_room(room, keep=set(files.values()), needed=layout.size * (len(files) - len(here)))
    inputs |= {depth: StoredInputs(path, tokens.offsets, depth, tokens.unpooled) for depth, path in here.items()}
    missing = sorted(set(cached) - here.keys())
    if missing:
        what = f"computing the output of the frozen blocks at depth {', '.join(map(str, missing))}"
        with view.work(what, len(tokens.offsets) - 1) as done:
            inputs |= _compute(encoder, tokens, missing, inputs, layout, chain, done)
    for depth in cached[:in_memory]:
        inputs[depth] = _read(inputs[depth])
    gib = layout.size / 2**30
    for names, where in (
        (cached[:in_memory], f"in memory ({gib:.2f} GiB each)"),
        (cached[in_memory:], f"mapped from {room.folder} ({gib:.2f} GiB each)"),
        (layout.wanted[len(cached) :], "not kept: beyond the budget, so the frozen blocks run in every step"),
    ):
        if names:
            view.say(f"activations at depth {', '.join(map(str, sorted(names)))}: {where}")
    return inputs


def is_kept(encoder: Encoder, tokens: Inputs, depths: Sequence[int], room: Budget, *, bf16: bool) -> bool:
    """Whether every depth that `inputs_by_depth` would cache has its file, which may still turn out to be damaged."""
    layout = layout_of(encoder, tokens, depths, room, bf16=bf16)
    return all(depth in layout.files and layout.files[depth].exists() for depth in layout.cached)


def run_here(device: str, *, bf16: bool) -> Chain:
    """Return a `Chain` that runs in this process."""

    def chain(blocks: Sequence[Lower], shards: Sequence[Inputs]) -> Iterator[list[NDArray[Any]]]:
        blocks = [placed(block, device) for block in blocks]  # once for all shards
        for shard in shards:
            yield run_chain(blocks, shard, device=device, bf16=bf16)

    return chain


def kept(folder: Path | None, key: str, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return values from the file of an earlier run, or compute them and keep them for the next one.

    Args:
        folder: where activations are kept; None to keep nothing.
        key: what the values depend on.
    """
    if folder is None:
        return compute()
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}-values.npy"
    if _has_its_sum(path):
        with contextlib.suppress(OSError):  # it is only read
            os.utime(path)
        return np.load(path)  # type: ignore[no-any-return]
    values, draft = compute(), path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                np.save(file, values)
            _keep(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:  # a full disk, or a folder that others own: it costs the next search some seconds
        log.info("%s: not kept (%s)", path, error.strerror)
    return values


def _compute(
    encoder: Encoder,
    tokens: Inputs,
    missing: Sequence[int],
    inputs: dict[int, Inputs | StoredInputs],
    layout: Layout,
    chain: Chain,
    done: Callable[[int], None],
) -> dict[int, Inputs | StoredInputs]:
    below = max(
        (depth for depth, kept in inputs.items() if isinstance(kept, StoredInputs) and depth < missing[0]), default=0
    )
    source = opened(inputs[below]) if below else tokens
    files, shape, dtype = layout.files, layout.shape, layout.dtype
    steps = list(zip([below, *missing], missing, strict=False))
    drafts = {depth: path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp") for depth, path in files.items()}
    if files:
        next(iter(files.values())).parent.mkdir(parents=True, exist_ok=True)
    try:
        values: dict[int, NDArray[Any]] = {
            depth: _new_file(drafts[depth], dtype, shape) if depth in drafts else np.empty(shape, dtype)
            for depth in missing
        }
        bounds = _shards(source)
        at = 0
        shards = chain([lower(encoder, *step) for step in steps], [_part(source, *limits) for limits in bounds])
        for (start, stop), outputs in zip(bounds, shards, strict=True):
            for depth, output in zip(missing, outputs, strict=True):
                values[depth][at : at + len(output)] = output
            at += len(outputs[0])
            done(stop - start)
        for depth in missing:
            if depth in drafts:
                values[depth].flush()  # type: ignore[attr-defined]
                _keep(drafts[depth], files[depth])
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    return {
        depth: StoredInputs(files[depth], tokens.offsets, depth, tokens.unpooled)
        if depth in files
        else replace(tokens, values=values[depth], depth=depth)
        for depth in missing
    }


def _new_file(path: Path, dtype: np.dtype[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Create a memory-mapped file with its disk space allocated.

    Without that, writing to the mapped file on a full disk would kill the process.

    Raises:
        OSError: there is not enough disk space.
    """
    values = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return values


def _shards(inputs: Inputs) -> list[tuple[int, int]]:
    """Ranges of texts with at most about `SHARD_TOKENS` tokens each; at least two where there is work for two."""
    total = int(inputs.offsets[-1])
    count = max(1, -(-total // SHARD_TOKENS), min(2, total // 1000))
    marks = np.searchsorted(inputs.offsets, np.linspace(0, total, count + 1))
    return [(int(start), int(stop)) for start, stop in itertools.pairwise(marks) if stop > start]


def _part(inputs: Inputs, start: int, stop: int) -> Inputs:
    offsets = inputs.offsets[start : stop + 1]
    unpooled = None if inputs.unpooled is None else inputs.unpooled[start:stop]
    values = inputs.values[offsets[0] : offsets[-1]]
    return replace(inputs, values=values, offsets=offsets - offsets[0], unpooled=unpooled)


def _file(folder: Path, encoder: Encoder, tokens: Inputs, depth: int, dtype: np.dtype[Any]) -> Path:
    """A path unique to its content: to weights, token ids (hence texts and tokenizer), depth and format."""
    digest = hashlib.sha256(f"{FORMAT} {encoder.weights_sha256} {depth} {dtype}".encode())
    digest.update(tokens.values.tobytes())
    digest.update(tokens.offsets.tobytes())
    return folder / f"{digest.hexdigest()[:32]}-depth{depth}.npy"


def _keep(draft: Path, path: Path) -> None:
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    # the checksum is written first: a reader that finds the file without its checksum takes it for damaged
    path.with_suffix(".json").write_text(json.dumps({"sha256": digest}), encoding="utf-8")
    draft.replace(path)


def _is_sound(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> bool:
    """Whether a file holds what was written to it; a damaged file is removed."""
    sound = _has_its_sum(path)
    if sound:
        values = np.load(path, mmap_mode="r")
        sound = (values.shape, values.dtype) == (shape, dtype)
    if sound:
        os.utime(path)
    else:
        _remove(path)
    return sound


def _has_its_sum(path: Path) -> bool:
    """Whether a file is there and has the checksum that was written beside it."""
    try:
        expected: str = json.loads(path.with_suffix(".json").read_bytes())["sha256"]
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == expected
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make_room(room: Budget, *, keep: set[Path], needed: float) -> None:
    for draft in room.folder.glob(".*.tmp"):
        if draft.stat().st_mtime < time.time() - DRAFT_S:
            draft.unlink(missing_ok=True)
    found = set(room.folder.glob("*.npy")) - room.others
    used = sum(path.stat().st_size for path in found)
    for path in sorted(found - keep, key=lambda path: path.stat().st_mtime):
        if used + needed <= room.disk:
            return
        used -= path.stat().st_size
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)


def _read(inputs: Inputs | StoredInputs) -> Inputs:
    if isinstance(inputs, Inputs):
        return inputs
    return Inputs(np.load(inputs.path), inputs.offsets, inputs.depth, inputs.unpooled)
