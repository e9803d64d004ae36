"""Pairs, passages and public sets: read, checked, split."""
