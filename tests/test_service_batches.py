"""Texts of several requests in common batches: right vectors, whatever arrives when, and no request starves."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_ray.service.batches import AT_ONCE, Batcher


def vector(text, is_query):
    """What stands for the embedding of a text."""
    return [float(sum(map(ord, text)) % 997), float(len(text)), float(is_query)]


class Model:
    """Embeds, and remembers its batches; waits before each for `go` if that is given."""

    def __init__(self, go=None):
        self.batches, self.go = [], go

    def __call__(self, texts, asks):
        if self.go is not None:
            self.go.wait(5)
        self.batches.append(list(texts))
        if any("broken" in text for text in texts):
            raise ValueError("a broken text")
        return np.array([vector(text, asking) for text, asking in zip(texts, asks, strict=True)], np.float32)


def batcher_of(model, observe=lambda *_: None, **options):
    return Batcher(model, ThreadPoolExecutor(1), observe=observe, **options)


async def embedded(batcher, texts, is_query=True, tokens=None):
    found = await batcher.embed(texts, tokens or [len(text) for text in texts], is_query=is_query)
    np.testing.assert_array_equal(found, [vector(text, is_query) for text in texts])
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=70), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 60),
)
def test_each_request_gets_the_vectors_of_its_own_texts_in_their_order(requests, most):
    model = Model()

    async def all_at_once():
        batcher = batcher_of(model, most_tokens=most)
        await asyncio.gather(*(embedded(batcher, texts, is_query) for texts, is_query in requests))

    asyncio.run(all_at_once())
    for batch in model.batches:
        assert sum(map(len, batch)) <= most or len(batch) == 1
    assert sorted(text for batch in model.batches for text in batch) == sorted(
        t for texts, _ in requests for t in texts
    )


def test_what_arrives_while_the_model_works_is_one_batch():
    go = threading.Event()
    model = Model(go)

    async def ask():
        batcher = batcher_of(model)
        first = asyncio.create_task(embedded(batcher, ["first"]))
        await asyncio.sleep(0.02)
        others = [asyncio.create_task(embedded(batcher, [f"text {number}"])) for number in range(9)]
        await asyncio.sleep(0.02)
        go.set()
        await asyncio.gather(first, *others)

    asyncio.run(ask())
    assert [len(batch) for batch in model.batches] == [1, 9]


def test_a_request_of_many_texts_does_not_hold_up_one_of_a_single_text():
    model = Model()

    async def ask():
        batcher = batcher_of(model, most_tokens=4 * AT_ONCE)
        large = asyncio.create_task(embedded(batcher, ["four"] * 1000))
        await asyncio.sleep(0)
        await embedded(batcher, ["one"])
        assert not large.done()
        await large

    asyncio.run(ask())
    assert "one" in model.batches[0] + model.batches[1]
    assert len(model.batches) >= 1000 // AT_ONCE


def test_a_batch_that_fails_fails_its_own_requests_alone():
    async def ask():
        batcher = batcher_of(Model(), most_tokens=6)
        results = await asyncio.gather(
            embedded(batcher, ["sound"]),
            embedded(batcher, ["broken"]),
            embedded(batcher, ["whole"]),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [np.ndarray, ValueError, np.ndarray]
        await embedded(batcher, ["afterwards"])

    asyncio.run(ask())


def test_a_batch_that_cannot_be_counted_leaves_no_request_waiting():
    def observe(*_):
        raise OSError("the disk is full")

    async def ask():
        batcher = batcher_of(Model(), observe, most_tokens=6)
        asked = asyncio.gather(*(embedded(batcher, [text]) for text in ("first", "second")), return_exceptions=True)
        assert [type(result) for result in await asyncio.wait_for(asked, 5)] == [OSError, OSError]

    asyncio.run(ask())


def test_texts_of_a_request_that_was_given_up_are_not_computed():
    go = threading.Event()
    model = Model(go)

    async def ask():
        batcher = batcher_of(model)
        first = asyncio.create_task(embedded(batcher, ["first"]))
        await asyncio.sleep(0.02)
        gone = asyncio.create_task(embedded(batcher, ["gone"]))
        await asyncio.sleep(0)
        gone.cancel()
        go.set()
        await first
        await embedded(batcher, ["last"])
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(ask())
    assert model.batches == [["first"], ["last"]]


def test_the_time_that_a_batch_began_tells_whether_one_is_computed():
    go = threading.Event()

    async def ask():
        batcher = batcher_of(Model(go))
        assert batcher.since is None
        task = asyncio.create_task(embedded(batcher, ["first"]))
        await asyncio.sleep(0.02)
        assert batcher.since is not None
        go.set()
        await task
        assert batcher.since is None

    asyncio.run(ask())
