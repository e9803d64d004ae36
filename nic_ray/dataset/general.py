"""General text, to hold a model to: what it is not tuned for and is to keep."""

import re
from pathlib import Path

import numpy as np

from nic_ray.dataset.passages import read_corpus
from nic_ray.errors import InputError
from nic_ray.words import count_words

WORDS = range(30, 201)
"""Numbers of words of the paragraphs that are taken."""
FEWEST, MOST = 100, 2000
"""Least number of texts, since a text's ten neighbours must be some of many; and the number that is drawn of more."""


def general_texts(path: Path | None) -> list[str]:
    """Read general texts: the passages of a file of pairs or of a folder, or what every Python interpreter carries.

    Args:
        path: as for `passages.read_corpus`; None for the paragraphs of Python's language reference
            (`pydoc_data.topics`), some 500, whose wording differs a little between versions of Python.

    Raises:
        InputError: as `read_corpus`; or there are fewer than `FEWEST`, or the interpreter carries none.
    """
    if path is not None:
        texts = [passage.text for passage in read_corpus(path)]
        if len(texts) < FEWEST:
            raise InputError(
                f"general_texts: {path} holds {len(texts)} passages, want {FEWEST} or more; name more text, or set "
                "guard.min_neighbours_kept and train.anchor to 0"
            )
        drawn = np.random.default_rng(0).permutation(len(texts))[:MOST]
        return [texts[number] for number in sorted(drawn.tolist())]
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "general_texts: this Python comes without its documentation (pydoc_data); name a folder of .txt or .md "
            "files, or set guard.min_neighbours_kept and train.anchor to 0"
        ) from None
    paragraphs = (part for _, topic in sorted(topics.items()) for part in re.split(r"\n\s*\n", topic))
    prose = (re.sub(r"[*_|`]+", "", " ".join(paragraph.split())) for paragraph in paragraphs)
    # without lists of syntax and tables
    prose = (text for text in prose if count_words(text) in WORDS and text[0].isupper() and text.count("=") < 3)
    return list(dict.fromkeys(prose))
