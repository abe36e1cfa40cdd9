"""The trials of a search: the next ones, and what came of them, as Optuna and the table of the session have it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym.errors import ConfigError
from physgym.experiment.schema import Config
from physgym.experiment.search.optuna_parts import make_sampler
from physgym.experiment.search.report import TrialRow, best_trial, write_results
from physgym.experiment.search.space import Space

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

TRIALS = "trials"  # folder of a session


@dataclass
class Job:
    """A trial at work.

    Attributes:
        trial: The trial in Optuna's study.
        config: Its configuration.
        began: When.
        reported: Epochs that Optuna knows.
        attempts: How often it was begun, since this search continues.
    """

    trial: Trial
    config: Config
    began: float = 0.0
    reported: set[int] = field(default_factory=set)
    attempts: int = 0


class Trials:
    """Trials of a search, from their values to their results.

    Args:
        study: The study of Optuna.
        space: What is searched.
        session: Folder of the search.
        shared: What the configurations of all trials say besides, by key.

    Attributes:
        total: How many there are to be.
        done: How many had ended before.
    """

    def __init__(self, study: optuna.Study, space: Space, session: Path, shared: Mapping[str, Any]) -> None:
        self._study, self._space, self._session, self._shared = study, space, session, dict(shared)
        known = study.get_trials(deepcopy=False)
        begun = [trial for trial in known if not trial.state.is_finished()]
        self._waiting = deque(self._again(trial) for trial in begun)
        self._asks = space.trials - len(known)
        self._ended = 0  # since `ended` was asked last
        self.total, self.done = space.trials, len(known) - len(begun)

    @property
    def remaining(self) -> int:
        """Return how many are still to be begun."""
        return max(0, self._asks) + len(self._waiting)

    @property
    def waiting(self) -> bool:
        """Return whether trials that were begun wait for a process."""
        return bool(self._waiting)

    def give_up(self) -> None:
        """Begin no more trials."""
        self._asks = 0
        self._waiting.clear()

    def next(self) -> Job | None:
        """Return the next trial; None if its values do not go together."""
        if self._waiting:
            return self._waiting.popleft()
        self._asks -= 1
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = make_sampler(self._space, number)
        trial = self._study.ask()
        try:
            return Job(trial, self._config(trial))
        except ConfigError as error:
            trial.set_user_attr("reason", str(error))
            self._tell(trial.number, state="FAIL")
            return None

    def put_back(self, job: Job) -> None:
        """Make a trial the next one, as where its process died."""
        self._waiting.appendleft(job)

    def report(self, job: Job, message: Mapping[str, Any]) -> bool:
        """Note the value of an epoch; return whether the trial is to end, where the message asks for that."""
        step = int(message["epoch"]) - 1
        new = step not in job.reported
        if new:
            job.reported.add(step)
            job.trial.report(message["value"], step)
        if not message["ask"]:
            return False
        known = job.trial.user_attrs.get("pruned")
        prune = known is not None and step >= known
        if new and not prune and job.trial.should_prune():
            # noted first: a search that is killed now ends the trial all the same when it goes on
            job.trial.set_user_attr("pruned", step)
            prune = True
        return bool(prune)

    def end(self, job: Job, message: Mapping[str, Any]) -> None:
        """Note how a trial ended by itself.

        Raises:
            ConfigError: No trial can give the metric.
        """
        state = message["state"]
        if state == "interrupted":
            return
        for name in ("epochs", "seconds"):
            if message.get(name) is not None:
                job.trial.set_user_attr(name, message[name])
        if state in ("failed", "impossible"):
            self.fail(job, message["reason"])
        elif state == "pruned":
            job.trial.set_user_attr("value", message["value"])
            self._tell(job.trial.number, state="PRUNED")
        else:
            self._tell(job.trial.number, message["value"])
        if state == "impossible":
            raise ConfigError(message["reason"])

    def fail(self, job: Job, reason: str) -> None:
        """Note that a trial failed."""
        job.trial.set_user_attr("reason", reason)
        self._tell(job.trial.number, state="FAIL")

    def ended(self) -> int:
        """Return how many trials have ended since the last call."""
        ended, self._ended = self._ended, 0
        return ended

    def rows(self) -> list[TrialRow]:
        """Return the trials, as they stand."""
        return [self._row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def write(self) -> None:
        """Write the table of the trials."""
        write_results(self._session, self.rows(), self._space.keys)

    def note(self) -> str:
        """Return the best value so far, and how many trials had none."""
        rows = self.rows()
        counts = Counter(row.state for row in rows)
        others = "".join(f", {counts[state]} {state}" for state in ("pruned", "failed") if counts[state])
        best = best_trial(rows, self._space.section)
        return "" if best is None else f"best {best.value:.4g} of {best.name}{others}"

    def _again(self, frozen: FrozenTrial) -> Job:
        """Return a trial that was begun when the search ended."""
        import optuna

        self._study.sampler = make_sampler(self._space, frozen.number)
        trial = optuna.Trial(self._study, frozen._trial_id)
        return Job(trial, self._config(trial), reported=set(frozen.intermediate_values))

    def _config(self, trial: Trial) -> Config:
        self._space.draw(trial)
        session = str(self._session / TRIALS / f"{trial.number:04d}")
        return self._space.config(self._space.values(trial.params), session=session, **self._shared)

    def _tell(self, number: int, value: float | None = None, state: str | None = None) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, value, None if state is None else TrialState[state])
        self._ended += 1
        self.write()

    def _row(self, frozen: FrozenTrial) -> TrialRow:
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        attributes = frozen.user_attrs
        return TrialRow(
            number=frozen.number,
            state=names.get(frozen.state.name, "begun"),
            value=attributes.get("value", frozen.value) if frozen.state.name != "FAIL" else None,
            epochs=attributes.get("epochs", len(frozen.intermediate_values)),
            seconds=attributes.get("seconds"),
            reason=attributes.get("reason", ""),
            values=self._space.values(frozen.params),
        )
