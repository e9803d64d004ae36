"""The acceptance test of an exported model: everything that is promised of it, measured through the served path."""
