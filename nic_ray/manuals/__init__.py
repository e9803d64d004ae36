"""Manuals: files of any format, read as blocks and packed into sections of the length of a passage."""
