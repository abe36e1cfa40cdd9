"""Datasets: written so that a crash loses nothing that was committed, read as arrays."""

from __future__ import annotations

from physgym.data.loader import Loader as Loader
from physgym.data.loader import StackedSampler as StackedSampler
