"""A process that runs trials: ``python -m physgym.experiment.search.worker``.

It reads requests from its standard input, a JSON text a line, and answers in the same way on its standard output. What
a training prints goes to the trial's log. When the input ends, it ends, with everything that it has started.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym.errors import ConfigError, PhysGymError
from physgym.events import Callback
from physgym.experiment.search.pool import TrialMessage
from physgym.experiment.search.section import PRUNED
from physgym.interrupt import outlive_announcements, raise_on_ctrl_c

if TYPE_CHECKING:
    from physgym.experiment.provenance import Origin
    from physgym.training import History, Trainer

# beginnings of the names of values that not every epoch has
SOMETIMES = ("rollout_", "evaluation_", "return", "length")
ENOUGH = 600.0  # seconds to wait for what the search makes of an epoch


class DriverChannel:
    """The lines to and from the search.

    Args:
        source: File descriptor to read from.
        sink: File descriptor to write to.

    Attributes:
        busy: Whether a trial is run.
        closed: Whether there is nobody any more who reads or writes.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._sink = sink
        self._lines: queue.Queue[TrialMessage | None] = queue.Queue()
        self.busy = self.closed = False
        threading.Thread(target=self._listen, args=(source,), daemon=True).start()

    def send(self, **message: Any) -> None:
        """Tell the search something."""
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(self._sink, data) :]

    def receive(self, timeout: float | None = None) -> TrialMessage | None:
        """Return the next message; None at the end, or if none came in time."""
        try:
            return self._lines.get(timeout=timeout)
        except queue.Empty:
            return None

    def _listen(self, source: int) -> None:
        with os.fdopen(source, "rb") as lines:
            for line in lines:
                self._lines.put(json.loads(line))
        self.closed = True
        if self.busy:  # the search was killed: nobody is to go on without it
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self._lines.put(None)


class Report(Callback):
    """Tells the search the metric after every epoch, and stops the training if it says so.

    Args:
        metric: Name of the value.
        channel: To the search.

    Attributes:
        pruned: Whether it was stopped.
    """

    every_rank = False
    adds = ()

    def __init__(self, metric: str, channel: DriverChannel) -> None:
        self.metric, self._channel, self.pruned = metric, channel, False
        self._came = False  # whether an epoch has had the value

    def train_begin(self, trainer: Trainer) -> None:
        """Report the epochs before an interruption; the end may have been decided then."""
        for values in trainer.history.epochs[:-1]:
            self._tell(trainer, values, ask=False)
        if trainer.history.epochs:
            self._tell(trainer, trainer.history.epochs[-1], ask=trainer.epoch < trainer.epochs)

    def epoch_end(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Report the epoch."""
        if self.metric not in values:
            kind = next((beginning for beginning in SOMETIMES if self.metric.startswith(beginning)), "")
            never = trainer.epoch >= trainer.epochs and not self._came
            if never or any(name.startswith(kind) for name in values):
                raise NoMetric(
                    f"search.metric: an epoch of this training gives no {self.metric!r}; there are "
                    f"{', '.join(sorted(values))}"
                )
            return
        # after the last epoch there is nothing left to save
        self._tell(trainer, values, ask=trainer.epoch < trainer.epochs)

    def _tell(self, trainer: Trainer, values: Mapping[str, float], *, ask: bool) -> None:
        if (value := values.get(self.metric)) is None:
            return
        self._came = True
        epoch = int(values["epoch"])
        self._channel.send(kind="epoch", epoch=epoch, value=value, ask=ask)
        if not ask:
            return
        while (answer := self._channel.receive(ENOUGH)) is not None and answer["epoch"] != epoch:
            pass  # to a question that waited too long, as where the search was stopped for a while
        if answer is not None and answer["prune"]:
            self.pruned = True
            trainer.stop(f"{PRUNED}: {self.metric} {value:.4g} after epoch {epoch}")


class NoMetric(ConfigError):
    """The metric is none of the values of an epoch, in this trial and in all others."""


def pack_origin(origin: Origin, patch: Path | None) -> TrialMessage:
    """Return the origin of a run as JSON data; its patch, which may be large, as the file that holds it."""
    data = asdict(origin)
    if origin.repository is not None:
        data["repository"]["root"] = str(origin.repository.root)
    data["patch"] = None if patch is None else str(patch)
    return data


def unpack_origin(data: TrialMessage) -> Origin:
    """Return the origin of a run from its JSON data."""
    from physgym.experiment.provenance import Origin
    from physgym.experiment.repository import Repository

    repository: Any = data["repository"]
    if repository is not None:
        names: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in repository.items()
        }
        names["root"] = Path(repository["root"])
        repository = Repository(**names)
    patch: Any = None if data["patch"] is None else Path(data["patch"]).read_bytes()
    return Origin(**{**data, "command": tuple(data["command"]), "repository": repository, "patch": patch})


def run_trial(job: TrialMessage, channel: DriverChannel) -> TrialMessage:
    """Run one trial, or continue with it; how it ended.

    Args:
        job: ``config``, the data of its configuration; ``metric`` and ``which`` of the search; ``origin``.
        channel: To the search.
    """
    from physgym.experiment.config import check_config
    from physgym.experiment.runs import train
    from physgym.experiment.session import CONFIG

    config = check_config(job["config"], "the trial's configuration")
    session = Path(config.session)
    begun = (session / CONFIG).exists()
    if session.is_dir() and not begun:  # killed before anything was in it
        shutil.rmtree(session)
    report = Report(job["metric"], channel)
    outcome = train(config, session if begun else None, unpack_origin(job["origin"]), callbacks=[report])
    history = outcome.history
    if history.interrupted:
        raise KeyboardInterrupt
    value = chosen(history, job["metric"], job["which"], job["direction"])
    done = {
        "epochs": len(history.epochs),
        "seconds": sum(epoch["seconds"] for epoch in history.epochs),
        "value": value,
    }
    if report.pruned:
        return {"state": "pruned", **done}
    if value is None or not math.isfinite(value):
        return {"state": "failed", **done, "value": None, "reason": f"{job['metric']} is not finite"}
    return {"state": "complete", **done}


def chosen(history: History, metric: str, which: str, direction: str) -> float | None:
    """Return the value of a training that counts."""
    if metric not in history:
        return None
    values = history[metric]
    if which == "last" or not values:
        return values[-1] if values else None
    finite = [value for value in values if math.isfinite(value)]
    return (min if direction == "minimize" else max)(finite, default=None)


def ended(job: TrialMessage, channel: DriverChannel) -> tuple[TrialMessage, bool]:
    """Run a trial; return how it ended, also after an error, and whether this process may run another."""
    try:
        return run_trial(job, channel), True
    except KeyboardInterrupt:
        return {"state": "interrupted"}, True
    except NoMetric as error:
        return {"state": "impossible", "reason": str(error)}, True
    except PhysGymError as error:
        traceback.print_exc()
        return {"state": "failed", "reason": str(error)}, True
    except Exception as error:  # noqa: BLE001  # a combination that does not work is a result
        traceback.print_exc()
        # a device that ran out of memory, or worse, is best left with the process
        return {"state": "failed", "reason": f"{type(error).__name__}: {error}"}, False


def main() -> None:
    """Run trials until there are no more."""
    channel = DriverChannel(os.dup(0), os.dup(1))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # only messages where messages are expected
    own = os.dup(2)
    raise_on_ctrl_c()
    outlive_announcements()
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    with contextlib.suppress(KeyboardInterrupt):  # nothing is at work
        import physgym.experiment.runs  # noqa: F401  # what takes long, before the first trial

        channel.send(kind="ready")
        while (job := channel.receive()) is not None:
            channel.busy = True
            if channel.closed:
                return
            with Path(job["log"]).open("ab", buffering=0) as log:
                for stream in (1, 2):
                    os.dup2(log.fileno(), stream)
            end, again = ended(job, channel)
            sys.stdout.flush()
            sys.stderr.flush()
            for stream in (1, 2):
                os.dup2(own, stream)
            channel.busy = False
            channel.send(kind="end", last=not again, **end)
            if not again:
                return
            gc.collect()


if __name__ == "__main__":
    main()
