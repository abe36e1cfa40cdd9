"""Batches of the samples of a dataset, epoch by epoch."""
