"""What readers type into the search, and the page that answers: entries of the index, which the search ranks first."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

SOUGHT = {
    "start/installation": ("install", "setup", "pip", "extras", "requirements"),
    "start/first_ten_minutes": ("quick start", "quickstart", "getting started", "first steps"),
    "howto/simulation": ("custom simulation", "own simulation", "wrap a simulation"),
    "howto/line_program": ("stdin", "stdout", "popen", "pipe", "c++ program"),
    "howto/generation": ("generate", "rejected samples", "nan", "infinity"),
    "howto/training": ("train", "gpu", "cuda", "ddp", "mixed precision"),
    "howto/networks": ("normalization", "normalisation", "transforms", "physics-informed", "network"),
    "howto/machines": ("remote worker", "remote workers", "distributed", "remote machine"),
    "howto/cluster": ("slurm", "hpc", "batch job"),
    "howto/notebooks": ("jupyter", "jupyterlab", "interrupt"),
    "howto/agents": ("reward", "reinforcement learning", "agent", "dqn", "sac"),
    "howto/hyperparameters": ("optuna", "hyperparameter", "search for parameters", "tuning"),
    "howto/view": ("view", "animation"),
    "howto/reports": ("report",),
    "howto/command_line": ("completion", "log file", "exit status", "verbose", "ctrl-c"),
    "howto/short/continue_training": ("resume", "resume training", "interrupted"),
    "howto/short/checkpoint": ("checkpoint", "best weights", "save weights"),
    "howto/short/survive_crashes": ("crash", "crashes", "restart"),
    "howto/short/reproduce": ("seed", "reproducible", "reproducibility", "deterministic"),
    "howto/short/merge": ("merge", "merge datasets"),
    "howto/short/split": ("split", "test set"),
    "howto/short/validation_part": ("validation", "validation set"),
    "howto/short/own_loss": ("loss", "own loss", "custom loss"),
    "howto/short/own_network": ("own network", "custom network"),
    "howto/short/early_stopping": ("early stopping", "patience"),
    "howto/short/schedule": ("learning rate", "scheduler"),
    "howto/short/callback": ("callback", "callbacks"),
    "howto/short/curves": ("tensorboard", "loss curves"),
    "howto/short/to_onnx": ("onnx",),
    "howto/short/to_netcdf": ("netcdf", "xarray"),
    "howto/short/film": ("video", "gif", "film"),
    "howto/short/without_git": ("git", "uncommitted"),
    "howto/short/snapshots": ("snapshot", "snapshots"),
    "howto/short/leaking_code": ("memory leak",),
    "howto/short/rollout": ("rollout",),
    "coming_from/deepphysx": ("deepphysx",),
    "coming_from/lightning": ("lightning", "pytorch lightning"),
    "coming_from/sb3": ("stable-baselines3", "sb3"),
    "howto/interop": ("export", "parquet", "minari", "hugging face", "csv", "import csv"),
    "concepts/data": ("disk full", "full disk", "power cut"),
    "reference/format": ("hdf5", "dataset format", "file format"),
    "reference/config": ("configuration", "yaml"),
    "troubleshooting/machines": ("memory", "windows", "wsl", "macos", "headless", "egl"),
    "troubleshooting/errors": ("error", "errors", "exception"),
}


def enter(app: Sphinx, tree: nodes.document) -> None:
    """Give a page its entries in the index."""
    if words := SOUGHT.get(app.env.docname):
        entries = [("single", word, "", "main", None) for word in words]
        tree.insert(0, addnodes.index(entries=entries))


def outdated(app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Return the pages with entries: Sphinx forgets those of pages that it does not write again."""
    return [page for page in SOUGHT if page in env.found_docs]


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Raise ExtensionError where a page is gone."""
    if gone := set(SOUGHT) - env.found_docs:
        raise ExtensionError(f"docs/extensions/sought.py names pages that are not there: {sorted(gone)}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions."""
    app.connect("doctree-read", enter)
    app.connect("env-get-outdated", outdated)
    app.connect("env-updated", check)
    return {"parallel_read_safe": True}
