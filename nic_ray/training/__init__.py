"""The training loop, its loss and batches, and what a run is prepared with."""
