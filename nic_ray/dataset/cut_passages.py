"""The passages that queries are ranked over where some were cut: a whole one, and not all that was cut from it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.pairs import Collection


def ranked_for(collection: Collection, rows: Sequence[int] | NDArray[np.int64]) -> Collection:
    """Return a collection with the corpus that the queries of some rows are ranked over.

    A search finds whole passages. What was cut from them, for questions that are not asked here, would take ranks from
    other passages, several from each. So a passage that was cut is ranked only where it is the answer to one of these
    rows, or stands for the whole one, which no row and no corpus holds: then one of them is.

    Args:
        rows: the rows whose queries are asked.
    """
    if not collection.cut_from:
        return collection
    is_cut = np.array([whole is not None for whole in collection.cut_from])
    cut = np.setdiff1d(collection.positive[is_cut], collection.positive[~is_cut])
    asked = np.intersect1d(cut, collection.positive[np.asarray(rows, dtype=np.int64)])
    if (key := asked.tobytes()) not in collection.ranked:
        near = collection.near_group
        lonely = cut[~np.isin(near[cut], near[np.setdiff1d(collection.corpus, cut)])]
        stand_for = lonely[np.unique(near[lonely], return_index=True)[1]]
        left_out = np.setdiff1d(cut, np.concatenate([asked, stand_for]))
        found = replace(collection, corpus=np.setdiff1d(collection.corpus, left_out))
        vars(found)["near_group"] = near
        collection.ranked[key] = found
    return collection.ranked[key]
