"""Datasets: written so that a crash loses nothing that was committed, read as arrays."""
