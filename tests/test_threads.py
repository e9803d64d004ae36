"""Chunks on threads of their own: the numbers of one thread, its modes, its errors, and no trace left behind."""

import copy
import os
import pickle
import signal
import threading

import numpy as np
import pytest
import torch

from nic_ray.model import activations
from nic_ray.model.activations import feed, frozen_inputs, token_inputs, upper_for
from nic_ray.model.base import load
from nic_ray.model.encoder import whole
from nic_ray.model.evaluation import embed
from nic_ray.model.threads import in_threads
from tests.families import BLOCKS, FAMILIES

TEXTS = [f"the valve is stuck {'near the oven ' * (number % 7)}{number}" for number in range(60)]


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_embeds_as_on_one_thread(family_model, monkeypatch, threads, name, bf16):
    monkeypatch.setitem(activations.CHUNK_TOKENS, "cpu", 64)
    encoder = load(str(family_model(name)))
    tokens = token_inputs(encoder, TEXTS, 64)
    attention = getattr(encoder.transformer.config, "_attn_implementation", None)

    def embedded(count):
        threads(count)
        inputs = {0: tokens}
        if encoder.can_be_cut:
            inputs = frozen_inputs(encoder, tokens, [0, 1, BLOCKS - 1], bf16=bf16)
        parts = [whole(encoder), *(upper_for(encoder, each) for each in inputs.values())]
        every = [tokens, *inputs.values()]
        return [
            embed(part, feed(each, "cpu"), np.arange(len(TEXTS)), bf16=bf16)
            for part, each in zip(parts, every, strict=True)
        ]

    alone, together = embedded(1), embedded(4)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert getattr(encoder.transformer.config, "_attn_implementation", None) == attention
    assert torch.get_num_threads() == 4


def test_parts_run_at_the_same_time_on_one_thread_each_in_the_modes_of_the_caller(threads):
    threads(3)
    met, running = threading.Barrier(3, timeout=20), []  # passed only if three parts run at once

    def run(part):
        running.append(part)
        if part:  # the first one runs alone
            met.wait()
        else:
            assert running == [0]
        return (
            part, torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"),
        )  # fmt: skip

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = list(in_threads(run, range(7)))
    assert found == [(part, 1, False, True, True, torch.bfloat16) for part in range(7)]
    running.clear()
    found = list(in_threads(run, range(4)))
    assert found == [(part, 1, True, False, False, torch.get_autocast_dtype("cpu")) for part in range(4)]
    running.clear()
    with torch.no_grad():
        found = list(in_threads(run, range(4)))
    assert [grads for _, _, grads, *_ in found] == [False] * 4
    assert torch.get_num_threads() == 3


def test_threads_are_those_of_the_last_time_but_not_in_a_process_that_was_forked(threads):
    threads(2)

    def names():
        return {*in_threads(lambda _: threading.current_thread().name, range(6))}

    assert len(names() | names()) <= 2
    child = os.fork()
    if not child:  # its threads are gone, and it must not wait for them
        signal.alarm(30)
        os._exit(0 if list(in_threads(abs, [-1, 2, -3])) == [1, 2, 3] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_there_are_never_more_threads_than_are_set_however_many_parts_there_are(threads):
    def own():
        return [thread for thread in threading.enumerate() if thread.name.startswith("chunks")]

    for count in (4, 3):
        threads(count)
        for parts in (2, 3, 4, 9):
            list(in_threads(abs, range(parts)))
        for thread in own()[:-count]:  # those of before, which end now
            thread.join(timeout=20)
        assert len(own()) <= count


def test_a_thread_that_stays_keeps_to_one_core_whatever_is_set_elsewhere(threads):
    threads(3)
    for _ in range(20):
        found = list(in_threads(lambda _: torch.get_num_threads(), range(6), first_alone=False))
        assert found == [1] * 6
        threads(4)  # as a training does that gets another core
        threads(3)


def test_a_thread_that_comes_later_has_the_threads_of_the_machine(threads):
    threads(3)
    list(in_threads(lambda part: part, range(6)))
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3]


def test_an_error_of_a_part_is_that_of_the_whole(threads):
    threads(2)

    def run(part):
        if part == 3:
            raise ValueError("not finite")
        return part

    results = in_threads(run, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="not finite"):
        list(results)
    assert torch.get_num_threads() == 2


def test_weights_that_were_cast_are_not_kept_for_a_later_reading(searched, threads):
    threads(2)
    prepared, inputs, (candidate,) = searched(1)
    upper = upper_for(prepared.encoder, inputs[1])
    texts = np.arange(len(prepared.collection.texts))
    before = embed(upper, feed(inputs[1], "cpu"), texts, bf16=True)
    upper.load_trained_state(candidate.weights)  # in place
    after = embed(upper, feed(inputs[1], "cpu"), texts, bf16=True)
    assert np.abs(before - after).max() > 0.01


def test_a_segment_can_be_copied_and_sent(family_model):
    encoder = load(str(family_model("MPNet")))
    inputs = frozen_inputs(encoder, token_inputs(encoder, TEXTS[:4], 64), [2])[2]
    upper = upper_for(encoder, inputs).eval()
    with torch.no_grad():
        padded = activations.padded_batch(feed(inputs, "cpu"), np.arange(4))
        expected = upper(*padded)
        for other in (copy.deepcopy(upper), pickle.loads(pickle.dumps(upper))):
            torch.testing.assert_close(other(*padded), expected, rtol=0, atol=0)
