"""Peak memory of an optimizer step as the batch grows, passages as long as the model reads.

    python benchmarks/memory.py --batch-sizes 128 1024 [--steps 2] [--json]

Each batch size runs in a process of its own on hidden states of random numbers: queries of 16 tokens, passages of 256,
mapped from a file. Memory is what the process had for itself at most, looked at every 10 ms: PyTorch and the model
included, pages of the mapped file not.
"""

import argparse
import json
import tempfile
import time
from typing import Any

import numpy as np
from processes import own_gib, result_of, watching

from nic_ray import hardware
from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.model.activations import Inputs, feed, upper_for
from nic_ray.model.base import load
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop

QUERY_TOKENS, PASSAGE_TOKENS = 16, 256


def main() -> None:
    """Run every batch size in turn and print a table, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--frozen-layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments)))
        return
    cases = [result_of("--case", str(size)) for size in arguments.batch_sizes]
    if arguments.json:
        print(json.dumps(cases))
        return
    for case in cases:
        print(
            f"batch {case['batch_size']:5}: {case['peak_gib']:.2f} GiB at most, {case['before_gib']:.2f} before the "
            f"first step; {case['step_s']:.1f} s a step; {case['peak_gib'] / cases[0]['peak_gib']:.2f} times the first"
        )


def measure(batch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and seconds of some steps on one batch."""
    hardware.keep_freed_memory()
    collection = index_pairs([Pair(f"query {number}", f"passage {number}", "one") for number in range(batch_size)])
    config = TrainConfig(batch_size=batch_size, frozen_layers=arguments.frozen_layers)
    encoder = load(config.base_model)
    lengths = np.full(len(collection.texts), PASSAGE_TOKENS)
    lengths[collection.query] = QUERY_TOKENS
    with tempfile.TemporaryDirectory() as folder:
        shape = (int(lengths.sum()), int(encoder.transformer.config.hidden_size))  # type: ignore[union-attr, arg-type]
        values = np.lib.format.open_memmap(f"{folder}/values.npy", mode="w+", dtype=np.float32, shape=shape)
        generator = np.random.default_rng(0)
        for start in range(0, len(values), 10_000):
            part = values[start : start + 10_000]
            part[:] = generator.standard_normal(part.shape)
        inputs = Inputs(values, np.concatenate([[0], np.cumsum(lengths)]), config.frozen_layers)
        upper, source = upper_for(encoder, inputs), feed(inputs, "cpu")
        data = loop.TrainingData(collection, np.arange(batch_size), source)
        training = loop.new_training(config, upper, data)
        before = own_gib()
        with watching(own_gib, every_s=0.01) as seen:
            started = time.perf_counter()
            for _ in range(arguments.steps):
                loop.train_step(training, data.rows)
            step = (time.perf_counter() - started) / arguments.steps
    return {"batch_size": batch_size, "before_gib": before, "peak_gib": max(seen), "step_s": step}


if __name__ == "__main__":
    main()
