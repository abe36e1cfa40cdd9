"""Resuming a training: the state that a checkpoint holds of it, and the way back."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.data.dataset_parts import HasParts
from physgym.errors import ChangedCode, CheckpointError, ConfigError, PhysGymError
from physgym.nn.optimization import Optimization
from physgym.training.callback_list import CallbackList
from physgym.training.checkpoint_files import read_training
from physgym.training.checkpoint_folders import find_checkpoint, list_checkpoints
from physgym.training.history import TrainingProgress
from physgym.training.random_state import check_generators
from physgym.training.supply import OTHER_STATE, FreshSupply, Supply
from physgym.training.validation import Validation

log = logging.getLogger(__name__)

UNFIT = RuntimeError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError  # of a state
THREADS = 1024  # which torch would start without a question


@dataclass(frozen=True)
class Resumable:
    """The parts of a training that are in its checkpoints.

    Attributes:
        settings: What must be the same for the training to be continued.
        progress: Where it is.
        optimization: Loss and optimizer.
        supply: Its samples.
        callbacks: Those whose state is saved.
    """

    settings: Mapping[str, Any]
    progress: TrainingProgress
    optimization: Optimization
    supply: Supply
    callbacks: CallbackList

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to continue, but for the weights: data, arrays and tensors, nested."""
        # a batch that was drawn and not trained on is drawn again
        source, order = self.supply.source_state(), self.supply.order_state(self.progress)
        progress = self.progress.state_dict()
        generators = progress.pop("generators")
        return {
            "settings": dict(self.settings),
            **progress,
            "optimization": self.optimization.state_dict(),
            "order": order,
            "source": source,
            "generators": generators,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "callbacks": self.callbacks.state_dict(),
        }

    def resume(self, resume: bool | str | Path, folder: Path | None, *, allow_changed_code: bool = False) -> None:
        """Take over the weights and the state of a checkpoint.

        Args:
            resume: True for the last one in the folder, if there is one; or a path.
            folder: The folder of the checkpoints.
            allow_changed_code: Whether the text of a loss may be another one.

        Raises:
            ConfigError: There is no folder.
            ChangedCode: The text of a loss is another one.
            CheckpointError: The checkpoint is missing or damaged, or of another training.
        """
        if isinstance(resume, bool):
            if folder is None:
                raise ConfigError(
                    "resume=True looks for the last checkpoint in the session; give a session, or the path of a "
                    "checkpoint"
                )
            if not list_checkpoints(folder):
                self.supply.begin()
                return
        path = find_checkpoint(str(folder if isinstance(resume, bool) else resume))
        predictor = self.supply.learner.predictor
        state, weights = read_training(path, predictor)
        try:
            check_training(state)
            self._take(path, state, allow_changed_code=allow_changed_code)
            predictor.load_state_dict(weights)
        except (CheckpointError, ChangedCode):
            raise
        except (PhysGymError, *UNFIT) as error:
            problem = str(error) if isinstance(error, PhysGymError) else f"{type(error).__name__} {error}"
            raise CheckpointError(OTHER_STATE.format(path=path, problem=problem)) from error
        log.info("continues %s at epoch %d, batch %d", path, self.progress.epoch, self.progress.batch)

    def _take(self, path: Path, state: dict[str, Any], *, allow_changed_code: bool) -> None:
        """Continue from a state."""
        was, now = state["settings"], self.settings
        if differing := [
            f"{name} was {was.get(name)!r}, now it is {now[name]!r}"
            for name in now
            if name != "code" and was.get(name) != now[name]
        ]:
            raise CheckpointError(
                f"{path} is of a training with other settings: {'; '.join(differing)}. Set them as they were to "
                "continue it"
            )
        if not allow_changed_code:
            _check_code(path, was.get("code"), now.get("code"))
        check_generators(state["generators"])
        self.optimization.load_state_dict(state["optimization"])
        self.progress.load_state_dict(state)
        order, size = state["order"], self.supply.learner.ranks.size
        if order is not None and size != order["world_size"]:
            # as many samples as were seen, rounded down to a whole batch of as many processes as there are now
            seen = self.progress.batch * order["world_size"]
            self.progress.batch = min(seen // size, self.supply.num_batches)
            order = {**order, "world_size": size, "batch": self.progress.batch}
        self.supply.resume(order, state["source"], path)
        self.callbacks.load_state_dict(state["callbacks"])
        if (threads := state["threads"]) != torch.get_num_threads():
            log.info("torch computes with %d threads, as before the interruption", threads)
            torch.set_num_threads(threads)
        if state["versions"] != versions():
            log.warning("%s was written by %s; with %s results may differ in bits", path, state["versions"], versions())


def settings_of(supply: Supply, validation: Validation) -> dict[str, Any]:
    """Return what must be the same for a training to be continued."""
    learner, batching = supply.learner, supply.batching
    split = supply.training.episode_split if isinstance(supply.training, HasParts) else None
    produce = None if supply.source is None else "always" if isinstance(supply, FreshSupply) else "first_epoch"
    return {
        "batch_size": batching.batch_size,
        "batches_per_epoch": batching.batches_per_epoch,
        "seed": batching.seed,
        "validation": validation.fraction,
        "split": None if split is None else str(split),
        "produce": produce,
        "inputs": list(learner.predictor.inputs),
        "outputs": list(learner.predictor.outputs),
        "loss_fields": list(learner.loss_fields),
        **({} if learner.predictor.changes is None else {"changes": learner.predictor.changes.config}),
        **learner.optimization.settings,
    }


def _check_code(path: Path, was: Any, now: Any) -> None:
    """Raise ChangedCode if the text of a loss differs; an unrecorded text is accepted."""
    if not isinstance(was, Mapping) or not isinstance(now, Mapping):
        return
    if changed := [name for name in now if was.get(name, now[name]) != now[name]]:
        raise ChangedCode(
            f"{path} was trained with other code of {', '.join(changed)} than that of now. Take the code with which it "
            "was begun, or continue with that of now: --allow-changed-code (allow_changed_code=True)"
        )


def versions() -> dict[str, str]:
    """Return the versions of Python, torch and NumPy."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def check_training(state: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a state has the parts of that of a `Trainer`, each of its kind."""
    sound: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("epoch", "batch", "step"), _is_count),
        **dict.fromkeys(("settings", "optimization", "generators", "versions"), _is_table),
        "means": lambda part: _is_count(part["samples"]) and _is_table(part["sums"], float),
        "history": lambda part: _is_count(part["skipped"]) and all(map(_is_table, part["epochs"])),
        "order": lambda part: part is None or _is_table(part, bool, int, str),
        "threads": lambda part: _is_count(part) and 1 <= part <= THREADS,
        "callbacks": lambda part: _is_table(part, dict),
        "source": lambda part: True,
    }
    for name, right in sound.items():
        try:
            fits = name in state and right(state[name])
        except (TypeError, KeyError):
            fits = False
        if not fits:
            raise ConfigError(f"the entry {name} is not what a training has there, but {str(state.get(name))[:100]}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_table(value: Any, *kinds: type) -> bool:
    """Return whether it is a dictionary by name, of values of certain types."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and (not kinds or type(item) in kinds) for name, item in value.items()
    )
