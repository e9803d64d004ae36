"""Reading of folders in BEIR format: passages, queries, and the passages that answer each query.

Source: Thakur et al. 2021, arXiv:2104.08663; `beir.datasets.data_loader.GenericDataLoader`.
"""

from pathlib import Path

import numpy as np

from nic_ray.dataset.beir_files import CORPUS, QUERIES, answers_of, texts_of
from nic_ray.dataset.pairs import Collection


def read_beir(folder: Path, split: str) -> tuple[Collection, list[int]]:
    """Read a folder in BEIR format, in the form in which its passages are ranked for its queries.

    A passage's text is its title, a space and its text, as in BEIR. Every score above 0 marks an answer, and is its
    gain. Queries without an answer are left out.

    Args:
        folder: holds corpus.jsonl, queries.jsonl and qrels/. Its name is the only domain.
        split: qrels/`split`.tsv, with or without a header, names the queries and their answers.

    Returns:
        the collection, with one row per pair of a query and an answer, and the first row of each query.

    Raises:
        InputError: a file is missing or cannot be used; the message lists the first faults, by line.
    """
    passages, queries = texts_of(folder / CORPUS), texts_of(folder / QUERIES)
    answers = answers_of(folder, split, queries, passages)
    numbers = {query: number for number, query in enumerate(dict.fromkeys(query for query, _ in answers))}
    places = {passage: number for number, passage in enumerate(passages, start=len(numbers))}
    query = np.array([numbers[key] for key, _ in answers], dtype=np.int64)
    collection = Collection(
        texts=(*(queries[key] for key in numbers), *passages.values()),
        ids=(*numbers, *passages),
        query=query,
        positive=np.array([places[key] for _, key in answers], dtype=np.int64),
        negatives=np.empty((len(answers), 0), dtype=np.int64),
        domains=(folder.resolve().name,) * len(answers),
        corpus=np.arange(len(numbers), len(numbers) + len(passages), dtype=np.int64),
        fully_judged=True,
        gains=np.array(list(answers.values())) if any(score != 1 for score in answers.values()) else None,
    )
    return collection, np.unique(query, return_index=True)[1].tolist()
