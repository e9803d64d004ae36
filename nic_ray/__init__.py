"""Find, export and vouch for the embedding model that retrieves best in every domain."""

__version__ = "0.1.0"
