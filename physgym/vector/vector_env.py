"""`SocketVectorEnv`: many environments in few worker processes, as one Gymnasium vector environment."""

from __future__ import annotations

import copy
import functools
import itertools
import operator
import os
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from physgym import placement
from physgym import spaces as walk
from physgym.episode import episode_seed
from physgym.errors import (
    ClosedError,
    ConfigError,
    NoPendingCallError,
    PendingCallError,
    PhysGymError,
    ProtocolError,
    SampleError,
    SharedProcess,
    UnequalSpaces,
    WorkerError,
    WrongType,
    WrongValue,
)
from physgym.launch.processes import check_context
from physgym.protocol import batched_infos as batching
from physgym.protocol.buffers import SLOTS, Arena, Slot, make_file, reserve
from physgym.protocol.messages import (
    Attach,
    Attached,
    Call,
    CallResult,
    Message,
    Predict,
    Prediction,
    Reset,
    Results,
    Rollout,
    RolloutResult,
    Step,
)
from physgym.protocol.short_frames import STEP_ALL
from physgym.sample import SampleSpec
from physgym.simulation import NonFinite
from physgym.spaces import Array
from physgym.system.cores import usable_cores
from physgym.vector.actions import columns_of, travelled
from physgym.vector.arguments import Arguments, check_arguments, make_with, one_each
from physgym.vector.episode_schedule import Demand, Episode, Rollouts
from physgym.vector.fleet import (
    IS_GONE,
    Fault,
    RemoteWorker,
    Settings,
    Worker,
    WorkerPool,
)
from physgym.vector.predictions import Predictor, answer
from physgym.worker.env_group import RESTARTED
from physgym.worker.folders import Folder
from physgym.worker.sharing import refuse_shared
from physgym.worker.variants import ByEpisode

DEFAULT_TIMEOUT = 120.0
LONGEST_TIMEOUT = 1e7
DEFAULT_RESTARTS = 10

T = TypeVar("T")
ObservationMode: TypeAlias = str | tuple[spaces.Space[Any], spaces.Space[Any]]

PENDING = "Calling `{name}_async` while waiting for a pending call to `{state}` to complete"
SENT = "{name} while results of send are still to come; take them with recv, or reset"
NOT_BEGUN = "Calling `{name}_wait` without any prior call to `{name}_async`."
CLOSING = "Calling `close` while waiting for a pending call to `{state}` to complete."
UNEQUAL = (
    "observation_mode='same' but the sub-environments observation spaces are not equivalent. {first} is that of "
    "environment 0, {other} that of environment {index}. If this is intentional, use `observation_mode='different'` "
    "instead."
)
RESTART_LIMIT = "{count} restarts of workers within a minute (max_restarts={limit}); the last fault: {error}"


class SocketVectorEnv(VectorEnv[Any, Any, Any]):
    """Environments in worker processes behind sockets, as one Gymnasium vector environment.

    Each worker hosts several environments and steps them with one message. Results equal those of
    `gymnasium.vector.SyncVectorEnv` seed for seed. `send` and `recv` step whichever environments are ready.

    Args:
        env_fns: One callable per environment; closures and lambdas are fine.
        shared_memory: Whether arrays lie in memory shared with the workers instead of travelling through sockets.
        copy: Whether observations are copies. If not, they are views that hold until the step after the next; `send`
            writes into the present ones.
        context: How processes are started: "spawn" (the default; no ``if __name__`` guard needed), "forkserver" (quick
            for many workers; needs the guard) or "fork" (factories need not be picklable; not beside threads).
        num_workers: Worker processes; by default one per usable core, at most one per environment. 0 keeps the
            environments in this process; "auto" measures their step and takes what is fastest.
        autoreset_mode: What happens when an episode ends.
        observation_mode: "same" if observation spaces are equal, "different" if their bounds differ, or a pair of the
            batched and the single space.
        timeout: Seconds to wait for a worker before giving up: for building its environments, for a step of all of
            them, for a sample of a rollout.
        transport: "unix" (a socket that no other process can reach) or "tcp" (the loopback interface).
        port: For "tcp": the port that workers connect to; 0 takes a free one.
        on_error: "raise", or "restart": a worker that dies, hangs or raises is started again, its episodes are reported
            as truncated with ``info["worker_restarted"]``, and everything goes on.
        max_restarts: For "restart": how many per minute, before the fault is raised after all.
        predictor: The network that answers environments which ask in the middle of a step: a `physgym.nn.Predictor`, or
            a callable that maps fields with a batch axis to fields with a batch axis.
        env_kwargs: Arguments with which the callables are called: a list, one dictionary for each environment, or one
            dictionary for all.

    Attributes:
        predictor: As the argument; may be set at any time.
        restarts: How often a worker was started again.

    Raises:
        ConfigError: An argument is wrong, or the port is taken.
        UnequalSpaces: The environments do not fit together.
        WrongValue: Two callables give the same environment.
        WorkerError: A worker died or did not answer, or an environment's constructor raised.
    """

    def __init__(
        self,
        env_fns: Iterable[Callable[[], gymnasium.Env[Any, Any]]],
        shared_memory: bool = True,
        copy: bool = True,
        context: str | None = None,
        *,
        num_workers: int | Literal["auto"] | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        observation_mode: ObservationMode = "same",
        timeout: float = DEFAULT_TIMEOUT,
        transport: str | None = None,
        port: int = 0,
        on_error: str = "raise",
        max_restarts: int = DEFAULT_RESTARTS,
        predictor: Predictor = None,
        env_kwargs: Arguments = None,
    ) -> None:
        factories = list(env_fns)
        if not factories:
            raise ConfigError("env_fns is empty; a vector env needs at least one environment")
        if env_kwargs is not None:
            given = one_each(check_arguments(env_kwargs), len(factories), listed=not isinstance(env_kwargs, Mapping))
            factories = [functools.partial(make_with, make, own) for make, own in zip(factories, given, strict=True)]
        self.num_envs = len(factories)
        self.copy = copy
        self.predictor = predictor
        self.timeout = _checked_timeout(timeout)
        self.autoreset_mode = _checked_mode(autoreset_mode)
        if on_error not in ("raise", "restart"):
            raise ConfigError(f'on_error must be "raise" or "restart", not {on_error!r}')
        transport = transport or ("tcp" if port else "unix")
        if transport not in ("unix", "tcp"):
            raise ConfigError(f'transport must be "unix" or "tcp", not {transport!r}')
        self.on_error, self._max_restarts = on_error, max_restarts
        self.restarts = 0
        self._restarted: deque[float] = deque()
        count = self._count(num_workers, factories)
        if count > 1:  # who has all environments compares them itself
            refuse_shared(factories)
        settings = Settings(self.autoreset_mode, check_context(context), transport, port, self.timeout)
        shared = shared_memory and transport == "unix" and count > 0
        memory = _memory() if shared else None
        try:
            # bound methods of this object would keep it alive for ever
            try:
                self._pool = WorkerPool(factories, count, settings, self._answerer(), memory)
            except SharedProcess:
                if not count:
                    raise
                self._pool = WorkerPool(factories, self.num_envs, settings, self._answerer(), memory)
        except BaseException:
            if memory is not None:
                os.close(memory)
            raise
        # kept open, since workers that are started again inherit it
        self._memory = None if memory is None else weakref.finalize(self, os.close, memory)
        try:
            self._describe(factories, observation_mode)
            self._prepare(memory)
        except BaseException:
            self.close(terminate=True)
            raise

    def _count(self, num_workers: int | str | None, factories: list[Any]) -> int:
        if num_workers == "auto":
            from physgym.vector.autotune import best_num_workers

            answer_all = self._answerer()
            return best_num_workers(factories, usable_cores(), lambda question: answer_all([question])[0])
        if num_workers is None:
            return min(usable_cores(), self.num_envs)
        try:
            count = operator.index(num_workers)  # type: ignore[arg-type]
        except TypeError:
            count = -1
        if count < 0:
            raise ConfigError(
                f'num_workers must be at least 1, or 0 for this process, or "auto", not {num_workers!r}; leave it out '
                "for one per core"
            )
        return min(count, self.num_envs)

    def _answerer(self) -> Callable[[list[Predict]], list[Prediction]]:
        """Answers predictions by the predictor of the moment; does not keep this object alive."""
        this = weakref.ref(self)

        def answer_all(questions: list[Predict]) -> list[Prediction]:
            envs = this()
            return answer(None if envs is None else envs.predictor, questions)

        return answer_all

    def _describe(self, factories: list[Any], observation_mode: ObservationMode) -> None:
        """Learn from the workers what the environments look like."""
        agreed, workers = self._pool.agreement, self._pool.workers
        assert workers[0].ready is not None
        first = workers[0].ready.description
        self.single_observation_space, self.single_action_space = agreed.observation_space, agreed.action_space
        if walk.is_custom(first["observation_space"]) or walk.is_custom(first["action_space"]):
            # a space of the user's own class cannot be described on the wire; an environment of ours has it
            with (
                Folder(),
                placement.at(self.num_envs, self.num_envs + 1),
            ):  # beside those of the workers, whose ports are taken
                env = factories[0]()
                self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
                env.close()
        observed: list[Any] = []
        of_samples = ["sample_space"] if isinstance(factories[0], ByEpisode) else []  # the samples of one dataset
        for worker in workers:
            assert worker.ready is not None
            description = worker.ready.description
            for key in ("action_space", "sample_fields", "parameter_space", *of_samples):
                if description[key] != first[key]:
                    raise UnequalSpaces(
                        f"{key} of {worker} is {description[key]}, that of environment 0 is {first[key]}; "
                        "environments of one vector env need equal spaces"
                    )
            observed += description["observation_spaces"] or [description["observation_space"]] * len(worker.envs)
        self.observation_space = self._batched_observations(observed, observation_mode)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**first["metadata"], "autoreset_mode": self.autoreset_mode}
        self.render_mode = first["render_mode"]
        self._max_episode_steps: int | None = first["max_episode_steps"]

    def _batched_observations(self, observed: list[Any], mode: ObservationMode) -> spaces.Space[Any]:
        if isinstance(mode, tuple) and len(mode) == 2:
            if not all(isinstance(space, spaces.Space) for space in mode):
                raise WrongType(f"observation_mode must be a pair of spaces, not {mode!r}")
            batched, self.single_observation_space = mode
        elif mode in ("same", "different"):
            batched = None
        else:
            raise WrongValue(
                "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and batch observation "
                f"space, actual got {mode}"
            )
        if batched is None and all(description == observed[0] for description in observed):
            return batch_space(self.single_observation_space, self.num_envs)
        singles = [walk.from_json(description) for description in observed]
        for index, single in enumerate(singles):
            if batched is None and mode == "same" and single != singles[0]:
                raise UnequalSpaces(UNEQUAL.format(first=singles[0], other=single, index=index))
            if walk.leaves(single) != walk.leaves(self.single_observation_space):
                raise UnequalSpaces(
                    f"the observation space of environment {index}, {single}, has another shape or dtype than "
                    f"{self.single_observation_space}; environments of one vector env need equal shapes"
                )
        return batch_differing_spaces(singles) if batched is None else batched

    def _prepare(self, memory: int | None) -> None:
        """Lay out the arrays."""
        agreed = self._pool.agreement
        if memory is not None:
            reserve(memory, Arena.size(agreed.actions, agreed.results, self.num_envs, SLOTS), self.num_envs)
        self._arena = Arena(agreed.actions, agreed.results, self.num_envs, SLOTS, memory)
        self._inline = memory is None and not self._pool.local
        self._pool.attach(self.num_envs, self._arena)
        observed, acted = walk.leaves(self.single_observation_space), walk.leaves(self.single_action_space)
        self._observed, self._acted = observed, acted
        self._plain_action = walk.children(self.single_action_space) is None and not acted[0].variable
        self._plain_observation = walk.children(self.single_observation_space) is None and not observed[0].variable
        self._objects: list[list[Any]] = [[None] * self.num_envs for leaf in observed if leaf.variable]
        self._slot = 0
        self._state = ""
        self._infos: dict[str, Any] = {}
        self._errors: list[PhysGymError] = []
        self._collected: list[tuple[int, batching.Infos]] = []
        self._options: dict[str, Any] | None = None
        self._everyone = np.ones(self.num_envs, np.bool_)
        self._mask = self._everyone
        self._calls = 0
        self._settling = False
        self._called: dict[int, Any] = {}
        self._callees: Sequence[int] = ()
        self._seeds: list[int | None] = [None] * self.num_envs
        self._in_flight = np.zeros(self.num_envs, np.bool_)
        self._ready: deque[tuple[Worker, Results]] = deque()
        self._owner = np.zeros(self.num_envs, np.intp)
        for worker in self._pool.workers:
            self._owner[worker.slice] = worker.index

    @property
    def sample_spec(self) -> SampleSpec | None:
        """Sample fields of the environments, None if they declare none."""
        return self._pool.agreement.sample_spec

    @property
    def parameter_spec(self) -> SampleSpec | None:
        """Parameters of an episode, None if the environments declare none."""
        return self._pool.agreement.parameter_spec

    @property
    def parameter_space(self) -> spaces.Space[Any] | None:
        """The space of the parameters of an episode, None if the environments declare none."""
        return self._pool.agreement.parameter_space

    @property
    def description(self) -> dict[str, Any]:
        """What the first worker says of its environments: JSON data, with the spaces in the form of `to_json`."""
        ready = self._pool.workers[0].ready
        assert ready is not None
        return ready.description

    @property
    def num_workers(self) -> int:
        """Number of worker processes; 0 if the environments are in this process."""
        return 0 if self._pool.local else len(self._pool.workers)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]  # as Gymnasium's own vector envs
        """Seed of every environment."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]  # Gymnasium's can be set
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]  # as in AsyncVectorEnv
        """Copies of every environment's random generator in its present state."""
        return self.get_attr("np_random")

    # --- end

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments and end the workers; never takes much longer than the timeout.

        Args:
            **kwargs: ``timeout``: seconds that workers get to finish what they compute and close their environments
                before they are ended by force. ``terminate``: end them at once.
        """
        timeout, terminate = kwargs.get("timeout"), bool(kwargs.get("terminate"))
        if getattr(self, "_state", "") in ("reset", "step", "call"):
            warnings.warn(CLOSING.format(state=self._state), UserWarning, stacklevel=3)
        try:
            if terminate:
                self._pool.kill()
            else:
                self._pool.close(None if timeout is None else float(timeout))
        finally:
            # at once: whoever handles an error may hold this object for long
            if (arena := getattr(self, "_arena", None)) is not None:
                arena.release()
            if self._memory is not None:
                self._memory()

    def __enter__(self) -> SocketVectorEnv:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    # --- Gymnasium's interface

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``; see `gymnasium.vector.VectorEnv.reset`.

        Args:
            seed: None, one integer (environment i gets ``seed + i``), or one per environment.
            options: For each environment's ``reset``; ``reset_mask`` (shape (num_envs,), bool) picks environments.

        Raises:
            ConfigError: The seeds or the mask do not fit the number of environments.
            WorkerError: A worker died or did not answer, or an environment raised.
        """
        checked = self._checked_reset(seed, options)
        if self._state == "send":
            self._state = "interrupted"  # what is still to come is forgotten
        return self._finished(lambda: self._begin_reset(*checked), self.reset_wait)

    def reset_async(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        """Begin a `reset`; `reset_wait` gives its result."""
        self._begin_reset(*self._checked_reset(seed, options))

    def _begin_reset(self, seeds: list[int | None], mask: Array, options: dict[str, Any] | None) -> None:
        self._begin("reset")
        self._options, self._mask = options, mask
        for index in np.flatnonzero(mask):
            self._seeds[index] = seeds[index]
        before, slot = self._turn()
        if not mask.all():
            slot.copy_rows(before, ~mask)
        for worker in self._pool.workers:
            part = mask[worker.slice].tolist()
            if any(part):
                self._post(worker, Reset(self._slot, seeds[worker.slice], part, options))
        self._state = "reset"

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """The result of the `reset` that was begun.

        Raises:
            WaitTimeout: `timeout` seconds are over; it can be waited for again.
        """
        self._wait("reset", timeout)
        return self._observations(), self._infos

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step all environments; see `gymnasium.vector.VectorEnv.step`.

        Args:
            actions: An element of `action_space`, or one action per environment.

        Returns:
            Observations, rewards (num_envs,) float64, terminations and truncations (num_envs,) bool, infos.

        Raises:
            ConfigError: The actions do not fit the action space.
            WorkerError: A worker died or did not answer, or an environment raised.
        """
        return self._finished(lambda: self.step_async(actions), self.step_wait)

    def step_async(self, actions: Any) -> None:
        """Begin a `step`; `step_wait` gives its result."""
        self._begin("step")
        self._mask = self._everyone
        objects = self._put_actions(actions, slice(None), self.num_envs)
        self._turn()
        message = STEP_ALL[self._slot]
        for worker in self._pool.workers:
            if self._inline or objects:
                message = self._step_message(worker, worker.slice, objects, None)
            self._post(worker, message)
        self._state = "step"

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """The result of the `step` that was begun.

        Raises:
            WaitTimeout: `timeout` seconds are over; it can be waited for again.
        """
        self._wait("step", timeout)
        slot = self._arena.slots[self._slot]
        rewards, terminations, truncations = slot.rewards.copy(), slot.terminations.copy(), slot.truncations.copy()
        return self._observations(), rewards, terminations, truncations, self._infos

    def render(self) -> tuple[Any, ...]:
        """One frame per environment."""
        return self._call(lambda worker, rows: Call("render", "render", rows=rows))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or read an attribute; one result per environment.

        Arguments and results are numbers, strings, arrays, or lists, tuples and dictionaries of them.
        """
        return self._finished(lambda: self.call_async(name, *args, **kwargs), self.call_wait)

    def call_async(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Begin a `call`; `call_wait` gives its result."""
        self._begin("call")
        self._post_calls(lambda worker, rows: Call("call", name, list(args), kwargs, rows), None)

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """The results of the `call` that was begun.

        Raises:
            WaitTimeout: `timeout` seconds are over; it can be waited for again.
        """
        self._wait("call", timeout)
        called, self._called = self._called, {}
        return tuple(called[env] for env in self._callees)

    def call_envs(self, env_ids: Sequence[int], name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """`call` for some environments alone.

        Args:
            env_ids: Their indices, each once.
            name: Of the method or attribute.
            *args: Arguments of the method.
            **kwargs: Keyword arguments of the method.

        Returns:
            One result per environment of `env_ids`, in that order.
        """
        return self._call(lambda worker, rows: Call("call", name, list(args), kwargs, rows), env_ids)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any, env_ids: Sequence[int] | None = None) -> None:
        """Set an attribute of every environment, or of those of `env_ids`.

        Args:
            name: Of the attribute.
            values: One value for all, or a list or tuple with one each.
            env_ids: Indices of the environments, each once; all by default.
        """
        ids = range(self.num_envs) if env_ids is None else env_ids
        if not isinstance(values, (list, tuple)):
            values = [values] * len(ids)
        if len(values) != len(ids):
            raise WrongValue(f"got {len(values)} values of {name!r} for {len(ids)} environments")
        value = dict(zip(ids, values, strict=True))

        def request(worker: Worker, rows: list[int]) -> Call:
            return Call("set", name, [value[worker.envs[row]] for row in rows], {}, rows)

        self._call(request, ids)

    # --- without lockstep

    def send(self, actions: Any, env_ids: Sequence[int] | Array | None = None) -> None:
        """Let environments step, without waiting for them; `recv` gives what they return.

        Args:
            actions: One action per environment of `env_ids`, batched as for `step`.
            env_ids: Which environments, shape (n,), integers; all by default. Each must have been reset, and its last
                result received.

        Raises:
            ConfigError: The actions do not fit, or an environment is named twice or still has a step to finish.
            WorkerError: A worker is gone.
        """
        if self._state != "send":
            self._begin("send")
            self._state = ""
        ids = np.arange(self.num_envs) if env_ids is None else np.asarray(env_ids)
        if not ids.size:
            return
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not 0 <= ids.min() <= ids.max() < self.num_envs:
            raise WrongValue(f"env_ids must be integers from 0 to {self.num_envs - 1} along one axis, not {env_ids!r}")
        if len(np.unique(ids)) != len(ids) or self._in_flight[ids].any():
            busy = ids[self._in_flight[ids]].tolist()
            raise PendingCallError(f"every environment can be sent one action at a time; still to come: {busy}", "send")
        objects = self._put_actions(actions, ids, len(ids))
        owners = self._owner[ids]
        messages: list[tuple[Worker, Step]] = []
        for worker in self._pool.workers:
            places = np.flatnonzero(owners == worker.index)
            if not len(places):
                continue
            if isinstance(worker, RemoteWorker) and worker.gone:  # before anything is sent
                raise WorkerError(IS_GONE.format(worker=worker), env_indices=tuple(worker.envs))
            rows = (ids[places] - worker.envs.start).tolist()
            own = [_some(values, places) for values in objects]
            messages.append((worker, self._step_message(worker, ids[places], own, rows)))
        before, self._state = self._state, "interrupted"
        self._in_flight[ids] = True
        for worker, message in messages:
            try:
                self._pool.post(worker, message)
            except ProtocolError as error:
                assert message.rows is not None
                self._in_flight[[worker.envs.start + row for row in message.rows]] = False
                self._state = "send" if self._in_flight.any() else before
                raise WrongType(f"the actions of {worker}: {error}") from error
        self._state = "send"

    def recv(
        self, min_envs: int = 1, timeout: float | None = None
    ) -> tuple[Any, Array, Array, Array, dict[str, Any], Array]:
        """What environments returned that were sent actions, in the order in which they finished.

        Args:
            min_envs: Wait for so many at least; all that are ready are returned.
            timeout: Seconds to wait; by default the timeout of the vector env, for each worker.

        Returns:
            Observations, rewards (n,), terminations (n,), truncations (n,), infos, and the indices (n,) of the
            environments. All are copies, with one row per environment.

        Raises:
            ConfigError: Fewer environments than `min_envs` were sent actions.
            WaitTimeout: `timeout` seconds are over; nothing is lost.
            WorkerError: A worker died or did not answer, or an environment raised. What others returned is kept.
        """
        if self._pool.closed:
            raise ClosedError(self._pool.end_text)
        sent = int(self._in_flight.sum())
        if not 1 <= min_envs <= sent:
            raise WrongValue(
                f"min_envs must be between 1 and the {sent} environments that were sent actions, not {min_envs}"
            )
        try:
            self._collect_some(min_envs, timeout)
        except BaseException:
            if self._settling:  # Ctrl-C while a result was put in its place
                self._state = "interrupted"
            raise
        if self._errors:
            if not self._in_flight.any():
                self._state = ""
            self._raise()
        return self._received()

    def _collect_some(self, min_envs: int, timeout: float | None) -> None:
        number = sum(len(results.rows or ()) for _, results in self._ready)
        replies = self._pool.replies(timeout)
        # also takes in what is there already without waiting for it
        while not self._errors and (number < min_envs or self._pool.waiting):
            known = len(self._ready)
            arrival = next(replies, None)
            if arrival is None:
                return
            self._settling = True
            self._settle(*arrival)
            self._settling = False
            number += sum(len(results.rows or ()) for _, results in itertools.islice(self._ready, known, None))

    def _received(self) -> tuple[Any, Array, Array, Array, dict[str, Any], Array]:
        if not self._ready:
            raise NoPendingCallError("nothing was received: the call in between was interrupted; reset", "recv")
        groups = [np.array(results.rows) + worker.envs.start for worker, results in self._ready]
        ids = np.concatenate(groups).astype(np.intp)
        infos: dict[str, Any] = {}
        origins: batching.Origins = {}
        done = 0
        for (worker, results), group in zip(self._ready, groups, strict=True):
            places = {int(env) - worker.envs.start: done + place for place, env in enumerate(group)}
            batching.merge(infos, results.infos, len(ids), places=places, origins=origins)
            done += len(group)
        slot = self._arena.slots[self._slot]
        received = (
            self._nested(self._rows(slot, ids)),
            slot.rewards[ids],
            slot.terminations[ids],
            slot.truncations[ids],
            infos,
            ids,
        )
        self._ready.clear()
        self._in_flight[ids] = False
        if not self._in_flight.any():
            self._state = ""
        return received

    # --- rollouts without a policy in the parent

    def rollout(
        self,
        episodes: Iterable[Episode],
        *,
        max_steps: int,
        max_rejects: int,
        nonfinite: NonFinite = "error",
        keep_rejected: bool = False,
        samples: int | Demand | None = None,
    ) -> Iterator[tuple[int, RolloutResult | PhysGymError]]:
        """Run episodes with the environments' own samplers, wherever a worker is free.

        Args:
            episodes: Index, seed and, if there are some, options for the reset of each episode; may be endless.
            max_steps: Truncate an episode after so many steps.
            max_rejects: Fail after so many rejected steps in a row.
            nonfinite: What a sample with a value that is not finite is: an "error", a rejected step ("reject"), or a
                sample like others ("allow").
            keep_rejected: Whether results have the samples of rejected steps.
            samples: How many samples of the first episodes are wanted; None for all. No steps are made that cannot give
                one of them, and the last episode need not come to its end. A `Demand` may have grown whenever the next
                sample is asked for.

        Yields:
            Samples as they arrive, with the index of the first episode of the chunk to which they belong; in place of
            the rest of a chunk, the error that ended it: a `WorkerError` where a worker died or did not answer or an
            environment raised, a `SampleError` where a sample does not fit its declaration or too many were rejected.
            Chunks hold episodes that follow one another; the parts of a chunk come in order, chunks in any order.

        Raises:
            ConfigError: Episodes are not pairs of different integers.
            ClosedError: The vector env was closed meanwhile.
        """
        self._begin("rollout")  # and stays interrupted: whoever stops iterating leaves answers to come
        call = self._calls
        limits: dict[str, Any] = {"max_steps": max_steps, "max_rejects": max_rejects}
        limits |= {"nonfinite": nonfinite, "keep_rejected": keep_rejected}
        longest = self._max_episode_steps
        for part in Rollouts(self._pool, episodes, limits, self._settle_rollout, samples, longest).run():
            yield part
            if self._calls != call:
                raise PendingCallError("another call has ended this rollout", "rollout")
        self._state = ""

    def cancel_rollout(self) -> None:
        """From another thread: let a rollout that is waited for raise `ClosedError`; after it only `close` will do."""
        self._pool.closed = True  # which the loop looks at every second

    def _settle_rollout(self, worker: Worker, reply: Message | Fault) -> PhysGymError | None:
        """Deal with what is no sample; the error that ends the worker's chunk, if it does."""
        if isinstance(reply, Fault) and not reply.dead and isinstance(reply.error, (SampleError, ConfigError)):
            return reply.error  # running it again would give the same
        self._settle(worker, reply)
        errors, self._errors = self._errors, []
        return errors[0] if errors else None

    # --- messages

    def _begin(self, name: str) -> None:
        """Make sure that a call can begin; until its requests are out, it counts as interrupted."""
        if self.closed or self._pool.closed:
            raise ClosedError(self._pool.end_text)
        if self._state == "send":
            raise PendingCallError(SENT.format(name=name), "send")
        if self._state not in ("", "interrupted"):
            raise PendingCallError(PENDING.format(name=name, state=self._state), self._state)
        if self._state == "interrupted":
            self._drain()
        self._calls += 1
        self._collected, self._infos, self._errors, self._called = [], {}, [], {}
        if self.on_error == "restart":
            for worker in self._pool.workers:
                if isinstance(worker, RemoteWorker) and worker.gone:
                    lost = WorkerError(IS_GONE.format(worker=worker), env_indices=tuple(worker.envs))
                    self._recover(worker, Fault(lost, dead=True))
        self._state = "interrupted"
        if self._errors:
            self._raise()

    def _drain(self) -> None:
        """Wait for the answers to a call that was interrupted, and forget them."""
        self._settling = False
        torn = self._pool.mend()
        for broken, _ in torn:
            broken.requests.clear()
        self._pool.forget()
        for worker, reply in self._pool.replies():
            if isinstance(reply, Fault) and reply.dead:
                worker.requests.clear()
        self._state = ""
        self._ready.clear()
        self._in_flight[:] = False
        if torn and self.on_error != "restart":
            raise torn[0][1].error

    def _finished(self, begin: Callable[[], None], wait: Callable[[], T]) -> T:
        """A call from its beginning to its end; where it is interrupted (Ctrl-C), no later one may take its answers."""
        try:
            begin()
            return wait()
        except PendingCallError:
            raise  # of another call, which is as it was
        except BaseException:
            if self._state:
                self._state = "interrupted"
            raise

    def _turn(self) -> tuple[Slot, Slot]:
        """The next set of results takes the other slot: the present one, the next one."""
        before = self._arena.slots[self._slot]
        self._slot = (self._slot + 1) % SLOTS
        return before, self._arena.slots[self._slot]

    def _post(self, worker: Worker, message: Message) -> None:
        try:
            self._pool.post(worker, message)
        except ProtocolError as error:
            raise WrongType(f"{type(message).__name__} to {worker}: {error}") from error

    def _wait(self, name: str, timeout: float | None) -> None:
        """Collect the answers to the call that was begun."""
        if self._pool.closed:
            raise ClosedError(self._pool.end_text)
        if self._state != name:
            raise NoPendingCallError(NOT_BEGUN.format(name=name), name)
        self._collect(timeout)
        self._state = ""
        # in the order of the environments, whoever was first: the first value decides on the dtype of a column
        origins: batching.Origins = {}
        for start, infos in sorted(self._collected, key=lambda part: part[0]):
            batching.merge(self._infos, infos, self.num_envs, start, origins=origins)
        if self._errors:
            self._raise()

    def _collect(self, timeout: float | None) -> None:
        # waiting for one worker after the other saves system calls, but lets predictions wait
        in_turn = timeout is None and self.predictor is None
        for worker, reply in self._pool.replies(timeout, in_turn=in_turn):
            self._settle(worker, reply)

    def _raise(self) -> NoReturn:
        first, *others = self._errors
        self._errors = []
        for other in others:
            first.add_note(f"At the same time: {other}")
            if isinstance(first, WorkerError) and isinstance(other, WorkerError):
                first.env_indices = tuple(dict.fromkeys((*first.env_indices, *other.env_indices)))
        try:
            raise first
        finally:
            del first, others  # else the error holds this frame, and with it the vector env, until the next collection

    def _settle(self, worker: Worker, reply: Message | Fault) -> None:
        """Take an answer, or deal with a fault."""
        if isinstance(reply, Results):
            self._take(worker, reply)
        elif isinstance(reply, CallResult):
            callees = [env for env in self._callees if env in worker.envs]
            self._called.update(zip(callees, reply.results, strict=True))
        elif isinstance(reply, Fault):
            self._recover(worker, reply)
        else:
            assert isinstance(reply, Attached)  # of a worker that was started again

    def _take(self, worker: Worker, results: Results) -> None:
        """Put the results of some environments where they belong."""
        if self._state != "send" and not (
            results.arrays or results.objects or results.cut or results.failures
        ):  # all is there already
            if results.infos is not None:
                self._collected.append((worker.envs.start, results.infos))
            return
        start, slot = worker.envs.start, self._arena.slots[self._slot]
        before = slot if self._state == "send" else self._arena.slots[self._slot - 1]
        rows = list(range(len(worker.envs))) if results.rows is None else results.rows
        lost = [failure.env for failure in results.failures]
        if self._state == "reset":  # the answer has all rows; those that were not reset stay as they are
            lost += [row for row in rows if not self._mask[start + row]]
        infos = [results.infos]
        if results.cut:
            if self.autoreset_mode is not AutoresetMode.SAME_STEP:
                lost += results.cut  # what was last seen of the episode is its last observation
            elif before is not slot:
                infos.insert(0, self._final_infos(before, start, results.cut))
        kept = [start + row for row in lost]
        saved = [array[kept] for array in before.observations] if kept else []
        if results.arrays is not None:
            where: Any = worker.slice if results.rows is None else [start + row for row in rows]
            for mine, received in zip(slot.arrays, results.arrays, strict=True):
                mine[where] = received
        for mine, values in zip(slot.observations, saved, strict=bool(saved)):
            mine[kept] = values
        for objects, theirs in zip(self._objects, results.objects, strict=bool(results.objects)):
            for row, value in zip(rows, theirs, strict=True):
                if row not in lost:
                    # without a worker in between the value is the environment's own
                    objects[start + row] = copy.deepcopy(value) if self._pool.local and self.copy else value
        if self._state == "send":
            failed = [failure.env for failure in results.failures]
            self._in_flight[[start + row for row in failed]] = False
            if remaining := [row for row in rows if row not in failed]:
                self._ready.append((worker, replace(results, rows=remaining)))
        else:
            self._collected += [(start, some) for some in infos if some is not None]
        if results.failures:
            self._take_failures(worker, results)

    def _final_infos(self, before: Slot, start: int, cut: list[int]) -> batching.Infos:
        """For environments that were reset in the step in which their episode was cut: what was last seen of it."""
        columns = self._rows(before, np.array([start + row for row in cut]))
        finals = [self._nested(list(values)) for values in zip(*columns, strict=True)]
        return list(cut), [{"final_obs": final, "final_info": {RESTARTED: True}} for final in finals]

    def _rows(self, slot: Slot, ids: Array) -> list[Any]:
        """Copies of the observations of some environments, one column per leaf."""
        fixed, objects = iter(slot.observations), iter(self._objects)
        columns: list[Any] = []
        for leaf in self._observed:
            if leaf.variable:
                values = next(objects)
                columns.append(tuple(values[env] for env in ids))
            else:
                columns.append(np.take(next(fixed), ids, axis=0))
        return columns

    def _nested(self, columns: list[Any]) -> Any:
        return walk.unflatten(self.single_observation_space, iter(columns))

    def _take_failures(self, worker: Worker, results: Results) -> None:
        faults = [self._pool.reported(worker, failure) for failure in results.failures]
        rows = [failure.env for failure in results.failures]
        if self.on_error != "restart" or not isinstance(worker, RemoteWorker):
            self._errors += [fault.error for fault in faults]
            return
        again: Message = self._empty_step(worker, rows)
        if self._state == "reset":
            mask = [row in rows for row in range(len(worker.envs))]
            again = Reset(self._slot, [self._seeds[env] for env in worker.envs], mask, self._options)
        elif self._state == "send":
            self._in_flight[[worker.envs.start + row for row in rows]] = True
        self._recover(worker, Fault(faults[0].error, dead=False, request=again))

    def _recover(self, worker: Worker, fault: Fault) -> None:
        """Start a worker again and ask it what it has not answered; or note the error."""
        unanswered = [*([] if fault.request is None else [fault.request]), *worker.requests]
        if self.on_error != "restart" or not isinstance(worker, RemoteWorker):
            self._give_up(worker, fault, unanswered)
            return
        if isinstance(fault.request, Call) and not fault.dead:
            self._errors.append(fault.error)  # of a method; the environments are as they were
            return
        error: PhysGymError | None = fault.error
        while error is not None:
            if not self._may_restart():
                self._pool.end(worker)
                text = RESTART_LIMIT.format(count=len(self._restarted), limit=self._max_restarts, error=error)
                final = WorkerError(text, env_indices=tuple(worker.envs))
                final.__cause__ = error
                self._give_up(worker, Fault(final, dead=True), unanswered)
                return
            seeds = [self._seeds[env] for env in worker.envs]
            try:
                # a function of the seed that was given, so that a run with the same faults is the same run
                self._pool.restart(worker, [None if s is None else episode_seed(s, self.restarts) for s in seeds])
                error = None
            except (WorkerError, ConfigError) as again:  # it may be killed while it starts, its port be taken
                error = again
        for request in unanswered:
            if isinstance(request, Step):
                rows = range(len(worker.envs)) if request.rows is None else request.rows
                self._pool.post(worker, replace(self._empty_step(worker, list(rows)), slot=request.slot))
            elif isinstance(request, Call):
                self._errors.append(fault.error)  # calling twice is not the same as calling once
            elif not isinstance(request, Attach):  # which a restart sends itself
                self._pool.post(worker, replace(request, made=0) if isinstance(request, Rollout) else request)

    def _may_restart(self) -> bool:
        """Whether a worker may be started again now; if so, it counts."""
        now = time.monotonic()
        while self._restarted and self._restarted[0] < now - 60:
            self._restarted.popleft()
        if len(self._restarted) >= self._max_restarts:
            return False
        self._restarted.append(now)
        self.restarts += 1
        return True

    def _give_up(self, worker: Worker, fault: Fault, unanswered: list[Message]) -> None:
        if fault.dead:
            worker.requests.clear()
        if self._state == "send":
            for request in unanswered if fault.dead else [fault.request]:
                if isinstance(request, Step):
                    rows = range(len(worker.envs)) if request.rows is None else request.rows
                    self._in_flight[[worker.envs.start + row for row in rows]] = False
        else:
            previous = self._arena.slots[self._slot - 1]
            self._arena.slots[self._slot].copy_rows(previous, worker.slice)
        self._errors.append(fault.error)

    def restart_workers(self) -> None:
        """Start workers again that are gone since an earlier error; their environments need a `reset`.

        Raises:
            WorkerError: One does not come up.
        """
        if self._pool.closed:
            raise ClosedError(self._pool.end_text)
        if self._state == "interrupted":
            self._drain()
        for worker in self._pool.workers:
            if not isinstance(worker, RemoteWorker) or not worker.gone:
                continue
            self._pool.restart(worker, [None] * len(worker.envs))
            replies = self._pool.replies()
            while worker.requests or self._pool.waiting:
                arrival = next(replies, None)
                if arrival is None:
                    break
                self._settle(*arrival)
            if self._errors:
                self._raise()

    def _call(
        self, request: Callable[[Worker, list[int]], Call], env_ids: Sequence[int] | None = None
    ) -> tuple[Any, ...]:
        def begin() -> None:
            self._begin("call")
            self._post_calls(request, env_ids)

        return self._finished(begin, self.call_wait)

    def _post_calls(self, request: Callable[[Worker, list[int]], Call], env_ids: Sequence[int] | None) -> None:
        probe = request(self._pool.workers[0], [])
        if probe.kind == "call" and probe.name in ("reset", "step", "close"):
            raise WrongValue(f"call({probe.name!r}) would confuse the vector env; use its own {probe.name}")
        self._callees = range(self.num_envs) if env_ids is None else [operator.index(env) for env in env_ids]
        if len(set(self._callees)) != len(self._callees) or any(not 0 <= e < self.num_envs for e in self._callees):
            raise WrongValue(f"env_ids must be different integers from 0 to {self.num_envs - 1}, not {env_ids}")
        for worker in self._pool.workers:
            rows = [env - worker.envs.start for env in self._callees if env in worker.envs]
            if rows:
                self._post(worker, request(worker, rows))
        self._state = "call"

    # --- batches

    def _checked_reset(
        self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None
    ) -> tuple[list[int | None], Array, dict[str, Any] | None]:
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None if s is None else int(s) for s in seed]
        if len(seeds) != self.num_envs:
            raise WrongValue(
                f"If seeds are passed as a list the length must match num_envs={self.num_envs} but got "
                f"length={len(seeds)}."
            )
        mask = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            options = dict(options)
            mask = options.pop("reset_mask")
            name = "`options['reset_mask']`"
            if not isinstance(mask, np.ndarray):
                raise WrongType(f"{name} must be a numpy array, got {type(mask)}")
            if mask.shape != (self.num_envs,):
                raise WrongValue(f"{name} must have shape `({self.num_envs},)`, got {mask.shape}")
            if mask.dtype != np.bool_:
                raise WrongType(f"{name} must have `dtype=np.bool_`, got {mask.dtype}")
            if not mask.any():
                raise WrongValue(
                    f"{name} must contain a boolean array with at least one True value, got reset_mask={mask}"
                )
        return seeds, mask, options

    def _put_actions(self, actions: Any, where: Any, number: int) -> list[list[Any]]:
        """Write actions into the arena.

        Returns:
            What does not belong there, as in `Step.objects`.
        """
        if self._plain_action and actions.__class__ is np.ndarray:
            target = self._arena.actions[0]
            if actions.dtype == target.dtype and actions.shape == (number, *target.shape[1:]):
                target[where] = actions
                return []
        whole = number == self.num_envs
        space = self.action_space if whole else batch_space(self.single_action_space, number)
        columns = columns_of(self.single_action_space, space, self._acted, actions, number)
        fixed = iter(self._arena.actions)
        objects: list[Any] = [None] * len(columns)
        for place, (leaf, column) in enumerate(zip(self._acted, columns, strict=True)):
            if not leaf.variable:
                target = next(fixed)
                if column.__class__ is np.ndarray and (column.dtype, column.shape) == (
                    target.dtype,
                    (number, *leaf.shape),
                ):
                    target[where] = column
                    continue
            envs = range(number) if isinstance(where, slice) else where.tolist()
            objects[place] = travelled(column, leaf, envs, local=self._pool.local)
        return [] if all(values is None for values in objects) else objects

    def _step_message(self, worker: Worker, where: Any, objects: list[Any], rows: list[int] | None) -> Step:
        actions = [array[where] for array in self._arena.actions] if self._inline else None
        if rows is None:
            objects = [None if values is None else values[worker.slice] for values in objects]
        return Step(self._slot, rows, actions, objects, stream=rows is not None)

    def _empty_step(self, worker: Worker, rows: list[int]) -> Step:
        """A step in which the worker will report its environments as cut off; the actions do not matter."""
        actions = None
        if self._inline:
            actions = [np.zeros((len(rows), *array.shape[1:]), array.dtype) for array in self._arena.actions]
        objects: list[Any] = [[None] * len(rows) if leaf.variable else None for leaf in self._acted]
        if all(values is None for values in objects):
            objects = []
        return Step(self._slot, rows, actions, objects, stream=self._state == "send")

    def _observations(self) -> Any:
        fixed = self._arena.slots[self._slot].observations
        if self.copy:
            fixed = [array.copy() for array in fixed]
        if self._plain_observation:
            return fixed[0]
        columns, objects = iter(fixed), iter(self._objects)
        parts = [tuple(next(objects)) if leaf.variable else next(columns) for leaf in self._observed]
        return self._nested(parts)


def _some(values: Any, places: Array) -> Any:
    """Some of a leaf's values for a `Step`."""
    if isinstance(values, list):
        return [values[place] for place in places]
    return None if values is None else values[places]


def _checked_timeout(timeout: float) -> float:
    timeout = float(timeout)
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise ConfigError(f"timeout must be positive seconds, at most {LONGEST_TIMEOUT:.0f}, not {timeout}")
    return timeout


def _checked_mode(mode: str | AutoresetMode) -> AutoresetMode:
    if mode not in list(AutoresetMode) and mode not in [known.value for known in AutoresetMode]:
        raise ConfigError(f"autoreset_mode must be one of {[known.value for known in AutoresetMode]}, not {mode!r}")
    return AutoresetMode(mode)


def _memory() -> int:
    try:
        return make_file()
    except OSError as error:
        raise ConfigError(f"cannot make shared memory: {error.strerror}; pass shared_memory=False") from error
