"""Passages that no question asks for: read from files, and added to a collection to be ranked and mined from."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nic_ray.dataset.pairs import Collection
from nic_ray.dataset.passages import read_corpus


def read_distractors(path: Path, collection: Collection) -> list[str]:
    """Read the passages of a corpus that no row of a collection names, each once, in their order.

    Raises:
        InputError: as `passages.read_corpus`.
    """
    named = {collection.texts[text] for text in collection.corpus.tolist()}
    return [text for text in dict.fromkeys(passage.text for passage in read_corpus(path)) if text not in named]


def with_distractors(collection: Collection, texts: Sequence[str]) -> Collection:
    """Return a collection with further passages at its end, which no row names.

    Groups of near duplicates among the rows' own texts stay as they are; a further passage is in the group of a passage
    that it is nearly the same as.
    """
    if not texts:
        return collection
    count = len(collection.texts)
    added = replace(
        collection,
        texts=(*collection.texts, *texts),
        corpus=np.append(collection.corpus, np.arange(count, count + len(texts))),
        distractors=collection.distractors + len(texts),
        ids=None if collection.ids is None else (*collection.ids, *_new_ids(collection.ids, len(texts))),
    )
    if "near_group" in vars(collection) and not collection.fully_judged:
        from nic_ray.dataset.duplicates import with_others

        named = collection.corpus[collection.corpus < count - collection.distractors]
        vars(added)["near_group"] = with_others(collection.near_group, added.texts, named, collection.wholes)
    return added


def _new_ids(known: Sequence[str], count: int) -> Iterator[str]:
    """Yield ids of further passages, which no text has yet."""
    taken = {*known}
    return itertools.islice((name for n in itertools.count(1) if (name := f"corpus-{n}") not in taken), count)


def with_corpus(collection: Collection, path: Path | None) -> Collection:
    """Return a collection with all passages of a corpus, if one is named.

    Raises:
        InputError: as `read_distractors`.
    """
    return collection if path is None else with_distractors(collection, read_distractors(path, collection))


def with_metrics(collection: Collection, metrics: tuple[str, ...]) -> Collection:
    """Return a collection whose queries are judged by further metrics."""
    changed = replace(collection, metrics=metrics)
    if "near_group" in vars(collection):  # takes long
        vars(changed)["near_group"] = collection.near_group
    return changed
