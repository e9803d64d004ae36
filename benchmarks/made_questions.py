"""What a model learns from questions that are made from the passages, read on the questions that people wrote.

    python -m nic_ray.ask data/reference/*.manual.jsonl --glossary data/reference/glossary.json --out made.jsonl
    python benchmarks/made_questions.py made.jsonl [--protocol seen_passages] [--seeds 3]

The made rows about passages of the training part are trained on, the written rows of the validation part pick the
epoch, and those of the test part are read: base and tuned, with an interval over passages. No written question is
trained on. With `--protocol seen_passages`, made rows about all passages are trained on, as where a company makes
questions of all its manuals and is asked others about them.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nic_ray.bundle.comparison import compare_models
from nic_ray.config_file import load_config
from nic_ray.data_config import DataConfig
from nic_ray.dataset.pairs import read_pairs
from nic_ray.progress import view
from nic_ray.search.train_single import train_one
from nic_ray.training.prepared import divide

WRITTEN = Path("data/reference/pairs.jsonl")
SETTINGS = {
    "frozen_layers": 3, "learning_rate": 2e-4, "batch_size": 128, "queries_per_passage": 4, "scale": 20.0,
    "warmup_share": 0.1, "schedule": "cosine", "weight_decay": 0.01,
}  # fmt: skip
"""Those of a configuration that is known to do well on the reference set; see `search.starts`."""


def main() -> None:
    """Train on the made questions, once a seed, and print the gain on the written ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", type=Path)
    parser.add_argument("--config", type=Path, default=Path("tune_configs/cpu.yaml"))
    parser.add_argument("--protocol", choices=["unseen_passages", "seen_passages"], default="unseen_passages")
    parser.add_argument("--kinds", nargs="*", help="train on made questions of these kinds only")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        rows = [*rows_of(arguments.made, arguments.kinds, seen=arguments.protocol == "seen_passages")]
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        kinds = Counter(row.get("kind", "") for row in rows if row["split"] == "train")
        print("trained on:", ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())), flush=True)
        for seed in range(42, 42 + arguments.seeds):
            settings = {f"train.{name}": value for name, value in SETTINGS.items()}
            settings |= {"train.seed": seed, "train.epochs": arguments.epochs}
            config = load_config(arguments.config, {**settings, "data.pairs": [str(pairs)], "data.splits": "own"})
            with view(quiet=True) as progress:
                trained = train_one(config, out=Path(folder), view=progress)
            ranking = compare_models([config.train.base_model, str(trained.folder)], (WRITTEN,), "test", say=lambda _: None)
            for domain, interval in ranking.intervals[str(trained.folder)].items():
                sure = "" if interval.low is None else f" ({interval.low:+.3f} to {interval.high:+.3f})"
                at_5 = [ranking.results[model][f"recall_at_5/{domain}"] for model in ranking.results]
                print(f"seed {seed} {domain:17} {at_5[0]:.3f} -> {at_5[1]:.3f} {interval.difference:+.3f}{sure}")


def rows_of(made: Path, kinds: list[str] | None, *, seen: bool) -> Iterator[dict[str, Any]]:
    """Yield the written rows of the validation and test parts, and the made rows to train on, each with its part.

    Args:
        made: JSON lines that `python -m nic_ray.ask` has written.
        kinds: kinds of made questions to train on; None: all.
        seen: whether rows about held-back passages are trained on too.
    """
    written = read_pairs(WRITTEN)
    parts = divide(written, DataConfig(query_share=0.0))[1].tolist()
    held_back = {pair.positive for pair, part in zip(written, parts, strict=True) if part != "train"}
    for pair, part in zip(written, parts, strict=True):
        if part != "train":
            yield {"query": pair.query, "positive": pair.positive, "domain": pair.domain, "split": part}
    for line in made.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        whole = {row["cut_from"]} if row.get("cut_from") else {*_listed(row["positive"])}
        if (seen or not whole & held_back) and (kinds is None or row["kind"] in kinds):
            yield {**{name: row[name] for name in ("query", "positive", "domain", "kind")}, "split": "train"}


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


if __name__ == "__main__":
    main()
