"""The service of an exported model over HTTP, under Ray Serve."""
