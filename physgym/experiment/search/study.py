"""Runs a search: Optuna proposes trials, worker processes run them, the session keeps what came of them.

This process alone writes Optuna's journal, so that no killed process can leave it half written, or locked for others.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError, PhysGymError, needs
from physgym.experiment.config import check_config
from physgym.experiment.provenance import Origin
from physgym.experiment.record import read_config, read_record
from physgym.experiment.run import Run
from physgym.experiment.schema import Config
from physgym.experiment.search.driver import Driver
from physgym.experiment.search.lent import LentProcesses
from physgym.experiment.search.optuna_parts import make_pruner, make_sampler, open_study
from physgym.experiment.search.pool import Pool, Processes, environments
from physgym.experiment.search.report import TrialRow, best_trial, write_best, write_plots, write_results
from physgym.experiment.search.section import SearchSection
from physgym.experiment.search.space import Space
from physgym.experiment.search.trials import TRIALS, Trials
from physgym.experiment.search.worker import pack_origin
from physgym.experiment.session import CONFIG, new_session
from physgym.files import absolute, short
from physgym.interrupt import InterruptCounter

LOG = "workers.log"
CHANGEABLE = ("trials", "workers", "threads", "timeout", "trial_timeout")  # where a search is resumed

SHOWN, LONGEST = 5, 400  # reasons of failures in a message, and characters of each


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        session: Its folder; None where nothing was logged.
        rows: The trials, in their order.
        best: The best one, None where none has a value.
        interrupted: Whether Ctrl-C ended it; `resume_search` continues.
        timed_out: Whether it began no more trials since the time was over.
    """

    session: Path | None
    rows: list[TrialRow]
    best: TrialRow | None
    interrupted: bool
    timed_out: bool


def search(
    config: Config, origin: Origin | None = None, *, log: bool = True, ray: str | None = None, lent: bool = False
) -> Found:
    """Search for the best values of some keys of a configuration, as its section ``search`` says.

    Args:
        config: The configuration, with a section ``search``.
        origin: How the search came about, for the records of it and of its trials; by default what can be seen here.
        log: Whether to keep the session; without it, trials are in a temporary folder.
        ray: Address of a Ray cluster that takes the trials: "auto", "local", or host:port. The session must be on a
            file system that all its machines share, and the current folder there under the same path.
        lent: Whether other programs may add their processes, see `physgym.experiment.search.lent`.

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
        found = _run(config.model_copy(update={"session": str(session)}), session, origin, ray, lent)
        return found if log else replace(found, session=None)


def resume_search(
    session: str | Path,
    config: Config | None = None,
    origin: Origin | None = None,
    *,
    ray: str | None = None,
    lent: bool = False,
) -> Found:
    """Continue with a search that was interrupted or killed, or give it more trials.

    Trials that were at work continue from their last checkpoint.

    Args:
        session: Its folder.
        config: Its configuration, with other numbers of trials, workers or seconds; by default as it was. What is
            searched, and how, stays as it is.
        origin: How this came about.
        ray: Address of a Ray cluster, as `search` takes it.
        lent: Whether other programs may add their processes.

    Raises:
        ConfigError: It is not the session of a search, or something else is to be changed, or no trial was completed.
    """
    session = absolute(session)
    stored = check_config(read_config(session), str(session / CONFIG))
    if not is_search(session) or stored.search is None:
        raise ConfigError(f"{session} is not the session of a search")
    config = stored if config is None else config
    was, now = stored.model_dump(), config.model_dump()
    searched, searching = was.pop("search"), now.pop("search") or {}
    for name, old in searched.items():
        if name not in CHANGEABLE and old != (new := searching.get(name)):
            raise ConfigError(
                f"search.{name} cannot be changed in a search that was begun ({old!r}, now {new!r}); start a new one"
            )
    if changed := [name for name in now if name != "session" and now[name] != was[name]]:
        raise ConfigError(f"{changed[0]}: the trials of a search differ in what is searched alone; start a new search")
    return _run(config.model_copy(update={"session": str(session)}), session, origin, ray, lent)


def is_search(session: Path) -> bool:
    """Return whether a session belongs to a search.

    Raises:
        ConfigError: The folder is not a session.
    """
    return bool(read_record(session)["runs"][0]["kind"] == "search")


def _run(config: Config, session: Path, origin: Origin | None, ray: str | None, lent: bool) -> Found:
    """Run a search in its session."""
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
        with InterruptCounter() as interrupts, _pool(space.section, config, session, ray, lent) as pool:
            patch = read_record(session)["runs"][-1]["patch"]
            packed = pack_origin(origin, None if patch is None else session / patch)
            trials = Trials(study, space, session, shared)
            driver = Driver(trials, space.section, pool, session / LOG, packed, interrupts)
            driver.run()
            if isinstance(pool, LentProcesses) and not driver.interrupted:
                pool.end_search()
        rows = trials.rows()
        best = best_trial(rows, space.section)
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
    """Make the samples that all trials train on; return their place."""
    from physgym.experiment.dataset_plan import places, shared_dataset

    config = space.config({})
    folder = config.dataset.path or str(session / "dataset")
    try:
        run.describe_dataset(shared_dataset(config, places(folder), allow_changed_code=allow))
    except KeyboardInterrupt:
        run.outcome = "interrupted before the first trial"
        raise KeyboardInterrupt(f"{run.outcome}. Continue with: physgym resume {shlex.quote(short(session))}") from None
    return folder


def device_of(config: Config) -> str:
    """Return the device that trials train on."""
    if config.device != "auto":
        return config.device
    from physgym.nn.devices import as_device  # torch takes seconds to import

    return str(as_device(config.device))


@contextlib.contextmanager
def _pool(section: SearchSection, config: Config, session: Path, ray: str | None, lent: bool) -> Iterator[Pool]:
    device = device_of(config)
    pool: Pool
    if ray is not None:
        from physgym.experiment.search.cluster import Cluster

        pool = Cluster(ray, threads=section.threads or 1, gpus=int(device.startswith("cuda")), log=session / LOG)
    else:
        pool = Processes(environments(section.workers, section.threads, device), session / LOG)
        pool = LentProcesses(pool, session) if lent else pool
    try:
        yield pool
    finally:
        pool.close()


def _check_any(rows: Sequence[TrialRow]) -> None:
    """Raise if all trials failed."""
    failed = [row for row in rows if row.state == "failed"]
    if not failed or len(failed) < len(rows):
        return
    reasons = Counter(row.reason for row in failed)
    lines = "\n".join(f"- {count} of them: {reason[:LONGEST]}" for reason, count in reasons.most_common(SHOWN))
    raise ConfigError(f"all {len(rows)} trials failed:\n{lines}")
