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
import functools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import rival
import torch
from processes import cpu_seconds
from timing import in_turn, ratios, spread

from nic_ray import hardware
from nic_ray.model.activations import feed, frozen_inputs, token_inputs, upper_for
from nic_ray.model.base import load
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop
from nic_ray.training.batches import batches_of_epoch, make_batch


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
            print(
                f"  {side:22} {spread(seconds)} s  {result['batch_size'] / statistics.median(seconds):6.1f} pairs/s  "
                f"CPU {statistics.median(result['cpu_seconds'][side]):6.2f} s"
            )
        print(f"  {'floor':22} {result['floor_s']:.2f} s; ours is {result['over_floor']:.2f} times that")
        for side, own in result["ratios"].items():
            print(f"  {side} / ours: {spread(own)}")


def measure(batch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides in turn on the same batches, after a warm-up step of each."""
    collection, parts = rival.rows_of(arguments.pairs)
    config = TrainConfig(batch_size=batch_size, frozen_layers=arguments.frozen_layers, hard_negatives=0)
    batches = batches_of_epoch(config, collection, parts["train"], 0)
    bf16 = hardware.computes_in_bf16("auto", "cpu")
    encoder = load(config.base_model)
    tokens = token_inputs(encoder, collection.texts, config.max_tokens, collection.is_query)
    inputs = frozen_inputs(encoder, tokens, [config.frozen_layers], bf16=bf16)[config.frozen_layers]
    upper, source = upper_for(encoder, inputs), feed(inputs, "cpu")
    training = loop.new_training(config, upper, loop.TrainingData(collection, parts["train"], source, bf16))
    attention, tried = rival.faster_attention(
        collection,
        parts["train"],
        batch_size=batch_size,
        frozen_layers=config.frozen_layers,
        base_model=config.base_model,
        given=arguments.attention,
    )
    forms = [rival.AS_IT_COMES, rival.tuned("cpu", attention)]
    models = {form.name: rival.model_of(form, config.base_model, config.frozen_layers) for form in forms}
    cpu: dict[str, list[float]] = {side: [] for side in ("ours", *models)}

    def step(side: str, form: rival.Form | None, number: int) -> float:
        """Seconds of a step; of the Trainer's, in a training of one step, from its begin to its end."""
        rows, before, started = batches[number % len(batches)], cpu_seconds(), time.perf_counter()
        if form is None:
            loop.train_step(training, rows)
            took = time.perf_counter() - started
        else:
            (took,) = rival.train(
                models[side], form, collection, rows,
                batch_size=len(rows), learning_rate=config.learning_rate, duplicates=True,
            ).steps  # fmt: skip
        cpu[side].append(cpu_seconds() - before)
        return took

    sides = {"ours": functools.partial(step, "ours", None)}
    sides |= {form.name: functools.partial(step, form.name, form) for form in forms}
    seconds = in_turn(sides, arguments.rounds)
    met = [batches[number % len(batches)] for number in range(1, arguments.rounds + 1)]
    texts = [make_batch(collection, training.relevant, rows, config.hard_negatives).texts for rows in met]
    counted = statistics.median(int(source.lengths[own].sum()) for own in texts)
    gflops = _gemm_rate(bf16)
    weights = sum(value.numel() for value in upper.trained_state().values() if value.ndim == 2)
    floor = counted * 2 * weights * 3 / (gflops * 1e9)
    return {
        "batch_size": batch_size,
        "frozen_layers": config.frozen_layers,
        "precision": "bf16" if bf16 else "fp32",
        "sides": {form.name: str(form) for form in forms},
        "attention_tried_s": tried,
        "threads": arguments.threads,
        "tokens": counted,
        "seconds": seconds,
        "cpu_seconds": {side: own[1:] for side, own in cpu.items()},
        "gflops": gflops,
        "floor_s": floor,
        "over_floor": statistics.median(seconds["ours"]) / floor,
        "ratios": {form.name: ratios(seconds[form.name], seconds["ours"]) for form in forms},
    }


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
