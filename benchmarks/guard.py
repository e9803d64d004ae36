"""Whether a search over noise exports anything: the questions are exchanged at random over the whole file.

    python benchmarks/guard.py --seeds 20 [--trials 2] [--sample-share 0.5] [--json]

Each seed is a search of its own: questions permuted anew, the given trials of one epoch, averaging, interpolation and
the guard as in any search. Nothing is to be exported. As a cross-check `--seeds 1 --keep` leaves the questions where
they belong.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nic_ray.config import Config
from nic_ray.pairs import Pair, read_pairs
from nic_ray.progress import View
from nic_ray.search import run_search
from nic_ray.session import ray_session


def main() -> None:
    """Search once a seed and print what the guard said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("data/reference/pairs.jsonl"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--sample-share", type=float, default=0.5)
    parser.add_argument("--keep", action="store_true", help="leave every question with its passage")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.pairs)
    found = []
    with ray_session(View()):
        for seed in range(arguments.seeds):
            found.append(searched(pairs if arguments.keep else permuted(pairs, seed), arguments, seed))
            if not arguments.json:
                one = found[-1]
                print(
                    f"seed {seed}: gain {one['gain']:+.4f} on validation; {'; '.join(one['objections']) or 'exported'}"
                )
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"\n{sum(not one['objections'] for one in found)} exports in {len(found)} searches")


def permuted(pairs: list[Pair], seed: int) -> list[Pair]:
    """The same questions and the same passages, in pairs drawn at random."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [dataclasses.replace(pair, query=pairs[other].query) for pair, other in zip(pairs, order, strict=True)]


def searched(pairs: list[Pair], arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The validation gain of a search, and what the guard objected to."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        rows = ({"query": pair.query, "positive": pair.positive, "domain": pair.domain} for pair in pairs)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = Config.model_validate(
            {
                "data": {"pairs": str(file), "sample_share": arguments.sample_share, "seed": seed},
                "train": {"epochs": 1, "evaluations_per_epoch": 2, "frozen_layers": 5, "queries_per_passage": 4,
                          "batch_size": 128, "learning_rate": 1e-4, "seed": seed},
                "space": {"learning_rate": {"log_uniform": [1e-5, 1e-3]}, "scale": {"log_uniform": [10, 100]}},
                "search": {"trials": arguments.trials, "seed": seed},
                "confirm": {"seeds": 0},
            }
        )  # fmt: skip
        outcome = run_search(
            config,
            out=Path(folder),
            name="noise",
            run_root=Path(folder) / "runs",
            overwrite=False,
            view=View(),
        )
        results = outcome.judgement.results["validation"]
        gain = results["tuned"]["recall_at_5/macro"] - results["base"]["recall_at_5/macro"]
        return {"seed": seed, "gain": gain, "objections": outcome.judgement.evidence["guard"]["objections"]}


if __name__ == "__main__":
    main()
