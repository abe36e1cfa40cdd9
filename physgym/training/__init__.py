"""Supervised training: the trainer, its events, and checkpoints. The first use of most names imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physgym.events import Callback
    from physgym.generation.sample_source import SampleSource
    from physgym.training.callbacks import EarlyStopping, LearningRateMonitor, ProgressBar
    from physgym.training.checkpoint_files import load_checkpoint, save_checkpoint
    from physgym.training.checkpoint_folders import find_checkpoint, list_checkpoints
    from physgym.training.checkpointing import Checkpoints
    from physgym.training.csv_logger import CSV
    from physgym.training.history import History
    from physgym.training.loggers import Logger
    from physgym.training.metrics import Metrics
    from physgym.training.mlflow_logger import MLflow
    from physgym.training.sources import Samples
    from physgym.training.tensor_source import TensorSource
    from physgym.training.tensorboard_logger import TensorBoard
    from physgym.training.trainer import Trainer
    from physgym.training.unroll import Unroll
    from physgym.training.wandb_logger import WandB

# what sends curves to a server is a process that imports this package, and no torch
_LAZY = {
    "CSV": "physgym.training.csv_logger",
    "Callback": "physgym.events",
    "Checkpoints": "physgym.training.checkpointing",
    "EarlyStopping": "physgym.training.callbacks",
    "History": "physgym.training.history",
    "LearningRateMonitor": "physgym.training.callbacks",
    "Logger": "physgym.training.loggers",
    "MLflow": "physgym.training.mlflow_logger",
    "Metrics": "physgym.training.metrics",
    "ProgressBar": "physgym.training.callbacks",
    "SampleSource": "physgym.generation.sample_source",
    "Samples": "physgym.training.sources",
    "TensorBoard": "physgym.training.tensorboard_logger",
    "TensorSource": "physgym.training.tensor_source",
    "Trainer": "physgym.training.trainer",
    "Unroll": "physgym.training.unroll",
    "WandB": "physgym.training.wandb_logger",
    "find_checkpoint": "physgym.training.checkpoint_folders",
    "list_checkpoints": "physgym.training.checkpoint_folders",
    "load_checkpoint": "physgym.training.checkpoint_files",
    "save_checkpoint": "physgym.training.checkpoint_files",
}

__all__ = [
    "CSV",
    "Callback",
    "Checkpoints",
    "EarlyStopping",
    "History",
    "LearningRateMonitor",
    "Logger",
    "MLflow",
    "Metrics",
    "ProgressBar",
    "SampleSource",
    "Samples",
    "TensorBoard",
    "TensorSource",
    "Trainer",
    "Unroll",
    "WandB",
    "find_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
