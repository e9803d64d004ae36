"""An autoencoder of embeddings: what it cannot reproduce is unlike what it was trained on."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

HIDDEN, CODE = 128, 64
"""Widths of the hidden layers and of the code between them."""
EPOCHS, BATCH, RATE = 60, 128, 2e-3


def fit(embeddings: NDArray[np.float32], *, seed: int = 0, epochs: int = EPOCHS) -> dict[str, NDArray[np.float32]]:
    """Train an autoencoder D-128-64-128-D with ReLU on unit embeddings, by Adam on the squared error.

    Args:
        embeddings: (N, D).
        seed: of the initial weights and of the order of the embeddings; the same seed gives the same weights.
        epochs: number of passes over the embeddings.

    Returns:
        its weights, "weight_0" (128, D) and "bias_0" (128,) to "weight_3" and "bias_3".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [embeddings.shape[1], HIDDEN, CODE, HIDDEN, embeddings.shape[1]]
        layers = [nn.Linear(above, below) for above, below in pairwise(sizes)]
        network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), layers[3])
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        inputs = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for batch in torch.randperm(len(inputs)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.mse_loss(network(inputs[batch]), inputs[batch]).backward()
                optimizer.step()
            schedule.step()
    state = {f"weight_{number}": layer.weight.detach().numpy() for number, layer in enumerate(layers)}
    return state | {f"bias_{number}": layer.bias.detach().numpy() for number, layer in enumerate(layers)}


def score(embeddings: NDArray[np.float32], weights: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """(Q,) the squared error of what the autoencoder makes of each embedding, without PyTorch."""
    values = embeddings
    for number in range(4):
        values = values @ weights[f"weight_{number}"].T + weights[f"bias_{number}"]
        values = np.maximum(values, 0.0) if number < 3 else values
    errors: NDArray[np.float64] = np.square(values - embeddings, dtype=np.float64).sum(axis=1)
    return errors
