"""How often a search exports where there is nothing to gain and nothing to lose: labels that leave the model as it was.

    python benchmarks/noise.py --searches 60 [--out noise.jsonl] [--cpus 2] [--protocol unseen_passages] [--json]

Each search has the shape of tune_configs/cpu.yaml: its space, 12 trials, ASHA, confirmation, averaging, interpolation,
retention set, guard. Its rows are few and short: every eighth question, 32 tokens; about as many passages are asked for
in each held-back part as in those of the whole set. A row's answer is not the right one but drawn
from the 20 passages that the base model ranks first for the question. So a model finds a share of (its first five
among those 20) / 20, whatever it has learned: none can be better than the base model, and one that has moved little is
as good. That is exact where the held-back rows ask new questions about the same passages, as they do here unless
--protocol says otherwise; passages that are never trained on can rise together. What the tuned models are worth in
truth is printed, and what the test rows say of them, read or not.

Nothing is to be exported. With --out, a line is added for each search, and searches that it holds are not run again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from nic_ray.config import Config
from nic_ray.config_file import load_config
from nic_ray.dataset.pairs import Pair, read_pairs
from nic_ray.metrics.ranking import by_domain
from nic_ray.model.activations import frozen_inputs
from nic_ray.model.base import load
from nic_ray.model.evaluation import Asked, nearest, texts_to_score
from nic_ray.progress import View
from nic_ray.record import add_line, read_lines
from nic_ray.search.search import run_search
from nic_ray.search.session import ray_session
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.scoring import Scorer
from nic_ray.training.prepared import Prepared, prepare

DEFAULT = Path("tune_configs/cpu.yaml")
RETENTION_SET, RETENTION_ROWS = Path("data/retention/pairs.jsonl"), 120
NEAR = 20
"""Passages that an answer is drawn from."""
EVERY = 8
"""Of the questions, one in so many asks."""
MAX_TOKENS = 32


def main() -> None:
    """Search, and print how many exported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("data/reference/pairs.jsonl"))
    parser.add_argument("--searches", type=int, default=60)
    parser.add_argument("--out", type=Path, help="JSON lines to add to and to go on from")
    parser.add_argument("--cpus", type=int, help="CPUs that trials share; all of the machine's if not given")
    parser.add_argument("--protocol", choices=["unseen_queries", "unseen_passages"], default="unseen_queries")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    done = {} if arguments.out is None else noted(arguments.out)
    left = [seed for seed in range(arguments.searches) if (arguments.protocol, seed) not in done]
    if left:
        pairs = read_pairs(arguments.pairs)[::EVERY]
        ranked = first_ranked(pairs)
        with ray_session(View(), num_cpus=arguments.cpus):
            for seed in left:
                one = searched(relabelled(pairs, ranked, seed), arguments.protocol, seed)
                done[arguments.protocol, seed] = one
                if arguments.out is not None:
                    add_line(arguments.out, one)
                if not arguments.json:
                    print(described(one), flush=True)
    found = [one for (protocol, seed), one in done.items() if protocol == arguments.protocol]
    result = summary(found)
    if arguments.json:
        print(json.dumps({"summary": result, "searches": found}))
        return
    print(
        f"\n{result['exports']} exports in {result['searches']} searches: at most {result['at_most']:.1%} with 95 % "
        f"confidence (Clopper and Pearson); {result['passed_validation']} passed the validation rows.\n"
        f"Macro Recall@5 of the tuned models minus the base model's: {shown(result['truth'])} in truth, "
        f"{shown(result['test'])} on the test rows, {shown(result['validation'])} on the validation rows that chose; "
        f"{result['seconds']:.0f} s a search"
    )


def noted(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Searches of an earlier call, by protocol and seed; a line that was cut off is none."""
    return {(one["protocol"], one["seed"]): one for one in read_lines(path)}


def first_ranked(pairs: Sequence[Pair]) -> list[list[str]]:
    """For each row the passages that the base model ranks first for its question."""
    passages = sorted({pair.positive for pair in pairs})
    model = load("all-MiniLM-L6-v2").model
    model.max_seq_length = MAX_TOKENS
    queries = model.encode([pair.query for pair in pairs], normalize_embeddings=True)
    corpus = model.encode(passages, normalize_embeddings=True)
    first = np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :NEAR]
    return [[passages[number] for number in own] for own in first.tolist()]


def relabelled(pairs: Sequence[Pair], ranked: Sequence[Sequence[str]], seed: int) -> list[dict[str, str]]:
    """Rows whose answer is drawn from what the base model finds."""
    drawn = np.random.default_rng(seed).integers(NEAR, size=len(pairs))
    return [
        {"query": pair.query, "positive": own[place], "domain": pair.domain}
        for pair, own, place in zip(pairs, ranked, drawn.tolist(), strict=True)
    ]


def searched(rows: Sequence[dict[str, str]], protocol: str, seed: int) -> dict[str, Any]:
    """What a search says of its winner, and what that is worth."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        retention_set = RETENTION_SET.read_text(encoding="utf-8").splitlines(keepends=True)[:RETENTION_ROWS]
        (folder / "retention.jsonl").write_text("".join(retention_set), encoding="utf-8")
        config = load_config(
            DEFAULT,
            {
                "data.pairs": folder / "pairs.jsonl",
                "data.protocol": protocol,
                "data.seed": seed,
                "train.max_tokens": MAX_TOKENS,
                "search.seed": seed,
                "guard.retention_set": folder / "retention.jsonl",
            },
        )
        result = run_search(config, out=folder, name="nothing", run_root=folder / "runs", overwrite=False, view=View())
        results, seconds = result.judgement.results["validation"], time.monotonic() - started
        test, truth = worth(config, result.judgement.tuned)
        key = "recall_at_5/macro"
        return {
            "protocol": protocol,
            "seed": seed,
            "exported": result.folder is not None,
            "validation": results["tuned"][key] - results["base"][key],
            "test": test,
            "truth": truth,
            "trial": result.judgement.tuned.name,
            "alpha": result.judgement.evidence["alpha"],
            "objections": result.judgement.evidence["guard"]["objections"],
            "seconds": seconds,
        }


def worth(config: Config, tuned: Candidate) -> tuple[float, float]:
    """Macro Recall@5 of the test rows, tuned minus base: with the answers that were drawn, and over all draws."""
    prepared = prepare(config, on_gpu=False)
    depth = tuned.config.frozen_layers
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, [depth])[depth]
    rows = prepared.rows("test").tolist()
    domains = [prepared.collection.domains[row] for row in rows]
    drawn, every, scorer = {}, {}, Scorer(prepared, inputs)
    texts = texts_to_score(prepared.collection, rows)
    near = first_of(prepared, scorer.embeddings(None, texts), NEAR)
    for name, weights in (("base", None), ("tuned", tuned.weights)):
        scores = scorer.scores(weights, prepared.rows("test"))
        drawn[name] = by_domain(scores["recall_at_5"], domains)["macro"]
        five = first_of(prepared, scorer.embeddings(weights, texts), 5)
        shares = np.array([np.isin(own, among).sum() / NEAR for own, among in zip(five, near, strict=True)])
        every[name] = by_domain(shares, domains)["macro"]
    return drawn["tuned"] - drawn["base"], every["tuned"] - every["base"]


def first_of(prepared: Prepared, embeddings: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(rows, k) passages that come first for each test row."""
    rows = prepared.rows("test").tolist()
    texts = texts_to_score(prepared.collection, rows)
    return nearest(Asked(embeddings, texts, prepared.collection, rows), k=k)[0]


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Exports, with the upper end of their exact one-sided 95 % interval, and mean changes with standard errors."""
    exports, searches = sum(one["exported"] for one in found), len(found)
    passed = sum(not any(each.startswith("validation:") for each in one["objections"]) for one in found)
    means = {
        name: {
            "mean": float(np.mean([one[name] for one in found])),
            "standard_error": float(np.std([one[name] for one in found], ddof=min(1, searches - 1)) / searches**0.5),
        }
        for name in ("truth", "test", "validation")
    }
    return {
        "exports": exports,
        "searches": searches,
        "at_most": float(beta.ppf(0.95, exports + 1, searches - exports)) if exports < searches else 1.0,
        "passed_validation": passed,
        "seconds": float(np.mean([one["seconds"] for one in found])),
        **means,
    }


def shown(change: dict[str, float]) -> str:
    """A mean with its standard error."""
    return f"{change['mean']:+.4f} ± {change['standard_error']:.4f}"


def described(one: dict[str, Any]) -> str:
    """A search in a line."""
    return (
        f"seed {one['seed']}: {one['validation']:+.4f} on validation, {one['test']:+.4f} on test, {one['truth']:+.4f} "
        f"in truth, {one['seconds']:.0f} s: {'; '.join(one['objections']) or 'exported'}"
    )


if __name__ == "__main__":
    main()
