"""Predict, code, then learn: the loop, the learner, encoding and decoding runs."""
