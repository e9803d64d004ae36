"""Which queries are unlike the questions that a model was tuned for: detectors over plain arrays."""
