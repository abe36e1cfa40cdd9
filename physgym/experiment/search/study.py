"""Runs a search: Optuna proposes trials, worker processes run them, the session keeps what came of them.

This process alone writes Optuna's journal, so that none that is killed can leave it torn or locked for the others.
"""

from __future__ import annotations

import contextlib
import inspect
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from physgym.errors import ConfigError, PhysGymError, WorkerError, needs
from physgym.experiment.components import find_class, make
from physgym.experiment.config import check_config
from physgym.experiment.provenance import Origin
from physgym.experiment.record import read_config, read_record
from physgym.experiment.run import Run
from physgym.experiment.schema import Config
from physgym.experiment.search.pool import Pool, Processes, environments
from physgym.experiment.search.report import Row, write_best, write_plots, write_results
from physgym.experiment.search.section import PRUNERS, SAMPLERS, SearchSection
from physgym.experiment.search.space import Space
from physgym.experiment.search.worker import pack_origin
from physgym.experiment.session import CONFIG, new_session
from physgym.files import absolute, short
from physgym.interrupt import told_of_end
from physgym.progress import Progress

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial


JOURNAL, TRIALS, LOG = "study.jsonl", "trials", "workers.log"
NAME = "search"  # of the study; which trials hyperband puts together depends on it
CHANGEABLE = ("trials", "workers", "threads", "timeout", "trial_timeout")  # where a search is resumed

POLL = 0.2  # seconds
START = 300.0  # seconds for a worker to be ready
GRACE = 120.0  # seconds for running trials to be saved after Ctrl-C
SHOWN, LONGEST = 5, 400  # reasons of failures in a message, and characters of each
ATTEMPTS = 2  # how often a trial is begun whose worker dies

WAIT = "Ctrl-C: running trials finish their batch and are saved; once more stops at once"
DAMAGED = "{path} is damaged: {error}. Start a new search"
CHANGED = "search.{name} cannot be changed in a search that was begun ({old!r}, now {new!r}); start a new one"


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        session: Its folder; None where nothing was logged.
        rows: The trials, in their order.
        best: The best one, None where none has a value.
        interrupted: Whether Ctrl-C ended it; `resume_search` goes on.
        timed_out: Whether it began no more trials since the time was over.
    """

    session: Path | None
    rows: list[Row]
    best: Row | None
    interrupted: bool
    timed_out: bool


@dataclass
class Job:
    """A trial at work.

    Attributes:
        trial: Of Optuna.
        config: Its configuration.
        began: When.
        reported: Epochs that Optuna knows.
        attempts: How often it was begun, since this search goes on.
    """

    trial: Trial
    config: Config
    began: float = 0.0
    reported: set[int] = field(default_factory=set)
    attempts: int = 0


def search(config: Config, origin: Origin | None = None, *, log: bool = True, ray: str | None = None) -> Found:
    """Search for the best values of some keys of a configuration, as its section ``search`` says.

    Args:
        config: The configuration, with a section ``search``.
        origin: How the search came about, for the records of it and of its trials; by default what can be seen here.
        log: Whether to keep the session; without it, trials are in a temporary folder.
        ray: Address of a Ray cluster that takes the trials: "auto", "local", or host:port. The session must be on a
            file system that all its machines share, and the current folder there under the same path.

    Raises:
        ConfigError: The section is wrong, or no trial was completed; the text has the reasons.
        WorkerError: Workers do not start.
        KeyboardInterrupt: Ctrl-C while samples were generated.
    """
    space = _space_of(config)
    space.own_samples()
    make_sampler(space, 0)  # own ones may be wrong
    make_pruner(space.section, 1)
    _check_points(space)
    with contextlib.ExitStack() as stack:
        if log:
            session = new_session(config.session)
        else:
            session = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="physgym-search-"))) / "session"
            session.mkdir()
        found = _run(config.model_copy(update={"session": str(session)}), session, origin, ray)
        return found if log else replace(found, session=None)


def resume_search(
    session: str | Path, config: Config | None = None, origin: Origin | None = None, *, ray: str | None = None
) -> Found:
    """Go on with a search that was interrupted or killed, or give it more trials.

    Trials that were at work go on from their last checkpoint.

    Args:
        session: Its folder.
        config: Its configuration, with other numbers of trials, workers or seconds; by default as it was. What is
            searched, and how, stays as it is.
        origin: How this came about.
        ray: As of `search`.

    Raises:
        ConfigError: It is not the session of a search, or something else is to be changed; and as of `search`.
    """
    session = absolute(session)
    stored = check_config(read_config(session), str(session / CONFIG))
    if not is_search(session) or stored.search is None:
        raise ConfigError(f"{session} is not the session of a search")
    config = stored if config is None else config
    was, now = stored.model_dump(), config.model_dump()
    searched, searching = was.pop("search"), now.pop("search") or {}
    for name, old in searched.items():
        if name not in CHANGEABLE and old != searching.get(name):
            raise ConfigError(CHANGED.format(name=name, old=old, new=searching.get(name)))
    if changed := [name for name in now if name != "session" and now[name] != was[name]]:
        raise ConfigError(f"{changed[0]}: the trials of a search differ in what is searched alone; start a new search")
    return _run(config.model_copy(update={"session": str(session)}), session, origin, ray)


def is_search(session: Path) -> bool:
    """Whether a session is that of a search.

    Raises:
        ConfigError: The folder is not a session.
    """
    return bool(read_record(session)["runs"][0]["kind"] == "search")


def _run(config: Config, session: Path, origin: Origin | None, ray: str | None) -> Found:
    """The search in its session."""
    space = _space_of(config)
    origin = Origin.here() if origin is None else origin
    with Run(session, "search", config.model_dump(), origin) as run:
        study = open_study(session, space, config)
        run.accepted()
        (session / TRIALS).mkdir(exist_ok=True)
        shared: dict[str, Any] = {}
        if not space.own_samples():
            shared = {"dataset__path": _samples(space, session, run, origin.allow_changed_code)}
        # processes are ended before Ctrl-C raises again
        with Presses() as presses, _pool(space.section, config, session, ray) as pool:
            patch = read_record(session)["runs"][-1]["patch"]
            packed = pack_origin(origin, None if patch is None else session / patch)
            driver = Driver(study, space, pool, session, shared, packed, presses)
            driver.run()
        rows = driver.rows()
        best = best_of(rows, space.section)
        write_results(session, rows, space.keys)
        if best is not None:
            write_best(session, best, space.config(best.values, **shared), space.section)
            run.results = {"trial": best.number, space.section.metric: best.value}
        write_plots(session, rows, space, study)
        _check_any(rows)
        if driver.interrupted or driver.timed_out:
            run.outcome = "interrupted" if driver.interrupted else "stopped: search.timeout"
    return Found(session, rows, best, bool(driver.interrupted), driver.timed_out)


def _space_of(config: Config) -> Space:
    with needs("optuna", "hpo"):
        import optuna  # noqa: F401  # now, before anything is on the disk
    return Space(config)


def _check_points(space: Space) -> None:
    """Raise if no trial can work, before the first sample is generated; that some cannot is for the search to find."""
    from physgym.experiment.runs import check

    faults = []
    for end in (0, -1):
        try:
            return check(space.config(space.corner(end)), space.section.metric)
        except PhysGymError as error:
            faults.append(error)
    raise faults[0]


def _samples(space: Space, session: Path, run: Run, allow: bool) -> str | list[str]:
    """Make the samples that all trials train on; where they are."""
    from physgym.experiment.dataset_plan import places, shared_dataset

    config = space.config({})
    folder = config.dataset.path or str(session / "dataset")
    try:
        run.describe_dataset(shared_dataset(config, places(folder), allow_changed_code=allow))
    except KeyboardInterrupt:
        run.outcome = "interrupted before the first trial"
        raise KeyboardInterrupt(f"{run.outcome}. Continue with: physgym resume {shlex.quote(short(session))}") from None
    return folder


@contextlib.contextmanager
def _pool(section: SearchSection, config: Config, session: Path, ray: str | None) -> Iterator[Pool]:
    device = config.device
    pool: Pool
    if ray is not None:
        from physgym.experiment.search.cluster import Cluster

        pool = Cluster(ray, threads=section.threads or 1, gpus=int(device.startswith("cuda")), log=session / LOG)
    else:
        pool = Processes(environments(section.workers, section.threads, device), session / LOG)
    try:
        yield pool
    finally:
        pool.close()


def _check_any(rows: Sequence[Row]) -> None:
    """Raise if all trials failed."""
    failed = [row for row in rows if row.state == "failed"]
    if not failed or len(failed) < len(rows):
        return
    reasons = Counter(row.reason for row in failed)
    lines = "\n".join(f"- {count} of them: {reason[:LONGEST]}" for reason, count in reasons.most_common(SHOWN))
    raise ConfigError(f"all {len(rows)} trials failed:\n{lines}")


def best_of(rows: Sequence[Row], section: SearchSection) -> Row | None:
    """The best completed trial."""
    done = [row for row in rows if row.state == "complete" and row.value is not None]
    sign = 1 if section.direction == "minimize" else -1
    return min(done, key=lambda row: sign * (row.value or 0.0), default=None)


# --- Optuna


def open_study(session: Path, space: Space, config: Config) -> optuna.Study:
    """The study in a session, which nobody else has open.

    Raises:
        ConfigError: The journal is damaged.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = (session / JOURNAL).resolve()
    if path.exists():
        _repair(path)
    was = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # a lock by exclusive creation, which network file systems have
        backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
        return optuna.create_study(
            study_name=NAME,
            storage=optuna.storages.JournalStorage(backend),
            direction=space.section.direction,
            sampler=make_sampler(space, 0),
            pruner=make_pruner(space.section, config.training.epochs),
            load_if_exists=True,
        )
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(DAMAGED.format(path=path, error=error)) from error
    finally:
        optuna.logging.set_verbosity(was)


def _repair(path: Path) -> None:
    """Remove what a killed search has left: a line half written, and its lock."""
    data = path.read_bytes()
    if (whole := data.rfind(b"\n") + 1) < len(data):
        with path.open("r+b") as journal:
            journal.truncate(whole)
    for leftover in path.parent.glob(f"{path.name}.lock*"):
        leftover.unlink()


def make_sampler(space: Space, number: int) -> optuna.samplers.BaseSampler:
    """What draws the values of a trial; anew for each, so that a search that is resumed draws what it would have."""
    from optuna import samplers

    section = space.section
    seed = int(np.random.SeedSequence((section.seed, number)).generate_state(1)[0])
    if section.sampler not in SAMPLERS:
        kind = find_class(section.sampler, {}, "search.sampler", samplers.BaseSampler)
        own: samplers.BaseSampler = _made(kind, "search.sampler", samplers.BaseSampler, seed=seed)
        return own
    if section.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    if section.sampler == "tpe":
        return samplers.TPESampler(seed=seed, n_startup_trials=section.startup)
    if section.sampler == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=section.startup)

    class Grid(samplers.GridSampler):
        """All points, in an order that the seed gives."""

        def after_trial(self, *_: Any) -> None:
            """Nothing: Optuna's would stop a loop that is not there."""

    return Grid(space.grid(), seed=section.seed)


def make_pruner(section: SearchSection, epochs: int) -> optuna.pruners.BasePruner:
    """What ends trials early; Optuna's steps are epochs from 0."""
    from optuna import pruners

    if section.pruner not in PRUNERS:
        kind = find_class(section.pruner, {}, "search.pruner", pruners.BasePruner)
        own: pruners.BasePruner = _made(kind, "search.pruner", pruners.BasePruner)
        return own
    if section.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=section.startup, n_warmup_steps=section.warmup)
    if section.pruner == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=section.warmup)
    if section.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=section.warmup, max_resource=max(epochs, section.warmup))
    return pruners.NopPruner()


def _made(kind: Any, key: str, wanted: type, **options: Any) -> Any:
    """A part of Optuna that a configuration names as ``module:attr``, with the options that it has parameters for."""
    parameters = inspect.signature(kind).parameters
    made = make(kind, key, **{name: value for name, value in options.items() if name in parameters})
    if not isinstance(made, wanted):
        raise ConfigError(f"{key}: it gives {made!r}, which is no {wanted.__module__}.{wanted.__name__}")
    return made


# --- the loop


class Driver:
    """Hands trials to processes and what comes of them to Optuna.

    Args:
        study: Of Optuna.
        space: What is searched.
        pool: The processes.
        session: Of the search.
        shared: What the configurations of all trials say besides, by key.
        origin: How the search came about, as `pack_origin` has it.
        presses: Of Ctrl-C.

    Attributes:
        timed_out: Whether there was no time for all trials.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        pool: Pool,
        session: Path,
        shared: Mapping[str, Any],
        origin: Mapping[str, Any],
        presses: Presses,
    ) -> None:
        self._study, self._space, self._pool = study, space, pool
        self._session, self._shared, self._origin = session, dict(shared), origin
        self._section = space.section
        self._presses, self.timed_out = presses, False
        self._asked = False  # whether the workers know of Ctrl-C
        self._starting: dict[int, float] = {}
        self._idle: list[int] = []
        self._running: dict[int, Job] = {}
        self._next = 0  # number of the next worker
        self._finished = 0  # trials that the bar does not show yet
        self._waiting: deque[Job] = deque()  # that were begun

    @property
    def interrupted(self) -> int:
        """How often Ctrl-C came."""
        return self._presses.count

    def run(self) -> None:
        """Run trials until there are enough, or no more time.

        Raises:
            ConfigError: No epoch gives the metric.
            WorkerError: Workers do not start.
        """
        trials = self._study.get_trials(deepcopy=False)
        self._waiting.extend(self._again(trial) for trial in trials if not trial.state.is_finished())
        self._asks = self._space.trials - len(trials)
        done = len(trials) - len(self._waiting)
        deadline = time.monotonic() + (self._section.timeout or float("inf"))
        with Progress(self._space.trials, "search", "trial", initial=min(done, self._space.trials)) as bar:
            for _ in range(min(self._section.workers, self._left())):
                self._open()
            while self._running or (self._left() and not self.interrupted):
                if time.monotonic() > deadline and self._left():
                    self.timed_out, self._asks = True, 0
                    self._waiting.clear()
                self._attend()
                while self._idle and self._left() and not self.interrupted:
                    if (job := self._job()) is not None:
                        self._begin(self._idle.pop(0), job)
                for number, message in self._pool.poll(POLL):
                    self._take(number, message)
                if self._finished:
                    bar.update(self._finished, self._note())
                    self._finished = 0
        if self._waiting or self._running:
            write_results(self._session, self.rows(), self._space.keys)

    def rows(self) -> list[Row]:
        """The trials, as they stand."""
        return [self._row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _left(self) -> int:
        return max(0, self._asks) + len(self._waiting)

    # --- processes

    def _open(self) -> None:
        self._pool.open(self._next)
        self._starting[self._next] = time.monotonic()
        self._next += 1

    def _attend(self) -> None:
        """See to Ctrl-C, to trials that take too long, and to workers that do not start."""
        now = time.monotonic()
        if self.interrupted and not self._asked:
            print(WAIT, file=sys.stderr, flush=True)
            self._asked, self._grace = True, now + GRACE
            for number in self._running:
                self._pool.interrupt(number)
        if self.interrupted > 1 or (self._asked and now > self._grace):
            for number in [*self._running]:
                self._pool.kill(number)
            self._running.clear()  # they stay begun, for a search that goes on
        for number, job in list(self._running.items()):
            if (limit := self._section.trial_timeout) is not None and now - job.began > limit:
                self._pool.kill(number)
                del self._running[number]
                self._fail(job, f"took longer than search.trial_timeout, {limit:g} s")
                self._replace()
        for number, since in list(self._starting.items()):
            if now - since > START:
                self._pool.kill(number)
                del self._starting[number]
                if not (self._starting or self._idle or self._running):
                    raise WorkerError(f"no worker was ready within {START:g} s; see {self._session / LOG}")

    def _replace(self) -> None:
        """Start a process in place of one that is gone, if there is work for it."""
        if not self.interrupted and len(self._starting) + len(self._idle) < self._left():
            self._open()

    def _take(self, number: int, message: Mapping[str, Any]) -> None:
        """See to a message."""
        job = self._running.get(number)
        if message["kind"] == "ready":
            self._starting.pop(number, None)
            self._idle.append(number)
        elif message["kind"] == "epoch" and job is not None:
            self._report(number, job, message)
        elif message["kind"] == "end" and job is not None:
            del self._running[number]
            if not message["last"]:
                self._idle.append(number)
            self._end(job, message)
        elif message["kind"] == "dead":
            self._mourn(number, message["reason"])

    def _mourn(self, number: int, reason: str) -> None:
        """A process is gone."""
        if number in self._idle:
            self._idle.remove(number)
        if self._starting.pop(number, None) is not None:
            if not (self._starting or self._idle or self._running):
                raise WorkerError(f"a worker {reason} before it was ready; see {self._session / LOG}")
            return
        if (job := self._running.pop(number, None)) is not None and not self.interrupted:
            if job.attempts < ATTEMPTS:
                self._waiting.appendleft(job)
            else:
                self._fail(job, f"its worker {reason}, {ATTEMPTS} times; was there enough memory?")
        self._replace()

    # --- trials

    def _again(self, frozen: FrozenTrial) -> Job:
        """A trial that was begun when the search ended."""
        import optuna

        self._study.sampler = make_sampler(self._space, frozen.number)
        trial = optuna.Trial(self._study, frozen._trial_id)
        return Job(trial, self._config(trial), reported=set(frozen.intermediate_values))

    def _job(self) -> Job | None:
        """The next trial; None if its values do not go together."""
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

    def _config(self, trial: Trial) -> Config:
        self._space.draw(trial)
        session = str(self._session / TRIALS / name_of(trial.number))
        return self._space.config(self._space.values(trial.params), session=session, **self._shared)

    def _begin(self, number: int, job: Job) -> None:
        job.began, job.attempts = time.monotonic(), job.attempts + 1
        self._running[number] = job
        section = self._section
        self._pool.send(
            number,
            {
                "config": job.config.model_dump(),
                "metric": section.metric,
                "which": section.which,
                "direction": section.direction,
                "log": f"{job.config.session}.log",
                "origin": self._origin,
            },
        )

    def _report(self, number: int, job: Job, message: Mapping[str, Any]) -> None:
        """Note the value of an epoch; answer whether the trial is to end."""
        step = int(message["epoch"]) - 1
        new = step not in job.reported
        if new:
            job.reported.add(step)
            job.trial.report(message["value"], step)
        if not message["ask"]:
            return
        known = job.trial.user_attrs.get("pruned")
        prune = known is not None and step >= known
        if new and not prune and job.trial.should_prune():
            # noted first: a search that is killed now ends the trial all the same when it goes on
            job.trial.set_user_attr("pruned", step)
            prune = True
        self._pool.send(number, {"epoch": message["epoch"], "prune": prune})

    def _end(self, job: Job, message: Mapping[str, Any]) -> None:
        """A trial has ended by itself."""
        state = message["state"]
        if state == "interrupted":
            return
        for name in ("epochs", "seconds"):
            if message.get(name) is not None:
                job.trial.set_user_attr(name, message[name])
        if state in ("failed", "impossible"):
            self._fail(job, message["reason"])
        elif state == "pruned":
            job.trial.set_user_attr("value", message["value"])
            self._tell(job.trial.number, state="PRUNED")
        else:
            self._tell(job.trial.number, message["value"])
        if state == "impossible":
            raise ConfigError(message["reason"])

    def _fail(self, job: Job, reason: str) -> None:
        job.trial.set_user_attr("reason", reason)
        self._tell(job.trial.number, state="FAIL")

    def _tell(self, number: int, value: float | None = None, state: str | None = None) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, value, None if state is None else TrialState[state])
        self._finished += 1
        write_results(self._session, self.rows(), self._space.keys)

    def _row(self, frozen: FrozenTrial) -> Row:
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        attributes = frozen.user_attrs
        return Row(
            number=frozen.number,
            state=names.get(frozen.state.name, "begun"),
            value=attributes.get("value", frozen.value) if frozen.state.name != "FAIL" else None,
            epochs=attributes.get("epochs", len(frozen.intermediate_values)),
            seconds=attributes.get("seconds"),
            reason=attributes.get("reason", ""),
            values=self._space.values(frozen.params),
        )

    def _note(self) -> str:
        rows = self.rows()
        counts = Counter(row.state for row in rows)
        others = "".join(f", {counts[state]} {state}" for state in ("pruned", "failed") if counts[state])
        best = best_of(rows, self._section)
        return "" if best is None else f"best {best.value:.4g} of {best.name}{others}"


def name_of(number: int) -> str:
    """The folder of a trial."""
    return f"{number:04d}"


class Presses:
    """Counts Ctrl-C while it is active.

    Nothing is torn by it, since the search looks at the count between two things that it does.

    Attributes:
        count: How often it came.
    """

    def __init__(self) -> None:
        self.count = 0
        self._active = False
        self._told = told_of_end(self._end)

    def __enter__(self) -> Self:
        self._told.__enter__()
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._count)
            self._active = True
        return self

    def __exit__(self, *args: object) -> None:
        self._told.__exit__(None, None, None)
        if self._active:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _count(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1

    def _end(self) -> None:
        """A batch system wants an end, which is no reason to hurry."""
        self.count = max(1, self.count)
