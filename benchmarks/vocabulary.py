"""How many test questions in shop words use a word of the glossary that a training question uses.

    python benchmarks/vocabulary.py [--seed 42]

Passages of the test rows were never trained on; their words may well have been. This counts it for the reference set,
split as the default search splits it.
"""

import argparse
import json
import re
from pathlib import Path

from nic_ray.config_file import load_config
from nic_ray.dataset.pairs import read_pairs
from nic_ray.training.prepared import divide

PAIRS, GLOSSARY = Path("data/reference/pairs.jsonl"), Path("data/reference/glossary.json")


def main() -> None:
    """Count, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=42, help="of the split")
    config = load_config(Path("tune_configs/cpu.yaml"), {"data.seed": parser.parse_args().seed})
    _, parts = divide(read_pairs(PAIRS), config.data)
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    terms = json.loads(GLOSSARY.read_text(encoding="utf-8"))
    words = {domain: [word for term in own for word in term["shop"]] for domain, own in terms.items()}
    used = [words_in(row["query"], words[row["domain"]]) for row in rows]
    trained: dict[str, set[str]] = {domain: set() for domain in words}
    for row, part, own in zip(rows, parts.tolist(), used, strict=True):
        if part == "train":
            trained[row["domain"]] |= own
    asked = [
        bool(own & trained[row["domain"]])
        for row, part, own in zip(rows, parts.tolist(), used, strict=True)
        if part == "test" and row["kind"] == "shop"
    ]
    print(f"{sum(asked)} of {len(asked)} shop questions of the test rows use a word that a training question uses")


def words_in(query: str, words: list[str]) -> set[str]:
    """Those words that stand in a question, in the singular or with an s."""
    return {word for word in words if re.search(rf"(?<!\w){re.escape(word)}(?:e?s)?(?!\w)", query, re.IGNORECASE)}


if __name__ == "__main__":
    main()
