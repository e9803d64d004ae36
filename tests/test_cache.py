"""Frozen activations within a budget: what is kept where, for how long, and what is never used."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nic_ray.model import cache
from nic_ray.model.activations import Inputs, frozen_inputs, token_inputs
from nic_ray.model.base import load
from nic_ray.model.cache import Budget, StoredInputs, inputs_by_depth, is_kept, opened, run_here
from nic_ray.model.encoder import Encoder
from nic_ray.progress import Lines, View

PLENTY = 2.0**30
TEXTS = ["my impeller is stuck", "what to do about a noisy rotor?", "replace the pumps gasket when it is leaking."] * 9


@pytest.fixture(scope="module")
def encoder(tiny_model) -> Encoder:
    return load(str(tiny_model(layers=4)))


@pytest.fixture(scope="module")
def tokens(encoder) -> Inputs:
    return token_inputs(encoder, TEXTS, 64)


@pytest.fixture
def compute(encoder, tokens, tmp_path):
    """inputs_by_depth in a folder of the test's own; notes which steps ran and what was said."""
    ran: list[int] = []
    said: list[str] = []

    def chain(blocks: Sequence[Any], shards: Sequence[Inputs]) -> Iterator[list[Any]]:
        ran.append(len(blocks))
        yield from run_here("cpu", bf16=False)(blocks, shards)

    def run(depths: Sequence[int], *, memory: float = PLENTY, disk: float = PLENTY, of: Inputs = tokens) -> Any:
        ran.clear(), said.clear()
        room = Budget(memory, disk, tmp_path / "cache")
        return inputs_by_depth(encoder, of, depths, room, bf16=False, chain=chain, view=Lines(said.append))

    run.ran, run.said, run.folder = ran, said, tmp_path / "cache"
    return run


@pytest.fixture
def size(encoder, tokens) -> int:
    return len(tokens.values) * 32 * 4


def assert_same(found: dict[int, Any], encoder: Encoder, tokens: Inputs) -> None:
    for depth, inputs in found.items():
        expected = frozen_inputs(encoder, tokens, [depth])[depth]
        np.testing.assert_allclose(opened(inputs).values, expected.values, atol=1e-5)
        assert (inputs.depth, opened(inputs).depth) == (depth, depth)
        np.testing.assert_array_equal(opened(inputs).offsets, expected.offsets)


def test_activations_in_shards_are_those_computed_at_once(compute, encoder, tokens, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_TOKENS", 20)
    assert_same(compute([2, 3, 1, 0]), encoder, tokens)
    assert compute.ran == [3]


def test_a_second_run_computes_nothing(compute, encoder, tokens):
    compute([2, 1])
    found = compute([2, 1])
    assert compute.ran == []
    assert_same(found, encoder, tokens)
    assert compute.said == ["activations at depth 1, 2: in memory (0.00 GiB each)"]


def test_what_is_kept_is_known_before_it_is_read(encoder, tokens, compute, size):
    def kept(depths=(1, 2), memory=10.0, disk=10.0, bf16=False) -> bool:
        return is_kept(encoder, tokens, depths, Budget(memory * size, disk * size, compute.folder), bf16=bf16)

    assert not kept()
    assert kept(depths=(0,))  # token ids are never kept, nor computed
    assert kept(memory=0, disk=0)  # nor is there anything to compute where nothing has room
    compute([2, 1])
    assert kept()
    assert kept(depths=(0, 2))
    assert not kept(disk=0)
    assert not kept(bf16=True)
    next(compute.folder.glob("*-depth1.npy")).unlink()
    assert not kept()
    assert kept(depths=(2,))


def test_a_missing_depth_is_computed_from_the_one_below(compute, encoder, tokens):
    compute([2])
    found = compute([2, 3])
    assert compute.ran == [1]
    assert_same(found, encoder, tokens)


def test_what_does_not_fit_in_memory_is_mapped_and_what_does_not_fit_on_disk_is_not_kept(
    compute, encoder, tokens, size
):
    found = compute([2, 3, 1], memory=1.5 * size, disk=2.5 * size)
    assert isinstance(found[2], Inputs)
    assert isinstance(found[3], StoredInputs)
    assert isinstance(opened(found[3]).values, np.memmap)
    assert (found[1].values is tokens.values, found[1].depth) == (True, 1)  # the blocks below run on them each time
    kept = [line.partition(": ")[2].partition(" (")[0].partition(" from")[0] for line in compute.said[1:]]
    assert kept == ["in memory", "mapped", "not kept: beyond the budget, so the frozen blocks run in every step"]


def test_without_any_budget_token_ids_are_fed(compute, tokens):
    found = compute([2, 1], memory=0, disk=0)
    assert {depth: (own.values is tokens.values, own.depth) for depth, own in found.items()} == {
        2: (True, 2),
        1: (True, 1),
    }
    assert not compute.folder.exists()


def test_without_a_disk_budget_nothing_is_written(compute, encoder, tokens):
    assert_same(compute([2, 1], disk=0), encoder, tokens)
    assert not compute.folder.exists()


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("[]"),
    ],
)
def test_a_damaged_file_is_computed_again(compute, encoder, tokens, damage: Callable[[Path], object]):
    compute([2])
    (path,) = compute.folder.glob("*.npy")
    damage(path)
    found = compute([2], memory=0)
    assert compute.ran == [1]
    assert_same(found, encoder, tokens)


def test_other_texts_other_weights_and_another_format_have_files_of_their_own(compute, encoder, tokens, tiny_model):
    names = {cache._file(Path(), encoder, tokens, 1, np.dtype(np.float32))}
    names.add(cache._file(Path(), encoder, tokens, 2, np.dtype(np.float32)))
    names.add(cache._file(Path(), encoder, tokens, 1, np.dtype(np.uint16)))
    names.add(cache._file(Path(), load(str(tiny_model(layers=3))), tokens, 1, np.dtype(np.float32)))
    names.add(cache._file(Path(), encoder, token_inputs(encoder, TEXTS[:-1], 64), 1, np.dtype(np.float32)))
    names.add(cache._file(Path(), encoder, token_inputs(encoder, TEXTS, 8), 1, np.dtype(np.float32)))
    assert len(names) == 6


def test_the_longest_unused_files_make_room(compute, encoder, tokens, size):
    other = token_inputs(encoder, TEXTS[:-1], 64)
    room = 2.5 * size
    compute([1], disk=room, of=other)
    (oldest,) = compute.folder.glob("*.npy")
    os.utime(oldest, (1, 1))
    compute([2], disk=room)
    compute([3], disk=room)
    assert not oldest.exists()
    assert len(list(compute.folder.glob("*.npy"))) == 2
    assert sum(path.stat().st_size for path in compute.folder.glob("*.npy")) <= room


def test_a_computation_that_breaks_off_leaves_no_file(encoder, tokens, tmp_path):
    def chain(blocks: Sequence[Any], shards: Sequence[Inputs]) -> Iterator[list[Any]]:
        raise RuntimeError("broken off")
        yield

    with pytest.raises(RuntimeError, match="broken off"):
        inputs_by_depth(encoder, tokens, [1], Budget(PLENTY, PLENTY, tmp_path), bf16=False, chain=chain, view=View())
    assert list(tmp_path.iterdir()) == []


def test_a_stored_file_has_its_room_before_it_is_written_to(tmp_path):
    values = cache._new_file(tmp_path / "a.npy", np.dtype(np.float32), (1000, 384))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= values.nbytes
    assert values.shape == np.load(tmp_path / "a.npy").shape == (1000, 384)


def test_a_disk_without_room_for_activations_is_an_error_and_keeps_no_half_file(compute, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device"):
        compute([1, 2])
    assert list(compute.folder.iterdir()) == []
