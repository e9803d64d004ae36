"""Time and memory of ranking questions over a large corpus, beyond the embedding of its passages.

    python benchmarks/large_corpus.py [--passages 1000000] [--questions 1000] [--dimensions 384] [--seed 0]
        [--words]

Random texts of forty words and random embeddings, in a process of its own: the passages join the collection of the
questions (`with_distractors`: near copies of answers are found), then every question is ranked over all of them
(`query_scores`), and the five nearest passages of each are found (`nearest`). Prints one line of JSON with seconds of
each, processor seconds and the peak of the resident memory, the 1.5 GiB of a million embeddings included.
"""

import argparse
import json
import resource
import time

import numpy as np

from nic_ray.dataset.corpus import with_distractors
from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.metrics.fusion import RANKS, VECTORS, WORDS
from nic_ray.model.evaluation import Asked, fused_scores, nearest, query_scores

WORDS_OF_A_TEXT, VOCABULARY = 40, 50_000


def main() -> None:
    """Rank once, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--questions", type=int, default=1_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", action="store_true", help="rank by BM25 and by both as well, as the test rows are")
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    words = np.array([f"word{number}" for number in range(VOCABULARY)])

    def texts(count: int) -> list[str]:
        return [" ".join(words[row]) for row in generator.zipf(1.2, (count, WORDS_OF_A_TEXT)) % VOCABULARY]

    pairs = [Pair(f"question {n}?", text, f"domain {n % 6}") for n, text in enumerate(texts(arguments.questions))]
    collection = index_pairs(pairs)
    assert len(collection.near_group) == len(collection.texts)
    others = texts(arguments.passages)
    seconds = {}
    began = time.perf_counter()
    whole = with_distractors(collection, others)
    seconds["join"] = time.perf_counter() - began
    shape = (len(whole.texts), arguments.dimensions)
    embeddings = generator.standard_normal(shape, dtype=np.float32)
    asked = Asked(embeddings, np.arange(len(embeddings)), whole, range(arguments.questions))
    before = time.process_time()
    ways = {"rank": query_scores, "nearest": lambda rows: nearest(rows, k=5)}
    if arguments.words:
        ways["rank by words too"] = lambda rows: fused_scores(rows, (WORDS, VECTORS, RANKS))
    for name, rank in ways.items():
        began = time.perf_counter()
        rank(asked)
        seconds[name] = time.perf_counter() - began
    print(
        json.dumps(
            {
                "passages": arguments.passages,
                "questions": arguments.questions,
                **{name: round(value, 1) for name, value in seconds.items()},
                "processor seconds of ranking": round(time.process_time() - before, 1),
                "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
