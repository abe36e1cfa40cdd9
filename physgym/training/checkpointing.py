"""`Checkpoints`: the callback that saves a training, and keeps of its checkpoints what is wanted."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from physgym import files
from physgym.checks import integer, one_of
from physgym.errors import CheckpointError, ConfigError
from physgym.events import Callback
from physgym.storage.location import Location, place
from physgym.training.checkpoint_files import save_checkpoint
from physgym.training.checkpoint_folders import best_of, delete_checkpoint, delete_leftovers, list_checkpoints
from physgym.training.monitors import MonitorMode

if TYPE_CHECKING:
    from physgym.training.history import History
    from physgym.training.pipeline import Training

log = logging.getLogger(__name__)


class Lock:
    """Keeps other processes, and other trainings of this one, from a folder until it is released; also by a kill.

    Args:
        folder: The folder; it is made if it is not there.

    Raises:
        CheckpointError: The folder is taken, or cannot be made.
    """

    _held: ClassVar[weakref.WeakSet[Lock]] = weakref.WeakSet()

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"cannot save checkpoints in {folder}: {error}") from error
        try:
            found = files.lock(self._descriptor, folder)
        except OSError as error:
            self.release()
            raise CheckpointError(f"cannot save checkpoints in {folder}: {error}") from error
        if found == "taken":
            self.release()
            raise CheckpointError(
                f"another training saves its checkpoints in {folder}; wait for it, or use another session"
            ) from BlockingIOError()
        self._held.add(self)

    def release(self) -> None:
        """Let others in; calling it again does no harm."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @classmethod
    def release_all(cls) -> None:
        """Release the locks in a forked child: they are the parent's, and end with it."""
        for lock in list(cls._held):
            lock.release()


os.register_at_fork(after_in_child=Lock.release_all)


class Checkpoints(Callback):
    """Checkpoints of a training in a folder, one directory each, such as ``epoch-0012``.

    Each holds the network and all that is needed to continue the training to the same result. Saves at the end of
    epochs, if wanted in between, and at Ctrl-C. In a folder that has checkpoints of another training the numbers
    continue, and those stay as they are; also where a training continues from a checkpoint that is not its last one. It
    is called after the others. Only one training at a time saves in a folder.

    Args:
        folder: Where to save; made if it is not there. Or ``s3://bucket/prefix``.
        every: Save after every so many epochs; the last one is always saved.
        steps: Also save after every so many batches.
        minutes: Also save after the batch with which so many minutes have passed since the last time.
        keep: How many of the newest ones to keep; None keeps all.
        best: Also keep the best one: by default that with the lowest validation loss, or training loss without
            validation.
        monitor: The value of an epoch by which the best one is chosen, such as "rollout_relative_l2/next_state": an
            epoch without it is none of the best.
        mode: Whether small values of it are better ("min") or large ones ("max").

    Raises:
        ConfigError: A number is not positive, or the mode is something else.
    """

    every_rank = False
    adds = ()

    def __init__(
        self,
        folder: str | Path | Location,
        *,
        every: int = 1,
        steps: int | None = None,
        minutes: float | None = None,
        keep: int | None = 1,
        best: bool = True,
        monitor: str | None = None,
        mode: MonitorMode = "min",
    ) -> None:
        for name, number in {"every": every, "steps": steps, "keep": keep}.items():
            if number is not None:
                integer(name, number, 1)
        if minutes is not None and not minutes > 0:
            raise ConfigError(f"minutes must be positive, not {minutes}")
        one_of("mode", mode, get_args(MonitorMode))
        self.monitor, self.mode = monitor, mode
        self.watches = () if monitor is None else (monitor,)
        self.folder: Any = place(folder)  # a path or a place in S3
        self.every, self.steps, self.minutes, self.keep, self.best = every, steps, minutes, keep, best
        self._saved_step = 0
        self._saved_time = time.monotonic()
        self._run = ""  # names the training, so that checkpoints of others in the folder are not touched
        self._offset = {"epoch": 0, "step": 0}
        self._lock: Lock | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the training, and the offset of its numbers."""
        return {"run": self._run, "offset": dict(self._offset)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the checkpoints of the training that is resumed."""
        self._run = str(state["run"])
        self._offset = {name: int(state["offset"][name]) for name in ("epoch", "step")}

    def train_begin(self, trainer: Training) -> None:
        """Look what is there.

        Raises:
            CheckpointError: Another training is at work there, or a checkpoint there is damaged.
        """
        self.close()
        if not isinstance(self.folder, Location):
            self._lock = Lock(self.folder)
        delete_leftovers(self.folder)
        self._saved_time = time.monotonic()
        found = list_checkpoints(self.folder).values()
        numbers = {"epoch": trainer.epoch, "step": trainer.step}
        # later ones were left aside, maybe for a reason, and must not be taken for those of this training
        mine = [manifest["step"] - self._offset["step"] for manifest in found if manifest.get("run") == self._run]
        # what the disk has refused is not saved, although the training was there
        self._saved_step = max(mine, default=0)
        if not self._run or self._saved_step > trainer.step:
            self._saved_step = trainer.step
            self._run = os.urandom(8).hex()  # not from a generator that the training uses
            for name, count in numbers.items():
                reached = max((manifest.get(name, 0) for manifest in found), default=0)
                self._offset[name] = max(0, reached - count)
        elif self.keep is not None:
            self._delete_superfluous(self.keep)  # as a killed one may have left

    def close(self) -> None:
        """Let other trainings use the folder."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def batch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Save where it is time to."""
        late = self.minutes is not None and time.monotonic() - self._saved_time >= 60 * self.minutes
        due = self.steps is not None and trainer.step % self.steps == 0
        # the end of an epoch follows the last batch at once
        if (late or due) and trainer.batch < trainer.num_batches:
            self._save(trainer)

    def epoch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Save, and delete what need not be kept."""
        if trainer.epoch % self.every == 0 or trainer.epoch >= trainer.epochs or trainer.stopping:
            self._save(trainer, values=dict(values), **self._score(values))

    def _score(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the score, of which the best checkpoint has the lowest one, and the name of its value."""
        name = self.monitor or ("validation_loss" if "validation_loss" in values else "loss")
        value = values.get(name, math.nan)
        if not math.isfinite(value):
            return {}
        return {"score": value if self.mode == "min" else -value, "monitor": name}

    def train_end(self, trainer: Training, history: History) -> None:
        """Save what an interrupted epoch has achieved."""
        if trainer.step > self._saved_step and not trainer.in_step:
            self._save(trainer)

    def _save(self, trainer: Training, **progress: Any) -> None:
        epoch, step = trainer.epoch + self._offset["epoch"], trainer.step + self._offset["step"]
        name = f"epoch-{epoch:04d}" + (f"-step-{step:08d}" if trainer.batch else "")
        numbers = {"epoch": epoch, "batch": trainer.batch, "step": step, "run": self._run}
        save_checkpoint(self.folder / name, trainer.predictor, trainer.state_dict(), **numbers, **progress)
        log.info("saved %s: epoch %d, step %d", self.folder / name, epoch, step)
        self._saved_step, self._saved_time = trainer.step, time.monotonic()
        if self.keep is not None:
            self._delete_superfluous(self.keep)

    def _delete_superfluous(self, keep: int) -> None:
        found = list_checkpoints(self.folder)
        mine = [directory for directory, manifest in found.items() if manifest.get("run") == self._run]
        best = best_of({directory: found[directory] for directory in mine}) if self.best else None
        for directory in mine[:-keep]:
            if directory != best:
                delete_checkpoint(directory)
