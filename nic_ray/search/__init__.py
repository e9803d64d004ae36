"""A search under Ray, and a single training without Ray."""
