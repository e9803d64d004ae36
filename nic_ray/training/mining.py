"""Hard negatives: passages that look like a query's answer to a model, and are known not to be one."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nic_ray.dataset.pairs import Collection, Pair, relevant_passages
from nic_ray.errors import InputError
from nic_ray.hardware import keep_to_usable_cpus
from nic_ray.model.cut import placed
from nic_ray.model.encoder import Encoder, for_cosine


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
    """For each row the passages of the other rows that come nearest to its query by cosine, nearest first.

    No passage is taken that any row of the whole collection names as an answer to the query, or that is nearly the same
    text as one, and none whose similarity lies less than `relative_margin` below the positive's: it may well be an
    answer that nobody wrote down.

    Args:
        rows: rows of the collection whose passages are looked at, the training rows.
        count: at most this many for a row, at least 1.
        relative_margin: share of the positive's similarity, in [0, 1).
        max_tokens: tokens a text is cut off at.
        device: where to embed; the encoder itself stays where it is.

    Returns:
        row -> its negatives; rows without any are left out.

    Raises:
        InputError: the package `datasets` is not there, or there are fewer passages than a search needs.

    Source: Sentence Transformers' `mine_hard_negatives`; de Souza P. Moreira et al. 2024, arXiv:2407.15831.
    """
    try:
        from datasets import Dataset
    except ImportError:
        raise InputError("mining needs the package datasets: pip install -c constraints.txt -e '.[mine]'") from None
    from sentence_transformers.util import mine_hard_negatives

    texts = collection.texts
    trained = np.unique(collection.positive[list(rows)])
    passages = len(trained)
    if passages <= count:
        raise InputError(f"mining {count} negatives a row needs more than {count} passages to train on, got {passages}")
    data = {
        "query": [texts[text] for text in collection.query[list(rows)]],
        "positive": [texts[text] for text in collection.positive[list(rows)]],
    }
    known, near = relevant_passages(collection), collection.near
    answers = {
        query: {texts[text] for text in trained[np.isin(near[trained], near[known[query]])].tolist()}
        for query in set(collection.query[list(rows)].tolist())
    }
    spare = max(map(len, answers.values())) - 1  # a row's own passage is never mined
    furthest = min(passages, 10 * count + 10 + spare)
    keep_to_usable_cpus()
    model = placed(for_cosine(encoder, max_tokens), device)
    # it prints as it works, and shows a progress bar for each of its steps
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        mined = mine_hard_negatives(
            Dataset.from_dict(data),
            model,
            relative_margin=relative_margin,
            num_negatives=min(count + spare, furthest),
            range_max=furthest,
            sampling_strategy="top",
            output_format="triplet",
            verbose=False,
        )
    found: dict[str, list[str]] = {}
    for query, negative in zip(mined["query"], mined["negative"], strict=True):
        found.setdefault(query, []).append(negative)
    negatives = {}
    for row in rows:
        query = int(collection.query[row])
        mined_texts = dict.fromkeys(found.get(texts[query], ()))
        own = tuple(text for text in mined_texts if text not in answers[query])[:count]
        if own:
            negatives[int(row)] = own
    return negatives


def write_negatives(source: Path, pairs: Sequence[Pair], negatives: Mapping[int, Sequence[str]], out: Path) -> None:
    """Write the rows of a file again, with what `mine_negatives` found behind a row's own negatives.

    Args:
        source: JSONL file of the pairs; fields that nobody here reads are kept.
        pairs: all its rows, as `pairs.read_pairs` gives them.
        out: a file that is not there yet.
    """
    lines = source.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    with out.open("x", encoding="utf-8") as file:
        for row, pair in enumerate(pairs):
            content = json.loads(lines[pair.line - 1])
            if row in negatives:
                content["negative"] = list(dict.fromkeys([*pair.negatives, *negatives[row]]))
            file.write(json.dumps(content, ensure_ascii=False) + "\n")
