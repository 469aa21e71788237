"""Measurements for researchers: description lengths, curves, comparisons, benchmarks."""
