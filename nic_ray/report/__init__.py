"""The reports that people read after a search or a check."""
