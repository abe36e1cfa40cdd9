"""Simulators that compute many environments at once, as rows of a batch."""
