"""What parts of the training and of the search's end are worth: one changed at a time, all else the same.

    python benchmarks/ablations.py --seeds 3 [--jobs 2] [--json]

Every variant trains the same configuration with the same seeds on the training rows and is scored on the validation
rows: the test rows decide nothing here. Differences are of scores averaged over the seeds, query by query, with 95 %
intervals that draw passages. For the variants that hold the model to its base, and for the one that does not, the way
back to the base is scored as well: gain against what is kept of the retention set. Needs the extra `mine`.
"""

import argparse
import dataclasses
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nic_ray import hardware
from nic_ray.config import Config
from nic_ray.cpus import usable_cpus
from nic_ray.dataset.pairs import Collection, index_pairs, read_pairs, relevant_passages
from nic_ray.metrics.intervals import paired_intervals
from nic_ray.metrics.ranking import by_domain
from nic_ray.model.activations import Inputs, feed, frozen_inputs, upper_for
from nic_ray.model.base import load
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.interpolation import interpolation_path
from nic_ray.selection.retention import RetentionSet, load_retention_set
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop
from nic_ray.training.batches import batches_of_epoch, make_batch
from nic_ray.training.loss import Loss, multiple_negatives_ranking_loss
from nic_ray.training.mining import mine_negatives
from nic_ray.training.prepared import Prepared, prepare

RETENTION_SET = Path("data/retention/pairs.jsonl")
ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0)
AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Variant:
    """A change of the training. `against`: the variant that it is compared with."""

    name: str
    against: str = AS_IT_IS
    settings: tuple[tuple[str, Any], ...] = ()
    masks: bool = True
    anchor: tuple[str, float] | None = None
    """What holds the tuned model to its base ("similarities" or "embeddings"), and its weight in the loss."""


VARIANTS = (
    Variant(AS_IT_IS),
    Variant("random batches", settings=(("queries_per_passage", 1),)),
    Variant(
        "random batches, copies of the answer as negatives",
        against="random batches",
        settings=(("queries_per_passage", 1),),
        masks=False,
    ),
    Variant("a mined hard negative a row", settings=(("hard_negatives", 1),)),
    Variant("held to the base's similarities, 0.3", anchor=("similarities", 0.3)),
    Variant("held to the base's similarities, 1", anchor=("similarities", 1.0)),
    Variant("held to the base's embeddings, 1", anchor=("embeddings", 1.0)),
    Variant("held to the base's embeddings, 5", anchor=("embeddings", 5.0)),
)


@dataclass(frozen=True)
class Given:
    """What all variants share."""

    prepared: Prepared
    inputs: Inputs
    retention_set: RetentionSet
    base: Tensor
    """(texts, D) embeddings by the base model."""
    mined: Collection


GIVEN: Given  # workers are forked and inherit it: it is too large to be handed to each


def main() -> None:
    """Train every variant with every seed and print what changed."""
    global GIVEN
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("data/reference/pairs.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--sample-share", type=float, default=1.0, help="share of the passages, to try this out")
    parser.add_argument("--jobs", type=int, default=usable_cpus())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # also because threads that have run do not survive a fork
    hardware.keep_freed_memory()
    GIVEN = given(arguments)
    jobs = [(variant, seed) for variant in VARIANTS for seed in range(arguments.seeds)]
    with multiprocessing.get_context("fork").Pool(arguments.jobs, maxtasksperchild=1) as pool:
        found = pool.starmap(trained, jobs, chunksize=1)
    runs: dict[str, list[dict[str, Any]]] = {}
    for (variant, _), one in zip(jobs, found, strict=True):
        runs.setdefault(variant.name, []).append(one)
    summary = {
        "variants": {variant.name: compared(variant, runs) for variant in VARIANTS},
        "fronts": {name: mean_front(own) for name, own in runs.items() if own[0]["front"]},
        "protocols": protocols(runs[AS_IT_IS]),
    }
    if arguments.json:
        print(json.dumps(summary))
        return
    print("\nvalidation, macro Recall@5, mean over the seeds; the difference with its 95 % interval")
    for variant in VARIANTS:
        one = summary["variants"][variant.name]
        spread = f"{one['recall_at_5']:.4f} ({one['low_seed']:.4f} to {one['high_seed']:.4f})"
        print(f"  {variant.name:50} {spread}  {shown(one['difference'])}")
    print("\nthe way back to the base model: gain on validation / on the retention set, macro Recall@5")
    print(f"  {'':50} " + "  ".join(f"alpha {alpha:g}     " for alpha in ALPHAS))
    for name, points in summary["fronts"].items():
        print(f"  {name:50} " + "  ".join(f"{gain:+.4f}/{kept:+.4f}" for gain, kept in points))
    print("\nwhat is held back: gain over the base model")
    for name, one in summary["protocols"].items():
        print(f"  {name:50} {one['base']:.4f} to {one['tuned']:.4f}  {shown(one['difference'])}")


def given(arguments: argparse.Namespace) -> Given:
    """Read, split and embed what all variants share, and mine the negatives for the one that wants them."""
    config = Config.model_validate(
        {
            "data": {"pairs": str(arguments.pairs), "sample_share": arguments.sample_share},
            "train": {
                "epochs": arguments.epochs,
                "batch_size": 128,
                "queries_per_passage": 4,
                "learning_rate": arguments.learning_rate,
                "schedule": "cosine",
                "hard_negatives": 0,
            },
        }
    )
    prepared = prepare(config, on_gpu=False)
    depth, collection = config.train.frozen_layers, prepared.collection
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, [depth], device="cpu", bf16=prepared.bf16)[depth]
    base = Scorer(prepared, inputs).embeddings(None, np.arange(len(collection.texts)))
    rows = prepared.rows("train").tolist()
    negatives = mine_negatives(
        load(config.train.base_model), collection, rows, count=1, relative_margin=0.05, max_tokens=256
    )
    number = {text: place for place, text in enumerate(collection.texts)}
    column = [[number[negatives[row][0]] if row in negatives else -1] for row in range(len(collection.query))]
    mined = dataclasses.replace(collection, negatives=np.asarray(column, collection.negatives.dtype))
    print(f"negatives for {len(negatives)} of {len(rows)} training rows")
    return Given(
        prepared,
        inputs,
        load_retention_set(prepared, index_pairs(read_pairs(RETENTION_SET)), [depth]),
        torch.from_numpy(base),
        mined,
    )


def trained(variant: Variant, seed: int) -> dict[str, Any]:
    """Recall@5 of each held-back query after a training, and the way back to the base model where it is asked for."""
    prepared, inputs = GIVEN.prepared, GIVEN.inputs
    config = prepared.config.train.model_copy(update={**dict(variant.settings), "seed": seed})
    collection = GIVEN.mined if config.hard_negatives else prepared.collection
    upper, scorer = upper_for(prepared.encoder, inputs), Scorer(prepared, inputs)
    data = loop.TrainingData(collection, prepared.rows("train"), feed(inputs, "cpu"), prepared.bf16)
    *_, last = loop.fit(config, upper, data, loop.UNJUDGED, loss=loss_of(variant, config, data))
    winner = Candidate(variant.name, config, last.metrics, last.state["upper"])
    parts = {
        part: scorer.scores(winner.weights, prepared.rows(part))["recall_at_5"]
        for part in ("validation", "unseen_queries")
    }
    points = []
    if variant.name == AS_IT_IS or variant.anchor:
        base = scorer.scores(None, prepared.rows("validation"))
        start, *way = interpolation_path(prepared, inputs, winner, base, GIVEN.retention_set, alphas=ALPHAS)
        gains = (point.metrics["recall_at_5/macro"] - start.metrics["recall_at_5/macro"] for point in way)
        points = [(gain, (point.retention or {})["recall_at_5"]) for gain, point in zip(gains, way, strict=True)]
    return {"parts": parts, "front": points}


def loss_of(variant: Variant, config: TrainConfig, data: loop.TrainingData) -> Loss:
    """The loss of a training, with the change that a variant makes in it."""
    relevant = relevant_passages(data.collection)
    # a loss is not told of which texts the embeddings are; but the same seed draws the same batches
    batches = (
        make_batch(data.collection, relevant, rows, config.hard_negatives)
        for epoch in range(config.epochs)
        for rows in batches_of_epoch(config, data.collection, data.rows, epoch)
    )

    def loss(queries: Tensor, passages: Tensor, positive: Tensor, masked: Tensor, *, scale: float) -> Tensor:
        batch = next(batches)
        if not variant.masks:  # a column a row, as where nobody looks whether two rows have the same answer
            passages, positive = passages[positive], torch.arange(len(queries))
            masked = torch.zeros(len(queries), len(queries), dtype=torch.bool)
        value = multiple_negatives_ranking_loss(queries, passages, positive, masked, scale=scale)
        if variant.anchor is None:
            return value
        kind, weight = variant.anchor
        base = GIVEN.base[torch.from_numpy(batch.texts)]
        return value + weight * ANCHORS[kind](queries, passages, base[batch.queries], base[batch.passages], scale)

    return loss


def similarities(
    queries: Tensor, passages: Tensor, base_queries: Tensor, base_passages: Tensor, scale: float
) -> Tensor:
    """KL divergence, nats, of the tuned model's softmax over the batch's passages from the base model's."""
    tuned = functional.log_softmax(functional.normalize(queries) @ functional.normalize(passages).T * scale, 1)
    base = functional.log_softmax(functional.normalize(base_queries) @ functional.normalize(base_passages).T * scale, 1)
    return functional.kl_div(tuned, base, reduction="batchmean", log_target=True)


def embeddings(queries: Tensor, passages: Tensor, base_queries: Tensor, base_passages: Tensor, _: float) -> Tensor:
    """Mean 1 - cosine between a text's embeddings by the tuned model and by the base model."""
    far = [
        1 - functional.cosine_similarity(queries, base_queries),
        1 - functional.cosine_similarity(passages, base_passages),
    ]
    return torch.cat(far).mean()


ANCHORS: dict[str, Callable[..., Tensor]] = {"similarities": similarities, "embeddings": embeddings}


def compared(variant: Variant, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean and range over the seeds, and the difference from the variant that it is held against."""
    asked = queries_of(GIVEN.prepared, "validation")
    own, other = ([one["parts"]["validation"] for one in runs[name]] for name in (variant.name, variant.against))
    values = [by_domain(scores, asked.domains)["macro"] for scores in own]
    interval = paired_intervals(np.mean(own, 0), np.mean(other, 0), asked.passages, asked.domains)["macro"]
    return {
        "recall_at_5": float(np.mean(values)),
        "low_seed": min(values),
        "high_seed": max(values),
        "against": variant.against,
        "difference": None if variant.name == variant.against else dataclasses.asdict(interval),
    }


def mean_front(runs: list[dict[str, Any]]) -> list[list[float]]:
    """Gain and retention at each alpha, over the seeds."""
    return np.mean([one["front"] for one in runs], 0).tolist()


def protocols(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the same models gain on unseen passages and on unseen queries about trained passages."""
    prepared, inputs = GIVEN.prepared, GIVEN.inputs
    found = {}
    for part, name in (("validation", "unseen passages"), ("unseen_queries", "unseen queries of trained passages")):
        asked = queries_of(prepared, part)
        base = Scorer(prepared, inputs).scores(None, prepared.rows(part))["recall_at_5"]
        tuned = np.mean([one["parts"][part] for one in runs], 0)
        difference = paired_intervals(tuned, base, asked.passages, asked.domains)["macro"]
        found[name] = {
            "base": by_domain(base, asked.domains)["macro"],
            "tuned": by_domain(tuned, asked.domains)["macro"],
            "difference": dataclasses.asdict(difference),
        }
    return found


def shown(difference: dict[str, Any] | None) -> str:
    """A difference with its interval."""
    if difference is None:
        return ""
    if difference["low"] is None:
        return f"{difference['difference']:+.4f}"
    return f"{difference['difference']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"


if __name__ == "__main__":
    main()
