"""The base model, cut at a block: outputs of the frozen blocks, trained blocks, embeddings and their scores."""
