"""The arithmetic: the readable definition, its compiled twin, bounds, self-test."""
