"""Metrics that models are judged by, computed from plain values and arrays, without any model."""
