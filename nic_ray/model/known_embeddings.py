"""Embeddings that models have given already, so that a further reading of a model embeds only texts that are new."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.model.activations import Inputs

MOST_BYTES = 2**29
"""Memory that the embeddings of the models that were asked last may take."""

Compute = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Embeds texts, given by their numbers (n,), into (n, D)."""


@dataclass(frozen=True)
class _Known:
    offsets: NDArray[np.int64]
    """Those of the inputs: as long as they are held here, no other array has their id."""
    texts: NDArray[np.int64]
    """(n,) ascending."""
    embeddings: NDArray[np.float32]
    """(n, D)."""


class KnownEmbeddings:
    """The embeddings of the models that were asked last, within a limit of memory.

    A model is known by the values of its weights: a mixture that is computed again finds what it was asked before.
    Passages are most of the tokens of a reading, and all readings of a model rank the same ones.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._known: OrderedDict[tuple[int, int, str], _Known] = OrderedDict()

    def of(
        self, inputs: Inputs, weights: Mapping[str, Tensor] | None, texts: NDArray[np.int64], compute: Compute
    ) -> NDArray[np.float32]:
        """Return the embeddings (n, D) of texts by a model, of which only those that are not known are computed.

        Args:
            inputs: inputs of all texts at the model's cut; told apart by identity, not by value.
            weights: the model's weights above the cut; None for the base model.
            texts: (n,) numbers of texts.
            compute: embeds texts with this model.
        """
        key = (id(inputs.offsets), inputs.depth, _digest(weights))
        wanted, place = np.unique(texts, return_inverse=True)
        known = self._known.pop(key, None)
        if known is None:
            known = _Known(inputs.offsets, wanted, compute(wanted))
        elif len(missing := np.setdiff1d(wanted, known.texts)):
            together = np.concatenate([known.texts, missing])
            embeddings, order = np.concatenate([known.embeddings, compute(missing)]), np.argsort(together)
            known = _Known(inputs.offsets, together[order], embeddings[order])
        self._keep(key, known)
        found: NDArray[np.float32] = known.embeddings[np.searchsorted(known.texts, wanted)][place]
        return found

    def _keep(self, key: tuple[int, int, str], known: _Known) -> None:
        self._known[key] = known
        while sum(each.embeddings.nbytes for each in self._known.values()) > self._most_bytes:
            self._known.popitem(last=False)


def _digest(weights: Mapping[str, Tensor] | None) -> str:
    if weights is None:
        return ""
    digest = hashlib.sha256(usedforsecurity=False)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
