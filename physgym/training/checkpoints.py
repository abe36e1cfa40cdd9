"""`Checkpoints`: the callback that saves a training, and keeps of its checkpoints what is wanted."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym.errors import ConfigError
from physgym.storage.location import Location, place
from physgym.training.checkpoint import best_of, delete_checkpoint, delete_leftovers, list_checkpoints, save_checkpoint
from physgym.training.events import Callback

if TYPE_CHECKING:
    from physgym.training.history import History
    from physgym.training.trainer import Trainer


class Checkpoints(Callback):
    """Checkpoints of a training in a folder, one directory each, such as ``epoch-0012``.

    Each holds the network and all that is needed to continue the training to the same result. Saves at the end of
    epochs, if wanted in between, and at Ctrl-C. In a folder that has checkpoints of another training the numbers go on,
    and those stay as they are. Whatever its place among the callbacks, it is called after the others.

    Args:
        folder: Where to save; made if it is not there. Or ``s3://bucket/prefix``.
        every: Save after every so many epochs; the last one is always saved.
        steps: Also save after every so many batches.
        minutes: Also save after the batch with which so many minutes have passed since the last time.
        keep: How many of the newest ones to keep; None keeps all.
        best: Also keep the one with the lowest validation loss, or training loss without validation.

    Raises:
        ConfigError: A number is not positive.
    """

    every_rank = False

    def __init__(
        self,
        folder: str | Path | Location,
        *,
        every: int = 1,
        steps: int | None = None,
        minutes: float | None = None,
        keep: int | None = 1,
        best: bool = True,
    ) -> None:
        for name, number in {"every": every, "steps": steps, "minutes": minutes, "keep": keep}.items():
            if number is not None and not number > 0:
                raise ConfigError(f"{name} must be positive, not {number}")
        self.folder: Any = place(folder)  # a path or a place in S3
        self.every, self.steps, self.minutes, self.keep, self.best = every, steps, minutes, keep, best
        self._saved_step = 0
        self._saved_time = time.monotonic()
        self._run = ""  # names the training, so that checkpoints of others in the folder are not touched
        self._offset = {"epoch": 0, "step": 0}

    def state_dict(self) -> dict[str, Any]:
        """Which training it is, and where its numbers begin."""
        return {"run": self._run, "offset": dict(self._offset)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the checkpoints of the training that is resumed."""
        self._run, self._offset = state["run"], dict(state["offset"])

    def train_begin(self, trainer: Trainer) -> None:
        """Look what is there."""
        delete_leftovers(self.folder)
        self._saved_step, self._saved_time = trainer.step, time.monotonic()
        if self._run:
            return
        self._run = os.urandom(8).hex()  # not from a generator that the training uses
        found = list_checkpoints(self.folder).values()
        for name, count in (("epoch", trainer.epoch), ("step", trainer.step)):
            reached = max((manifest.get(name, 0) for manifest in found), default=0)
            self._offset[name] = max(0, reached - count)

    def batch_end(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Save where it is time to."""
        late = self.minutes is not None and time.monotonic() - self._saved_time >= 60 * self.minutes
        due = self.steps is not None and trainer.step % self.steps == 0
        # the end of an epoch follows the last batch at once
        if (late or due) and trainer.batch < trainer.num_batches:
            self._save(trainer)

    def epoch_end(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Save, and delete what need not be kept."""
        if trainer.epoch % self.every == 0 or trainer.epoch >= trainer.epochs or trainer.stopping:
            score = values.get("validation_loss", values["loss"])
            self._save(trainer, values=dict(values), **({"score": score} if math.isfinite(score) else {}))

    def train_end(self, trainer: Trainer, history: History) -> None:
        """Save what an interrupted epoch has achieved."""
        if trainer.step > self._saved_step:
            self._save(trainer)

    def _save(self, trainer: Trainer, **progress: Any) -> None:
        epoch, step = trainer.epoch + self._offset["epoch"], trainer.step + self._offset["step"]
        name = f"epoch-{epoch:04d}" + (f"-step-{step:08d}" if trainer.batch else "")
        numbers = {"epoch": epoch, "batch": trainer.batch, "step": step, "run": self._run}
        save_checkpoint(self.folder / name, trainer.predictor, trainer.state_dict(), **numbers, **progress)
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
