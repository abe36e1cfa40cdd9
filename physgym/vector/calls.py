"""The calls of a vector env: which states there are, which moves between them are legal, what each call does.

One call is under way at a time: its requests are out, and answers are owed. A call that was left in the middle (Ctrl-C,
an error, a rollout that nobody iterates over any more) is interrupted, until its answers are taken in and forgotten.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from physgym.errors import WrongType, WrongValue
from physgym.protocol.batched_infos import Infos, Origins, merge_infos
from physgym.protocol.messages import Call, CallResult, Message, Reset, Results, Step
from physgym.spaces import Array
from physgym.vector.actions import ActionWriter
from physgym.vector.results import ResultStore
from physgym.vector.workers import RemoteWorker, Worker


class State(Enum):
    """The states of the call that is under way; the value is its name in messages."""

    IDLE = ""  # no answer is owed
    POSTING = "posting"  # requests are being sent
    SENDING = "sending"  # requests of steps without lockstep are being sent
    INTERRUPTED = (
        "interrupted"  # answers are owed that belong to nobody, or to a rollout, which can be left at any time
    )
    RESET = "reset"
    STEP = "step"
    CALL = "call"
    SEND = "send"  # some environments step, without lockstep

    __hash__ = object.__hash__  # looked up in every step, where that of Enum, in Python, would count


# The legal moves. A call may be left in the middle in any state but IDLE; then there is one way on: to take in the
# answers that are owed.
MOVES: dict[State, frozenset[State]] = {
    State.IDLE: frozenset({State.POSTING, State.SENDING}),
    State.POSTING: frozenset({State.RESET, State.STEP, State.CALL, State.INTERRUPTED}),
    State.SENDING: frozenset({State.SEND, State.IDLE, State.INTERRUPTED}),
    State.INTERRUPTED: frozenset({State.IDLE, State.INTERRUPTED}),
    State.RESET: frozenset({State.IDLE, State.INTERRUPTED}),
    State.STEP: frozenset({State.IDLE, State.INTERRUPTED}),
    State.CALL: frozenset({State.IDLE, State.INTERRUPTED}),
    State.SEND: frozenset({State.SENDING, State.IDLE, State.INTERRUPTED}),
}
# The states that a later call finds where one was interrupted: it may be so while its requests are sent, too.
ABANDONED = frozenset({State.POSTING, State.SENDING, State.INTERRUPTED})
LOCKSTEP = frozenset({State.RESET, State.STEP, State.CALL})  # the states of calls that one waits for


class OpenCall:
    """A call as long as answers are owed; this one is of no kind in particular.

    Args:
        results: Takes the results.
        actions: Makes the messages of steps.
        mode: What happens when an episode ends.
    """

    state = State.INTERRUPTED  # once its requests are out
    posting = State.POSTING  # until then
    streams = False  # whether its steps are answered in parts

    def __init__(self, results: ResultStore, actions: ActionWriter, mode: AutoresetMode) -> None:
        self.results, self.actions = results, actions
        self._same_step = mode is AutoresetMode.SAME_STEP
        self._infos: list[tuple[int, Infos]] = []

    def begin(self) -> None:
        """Forget the call before."""
        self._infos = []

    def take(self, worker: Worker, results: Results) -> None:
        """Put results of some environments where they belong."""
        start = worker.envs.start
        if not (results.arrays or results.objects or results.cut or results.failures):  # all is there already
            if results.infos is not None:
                self._infos.append((start, results.infos))
            return
        lost = [failure.env for failure in results.failures] + self.untouched(worker, results)
        if results.cut and self._same_step:
            self._infos.append((start, self.results.final_infos(start, results.cut)))
        else:
            lost += results.cut  # the last observation of the episode is the one before
        if results.infos is not None:
            self._infos.append((start, results.infos))
        self.results.put(worker, results, lost, self.results.previous)

    def untouched(self, worker: Worker, results: Results) -> list[int]:
        """Return rows of a worker's results which the call does not concern."""
        return []

    def infos(self, number: int) -> dict[str, Any]:
        """Return the infos of so many environments, as Gymnasium has them."""
        merged: dict[str, Any] = {}
        if not self._infos:
            return merged
        # in the order of the environments, not of arrival: the first value decides on the dtype of a column
        origins: Origins = {}
        for start, infos in sorted(self._infos, key=lambda part: part[0]):
            merge_infos(merged, infos, number, start, origins=origins)
        return merged

    def again(self, worker: Worker, rows: list[int]) -> Message:
        """Return the request for environments that have failed, once their worker was started again."""
        return self.actions.empty(self.results.number, rows, stream=self.streams)

    def give_up(self, worker: Worker) -> None:
        """Do without the answers of a worker."""
        self.results.keep(worker.slice)


class StepCall(OpenCall):
    """A step of all environments."""

    state = State.STEP


class ResetCall(OpenCall):
    """A reset.

    Args:
        results: Takes the results.
        actions: Makes the messages of steps.
        mode: What happens when an episode ends.
        seeds: The last seed of every environment.
    """

    state = State.RESET

    def __init__(
        self, results: ResultStore, actions: ActionWriter, mode: AutoresetMode, seeds: list[int | None]
    ) -> None:
        super().__init__(results, actions, mode)
        self._seeds = seeds
        self._mask = np.ones(len(seeds), np.bool_)
        self._options: dict[str, Any] | None = None

    def requests(
        self, workers: Sequence[Worker], seeds: list[int | None], mask: Array, options: dict[str, Any] | None
    ) -> list[tuple[Worker, Message]]:
        """Return what to ask the workers.

        Args:
            workers: All of them.
            seeds: One per environment.
            mask: Which environments to reset, shape (num_envs,), bool.
            options: Of their resets.
        """
        self._options, self._mask = options, mask
        for index in np.flatnonzero(mask):
            self._seeds[index] = seeds[index]
        self.results.next_slot()
        if not mask.all():
            self.results.keep(~mask)
        parts = [(worker, mask[worker.slice].tolist()) for worker in workers]
        slot = self.results.number
        return [(worker, Reset(slot, seeds[worker.slice], part, options)) for worker, part in parts if any(part)]

    def untouched(self, worker: Worker, results: Results) -> list[int]:
        """Return the rows that were not reset: the answer has all."""
        rows = range(len(worker.envs)) if results.rows is None else results.rows
        return [row for row in rows if not self._mask[worker.envs.start + row]]

    def again(self, worker: Worker, rows: list[int]) -> Message:
        """Return a reset of the environments that have failed."""
        mask = [row in rows for row in range(len(worker.envs))]
        return Reset(self.results.number, self._seeds[worker.slice], mask, self._options)


def check_reset(
    num_envs: int, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None
) -> tuple[list[int | None], Array, dict[str, Any] | None]:
    """Return the arguments of a reset as one seed per environment, a mask, and the other options.

    Raises:
        WrongType: The mask is no array of bool.
        WrongValue: Seeds or mask do not fit the number of environments.
    """
    if seed is None or isinstance(seed, (int, np.integer)):
        seeds = [None if seed is None else int(seed) + i for i in range(num_envs)]
    else:
        seeds = [None if s is None else int(s) for s in seed]
    if len(seeds) != num_envs:
        raise WrongValue(
            f"If seeds are passed as a list the length must match num_envs={num_envs} but got length={len(seeds)}."
        )
    mask = np.ones(num_envs, np.bool_)
    if options is not None and "reset_mask" in options:
        options = dict(options)
        mask = options.pop("reset_mask")
        name = "`options['reset_mask']`"
        if not isinstance(mask, np.ndarray):
            raise WrongType(f"{name} must be a numpy array, got {type(mask)}")
        if mask.shape != (num_envs,):
            raise WrongValue(f"{name} must have shape `({num_envs},)`, got {mask.shape}")
        if mask.dtype != np.bool_:
            raise WrongType(f"{name} must have `dtype=np.bool_`, got {mask.dtype}")
        if not mask.any():
            raise WrongValue(f"{name} must contain a boolean array with at least one True value, got reset_mask={mask}")
    return seeds, mask, options


class MethodCall(OpenCall):
    """A call of a method of environments, or of one of their attributes."""

    state = State.CALL

    def __init__(self, results: ResultStore, actions: ActionWriter, mode: AutoresetMode) -> None:
        super().__init__(results, actions, mode)
        self._values: dict[int, Any] = {}
        self._envs: Sequence[int] = ()

    def begin(self) -> None:
        """Forget the call before."""
        super().begin()
        self._values = {}

    def requests(
        self, workers: Sequence[Worker], request: Call, envs: Sequence[int] | None, number: int
    ) -> list[tuple[Worker, Message]]:
        """Return what to ask the workers.

        Args:
            workers: All of them.
            request: The call; where it sets an attribute, with one value for each of `envs`.
            envs: Which environments; all by default.
            number: How many there are.

        Raises:
            WrongValue: The method is not to be called, or an environment is named twice or unknown.
        """
        if request.kind == "call" and request.name in ("reset", "step", "close"):
            raise WrongValue(f"call({request.name!r}) would confuse the vector env; use its own {request.name}")
        self._envs = range(number) if envs is None else [operator.index(env) for env in envs]
        if len(set(self._envs)) != len(self._envs) or any(not 0 <= env < number for env in self._envs):
            raise WrongValue(f"env_ids must be different integers from 0 to {number - 1}, not {envs}")
        found: list[tuple[Worker, Message]] = []
        for worker in workers:
            places = [place for place, env in enumerate(self._envs) if env in worker.envs]
            if places:
                rows = [self._envs[place] - worker.envs.start for place in places]
                args = [request.args[place] for place in places] if request.kind == "set" else request.args
                found.append((worker, replace(request, args=args, rows=rows)))
        return found

    def take_values(self, worker: Worker, reply: CallResult) -> None:
        """Take the values that a worker gives."""
        envs = [env for env in self._envs if env in worker.envs]
        self._values.update(zip(envs, reply.results, strict=True))

    def values(self) -> tuple[Any, ...]:
        """Return one value per environment, and forget them."""
        values, self._values = self._values, {}
        return tuple(values[env] for env in self._envs)


class StreamCall(OpenCall):
    """Steps of whichever environments are ready, without lockstep.

    Attributes:
        ready: How many environments have finished their step.
    """

    state = State.SEND
    posting = State.SENDING
    streams = True

    def __init__(self, results: ResultStore, actions: ActionWriter, mode: AutoresetMode) -> None:
        super().__init__(results, actions, mode)
        self._ready: deque[tuple[Worker, Results]] = deque()
        self.ready = 0

    def forget(self) -> None:
        """Forget what came."""
        self._ready.clear()
        self.ready = 0

    def ready_envs(self) -> set[int]:
        """Return the environments that have finished their step."""
        return {worker.envs[row] for worker, results in self._ready for row in results.rows or ()}

    def requests(self, workers: Sequence[Worker], ids: Array, objects: list[list[Any]]) -> list[tuple[Worker, Step]]:
        """Return what to ask the workers.

        Args:
            workers: All of them.
            ids: The environments, shape (n,).
            objects: As `ActionWriter.put` gives it.

        Raises:
            WorkerError: A worker is gone.
        """
        found: list[tuple[Worker, Step]] = []
        for worker in workers:
            places = np.flatnonzero((ids >= worker.envs.start) & (ids < worker.envs.stop))
            if not len(places):
                continue
            if isinstance(worker, RemoteWorker) and worker.gone:  # before anything is sent
                raise worker.lost()
            own = [_some(values, places) for values in objects]
            rows = (ids[places] - worker.envs.start).tolist()
            found.append((worker, self.actions.stream(self.results.number, ids[places], rows, own)))
        return found

    def take(self, worker: Worker, results: Results) -> None:
        """Put results of some environments where they belong."""
        failed = [failure.env for failure in results.failures]
        if results.arrays or results.objects:
            lost = failed if self._same_step else failed + results.cut
            self.results.put(worker, results, lost, self.results.slot)
        if failed or results.rows is None:
            rows = range(len(worker.envs)) if results.rows is None else results.rows
            results = replace(results, rows=[row for row in rows if row not in failed])
        if results.rows:
            self._ready.append((worker, results))
            self.ready += len(results.rows)

    def give_up(self, worker: Worker) -> None:
        """Do without the answers of a worker: nobody receives the environments that have not finished."""

    def received(self) -> tuple[Any, Array, Array, Array, dict[str, Any], Array]:
        """Return what is ready, as `SocketVectorEnv.recv` does; one environment at least is."""
        groups = [np.array(results.rows) + worker.envs.start for worker, results in self._ready]
        ids = np.concatenate(groups).astype(np.intp)
        infos: dict[str, Any] = {}
        origins: Origins = {}
        done = 0
        for _, results in self._ready:
            rows = results.rows or []
            if results.infos is not None:
                places = {row: done + place for place, row in enumerate(rows)}
                merge_infos(infos, results.infos, len(ids), places=places, origins=origins)
            done += len(rows)
        received = (*self.results.of(ids), infos, ids)
        self.forget()
        return received


class Calls:
    """The calls of a vector env, of which one is open at a time.

    Args:
        results: Takes their results.
        actions: Makes their messages.
        mode: What happens when an episode ends.
        seeds: The last seed of every environment.

    Attributes:
        results: As the argument.
        actions: As the argument.
        none: Stands in where no call is open.
        reset: A reset.
        step: A step of all environments.
        method: A call of a method.
        stream: Steps without lockstep.
    """

    def __init__(
        self, results: ResultStore, actions: ActionWriter, mode: AutoresetMode, seeds: list[int | None]
    ) -> None:
        self.results, self.actions = results, actions
        self.none = OpenCall(results, actions, mode)
        self.reset = ResetCall(results, actions, mode, seeds)
        self.step = StepCall(results, actions, mode)
        self.method = MethodCall(results, actions, mode)
        self.stream = StreamCall(results, actions, mode)


def _some(values: Any, places: Array) -> Any:
    """Return some of a leaf's values for a `Step`."""
    if isinstance(values, list):
        return [values[place] for place in places]
    return None if values is None else values[places]
