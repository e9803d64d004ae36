"""One epoch: seconds and quality, this project's against sentence-transformers' Trainer, in turn, in one run.

    python benchmarks/epoch.py --seeds 5 --learning-rates 5e-5 2e-4 5e-4 [--attention auto|sdpa|eager] [--json]

All sides train on the same rows with the same blocks frozen, on all cores. Ours trains twice on stored activations:
"ours" on batches of distinct passages with several of their own questions each, which is its own feature, and "ours,
their batches" on random rows in batches as large as the other side's. The Trainer trains twice on random batches
without duplicates, as its documentation advises for this loss: as it comes, and tuned: in the precision and with the
dropout of our side, and with the attention that is the faster one here (tried first, unless it is named). For each
side every learning rate is tried with a seed of its own first, and the one with the best macro Recall@5 on the
validation rows is taken for the others.

The clock runs from the first batch to the last step; evaluation is in no side's seconds. An epoch of many leaves out
the output of the frozen blocks, which our side computes once for all trainings of a search; an epoch alone has it, for
all texts, the held-back ones too. Needs the extra `bench`.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rival
import torch
from timing import in_turn, ratios, spread

from nic_ray import hardware
from nic_ray.data_config import DataConfig
from nic_ray.dataset.pairs import Collection
from nic_ray.model.activations import feed, frozen_inputs, token_inputs, upper_for
from nic_ray.model.base import load
from nic_ray.model.cut import Upper
from nic_ray.model.evaluation import evaluate
from nic_ray.model.whole_models import evaluate_encoder
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop

OURS, ALIKE = "ours", "ours, their batches"


@dataclass(frozen=True)
class Side:
    """A way to train an epoch."""

    what: str
    run: Callable[[float, int], tuple[float, float]]
    """Trains with a learning rate and a seed; returns seconds and validation macro Recall@5."""


def main() -> None:
    """Print seconds and quality of each side, and the ratios in pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=DataConfig().pairs)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[5e-5, 2e-4, 5e-4])
    parser.add_argument("--frozen-layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128, help="ours")
    parser.add_argument("--queries-per-passage", type=int, default=4, help="ours")
    parser.add_argument("--their-batch-size", type=int, default=32)
    parser.add_argument("--attention", choices=("auto", *rival.ATTENTIONS), default="auto", help="of the tuned side")
    parser.add_argument("--sample-share", type=float, default=1.0, help="share of the passages, to try this out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hardware.keep_freed_memory()
    collection, parts = rival.rows_of(arguments.pairs, sample_share=arguments.sample_share)
    attention, tried_attention = rival.faster_attention(
        collection,
        parts["train"],
        batch_size=arguments.their_batch_size,
        frozen_layers=arguments.frozen_layers,
        given=arguments.attention,
    )
    sides, prepared_s = our_sides(collection, parts, arguments)
    for form in (rival.AS_IT_COMES, rival.tuned("cpu", attention)):
        sides[form.name] = their_side(form, collection, parts, arguments)
    tried = {name: {rate: side.run(rate, 1000)[1] for rate in arguments.learning_rates} for name, side in sides.items()}
    best = {name: max(found, key=lambda rate: found[rate]) for name, found in tried.items()}
    at_its_best = {name: functools.partial(side.run, best[name]) for name, side in sides.items()}
    runs = in_turn(at_its_best, arguments.seeds, warm_up=0)
    if arguments.json:
        found = {"rows": len(parts["train"]), "prepared_s": prepared_s, "tried": tried, "learning_rate": best}
        what = {name: side.what for name, side in sides.items()}
        print(json.dumps(found | {"runs": runs, "sides": what, "attention_tried_s": tried_attention}))
        return
    print(f"{len(parts['train'])} training rows; frozen blocks, once: {prepared_s:.1f} s")
    show(sides, runs, best, prepared_s)


def show(
    sides: Mapping[str, Side],
    runs: Mapping[str, Sequence[tuple[float, float]]],
    best: Mapping[str, float],
    prepared_s: float,
) -> None:
    """Print what each side is, its epochs, and theirs against each of ours."""
    for name, own in runs.items():
        seconds, quality = zip(*own, strict=True)
        print(
            f"  {name:22} {spread(seconds)} s  macro Recall@5 {statistics.mean(quality):.4f} "
            f"({min(quality):.4f} to {max(quality):.4f})  lr {best[name]:g}\n    {sides[name].what}"
        )
    for name in (OURS, ALIKE):
        for other in [other for other in sides if other not in (OURS, ALIKE)]:
            (theirs, their_quality), (mine, quality) = zip(*runs[other], strict=True), zip(*runs[name], strict=True)
            many, alone = ratios(theirs, mine), ratios(theirs, [seconds + prepared_s for seconds in mine])
            gain = statistics.mean(quality) - statistics.mean(their_quality)
            print(
                f"  {other} / {name}: {spread(many)} for an epoch of many, frozen output not in it; "
                f"{spread(alone)} for an epoch alone, frozen output in it; {name}: {gain:+.4f} Recall@5"
            )


def our_sides(
    collection: Collection, parts: Mapping[str, np.ndarray], arguments: argparse.Namespace
) -> tuple[dict[str, Side], float]:
    """`loop.fit` on stored activations with batches of each kind, and the seconds that storing them took."""
    encoder = load(TrainConfig().base_model)
    depth, bf16 = arguments.frozen_layers, hardware.computes_in_bf16("auto", "cpu")
    started = time.perf_counter()
    tokens = token_inputs(encoder, collection.texts, TrainConfig().max_tokens, collection.is_query)
    inputs = frozen_inputs(encoder, tokens, [depth], bf16=bf16)[depth]
    prepared_s = time.perf_counter() - started
    kinds = {
        OURS: {"batch_size": arguments.batch_size, "queries_per_passage": arguments.queries_per_passage},
        ALIKE: {"batch_size": arguments.their_batch_size, "queries_per_passage": 1},
    }
    source, validation, sides = feed(inputs, "cpu"), parts["validation"].tolist(), {}
    for name, batches in kinds.items():
        config = TrainConfig(epochs=1, frozen_layers=depth, schedule="linear", hard_negatives=0, **batches)
        rows = f"rows, {config.queries_per_passage} of a passage" if name == OURS else "random rows"
        what = (
            f"{'bf16' if bf16 else 'fp32'}, attention dropout {config.attention_dropout:g}, hidden dropout "
            f"{config.hidden_dropout:g}, batches of {config.batch_size} {rows}"
        )

        def run(rate: float, seed: int, config: TrainConfig = config) -> tuple[float, float]:
            ended = 0.0

            def read(model: Upper) -> dict[str, float]:
                nonlocal ended
                ended = time.perf_counter()
                return evaluate(model, source, collection, validation, bf16=bf16)

            upper = upper_for(encoder, inputs)
            own = config.model_copy(update={"learning_rate": rate, "seed": seed})
            data = loop.TrainingData(collection, parts["train"], source, bf16)
            started = time.perf_counter()
            (found,) = loop.fit(own, upper, data, loop.Validation(read, "recall_at_5/macro"))
            return ended - started, found.metrics["recall_at_5/macro"]

        sides[name] = Side(what, run)
    return sides, prepared_s


def their_side(
    form: rival.Form, collection: Collection, parts: Mapping[str, np.ndarray], arguments: argparse.Namespace
) -> Side:
    """SentenceTransformerTrainer, the same blocks frozen."""
    base_model, max_tokens = TrainConfig().base_model, TrainConfig().max_tokens

    def run(rate: float, seed: int) -> tuple[float, float]:
        encoder = rival.model_of(form, base_model, arguments.frozen_layers)
        clock = rival.train(
            encoder,
            form,
            collection,
            parts["train"],
            batch_size=arguments.their_batch_size,
            learning_rate=rate,
            seed=seed,
        )
        found = evaluate_encoder(encoder, collection, parts["validation"].tolist(), max_tokens)
        return clock.seconds, found["recall_at_5/macro"]

    return Side(f"{form}, batches of {arguments.their_batch_size}, no duplicates", run)


if __name__ == "__main__":
    main()
