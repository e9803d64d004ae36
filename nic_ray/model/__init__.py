"""The base model, cut at a block: frozen outputs, trained blocks, embeddings and their scores."""
