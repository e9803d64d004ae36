"""Time and memory as the pairs grow: frozen activations in memory, on disk, and not kept at all.

    python benchmarks/scale.py --factors 1 4 16 64 [--steps 20] [--json]

The pairs are repeated with one word in ten exchanged, so that every copy is a text of its own. Each case runs in a
process of its own: compute the activations, do some optimizer steps, score the validation rows over the whole corpus.
Memory is what the process had for itself at most, looked at every 10 ms; pages of mapped files are not in it: they are
the system's to drop.
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

from memory import watch

ROOM = {"memory": (1e12, 1e12), "disk": (0.0, 1e12), "off": (0.0, 0.0)}
"""Budgets in bytes, of memory and of disk."""


def main() -> None:
    """Run every case in turn and print a table, or be one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("data/reference/pairs.jsonl"))
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--modes", choices=list(ROOM), nargs="+", default=list(ROOM))
    parser.add_argument("--frozen-layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(int(arguments.case[0]), arguments.case[1], arguments)))
        return
    cases = [run_case(factor, mode) for factor in arguments.factors for mode in arguments.modes]
    if arguments.json:
        print(json.dumps(cases))
        return
    print("  pairs  passages  kept       prepared      a step    evaluated   own memory")
    for case in cases:
        print(
            f"{case['pairs']:7} {case['passages']:9}  {case['mode']:8} {case['prepare_s']:8.1f} s "
            f"{case['step_s']:9.3f} s {case['evaluate_s']:10.1f} s {case['own_gib']:8.2f} GiB"
        )


def run_case(factor: int, mode: str) -> dict[str, Any]:
    """One case as a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--case", str(factor), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{factor}x, {mode}:\n{done.stderr[-4000:]}")
    case: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return case


def measure(factor: int, mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each part and the peak of the memory, after a first step that is not counted."""
    import numpy as np
    import torch

    from nic_ray import encoder as encoders
    from nic_ray import hardware, loop
    from nic_ray.activations import feed, token_inputs
    from nic_ray.cache import Budget, inputs_by_depth, opened, run_here
    from nic_ray.config import TrainConfig
    from nic_ray.evaluation import evaluate
    from nic_ray.pairs import index_pairs, read_pairs, relevant_passages
    from nic_ray.progress import View
    from nic_ray.split import split_rows

    hardware.keep_freed_memory()
    seen: list[float] = []
    threading.Thread(target=watch, args=(seen,), daemon=True).start()
    collection = index_pairs(repeated(read_pairs(arguments.pairs), factor))
    parts = split_rows(collection.query, collection.positive, collection.domains, seed=42)
    config = TrainConfig(batch_size=arguments.batch_size, frozen_layers=arguments.frozen_layers)
    depth, bf16 = config.frozen_layers, hardware.computes_in_bf16("auto", "cpu")
    encoder = encoders.load(config.base_model)
    with tempfile.TemporaryDirectory() as folder:
        memory, disk = ROOM[mode]
        started = time.perf_counter()
        tokens = token_inputs(encoder, collection.texts, config.max_tokens, collection.is_query)
        inputs = opened(
            inputs_by_depth(
                encoder, tokens, [depth], Budget(memory, disk, Path(folder)), bf16=bf16,
                chain=run_here("cpu", bf16=bf16), view=View(),
            )[depth]
        )  # fmt: skip
        prepared = time.perf_counter() - started
        source = feed(inputs, "cpu")
        upper = encoders.upper_copy(encoder, depth, from_ids=inputs.are_ids).train()
        encoders.set_dropout(upper, attention=config.attention_dropout, hidden=config.hidden_dropout)
        optimizer = loop.make_optimizer(upper, config)
        relevant = relevant_passages(collection)
        batches = loop.batches_of_epoch(config, collection, np.flatnonzero(parts == "train"), 0)
        for number in range(arguments.steps + 1):
            if number == 1:
                started = time.perf_counter()
            batch = loop.make_batch(collection, relevant, batches[number % len(batches)], config.hard_negatives)
            loop.accumulate_gradients(upper, source, batch, config, bf16=bf16)
            torch.nn.utils.clip_grad_norm_(upper.parameters(), loop.MAX_GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step = (time.perf_counter() - started) / arguments.steps
        started = time.perf_counter()
        evaluate(upper, source, collection, np.flatnonzero(parts == "validation").tolist(), bf16=bf16)
        evaluated = time.perf_counter() - started
    return {
        "factor": factor,
        "mode": mode,
        "pairs": len(collection.query),
        "passages": len(collection.corpus),
        "tokens": len(tokens.values),
        "prepare_s": prepared,
        "step_s": step,
        "evaluate_s": evaluated,
        "own_gib": max(seen),
    }


def repeated(pairs: Any, factor: int) -> list[Any]:
    """Every pair `factor` times, in each copy after the first with one word in ten exchanged."""
    import dataclasses
    import random

    words = sorted({word for pair in pairs for word in pair.positive.split()})

    def changed(text: str, copy: int) -> str:
        if copy == 0:
            return text
        generator = random.Random(f"{copy} {text}")  # the same passage changes in the same way in all its rows
        own = text.split()
        for place in generator.sample(range(len(own)), -(-len(own) // 10)):
            own[place] = generator.choice(words)
        return f"{' '.join(own)} {copy}"

    return [
        dataclasses.replace(
            pair,
            query=changed(pair.query, copy),
            positive=changed(pair.positive, copy),
            negatives=tuple(changed(text, copy) for text in pair.negatives),
        )
        for copy in range(factor)
        for pair in pairs
    ]


if __name__ == "__main__":
    main()
