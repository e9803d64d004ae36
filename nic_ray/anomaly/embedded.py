"""Queries with the embeddings of themselves and of their parts."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nic_ray.anomaly import surface
from nic_ray.anomaly.windows import WORDS, parts_of

LONGEST = 20_000
"""Characters of a text that are looked at, so that megabytes in one line are assessed at once: so many are no question,
whatever they say."""
Embed = Callable[[list[str]], NDArray[np.float32]]
"""Embeds queries, (n, D) for n of them."""


@dataclass(frozen=True)
class Embedded:
    """Q queries and their P parts; a query that has no parts is its own only part."""

    texts: Sequence[str]
    whole: NDArray[np.float32]
    """(Q, D) embeddings of the queries."""
    parts: Sequence[str]
    owners: NDArray[np.int64]
    """(P,) number of the query that each part is of, ascending."""
    of_parts: NDArray[np.float32]
    """(P, D) embeddings of the parts."""

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """(Q, F) surface features of the queries."""
        return surface.features(self.texts)

    @cached_property
    def features_of_parts(self) -> NDArray[np.float64]:
        """(P, F) surface features of the parts."""
        return surface.features(self.parts)

    def chosen(self, numbers: NDArray[np.integer]) -> "Embedded":
        """Keep some of the queries, by their numbers."""
        new = np.full(len(self.texts), -1)
        new[numbers] = np.arange(len(numbers))
        places = np.flatnonzero(new[self.owners] >= 0)
        places = places[np.argsort(new[self.owners[places]], kind="stable")]
        return Embedded(
            [self.texts[number] for number in numbers.tolist()],
            self.whole[numbers],
            [self.parts[place] for place in places.tolist()],
            new[self.owners[places]],
            self.of_parts[places],
        )


def embedded(texts: Sequence[str], embed: Embed) -> Embedded:
    """Split queries, of each its first `LONGEST` characters, into parts, and embed both, each distinct text once.

    Args:
        texts: at least one.
        embed: embeds them as the model embeds queries.
    """
    parts, owners = [], []
    texts = [text[:LONGEST] for text in texts]
    for number, text in enumerate(texts):
        own = parts_of(text)
        parts += own
        owners += [number] * len(own)
    distinct = [*dict.fromkeys([*texts, *parts])]
    # apart, since the texts of a batch are padded to the longest: 0.12 s instead of 0.62 s for a query of 100 words
    longer = {text for text in distinct if len(text.split()) > 2 * WORDS}
    groups = [[text for text in distinct if text not in longer], [text for text in distinct if text in longer]]
    places = {text: place for place, text in enumerate(itertools.chain(*groups))}
    embeddings = np.concatenate([embed(group) for group in groups if group])
    return Embedded(
        texts,
        embeddings[[places[text] for text in texts]],
        parts,
        np.array(owners, np.int64),
        embeddings[[places[part] for part in parts]],
    )
