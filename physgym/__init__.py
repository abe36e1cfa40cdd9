"""physgym connects numerical simulations with deep learning.

Importing it is cheap: torch, h5py and viewers are loaded by the parts that need them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym import interrupt as interrupt  # before all that takes time to import: signals may come meanwhile

# isort: split
from physgym import envs as envs
from physgym import errors as errors
from physgym._version import __version__ as __version__
from physgym.errors import RejectSample as RejectSample
from physgym.factories import factory as factory
from physgym.network_loading import set_network_loader
from physgym.recording import SessionRecorder, set_session_recorder
from physgym.sample import RecordTransition as RecordTransition
from physgym.simulation import Simulation as Simulation
from physgym.system.descriptors import fill_standard

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset as SampleDataset
    from physgym.experiment.evaluate import evaluate as evaluate
    from physgym.experiment.viewing import view as view
    from physgym.generation.generate import generate as generate
    from physgym.generation.reopen import reopen as reopen
    from physgym.loading.loader import Loader as Loader
    from physgym.rl.recorder import Recorder as Recorder
    from physgym.vector import SocketVectorEnv as SocketVectorEnv
    from physgym.vector import make_vec as make_vec

_LAZY = {
    "Loader": "physgym.loading.loader",
    "Recorder": "physgym.rl.recorder",
    "SampleDataset": "physgym.data.dataset",
    "evaluate": "physgym.experiment.evaluate",
    "view": "physgym.experiment.viewing",
    "generate": "physgym.generation.generate",
    "reopen": "physgym.generation.reopen",
    "SocketVectorEnv": "physgym.vector",
    "make_vec": "physgym.vector",
}

__all__ = [
    "Loader",
    "RecordTransition",
    "Recorder",
    "RejectSample",
    "SampleDataset",
    "Simulation",
    "SocketVectorEnv",
    "evaluate",
    "factory",
    "generate",
    "make_vec",
    "reopen",
    "view",
]


def _load_network(path: Path) -> Any:
    """Load the network of a session or a checkpoint; only the training knows their format, and it imports torch."""
    return importlib.import_module("physgym.training.checkpoint_files").load_checkpoint(path)


def _session_recorder() -> SessionRecorder:
    """Return the recorder of sessions; it stands after the trainings that it records."""
    from physgym.experiment import from_python

    return from_python


fill_standard()  # before any file of ours is opened
envs.register()
set_network_loader(_load_network)
set_session_recorder(_session_recorder)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'physgym' has no attribute {name!r}")
