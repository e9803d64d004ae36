"""Time and memory of `python -m nic_ray.check` on a large file of random pairs.

    python benchmarks/large_files.py [--rows 1000000] [--passages 250000] [--seed 0] [--keep FILE]

Writes a Parquet file with questions of about ten words and passages of about ninety, in six domains, in a temporary
folder; runs the check on it in a process of its own, and prints one line of JSON: rows, seconds, processor seconds, the
peak of the resident memory, and what was measured on samples. The words are drawn one by one, as often as in the
reference pairs, with one in twenty of a kind that is rare, as part numbers and names are; a question has some words of
its passage. The machine's own load counts, so run it on an idle one.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nic_ray.dataset.pairs import read_pairs

REFERENCE = Path(__file__).parent.parent / "data/reference/pairs.jsonl"
DOMAINS = 6
ASKED = ["How do I", "What is the", "Where is the", "Why does the", "When should I", "Which"]


def main() -> None:
    """Write a file, check it, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--passages", type=int, help="distinct passages; a quarter of the rows if omitted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the pairs to this file, or take them from it if it is there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.keep or Path(folder) / "pairs.parquet"
        if not file.exists():
            write_pairs(
                file, arguments.rows, arguments.passages or max(3 * DOMAINS, arguments.rows // 4), arguments.seed
            )
        print(json.dumps(checked(file)))


def checked(file: Path) -> dict[str, object]:
    """What the check of a file takes, and what it says of its samples."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "nic_ray.check", str(file), "--json"], stdout=subprocess.PIPE, check=True, text=True
    )
    seconds, usage = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    return {
        "rows": found["rows"],
        "passages": found["passages"],
        "seconds": round(seconds, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),  # kilobytes, on Linux
        "findings": {finding["code"]: finding["rows"] for finding in found["findings"]},
        "sampled": found["profile"]["sampled"],
    }


def write_pairs(file: Path, rows: int, passages: int, seed: int) -> None:
    """Write random pairs as Parquet."""
    import pyarrow
    from pyarrow import parquet

    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(np.log(85), 0.4, passages), 12, 400).astype(np.int64)
    texts = [f"{text}." for text in joined(drawn_words(generator, int(lengths.sum())), lengths)]
    answered = np.concatenate(
        [np.arange(min(rows, passages)), generator.integers(passages, size=max(0, rows - passages))]
    )
    sizes = generator.integers(4, 11, size=rows)
    own = drawn_words(generator, int(sizes.sum()))
    ends, queries = np.cumsum(sizes), []
    for row, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        words = texts[answered[row]].split()
        at = int(generator.integers(len(words) - 2))
        queries.append(f"{ASKED[row % len(ASKED)]} {' '.join([*words[at : at + 2], *own[start : end - 2]])}?")
    table = {
        "query": queries,
        "positive": pyarrow.array(texts).take(pyarrow.array(answered)),
        "domain": [f"domain {number % DOMAINS}" for number in answered.tolist()],
    }
    parquet.write_table(pyarrow.table(table), file)


def drawn_words(generator: np.random.Generator, count: int) -> list[str]:
    """Words as often as in the reference pairs, and one in twenty that is rare."""
    often = Counter(word for pair in read_pairs(REFERENCE) for word in pair.positive.split())
    shares = np.array([*often.values()]) / often.total()
    words = np.array([*often], dtype=object)[generator.choice(len(often), size=count, p=shares)]
    rare = generator.random(count) < 0.05
    words[rare] = [f"{'ABCDEFGH'[number % 8]}{number // 8}" for number in generator.integers(400_000, size=rare.sum())]
    found: list[str] = words.tolist()
    return found


def joined(words: Sequence[str], lengths: np.ndarray) -> list[str]:
    """Texts of so many successive words each."""
    ends = np.cumsum(lengths)
    return [" ".join(words[start:end]) for start, end in zip(ends - lengths, ends, strict=True)]


if __name__ == "__main__":
    main()
