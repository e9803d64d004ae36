"""How often intervals miss the truth, and how often a domain seems to fall though none does: by simulation.

    python benchmarks/coverage.py [--pairs data/reference/pairs.jsonl] [--samples 1000] [--seed 0] [--json]

A sample draws passages with replacement from a population whose mean is the truth: from the differences, passage by
passage, between the base model and one that is tuned here for an epoch (a minute or two; `--no-training` leaves these
out), and from made populations: equal models, better ones, unequal numbers of questions, one question a passage, most
passages unchanged.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nic_ray.config import Config
from nic_ray.metrics.intervals import Queries, paired_intervals
from nic_ray.model.activations import feed, frozen_inputs, upper_for
from nic_ray.selection.guard import falls
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.training.loop import UNJUDGED, TrainingData, fit
from nic_ray.training.prepared import prepare

PASSAGES = (8, 9, 13, 20, 50)
LIKE_REFERENCE = (9, 9, 13, 13, 16, 20)
"""Passages of the validation part of the reference pairs, by domain."""
MIXES = {
    "six domains like the reference's": LIKE_REFERENCE,
    "six domains of 8": (8,) * 6,
    "one of 7 among five": (7, 9, 13, 13, 20, 20),
    "one of 1 among five": (1, 9, 13, 13, 20, 20),
    "1 to 7 passages beside 20": (1, 2, 3, 4, 5, 6, 7, 20),
    "100 of 1 beside one of 60": (1,) * 100 + (60,),
    "100 of 2 beside one of 60": (2,) * 100 + (60,),
}


@dataclass(frozen=True)
class Population:
    """Passages that samples are drawn from.

    sums: (P,) sum of the differences at each passage's queries. counts: (P,) its queries.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def truth(self) -> float:
        """The mean over queries."""
        return float(self.sums.sum() / self.counts.sum())


def main() -> None:
    """Print, for each population, how often intervals of so many passages miss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("data/reference/pairs.jsonl"))
    parser.add_argument("--no-training", action="store_true", help="made populations only")
    parser.add_argument("--samples", type=int, default=1000, help="of each number of passages and population")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trained = {} if arguments.no_training else trained_differences(arguments.pairs)
    populations = trained | made(np.random.default_rng(arguments.seed))

    def missed(draw: Callable[[np.random.Generator], tuple[float, Any]]) -> list[float]:
        return shares(draw, arguments.samples, arguments.seed)

    found = {
        "95 % interval of a domain": {
            name: {str(size): missed(of_domain(own, size)) for size in PASSAGES} for name, own in populations.items()
        },
        "98 % interval of the macro mean": {
            mix: {
                name: missed(of_macro([own] * len(sizes), sizes))
                for name, own in populations.items()
                if name not in trained
            }
            for mix, sizes in MIXES.items()
        },
        "a domain seems to fall, with no change": {
            mix: alarms(sizes, arguments.samples, arguments.seed) for mix, sizes in MIXES.items()
        },
    }
    if trained:
        own = [*trained.values()]
        found["98 % interval of the macro mean"][f"{len(own)} domains of the trained model"] = {
            "trained": missed(of_macro(own, [LIKE_REFERENCE[number % 6] for number in range(len(own))]))
        }
    if arguments.json:
        print(json.dumps(found))
        return
    print("95 % intervals of one domain: % above the truth + % below it, by passages (nominal 2.5 + 2.5)")
    for name, by_size in found["95 % interval of a domain"].items():
        print(f"  {name:34}" + "".join(f"  {size:>2}: {both(each)}" for size, each in by_size.items()))
    print("one-sided 99 % bounds of the macro mean: % above the truth + % below it (nominal 1.0 + 1.0)")
    for mix, by_name in found["98 % interval of the macro mean"].items():
        print(f"  {mix:34}" + "".join(f"  {name}: {both(each)}" for name, each in by_name.items()))
    print("equal models of which some domain seems to fall, in % (nominal: 5)")
    for mix, rate in found["a domain seems to fall, with no change"].items():
        print(f"  {mix:34}  {100 * rate:.1f}")


def both(share: Sequence[float]) -> str:
    """Shares above and below, in percent."""
    return f"{100 * share[0]:.1f} + {100 * share[1]:.1f}"


def shares(draw: Callable[[np.random.Generator], tuple[float, Any]], samples: int, seed: int) -> list[float]:
    """How often an interval lies above the truth, and below it."""
    random = np.random.default_rng(seed)
    drawn = [draw(random) for _ in range(samples)]
    slack = 1e-12  # scores in tenths can meet the truth exactly
    return [
        sum(each.low > truth + slack for truth, each in drawn) / samples,
        sum(each.high < truth - slack for truth, each in drawn) / samples,
    ]


def of_domain(population: Population, size: int) -> Callable[[np.random.Generator], tuple[float, Any]]:
    """Draws so many passages; the truth, and the interval of their domain."""
    return lambda random: (population.truth, intervals(random, [population], [size], 0.95)["macro"])


def of_macro(
    populations: Sequence[Population], sizes: Sequence[int]
) -> Callable[[np.random.Generator], tuple[float, Any]]:
    """Draws a domain from each population; the truth, and the interval of their macro mean."""
    truth = sum(own.truth for own in populations) / len(populations)
    return lambda random: (truth, intervals(random, populations, sizes, 0.98)["macro"])


def intervals(
    random: np.random.Generator, populations: Sequence[Population], sizes: Sequence[int], confidence: float
) -> dict[str, Any]:
    """Of domains of so many passages, each drawn from its population."""
    drawn = [random.integers(len(own.sums), size=size) for own, size in zip(populations, sizes, strict=True)]
    counts = np.concatenate([own.counts[chosen] for own, chosen in zip(populations, drawn, strict=True)])
    means = np.concatenate(
        [own.sums[chosen] / own.counts[chosen] for own, chosen in zip(populations, drawn, strict=True)]
    )
    domains = np.repeat([f"{number:03d}" for number in range(len(sizes))], sizes)
    values = np.repeat(means, counts)
    passages = np.repeat(np.arange(len(counts)), counts)
    return paired_intervals(
        values, np.zeros_like(values), passages, np.repeat(domains, counts).tolist(), confidence=confidence
    )


def alarms(sizes: Sequence[int], samples: int, seed: int) -> float:
    """How often `falls` names a domain where two models are equally good, with ten questions a passage."""
    random = np.random.default_rng(seed)
    names = np.repeat([f"{number:03d}" for number in range(len(sizes))], sizes)
    queries = Queries(np.repeat(np.arange(len(names)), 10), np.repeat(names, 10).tolist())
    named = 0
    for _ in range(samples):
        ease, liking = random.normal(0.6, 1.5, len(names)), random.normal(0, 0.7, len(names))
        tuned, base = (
            (random.random((len(names), 10)) < rate(ease + sign * liking)[:, None]).astype(float).ravel()
            for sign in (1, -1)
        )
        named += bool(falls(tuned, base, queries, max_domain_drop=0.02))
    return named / samples


def rate(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logistic function."""
    return 1 / (1 + np.exp(-logit))


def made(random: np.random.Generator, size: int = 4000) -> dict[str, Population]:
    """Populations of hits that depend on how hard a passage is, and on a model's liking for it."""

    def hits(counts: NDArray[np.int64], gain: float) -> Population:
        ease, liking = random.normal(0.6, 1.5, size), random.normal(gain, 0.7, size)
        tuned, base = (random.binomial(counts, rate(ease + sign * liking)) for sign in (1, -1))
        return Population((tuned - base).astype(float), counts)

    ten = np.full(size, 10)
    lognormal = np.maximum(1, np.rint(np.exp(random.normal(1.5, 1, size)))).astype(np.int64)
    moved = (random.random(size) < 0.3) * random.binomial(10, 0.4, size)
    return {
        "equal, 10 questions": hits(ten, 0.0),
        "better, 10 questions": hits(ten, 0.5),
        "better, 1 to 50 questions": hits(lognormal, 0.5),
        "better, 1 question": hits(np.ones(size, np.int64), 0.5),
        "7 of 10 passages unchanged": Population(np.where(random.random(size) < 0.8, moved, -moved).astype(float), ten),
    }


def trained_differences(pairs: Path) -> dict[str, Population]:
    """Recall@5 after an epoch minus that of the base model, at the held-back passages of each domain."""
    config = Config.model_validate(
        {
            "data": {"pairs": str(pairs)},
            "train": {"frozen_layers": 5, "epochs": 1, "learning_rate": 2e-4, "batch_size": 128,
                      "queries_per_passage": 4},
        }
    )  # fmt: skip
    prepared = prepare(config, on_gpu=False)
    depth = config.train.frozen_layers
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, [depth])[depth]
    upper, scorer = upper_for(prepared.encoder, inputs), Scorer(prepared, inputs)
    data = TrainingData(prepared.collection, prepared.rows("train"), feed(inputs, "cpu"))
    *_, last = fit(config.train, upper, data, UNJUDGED)
    weights = last.state["upper"]
    differences, passages, domains = [], [], []
    for part in ("validation", "test"):
        asked = queries_of(prepared, part)
        tuned, base = (scorer.scores(own, prepared.rows(part))["recall_at_5"] for own in (weights, None))
        differences.append(tuned - base)
        passages.append(asked.passages)
        domains.extend(asked.domains)
    values, numbers, names = np.concatenate(differences), np.concatenate(passages), np.array(domains)
    found = {}
    for name in np.unique(names).tolist():
        own = names == name
        _, member, counts = np.unique(numbers[own], return_inverse=True, return_counts=True)
        found[f"{name}, trained"] = Population(np.bincount(member, values[own]), counts)
    return found


if __name__ == "__main__":
    main()
