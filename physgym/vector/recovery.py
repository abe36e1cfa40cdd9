"""Recovery from faults: an error for the caller, or workers that are started again and asked again."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import replace

from physgym.episode import episode_seed
from physgym.errors import ConfigError, PhysGymError, WorkerError
from physgym.protocol.ledger import Ledger
from physgym.protocol.messages import Attach, Call, Rollout, Step
from physgym.vector.calls import OpenCall
from physgym.vector.fleet import WorkerPool
from physgym.vector.memory import share_samples
from physgym.vector.workers import Fault, RemoteWorker, Worker

log = logging.getLogger(__name__)


class Recovery:
    """Deals with faults of workers.

    Args:
        fleet: The workers.
        on_error: "raise" or "restart".
        most: Restarts within a minute, before a fault is raised after all.
        number: How many environments there are.

    Attributes:
        on_error: As the argument.
        restarts: How often a worker was started again.
        seeds: The last seed of every environment.
    """

    def __init__(self, fleet: WorkerPool, on_error: str, most: int, number: int) -> None:
        self._fleet, self.on_error, self._most = fleet, on_error, most
        self.restarts = 0
        self.seeds: list[int | None] = [None] * number
        self._times: deque[float] = deque()  # of the restarts of the last minute

    def restarts_worker(self, worker: Worker) -> bool:
        """Return whether a worker is started again where it fails."""
        return self.on_error == "restart" and isinstance(worker, RemoteWorker)

    def deal_with(
        self, worker: Worker, fault: Fault, call: OpenCall, ledger: Ledger | None = None
    ) -> list[PhysGymError]:
        """Start a worker again and ask it what it has not answered, if that is wanted and can be.

        Args:
            worker: Which one.
            fault: What happened.
            call: The call that is under way.
            ledger: That of the connection over which the fault came; None for the present one.

        Returns:
            The errors for the caller.
        """
        if self.on_error != "restart" or not isinstance(worker, RemoteWorker):
            return self._give_up(worker, fault.error, call)
        if not fault.dead and any(request.kind is Call for request in fault.unanswered):
            return [fault.error]  # of a method; the environments are as they were
        unanswered = list(fault.unanswered)
        since = fault.dead if ledger is None else ledger is not worker.ledger
        if worker.gone or not since:  # else it was started again since, for a fault before this one
            unanswered += worker.ledger.pending
            final = self._restart(worker, fault.error)
            if final is not None:
                return self._give_up(worker, final, call)
        errors: list[PhysGymError] = []
        for pending in unanswered:
            request = pending.rest()
            if isinstance(request, Step):
                rows = range(len(worker.envs)) if request.rows is None else request.rows
                self._fleet.post(worker, call.actions.empty(request.slot, list(rows), stream=call.streams))
            elif isinstance(request, Call):
                errors.append(fault.error)  # calling twice is not the same as calling once
            elif not isinstance(request, Attach):  # which a restart sends itself
                if isinstance(request, Rollout):
                    request = replace(request, made=0)
                    worker.episodes += len(request.episodes)
                    share_samples(worker, self._fleet.memory, self._fleet.agreement)
                self._fleet.post(worker, request, pending.context)
        return errors

    def _restart(self, worker: RemoteWorker, error: PhysGymError) -> WorkerError | None:
        """Start a worker again until it comes up; return the error if that happens too often."""
        fault: PhysGymError | None = error
        while fault is not None:
            if not self._may_restart():
                self._fleet.end(worker)
                final = WorkerError(
                    f"{len(self._times)} restarts of workers within a minute (max_restarts={self._most}); the last "
                    f"fault: {fault}",
                    env_indices=tuple(worker.envs),
                )
                final.__cause__ = fault
                return final
            # a worker that has joined runs episodes alone, which have their own seeds
            seeds = [self.seeds[env] if env < len(self.seeds) else None for env in worker.envs]
            try:
                # a function of the seed that was given, so that a run with the same faults is the same run
                again = [None if seed is None else episode_seed(seed, self.restarts) for seed in seeds]
                log.warning(
                    "restart %d: %s%s", self.restarts, str(fault).partition("\n")[0], _reset_with(worker, seeds)
                )
                self._fleet.restart(worker, again)
                fault = None
            except (WorkerError, ConfigError) as failed:  # it may be killed while it starts, its port be taken
                fault = failed
        return None

    def _may_restart(self) -> bool:
        """Return whether a worker may be started again now; if so, it counts."""
        now = time.monotonic()
        while self._times and self._times[0] < now - 60:
            self._times.popleft()
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        self.restarts += 1
        return True

    def _give_up(self, worker: Worker, error: PhysGymError, call: OpenCall) -> list[PhysGymError]:
        call.give_up(worker)
        return [error]


def _reset_with(worker: RemoteWorker, seeds: list[int | None]) -> str:
    """Return in words with which seeds the environments of a worker were reset; rollouts say theirs themselves."""
    known = [f"environment {env}: {seed}" for env, seed in zip(worker.envs, seeds, strict=True) if seed is not None]
    return f"; seeds of the last reset: {', '.join(known)}" if known else ""
