"""A search under Ray, and one training without it."""
