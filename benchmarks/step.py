"""Seconds per optimizer step: this project's loop against sentence-transformers' Trainer, in pairs, in one run.

    python benchmarks/step.py --batch-sizes 32 64 --rounds 3 [--attention auto|sdpa|eager] [--json]

Both sides get the same batches of the same rows, frozen blocks and number of threads. The Trainer runs twice: as it
comes, and tuned: in the precision and with the dropout of our side, and with the attention that is the faster one here
(tried first, unless it is named). A passage that several rows of a batch share is encoded once on our side, for each of
them on the other. The clock of the other side leaves out that it tokenises the texts. The floor is the multiply-adds of
the trained blocks' matrix products, forward and backward, on the real tokens of the step, at the rate measured for such
a product in the same run. Needs the extra `bench`.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rival
import torch

from nic_ray import encoder as encoders
from nic_ray import hardware, loop
from nic_ray.activations import Feed, feed, frozen_inputs, token_inputs
from nic_ray.config import TrainConfig
from nic_ray.pairs import Collection, relevant_passages

Step = Callable[[np.ndarray], float]
"""Does an optimizer step on the rows of a batch; returns its seconds."""


def main() -> None:
    """Print a table of seconds a step, and of the ratios in pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("data/reference/pairs.jsonl"))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--frozen-layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each side, in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=("auto", *rival.ATTENTIONS), default="auto", help="of the tuned side")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hardware.keep_freed_memory()
    results = [measure(size, arguments) for size in arguments.batch_sizes]
    if arguments.json:
        print(json.dumps(results))
        return
    for result in results:
        print(f"\nbatch {result['batch_size']}, {result['tokens']:.0f} tokens a step, {result['gflops']:.0f} GFLOP/s")
        for side, form in result["sides"].items():
            print(f"  {side}: {form}")
        for side, seconds in result["seconds"].items():
            low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
            print(
                f"  {side:22} {middle:7.2f} s ({low:.2f} to {high:.2f})  {result['batch_size'] / middle:6.1f} pairs/s  "
                f"CPU {statistics.median(result['cpu_seconds'][side]):6.2f} s"
            )
        print(f"  {'floor':22} {result['floor_s']:7.2f} s; ours is {result['over_floor']:.2f} times that")
        for side, ratios in result["ratios"].items():
            print(f"  {side} / ours: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def measure(batch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides in turn on the same batches, after a warm-up step of each."""
    collection, parts = rival.rows_of(arguments.pairs)
    config = TrainConfig(batch_size=batch_size, frozen_layers=arguments.frozen_layers, hard_negatives=0)
    batches = loop.batches_of_epoch(config, collection, parts["train"], 0)
    bf16 = hardware.computes_in_bf16("auto", "cpu")
    encoder = encoders.load(config.base_model)
    tokens = token_inputs(encoder, collection.texts, config.max_tokens, collection.is_query)
    source = feed(frozen_inputs(encoder, tokens, [config.frozen_layers], bf16=bf16)[config.frozen_layers], "cpu")
    attention, tried = rival.faster_attention(
        collection,
        parts["train"],
        batch_size=batch_size,
        frozen_layers=config.frozen_layers,
        base_model=config.base_model,
        given=arguments.attention,
    )
    forms = [rival.AS_IT_COMES, rival.tuned("cpu", attention)]
    sides: dict[str, Step] = {"ours": our_step(config, collection, source, bf16)}
    sides |= {form.name: their_step(form, config, collection) for form in forms}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    cpu_seconds: dict[str, list[float]] = {side: [] for side in sides}
    counted = []
    for number in range(arguments.rounds + 1):
        rows = batches[number % len(batches)]
        for side, step in sides.items():
            before = _cpu_seconds()
            took = step(rows)
            if number:
                seconds[side].append(took)
                cpu_seconds[side].append(_cpu_seconds() - before)
        if number:
            texts = loop.make_batch(collection, relevant_passages(collection), rows, config.hard_negatives).texts
            counted.append(int(source.lengths[texts].sum()))
    gflops = _gemm_rate(bf16)
    trained = [value for value in encoders.upper(encoder, config.frozen_layers).parameters() if value.requires_grad]
    weights = sum(value.numel() for value in trained if value.ndim == 2)
    floor = statistics.median(counted) * 2 * weights * 3 / (gflops * 1e9)
    return {
        "batch_size": batch_size,
        "frozen_layers": config.frozen_layers,
        "precision": "bf16" if bf16 else "fp32",
        "sides": {form.name: str(form) for form in forms},
        "attention_tried_s": tried,
        "threads": arguments.threads,
        "tokens": statistics.median(counted),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "gflops": gflops,
        "floor_s": floor,
        "over_floor": statistics.median(seconds["ours"]) / floor,
        "ratios": {
            side: [theirs / ours for theirs, ours in zip(seconds[side], seconds["ours"], strict=True)]
            for side in sides
            if side != "ours"
        },
    }


def our_step(config: TrainConfig, collection: Collection, source: Feed, bf16: bool) -> Step:
    """A step of `loop.fit`."""
    upper = encoders.upper(encoders.load(config.base_model), config.frozen_layers).train()
    encoders.set_dropout(upper, attention=config.attention_dropout, hidden=config.hidden_dropout)
    optimizer = loop.make_optimizer(upper, config)
    relevant = relevant_passages(collection)

    def step(rows: np.ndarray) -> float:
        started = time.perf_counter()
        batch = loop.make_batch(collection, relevant, rows, config.hard_negatives)
        loop.accumulate_gradients(upper, source, batch, config, bf16=bf16)
        torch.nn.utils.clip_grad_norm_(upper.parameters(), loop.MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    return step


def their_step(form: rival.Form, config: TrainConfig, collection: Collection) -> Step:
    """A training of one step by SentenceTransformerTrainer, timed from the step's begin to its end."""
    encoder = rival.model_of(form, config.base_model, config.frozen_layers)

    def step(rows: np.ndarray) -> float:
        clock = rival.train(
            encoder,
            form,
            collection,
            rows,
            batch_size=len(rows),
            learning_rate=config.learning_rate,
            duplicates=True,
        )
        (took,) = clock.steps
        return took

    return step


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _gemm_rate(bf16: bool) -> float:
    """GFLOP/s of a product as in a block's wide layer, the best of some."""
    kind = torch.bfloat16 if bf16 else torch.float32
    left, right = torch.randn(4096, 384).to(kind), torch.randn(384, 1536).to(kind)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * 4096 * 384 * 1536 / best / 1e9


if __name__ == "__main__":
    main()
