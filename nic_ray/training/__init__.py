"""The training loop, its loss and batches, and the preparation of a run."""
