"""Datasets: written so that a crash loses nothing that was committed, read as arrays."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset as SampleDataset
    from physgym.data.dataset_parts import EpisodeSplit as EpisodeSplit
    from physgym.data.writer import SampleWriter as SampleWriter
    from physgym.generation.online import Online as Online
    from physgym.generation.stream import SampleStream as SampleStream
    from physgym.loading.batching import StackedSampler as StackedSampler
    from physgym.loading.loader import Loader as Loader

# each where it is first asked for: who only writes needs no torch, and a worker none of it
_LAZY = {
    "EpisodeSplit": "physgym.data.dataset_parts",
    "Loader": "physgym.loading.loader",
    "Online": "physgym.generation.online",
    "SampleDataset": "physgym.data.dataset",
    "SampleStream": "physgym.generation.stream",
    "SampleWriter": "physgym.data.writer",
    "StackedSampler": "physgym.loading.batching",
}

__all__ = ["EpisodeSplit", "Loader", "Online", "SampleDataset", "SampleStream", "SampleWriter", "StackedSampler"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'physgym.data' has no attribute {name!r}")
