"""Supervised training: the trainer, its events, and checkpoints. Importing it imports torch."""

from __future__ import annotations

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
from physgym.training.sources import Samples
from physgym.training.tensorboard_logger import TensorBoard
from physgym.training.trainer import Trainer
from physgym.training.unroll import Unroll

__all__ = [
    "CSV",
    "Callback",
    "Checkpoints",
    "EarlyStopping",
    "History",
    "LearningRateMonitor",
    "Logger",
    "Metrics",
    "ProgressBar",
    "SampleSource",
    "Samples",
    "TensorBoard",
    "Trainer",
    "Unroll",
    "find_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "save_checkpoint",
]
