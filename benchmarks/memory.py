"""Peak memory of an optimizer step as the batch grows, passages as long as the model reads.

    python benchmarks/memory.py --batch-sizes 128 1024 [--steps 2] [--json]

Each batch size runs in a process of its own on hidden states of random numbers: queries of 16 tokens, passages of 256,
mapped from a file. Memory is what the process had for itself at most, looked at every 10 ms: PyTorch and the model
included, pages of the mapped file not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

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
    cases = []
    for size in arguments.batch_sizes:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        cases.append(json.loads(done.stdout.splitlines()[-1]))
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
    import numpy as np
    import torch

    from nic_ray import encoder as encoders
    from nic_ray import hardware, loop
    from nic_ray.activations import Inputs, feed
    from nic_ray.config import TrainConfig
    from nic_ray.pairs import Pair, index_pairs, relevant_passages

    hardware.keep_freed_memory()
    pairs = [Pair(f"query {number}", f"passage {number}", "one") for number in range(batch_size)]
    collection = index_pairs(pairs)
    encoder = encoders.load("all-MiniLM-L6-v2")
    width = int(encoder.transformer.config.hidden_size)  # type: ignore[union-attr, arg-type]
    lengths = np.full(len(collection.texts), PASSAGE_TOKENS)
    lengths[collection.query] = QUERY_TOKENS
    config = TrainConfig(batch_size=batch_size, frozen_layers=arguments.frozen_layers)
    with tempfile.TemporaryDirectory() as folder:
        shape = (int(lengths.sum()), width)
        values = np.lib.format.open_memmap(f"{folder}/values.npy", mode="w+", dtype=np.float32, shape=shape)
        generator = np.random.default_rng(0)
        for start in range(0, len(values), 10_000):
            values[start : start + 10_000] = generator.standard_normal((len(values[start : start + 10_000]), width))
        source = feed(Inputs(values, np.concatenate([[0], np.cumsum(lengths)])), "cpu")
        upper = encoders.upper_copy(encoder, config.frozen_layers, from_ids=False).train()
        encoders.set_dropout(upper, attention=config.attention_dropout, hidden=config.hidden_dropout)
        optimizer = loop.make_optimizer(upper, config)
        batch = loop.make_batch(collection, relevant_passages(collection), np.arange(batch_size), 0)
        before = own_gib()
        seen: list[float] = []
        threading.Thread(target=watch, args=(seen,), daemon=True).start()
        started = time.perf_counter()
        for _ in range(arguments.steps):
            loop.accumulate_gradients(upper, source, batch, config)
            torch.nn.utils.clip_grad_norm_(upper.parameters(), loop.MAX_GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step = (time.perf_counter() - started) / arguments.steps
    return {"batch_size": batch_size, "before_gib": before, "peak_gib": max(seen), "step_s": step}


def own_gib() -> float:
    """GiB of anonymous pages of this process."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 2**20


def watch(seen: list[float]) -> None:
    """Append what this process has for itself, again and again."""
    while True:
        seen.append(own_gib())
        time.sleep(0.01)


if __name__ == "__main__":
    main()
