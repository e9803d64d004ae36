"""A cross-encoder as judge: a question must fit its own section better than those that resemble it."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nic_ray.errors import InputError, in_one_line
from nic_ray.manuals.sections import Section
from nic_ray.metrics.bm25 import bm25
from nic_ray.questions.filters import JUDGE, Kept
from nic_ray.questions.question import Question

OTHERS = 5
"""Number of the hardest other sections, by BM25."""
_BLOCK = 64


def refuse_misjudged(
    questions: Sequence[Question],
    sections: Sequence[Section],
    folder: Path,
    *,
    device: str = "cpu",
    done: Callable[[int], None] = lambda _: None,
) -> Kept:
    """Refuse questions that a cross-encoder scores higher with another section than with their own.

    The others are the `OTHERS` that BM25 ranks first for the question, without sections of the same text and without
    those that the same question is asked of.

    Args:
        folder: a `CrossEncoder` of Sentence Transformers with one output.
        device: where it runs.
        done: called with the number of further questions done.

    Raises:
        InputError: the folder holds no such model.
    """
    from sentence_transformers import CrossEncoder

    if not (folder / "config.json").is_file():
        raise InputError(f"--judge: {folder} holds no model (no config.json); name the folder of a CrossEncoder")
    try:
        model = CrossEncoder(str(folder), device=device)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--judge: {folder} cannot be loaded as a CrossEncoder ({in_one_line(error)})") from None
    if model.num_labels != 1:
        raise InputError(
            f"--judge: {folder} gives {model.num_labels} scores a pair, want 1; name a ranking CrossEncoder"
        )
    passages = list(dict.fromkeys(section.passage for section in sections))
    number_of = {passage: number for number, passage in enumerate(passages)}
    answers: dict[str, set[int]] = {}
    for each in questions:
        answers.setdefault(each.query, set()).add(number_of[sections[each.section].passage])
    by_words, kept = bm25(passages), list[Question]()
    for start in range(0, len(questions), _BLOCK):
        block = questions[start : start + _BLOCK]
        scores = by_words([each.query for each in block])
        pairs, sizes = list[tuple[str, str]](), list[int]()
        for each, row in zip(block, scores, strict=True):
            ranked = np.argsort(-row, kind="stable").tolist()
            others = [number for number in ranked if number not in answers[each.query]][:OTHERS]
            texts = [sections[each.section].passage, *(passages[number] for number in others)]
            pairs += [(each.query, text) for text in texts]
            sizes.append(len(texts))
        judged = np.asarray(model.predict(pairs, show_progress_bar=False), dtype=np.float64).ravel()
        for each, part in zip(block, np.split(judged, np.cumsum(sizes)[:-1]), strict=True):
            if np.all(part[0] > part[1:]):
                kept.append(each)
        done(len(block))
    return Kept(kept, Counter({JUDGE: len(questions) - len(kept)}))
