"""One epoch: seconds and quality, this project's against sentence-transformers' Trainer, in turn, in one run.

    python benchmarks/epoch.py --seeds 5 --learning-rates 5e-5 2e-4 5e-4 [--batch-size 128] [--json]

Ours trains on batches of distinct passages with several of their own questions each, on stored activations; the
Trainer on random batches without duplicates, as its documentation advises for this loss, once as it comes (batch 32 by
default) and once tuned: no dropout, bf16 where the processor computes in it. For each side every learning rate is tried
with a seed of its own first, and the one with the best macro Recall@5 on the validation rows is taken for the others.
All use all cores; the clock runs from the first step to the last, evaluation and the frozen blocks' output not
included: that is computed once for a whole search (its seconds are shown apart). Needs the extra `bench`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nic_ray import encoder as encoders
from nic_ray import hardware, loop
from nic_ray.activations import feed, frozen_inputs, token_inputs
from nic_ray.config import TrainConfig
from nic_ray.evaluation import evaluate, evaluate_encoder
from nic_ray.pairs import Collection, index_pairs, read_pairs
from nic_ray.split import split_rows

Run = Callable[[float, int], tuple[float, float]]
"""Trains an epoch with a learning rate and a seed; returns seconds and validation macro Recall@5."""


def main() -> None:
    """Print seconds and quality of each side, and the ratios in pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("data/reference/pairs.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[5e-5, 2e-4, 5e-4])
    parser.add_argument("--frozen-layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128, help="ours")
    parser.add_argument("--queries-per-passage", type=int, default=4, help="ours")
    parser.add_argument("--their-batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, help="train on so many rows only, to try this program out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hardware.keep_freed_memory()
    collection = index_pairs(read_pairs(arguments.pairs))
    parts = split_rows(collection.query, collection.positive, collection.domains, seed=42)
    rows = {part: np.flatnonzero(parts == part) for part in ("train", "validation")}
    rows["train"] = rows["train"][: arguments.rows]
    bf16 = hardware.computes_in_bf16("auto", "cpu")
    started = time.perf_counter()
    ours, prepared_s = our_epoch(collection, rows, arguments, bf16), time.perf_counter() - started
    sides: dict[str, Run] = {
        "ours": ours,
        "sentence-transformers": their_epoch(collection, rows, arguments, bf16=False, dropout=True),
        "the same, tuned": their_epoch(collection, rows, arguments, bf16=bf16, dropout=False),
    }
    tried = {side: {rate: run(rate, 1000)[1] for rate in arguments.learning_rates} for side, run in sides.items()}
    best = {side: max(found, key=lambda rate: found[rate]) for side, found in tried.items()}
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for seed in range(arguments.seeds):
        for side, run in sides.items():
            runs[side].append(run(best[side], seed))
    if arguments.json:
        print(json.dumps({"prepared_s": prepared_s, "tried": tried, "learning_rate": best, "runs": runs}))
        return
    print(f"precision {'bf16' if bf16 else 'fp32'}; frozen blocks, once: {prepared_s:.0f} s")
    for side, own in runs.items():
        seconds, quality = zip(*own, strict=True)
        print(
            f"  {side:22} {statistics.median(seconds):7.1f} s ({min(seconds):.1f} to {max(seconds):.1f})  macro "
            f"Recall@5 {statistics.mean(quality):.4f} ({min(quality):.4f} to {max(quality):.4f})  lr {best[side]:g}"
        )
    for side in list(sides)[1:]:
        ratios = [theirs[0] / mine[0] for theirs, mine in zip(runs[side], runs["ours"], strict=True)]
        gains = [mine[1] - theirs[1] for theirs, mine in zip(runs[side], runs["ours"], strict=True)]
        print(
            f"  {side} / ours: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); ours finds "
            f"{statistics.mean(gains):+.4f} more"
        )


def our_epoch(collection: Collection, rows: dict[str, np.ndarray], arguments: argparse.Namespace, bf16: bool) -> Run:
    """`loop.fit` on stored activations."""
    encoder = encoders.load("all-MiniLM-L6-v2")
    depth = arguments.frozen_layers
    tokens = token_inputs(encoder, collection.texts, TrainConfig().max_tokens)
    source = feed(frozen_inputs(encoder, tokens, [depth], bf16=bf16)[depth], "cpu")

    def run(rate: float, seed: int) -> tuple[float, float]:
        config = TrainConfig(
            epochs=1,
            frozen_layers=depth,
            batch_size=arguments.batch_size,
            queries_per_passage=arguments.queries_per_passage,
            learning_rate=rate,
            schedule="linear",
            seed=seed,
        )
        upper = encoders.upper_copy(encoder, depth, from_ids=False)
        took = 0.0

        def read(model: encoders.Upper) -> dict[str, float]:
            nonlocal took
            took = time.perf_counter() - started
            return evaluate(model, source, collection, rows["validation"].tolist(), bf16=bf16)

        started = time.perf_counter()
        (found,) = loop.fit(
            config, collection, rows["train"].tolist(), upper, source, read, objective="recall_at_5/macro", bf16=bf16
        )
        return took, found.metrics["recall_at_5/macro"]

    return run


def their_epoch(
    collection: Collection, rows: dict[str, np.ndarray], arguments: argparse.Namespace, *, bf16: bool, dropout: bool
) -> Run:
    """SentenceTransformerTrainer, the same blocks frozen."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    texts = collection.texts
    data = Dataset.from_dict(
        {
            "query": [texts[number] for number in collection.query[rows["train"]]],
            "positive": [texts[number] for number in collection.positive[rows["train"]]],
        }
    )

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.started

    def run(rate: float, seed: int) -> tuple[float, float]:
        encoder = encoders.load("all-MiniLM-L6-v2")
        encoder.transformer.requires_grad_(False)
        encoder.transformer.encoder.layer[arguments.frozen_layers :].requires_grad_(True)
        if not dropout:
            encoders.set_dropout(encoder.model, attention=0.0, hidden=0.0)
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            SentenceTransformerTrainer(
                model=encoder.model,
                args=SentenceTransformerTrainingArguments(
                    output_dir=folder,
                    num_train_epochs=1,
                    per_device_train_batch_size=arguments.their_batch_size,
                    learning_rate=rate,
                    warmup_steps=0.1,
                    batch_sampler=BatchSamplers.NO_DUPLICATES,
                    use_cpu=True,
                    bf16=bf16,
                    save_strategy="no",
                    logging_strategy="no",
                    report_to=[],
                    disable_tqdm=True,
                    seed=seed,
                ),
                train_dataset=data,
                loss=MultipleNegativesRankingLoss(encoder.model),
                callbacks=[clock],
            ).train()
        found = evaluate_encoder(encoder, collection, rows["validation"].tolist(), TrainConfig().max_tokens)
        return clock.seconds, found["recall_at_5/macro"]

    return run


if __name__ == "__main__":
    main()
