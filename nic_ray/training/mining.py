"""Hard negatives: passages that a model takes for a query's answer, but that are not among its known answers."""

import contextlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nic_ray.dataset.formats import files_of, format_named, write_rows
from nic_ray.dataset.pairs import Collection, Pair, relevant_passages, row_of
from nic_ray.errors import InputError
from nic_ray.hardware import keep_to_usable_cpus
from nic_ray.model.cut import placed
from nic_ray.model.encoder import Encoder, for_cosine, for_queries
from nic_ray.sources import Sources


def mine_negatives(
    encoder: Encoder,
    collection: Collection,
    rows: Sequence[int],
    *,
    count: int,
    relative_margin: float,
    max_tokens: int,
    device: str = "cpu",
) -> dict[int, tuple[str, ...]]:
    """Find for each row the passages of other rows and of a corpus that are nearest to its query by cosine.

    A passage is left out if any row of the whole collection names it, or nearly the same text, as an answer to the
    query. It is also left out unless its similarity lies at least `relative_margin` below the positive's, since it may
    well be an answer that nobody has recorded. Of passages that were cut from one, and that one, the nearest is enough.

    Args:
        rows: the training rows; negatives are mined for these rows, and among their passages and the collection's
            distractors.
        count: maximum number of negatives per row, at least 1.
        relative_margin: share of the positive's similarity, in [0, 1).
        max_tokens: number of tokens that texts are truncated to.
        device: where to embed; the encoder itself stays on its device.

    Returns:
        the negatives of each row, by row; rows without any are left out.

    Raises:
        InputError: the package `datasets` is not installed, or there are fewer passages than a search needs.

    Source: Sentence Transformers' `mine_hard_negatives`; de Souza P. Moreira et al. 2024, arXiv:2407.15831.
    """
    try:
        from datasets import Dataset
    except ImportError:
        raise InputError("mining needs the package datasets: pip install -c constraints.txt -e '.[mine]'") from None
    from sentence_transformers.util import mine_hard_negatives

    texts = collection.texts
    distractors = np.arange(len(texts) - collection.distractors, len(texts))
    candidates = np.append(np.unique(collection.positive[list(rows)]), distractors)
    passages = len(candidates)
    if passages <= count:
        raise InputError(f"mining {count} negatives a row needs more than {count} passages to train on, got {passages}")
    data = {
        "query": [texts[text] for text in collection.query[list(rows)]],
        "positive": [texts[text] for text in collection.positive[list(rows)]],
    }
    known, near = relevant_passages(collection), collection.near_group
    answers = {
        query: {texts[text] for text in candidates[np.isin(near[candidates], near[known[query]])].tolist()}
        for query in set(collection.query[list(rows)].tolist())
    }
    group_of = {texts[text]: int(near[text]) for text in candidates.tolist()}
    alike = max(Counter(group_of.values()).values()) if collection.wholes else 1
    spare = max(map(len, answers.values())) - 1 + count * (alike - 1)  # a row's own passage is never mined
    furthest = min(passages, 10 * count + 10 + spare)
    keep_to_usable_cpus()
    plain = for_cosine(encoder, max_tokens) if encoder.passages is None else for_queries(encoder, max_tokens)
    model = placed(plain, device)
    # the function prints messages, and shows one progress bar per step
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        mined = mine_hard_negatives(
            Dataset.from_dict(data),
            model,
            corpus=[texts[text] for text in distractors.tolist()] or None,
            relative_margin=relative_margin,
            num_negatives=min(count + spare, furthest),
            range_max=furthest,
            sampling_strategy="top",
            output_format="triplet",
            verbose=False,
        )
    by_query: dict[str, list[str]] = {}
    for query, negative in zip(mined["query"], mined["negative"], strict=True):
        by_query.setdefault(query, []).append(negative)
    negatives = {}
    for row, query in zip(rows, collection.query[list(rows)].tolist(), strict=True):
        found = [text for text in dict.fromkeys(by_query.get(texts[query], ())) if text not in answers[query]]
        if kept := (_nearest_of_each(found, group_of) if collection.wholes else found)[:count]:
            negatives[int(row)] = tuple(kept)
    return negatives


def _nearest_of_each(texts: Sequence[str], group_of: Mapping[str, int]) -> list[str]:
    """Return the first text of each group."""
    first: dict[int, str] = {}
    for text in texts:
        first.setdefault(group_of[text], text)
    return list(first.values())


def refuse_place(out: Path) -> None:
    """Check that a file can be written at a place, before anything is computed for it.

    Raises:
        InputError: it exists, or its folder does not.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; name another file with --out")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; make it first, or name another file with --out")


def write_negatives(source: Sources, pairs: Sequence[Pair], negatives: Mapping[int, Sequence[str]], out: Path) -> None:
    """Write a file's rows, with the results of `mine_negatives` appended to the rows' existing negatives.

    From JSONL with our names to JSONL, fields that this package does not read are kept.

    Args:
        source: the file of the pairs, or several.
        pairs: all rows of the file, as `pairs.read_pairs` returns them.
        out: a file that does not exist yet, in the format of its ending.
    """
    all_of = [
        pair if row not in negatives else replace(pair, negatives=(*dict.fromkeys([*pair.negatives, *negatives[row]]),))
        for row, pair in enumerate(pairs)
    ]
    plain = len({pair.line for pair in pairs}) == len(pairs)  # no row has several positives
    first, *others = files_of(source)
    if others or not (plain and (format_named(first), format_named(out)) == ("jsonl", "jsonl")):
        write_rows(out, [row_of(pair) for pair in all_of], format_named(out))
        return
    lines = first.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    with out.open("x", encoding="utf-8") as file:
        for row, pair in enumerate(all_of):
            content = json.loads(lines[pair.line - 1])
            if row in negatives:
                content["negative"] = list(pair.negatives)
            file.write(json.dumps(content, ensure_ascii=False) + "\n")
