"""The loop of a search: it hands trials to worker processes, and notes what comes of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.errors import WorkerError
from physgym.experiment.search.pool import Pool
from physgym.experiment.search.section import SearchSection
from physgym.experiment.search.trials import Job, Trials
from physgym.interrupt import InterruptCounter
from physgym.progress import Progress

POLL = 0.2  # seconds
START = 300.0  # seconds for a worker to be ready
GRACE = 120.0  # seconds for running trials to be saved after Ctrl-C
ATTEMPTS = 2  # how often a trial is begun whose worker dies


class Workers:
    """Worker processes by what they do: those that start, those that wait for a trial, and those at work.

    Args:
        pool: The processes.
        log: File with what they print between trials, for errors.

    Attributes:
        idle: Processes that wait for a trial.
        running: Trials at work, by process.
    """

    def __init__(self, pool: Pool, log: Path) -> None:
        self._pool, self._log = pool, log
        self._starting: dict[int, float] = {}
        self._next = 0  # number of the next process
        self.idle: list[int] = []
        self.running: dict[int, Job] = {}

    @property
    def expected(self) -> int:
        """Return how many wait for a trial, or will."""
        return len(self._starting) + len(self.idle)

    def open(self) -> None:
        """Start a process."""
        self._pool.open(self._next)
        self._starting[self._next] = time.monotonic()
        self._next += 1

    def ready(self, number: int) -> None:
        """Note that a process has started."""
        self._starting.pop(number, None)
        self.idle.append(number)

    def begin(self, job: Job, message: Mapping[str, Any]) -> None:
        """Hand a trial to a process that waits for one."""
        number = self.idle.pop(0)
        job.began, job.attempts = time.monotonic(), job.attempts + 1
        self.running[number] = job
        self._pool.send(number, dict(message))

    def answer(self, number: int, message: Mapping[str, Any]) -> None:
        """Send a process the answer that it waits for."""
        self._pool.send(number, dict(message))

    def interrupt(self) -> None:
        """Let all trials at work finish their batch and be saved."""
        for number in self.running:
            self._pool.interrupt(number)

    def kill(self, number: int) -> None:
        """End a process, and take its trial away."""
        self._pool.kill(number)
        self.running.pop(number, None)

    def kill_late(self, now: float) -> None:
        """End processes that do not start.

        Raises:
            WorkerError: No other process is there.
        """
        for number, since in list(self._starting.items()):
            if now - since > START:
                self._pool.kill(number)
                del self._starting[number]
                self._check_any(f"no worker was ready within {START:g} s")

    def lose(self, number: int, reason: str) -> tuple[bool, Job | None]:
        """Forget a process that is gone.

        Returns:
            Whether it had started, and its trial.

        Raises:
            WorkerError: It did not start, and no other process is there.
        """
        if number in self.idle:
            self.idle.remove(number)
        if self._starting.pop(number, None) is not None:
            self._check_any(f"a worker {reason} before it was ready")
            return False, None
        return True, self.running.pop(number, None)

    def _check_any(self, problem: str) -> None:
        if not (self._starting or self.idle or self.running):
            raise WorkerError(f"{problem}; see {self._log}")


class Driver:
    """Hands trials to processes and what comes of them to Optuna.

    Args:
        trials: The trials.
        section: How to search.
        pool: The processes.
        log: File with what they print between trials, for errors.
        origin: How the search came about, as `pack_origin` has it.
        interrupts: Counts Ctrl-C.

    Attributes:
        timed_out: Whether there was no time for all trials.
    """

    def __init__(
        self,
        trials: Trials,
        section: SearchSection,
        pool: Pool,
        log: Path,
        origin: Mapping[str, Any],
        interrupts: InterruptCounter,
    ) -> None:
        self._trials, self._section, self._pool, self._origin = trials, section, pool, origin
        self._workers = Workers(pool, log)
        self._interrupts, self.timed_out = interrupts, False
        self._grace: float | None = None  # when trials that Ctrl-C ends must be saved

    @property
    def interrupted(self) -> int:
        """Return how often Ctrl-C came."""
        return self._interrupts.count

    def run(self) -> None:
        """Run trials until there are enough, or no more time.

        Raises:
            ConfigError: No epoch gives the metric.
            WorkerError: Workers do not start.
        """
        trials, workers, total = self._trials, self._workers, self._trials.total
        deadline = time.monotonic() + (self._section.timeout or float("inf"))
        with Progress(total, "search", "trial", initial=min(trials.done, total)) as bar:
            for _ in range(min(self._section.workers, trials.remaining)):
                workers.open()
            while workers.running or (trials.remaining and not self.interrupted):
                if time.monotonic() > deadline and trials.remaining:
                    self.timed_out = True
                    trials.give_up()
                self._check_limits()
                while workers.idle and trials.remaining and not self.interrupted:
                    if (job := trials.next()) is not None:
                        workers.begin(job, self._message(job))
                for number, message in self._pool.poll(POLL):
                    self._take(number, message)
                if ended := trials.ended():
                    bar.update(ended, trials.note())
        if trials.waiting or workers.running:
            trials.write()

    def _message(self, job: Job) -> dict[str, Any]:
        section = self._section
        return {
            "config": job.config.model_dump(),
            "metric": section.metric,
            "which": section.which,
            "direction": section.direction,
            "log": f"{job.config.session}.log",
            "origin": self._origin,
        }

    def _check_limits(self) -> None:
        """Act on Ctrl-C, on trials that take too long, and on workers that do not start."""
        now, workers = time.monotonic(), self._workers
        if self.interrupted and self._grace is None:
            text = "Ctrl-C: running trials finish their batch and are saved; once more stops at once"
            print(text, file=sys.stderr, flush=True)
            self._grace = now + GRACE
            workers.interrupt()
        if self.interrupted > 1 or (self._grace is not None and now > self._grace):
            for number in [*workers.running]:  # these trials stay begun, for a search that goes on
                workers.kill(number)
        for number, job in list(workers.running.items()):
            if (limit := self._section.trial_timeout) is not None and now - job.began > limit:
                workers.kill(number)
                self._trials.fail(job, f"took longer than search.trial_timeout, {limit:g} s")
                self._replace()
        workers.kill_late(now)

    def _replace(self) -> None:
        """Start a process in place of one that is gone, if there is work for it."""
        if not self.interrupted and self._workers.expected < self._trials.remaining:
            self._workers.open()

    def _take(self, number: int, message: Mapping[str, Any]) -> None:
        """Act on a message of a process."""
        job = self._workers.running.get(number)
        if message["kind"] == "ready":
            self._workers.ready(number)
        elif message["kind"] == "epoch" and job is not None:
            prune = self._trials.report(job, message)
            if message["ask"]:
                self._workers.answer(number, {"epoch": message["epoch"], "prune": prune})
        elif message["kind"] == "end" and job is not None:
            del self._workers.running[number]
            if not message["last"]:
                self._workers.idle.append(number)
            self._trials.end(job, message)
            if message["state"] == "interrupted" and not self.interrupted:  # of a lender that is to end
                job.attempts -= 1
                self._trials.put_back(job)
        elif message["kind"] == "dead":
            self._on_worker_death(number, message["reason"], lent=message.get("lent", False))

    def _on_worker_death(self, number: int, reason: str, *, lent: bool) -> None:
        """Begin the trial of a process that is gone again, or give it up; one of another program is not replaced."""
        started, job = self._workers.lose(number, reason)
        if not started:
            return
        if job is not None and not self.interrupted:
            if job.attempts < ATTEMPTS:
                self._trials.put_back(job)
            else:
                self._trials.fail(job, f"its worker {reason}, {ATTEMPTS} times; was there enough memory?")
        if not lent:
            self._replace()
