"""A model's ranking as files that other tools of information retrieval read: TREC run and qrels, BEIR's results."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from nic_ray.dataset.pairs import Collection, gains_by_query, relevant_passages
from nic_ray.errors import InputError
from nic_ray.model.evaluation import Asked, nearest, query_scores

DEPTH = 1000
"""Number of passages of each query in a run, trec_eval's usual depth."""
BEIR_DEPTHS = (1, 3, 5, 10, 100, 1000)
BEIR_NAMES = {"ndcg": "NDCG", "map": "MAP", "recall": "Recall", "precision": "P", "mrr": "MRR"}
"""Our families -> BEIR's names, and those of the objects in its results file."""
TAG = "nic_ray"


def refuse_existing(*paths: Path | None) -> None:
    """Check that files can be written, before anything is computed.

    Raises:
        InputError: a file exists, or its folder does not.
    """
    for path in filter(None, paths):
        if path.exists():
            raise InputError(f"{path}: exists; name a new file, or remove it")
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}; create it, or name another")


def qrels_of(run: Path) -> Path:
    """Return where the qrels beside a run are written: run.txt -> run.qrels.txt."""
    return run.with_name(f"{run.stem}.qrels{run.suffix}")


def write_files(asked: Asked, run: Path | None, beir: Path | None) -> None:
    """Write the files that are named: see `write_run` and `write_beir`."""
    if run is not None:
        write_run(run, asked)
    if beir is not None:
        write_beir(beir, asked)


def write_run(path: Path, asked: Asked) -> None:
    """Write the first `DEPTH` passages of each distinct query as a TREC run, and qrels beside it.

    A query and a passage are named by their ids in a folder in BEIR form, with "_" for spaces, else by "q" and "p" with
    their numbers in the order of the rows. Near duplicates of an answer stand in neither file, as they count neither
    for nor against it.

    Args:
        path: the run; `qrels_of` it is the other file.
        asked: what the model makes of the texts.
    """
    collection = asked.collection
    queries, first = np.unique(collection.query[list(asked.rows)], return_index=True)
    once = Asked(
        asked.embeddings, asked.texts, collection, [asked.rows[place] for place in first.tolist()], asked.similarity
    )
    passages, scores = nearest(once, k=DEPTH)
    with path.open("w", encoding="utf-8") as file:
        for query, found, values in zip(queries.tolist(), passages.tolist(), scores.tolist(), strict=True):
            for rank, (passage, score) in enumerate(zip(found, values, strict=True), start=1):
                names = _name(collection, query, "q"), _name(collection, passage, "p")
                file.write(f"{names[0]} Q0 {names[1]} {rank} {score:.9g} {TAG}\n")
    with qrels_of(path).open("w", encoding="utf-8") as file:
        file.writelines(_qrels(collection, queries.tolist()))


def _qrels(collection: Collection, queries: list[int]) -> Iterator[str]:
    relevant, gains = relevant_passages(collection), gains_by_query(collection)
    for query in queries:
        worth = np.ones(len(relevant[query])) if gains is None else gains[query]
        for passage, gain in zip(relevant[query].tolist(), worth.tolist(), strict=True):
            yield f"{_name(collection, query, 'q')} 0 {_name(collection, passage, 'p')} {gain:g}\n"


def _name(collection: Collection, text: int, kind: str) -> str:
    return f"{kind}{text}" if collection.ids is None else "_".join(collection.ids[text].split())


def write_beir(path: Path, asked: Asked) -> None:
    """Write the means over all queries as BEIR's `util.save_results` does: an object of metrics at several depths each.

    Args:
        asked: what the model makes of the texts.
    """
    named = tuple(f"{family}_at_{k}" for family in BEIR_NAMES for k in BEIR_DEPTHS)
    scores = query_scores(replace(asked, collection=replace(asked.collection, metrics=named)))
    content = {
        family: {f"{name}@{k}": round(float(scores[f"{family}_at_{k}"].mean()), 5) for k in BEIR_DEPTHS}
        for family, name in BEIR_NAMES.items()
    }
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
