"""Pairs, passages and public data sets: reading, checks and the split into parts."""
