"""The work folder, in which examples run, and what they leave there."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from physgym.runner import RolloutEvaluation, Runner
from physgym.training import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
IMAGES = ROOT / "docs" / "images"


def prepare(folder: Path) -> None:
    """Make a work folder, a repository with one commit: sessions record a commit."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not Path(".git").exists():
        Path(".gitignore").write_text("*\n")
        author = ("-c", "user.name=gallery", "-c", "user.email=gallery@localhost")
        for words in (("init", "-q"), ("add", "-f", ".gitignore"), (*author, "commit", "-q", "-m", "Work folder")):
            subprocess.run(["git", *words], check=True)


def configured(name: str, *changes: str, command: str = "train") -> Path:
    """Return the session of a configuration, trained or searched unless that is done."""
    session = Path("sessions") / name
    if not (session / "report.html").exists():  # which ends a training
        where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        words = [sys.executable, "-m", "physgym", command, str(EXAMPLES / f"{name}.yaml"), *changes]
        subprocess.run(words, env=where, check=True)
    return session


def printed(name: str, *arguments: str) -> str:
    """Return what an example prints, run as a program unless that is done."""
    file = Path("printed") / f"{name.replace('/', '_')}.txt"
    if not file.exists():
        where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        words = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
        text = subprocess.run(words, env=where, check=True, stdout=subprocess.PIPE, text=True).stdout
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return file.read_text()


def imported(name: str, run_name: str = "example") -> Any:
    """Return the names of an example, as a module has them."""
    with on_path(ROOT), on_path(EXAMPLES):
        return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=run_name)


@contextlib.contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Let Python find modules in a folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def numbers(pattern: str, text: str) -> np.ndarray:
    """Return the numbers that a pattern's groups find in a text, a row for each place."""
    return np.array([[float(one) for one in found.groups()] for found in re.finditer(pattern, text)])


def step_of(env: str, session: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Return the sample of a step that the network has not seen, its prediction, and the mean error of 50 steps."""
    skipped = options.pop("skipped", 0)
    steps, error = steps_of(env, session, **options)
    return *steps[skipped], error


def steps_of(env: str, session: Path, **options: Any) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], float]:
    """Return the samples of 50 steps that the network has not seen, with their predictions, and the mean error."""
    with Runner(env, load_checkpoint(session), seed=1, **options) as runner:
        steps = [step for step, _ in zip(runner.steps(), range(50), strict=False)]
    errors = [float(next(iter(step.errors.values()))) for step in steps]
    return [(step.transition.sample, step.prediction) for step in steps], float(np.mean(errors))


def rolled_out(env: str, session: Path, horizon: int, examples: int = 1, **options: Any) -> Any:
    """Return the report of rollouts of a trained network in 10 episodes that it has not seen."""
    return RolloutEvaluation(env, **options).measure(load_checkpoint(session), horizon, examples=examples)
