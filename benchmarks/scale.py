"""Time and memory as the pairs grow: frozen activations in memory, on disk, and not kept at all.

    python benchmarks/scale.py --factors 1 4 16 64 [--steps 20] [--json]

The pairs are repeated with one word in ten exchanged, so that every copy is a text of its own. Each case runs in a
process of its own: compute the activations, do some optimizer steps, score the validation rows over the whole corpus.
Memory is what the process had for itself at most, looked at every 10 ms; pages of mapped files are not in it: they are
the system's to drop.
"""

import argparse
import dataclasses
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from processes import own_gib, result_of, watching

from nic_ray import hardware
from nic_ray.dataset.pairs import Pair, index_pairs, read_pairs
from nic_ray.dataset.split import split_rows
from nic_ray.model.activations import feed, token_inputs, upper_for
from nic_ray.model.base import load
from nic_ray.model.cache import Budget, inputs_by_depth, opened, run_here
from nic_ray.model.evaluation import evaluate
from nic_ray.progress import View
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop
from nic_ray.training.batches import batches_of_epoch

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
    cases = [result_of("--case", str(factor), mode) for factor in arguments.factors for mode in arguments.modes]
    if arguments.json:
        print(json.dumps(cases))
        return
    print("  pairs  passages  kept       prepared      a step    evaluated   own memory")
    for case in cases:
        print(
            f"{case['pairs']:7} {case['passages']:9}  {case['mode']:8} {case['prepare_s']:8.1f} s "
            f"{case['step_s']:9.3f} s {case['evaluate_s']:10.1f} s {case['own_gib']:8.2f} GiB"
        )


def measure(factor: int, mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each part and the peak of the memory, after a first step that is not counted."""
    hardware.keep_freed_memory()
    with watching(own_gib, every_s=0.01) as seen, tempfile.TemporaryDirectory() as folder:
        collection = index_pairs(repeated(read_pairs(arguments.pairs), factor))
        parts = split_rows(collection.query, collection.positive, collection.domains, seed=42)
        config = TrainConfig(batch_size=arguments.batch_size, frozen_layers=arguments.frozen_layers)
        depth, bf16 = config.frozen_layers, hardware.computes_in_bf16("auto", "cpu")
        encoder = load(config.base_model)
        started = time.perf_counter()
        tokens = token_inputs(encoder, collection.texts, config.max_tokens, collection.is_query)
        room, chain = Budget(*ROOM[mode], Path(folder)), run_here("cpu", bf16=bf16)
        kept = inputs_by_depth(encoder, tokens, [depth], room, bf16=bf16, chain=chain, view=View())
        inputs = opened(kept[depth])
        prepared = time.perf_counter() - started
        upper = upper_for(encoder, inputs)
        data = loop.TrainingData(collection, np.flatnonzero(parts == "train"), feed(inputs, "cpu"), bf16)
        training = loop.new_training(config, upper, data)
        batches = batches_of_epoch(config, collection, data.rows, 0)
        for number in range(arguments.steps + 1):
            if number == 1:
                started = time.perf_counter()
            loop.train_step(training, batches[number % len(batches)])
        step = (time.perf_counter() - started) / arguments.steps
        started = time.perf_counter()
        evaluate(upper, data.source, collection, np.flatnonzero(parts == "validation").tolist(), bf16=bf16)
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


def repeated(pairs: Sequence[Pair], factor: int) -> list[Pair]:
    """Every pair `factor` times, in each copy after the first with one word in ten exchanged."""
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
