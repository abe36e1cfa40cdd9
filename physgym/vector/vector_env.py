"""`SocketVectorEnv`: many environments in few worker processes, as one Gymnasium vector environment."""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from physgym import limits
from physgym.errors import (
    ConfigError,
    NoPendingCallError,
    PendingCallError,
    PhysGymError,
    SharedProcess,
    WrongValue,
)
from physgym.launch.base import DialInLauncher, Launcher
from physgym.launch.methods import launcher_of
from physgym.protocol.buffers import SLOTS
from physgym.protocol.messages import Call, RolloutResult
from physgym.protocol.short_frames import STEP_ALL
from physgym.real_time import runs_in_real_time
from physgym.sample import SampleSpec
from physgym.simulation import NonFinite
from physgym.spaces import Array
from physgym.system.cores import Pinning
from physgym.transport.base import Transport
from physgym.transport.table import transport_of
from physgym.vector.actions import ActionWriter
from physgym.vector.arguments import Arguments, check_arguments, make_with, one_each
from physgym.vector.autotune import count_workers
from physgym.vector.call_runner import CallRunner
from physgym.vector.calls import ABANDONED, LOCKSTEP, Calls, State, check_reset
from physgym.vector.episode_schedule import Episode, EpisodeSchedule
from physgym.vector.fleet import WorkerPool
from physgym.vector.memory import SharedMemory
from physgym.vector.predictions import AnyPredictor, answerer
from physgym.vector.quota import Demand
from physgym.vector.recovery import Recovery
from physgym.vector.renewals import check_renewed
from physgym.vector.results import ResultStore, check_buffers, count_slots
from physgym.vector.spaces import ObservationMode, batched_spaces
from physgym.vector.starter import FleetSettings, checked_mode, checked_timeout
from physgym.vector.trial import chosen_by_trial
from physgym.vector.turnover import Turnover
from physgym.viewing.views import SceneViews
from physgym.worker.sharing import refuse_shared

DEFAULT_RESTARTS = 10
_ALL = slice(None)


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
            for many workers; needs the guard) or "fork" (factories need not be picklable; not where threads run).
        num_workers: Worker processes; by default, as by "auto", what is fastest: an extra environment is stepped for a
            moment in another process, and the log says what was chosen and why. 0 keeps them in this process.
        autoreset_mode: What happens when an episode ends.
        observation_mode: "same" if observation spaces are equal, "different" if their bounds differ, or a pair of the
            batched and the single space.
        timeout: Seconds to wait for a worker before giving up: for building its environments, for a step of all of
            them, for a sample of a rollout.
        transport: "unix" (a socket that no other process can reach) or "tcp" (the loopback interface); or another
            `physgym.transport.base.Transport`, or the name of one that was registered.
        port: For "tcp": the port that workers connect to; 0 takes a free one.
        on_error: "raise", or "restart": a worker that dies, hangs or raises is started again, its episodes are reported
            as truncated with ``info["worker_restarted"]``, and everything continues.
        max_restarts: For "restart": how many per minute, before the fault is raised after all.
        recycle: After how many episodes of rollouts a worker process is renewed, for simulations that leak memory.
        predictor: The network that answers environments which ask in the middle of a step: a `physgym.nn.Predictor`, or
            a callable that maps fields with a batch axis to fields with a batch axis.
        env_kwargs: Arguments with which the callables are called: a list, one dictionary for each environment, or one
            dictionary for all.
        launcher: Has workers started elsewhere, in place of `context`, as a `physgym.machines.reception.Reception`.
        observation_buffers: Where `copy` is False, 2, or 1 for views that hold until the next step alone: less memory.
        pinning: "core" or "node": workers take turns with single cores, or memory nodes and their cores; Linux alone.

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
        timeout: float = limits.TIMEOUT,
        transport: str | Transport | None = None,
        port: int = 0,
        on_error: str = "raise",
        max_restarts: int = DEFAULT_RESTARTS,
        recycle: int | None = None,
        predictor: AnyPredictor = None,
        env_kwargs: Arguments = None,
        launcher: Launcher[Any] | None = None,
        observation_buffers: int = SLOTS,
        pinning: Pinning | None = None,
    ) -> None:
        factories = list(env_fns)
        if not factories:
            raise ConfigError("env_fns is empty; a vector env needs at least one environment")
        if env_kwargs is not None:
            given = one_each(check_arguments(env_kwargs), len(factories), listed=not isinstance(env_kwargs, Mapping))
            factories = [functools.partial(make_with, make, own) for make, own in zip(factories, given, strict=True)]
        self.num_envs = len(factories)
        self.predictor = predictor
        timeout, mode = checked_timeout(timeout), checked_mode(autoreset_mode)
        if on_error not in ("raise", "restart"):
            raise ConfigError(f'on_error must be "raise" or "restart", not {on_error!r}')
        check_buffers(observation_buffers, copy=copy, on_error=on_error)
        starts = launcher_of(context, launcher)
        way = transport_of(transport or None, port, inherit=starts.inherits)
        answer_all = answerer(weakref.ref(self))  # a bound method would keep this object alive for ever
        needing = {"launcher": launcher, "on_error": on_error == "restart", "transport": way.dials, "port": port}
        count = count_workers(num_workers, factories, starts, {**needing, "recycle": recycle, "pinning": pinning})
        check_renewed(recycle, count)
        if count is None or count > 1:  # who has all environments compares them itself
            refuse_shared(factories)
        settings = FleetSettings(mode, starts, way, port, timeout, SceneViews(self.num_envs), pinning)
        self._memory, first = SharedMemory(shared=shared_memory and not way.dials and count != 0), None
        try:
            if count is None:
                count, first = chosen_by_trial(factories, settings, self._memory.file)
            if not count:
                self._memory.close()
                self._memory = SharedMemory(shared=False)
            try:
                self._pool = WorkerPool(factories, count, settings, answer_all, self._memory.file, first)
            except SharedProcess:
                if not count or isinstance(launcher, DialInLauncher):
                    raise
                settings = replace(settings, views=SceneViews(self.num_envs))  # those of the other are closed
                self._pool = WorkerPool(factories, self.num_envs, settings, answer_all, self._memory.file)
        except BaseException:
            self._memory.close()
            raise
        try:
            found = batched_spaces(self._pool, factories, observation_mode)
            slots = count_slots(
                found.single_observation_space, copy=copy, buffers=observation_buffers, local=self._pool.local
            )
            arena = self._memory.lay_out(self._pool.agreement, self.num_envs, slots)
            self._pool.attach(self.num_envs, arena)
        except BaseException:
            self.closed = True
            self._pool.kill()
            self._memory.close()
            raise
        self.single_observation_space, self.single_action_space = (
            found.single_observation_space,
            found.single_action_space,
        )
        self.observation_space, self.action_space = found.observation_space, found.action_space
        self.metadata = {**self._pool.description["metadata"], "autoreset_mode": mode}
        self.render_mode = self._pool.description["render_mode"]
        local = self._pool.local
        results = ResultStore(self.single_observation_space, arena, copy=copy, local=local)
        inline = self._memory.file is None and not local
        actions = ActionWriter(self.single_action_space, self.action_space, arena, inline=inline, local=local)
        self._turnover = Turnover(self._pool, recycle)
        self._recovery = Recovery(self._pool, on_error, max_restarts, self.num_envs)
        self._calls = Calls(results, actions, mode, self._recovery.seeds)
        none, stream, renewals = self._calls.none, self._calls.stream, self._turnover.renewals
        self._runner = CallRunner(self._pool, self._recovery, none, stream, renewals)

    # --- what it is

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """Return the mode of the reset when an episode ends."""
        return self._pool.settings.autoreset_mode

    @property
    def timeout(self) -> float:
        """Return the seconds to wait for a worker before giving up."""
        return self._pool.settings.timeout

    @property
    def copy(self) -> bool:
        """Return whether observations are copies."""
        return self._calls.results.copy

    @property
    def on_error(self) -> str:
        """Return the reaction to a worker that dies, hangs or raises: "raise" or "restart"."""
        return self._recovery.on_error

    @property
    def restarts(self) -> int:
        """Return the number of times that a worker was started again."""
        return self._recovery.restarts

    @property
    def sample_spec(self) -> SampleSpec | None:
        """Return the sample fields of the environments, None if they declare none."""
        return self._pool.agreement.sample_spec

    @property
    def parameter_spec(self) -> SampleSpec | None:
        """Return the parameters of an episode, None if the environments declare none."""
        return self._pool.agreement.parameter_spec

    @property
    def parameter_space(self) -> spaces.Space[Any] | None:
        """Return the space of the parameters of an episode, None if the environments declare none."""
        return self._pool.agreement.parameter_space

    @property
    def description(self) -> dict[str, Any]:
        """Return the description of the environments by the first worker: JSON data, spaces as of `to_json`."""
        return self._pool.description

    @property
    def views(self) -> SceneViews:
        """Return what viewers see of the environments."""
        return self._pool.settings.views

    @property
    def num_workers(self) -> int:
        """Return the number of worker processes; 0 if the environments are in this process."""
        return 0 if self._pool.local else len(self._pool.workers)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]  # as Gymnasium's own vector envs
        """Return the seed of every environment."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]  # Gymnasium's can be set
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]  # as in AsyncVectorEnv
        """Return the copies of every environment's random generator in its present state."""
        return self.get_attr("np_random")

    # --- end

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments and end the workers; never takes much longer than the timeout.

        Args:
            **kwargs: ``timeout``: seconds that workers get to finish what they compute and close their environments
                before they are ended by force. ``terminate``: end them at once.
        """
        timeout, terminate = kwargs.get("timeout"), bool(kwargs.get("terminate"))
        if self._runner.state in LOCKSTEP:
            state = self._runner.state.value
            text = f"Calling `close` while waiting for a pending call to `{state}` to complete."
            warnings.warn(text, UserWarning, stacklevel=3)
        try:
            if terminate:
                self._pool.kill()
            else:
                self._pool.close(None if timeout is None else float(timeout))
        finally:
            self._memory.close()  # at once: a handler of an error may hold this object for long

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
        checked = check_reset(self.num_envs, seed, options)
        if self._runner.state is State.SEND:
            self._runner.interrupt()  # what is still to come is forgotten
        return self._runner.run(self.reset_wait, self._begin_reset, *checked)

    def reset_async(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        """Begin a `reset`; `reset_wait` gives its result."""
        self._begin_reset(*check_reset(self.num_envs, seed, options))

    def _begin_reset(self, seeds: list[int | None], mask: Array, options: dict[str, Any] | None) -> None:
        call = self._calls.reset
        self._runner.begin("reset", call)
        self._runner.post(call.requests(self._pool.hosts, seeds, mask, options))
        self._runner.opened(call)

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Return the result of the `reset` that was begun.

        Raises:
            WaitTimeout: `timeout` seconds are over; it can be waited for again.
        """
        call = self._calls.reset
        self._runner.wait(call, timeout, in_turn=self.predictor is None)
        return self._calls.results.observations(), call.infos(self.num_envs)

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
        return self._runner.run(self.step_wait, self.step_async, actions)

    def step_async(self, actions: Any) -> None:
        """Begin a `step`; `step_wait` gives its result."""
        call, runner, writer, workers = self._calls.step, self._runner, self._calls.actions, self._pool.hosts
        runner.begin("step", call)
        objects = writer.put(actions, _ALL, self.num_envs)
        slot = self._calls.results.next_slot()
        if writer.inline or objects:
            runner.post([(worker, writer.step(slot, worker.slice, objects)) for worker in workers])
        else:
            runner.post(zip(workers, itertools.repeat(STEP_ALL[slot])))
        runner.opened(call)

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Return the result of the `step` that was begun.

        Raises:
            WaitTimeout: `timeout` seconds are over; it can be waited for again.
        """
        call = self._calls.step
        self._runner.wait(call, timeout, in_turn=self.predictor is None)
        return *self._calls.results.all(), call.infos(self.num_envs)

    def render(self) -> tuple[Any, ...]:
        """Return one frame per environment."""
        return self._call(Call("render", "render"))

    def scene(self) -> Mapping[str, Any]:
        """Return what the first environment declares of its scene, see `physgym.scene.declared.described_scene`."""
        found: Mapping[str, Any] = self._call(Call("scene", "scene"), [0])[0]
        return found

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or read an attribute; one result per environment.

        Arguments and results are numbers, strings, arrays, or lists, tuples and dictionaries of them.
        """
        return self._call(Call("call", name, list(args), kwargs))

    def call_async(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Begin a `call`; `call_wait` gives its result."""
        self._begin_call(Call("call", name, list(args), kwargs))

    def _begin_call(self, request: Call, env_ids: Sequence[int] | None = None) -> None:
        call = self._calls.method
        self._runner.begin("call", call)
        self._runner.post(call.requests(self._pool.hosts, request, env_ids, self.num_envs))
        self._runner.opened(call)

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Return the results of the `call` that was begun.

        Raises:
            WaitTimeout: `timeout` seconds are over; it can be waited for again.
        """
        self._runner.wait(self._calls.method, timeout, in_turn=self.predictor is None)
        return self._calls.method.values()

    def _call(self, request: Call, env_ids: Sequence[int] | None = None) -> tuple[Any, ...]:
        return self._runner.run(self.call_wait, self._begin_call, request, env_ids)

    def call_envs(self, env_ids: Sequence[int], name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of some environments, or read an attribute.

        Args:
            env_ids: Their indices, each once.
            name: Of the method or attribute.
            *args: Arguments of the method.
            **kwargs: Keyword arguments of the method.

        Returns:
            One result per environment of `env_ids`, in that order.
        """
        return self._call(Call("call", name, list(args), kwargs), env_ids)

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
        self._call(Call("set", name, list(values)), ids)

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
        stream = self._calls.stream
        if self._runner.state is not State.SEND:
            self._runner.begin("send", stream)
            self._runner.finish()
        ids = np.arange(self.num_envs) if env_ids is None else np.asarray(env_ids)
        if not ids.size:
            return
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not 0 <= ids.min() <= ids.max() < self.num_envs:
            raise WrongValue(f"env_ids must be integers from 0 to {self.num_envs - 1} along one axis, not {env_ids!r}")
        in_flight = self._runner.in_flight()
        envs = ids.tolist()
        busy = [env for env in envs if env in in_flight]
        if busy or len(set(envs)) != len(envs):
            raise PendingCallError(f"every environment can be sent one action at a time; still to come: {busy}", "send")
        objects = self._calls.actions.put(actions, ids, len(ids))
        self._runner.send(stream.requests(self._pool.hosts, ids, objects))

    def recv(
        self, min_envs: int = 1, timeout: float | None = None
    ) -> tuple[Any, Array, Array, Array, dict[str, Any], Array]:
        """Return the results of environments that were sent actions, in the order in which they finished.

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
        self._runner.check_open()
        stream = self._calls.stream
        sent = self._runner.count_in_flight()
        if min_envs < 1 or (min_envs > sent and self._runner.state not in ABANDONED):
            raise WrongValue(
                f"min_envs must be between 1 and the {sent} environments that were sent actions, not {min_envs}"
            )
        self._runner.wait_for_some(min_envs, sent, timeout)
        if not stream.ready:
            raise NoPendingCallError("nothing was received: the call in between was interrupted; reset", "recv")
        received = stream.received()
        if len(received[-1]) == sent:
            self._runner.land()
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
        reports: bool = False,
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
            reports: Whether results report every step, rejected ones included, which count as samples then.
            samples: How many samples of the first episodes are wanted; None for all. No steps are made that cannot give
                one of them, and the last episode need not come to its end. A `Demand` may have grown whenever the next
                sample is asked for.

        Yields:
            Samples as they arrive, with the index of the first episode of the chunk to which they belong. In place of
            the rest of a chunk, the error that ended it: a `WorkerError` where a worker died or did not answer or an
            environment raised, a `SampleError` where a sample does not fit its declaration or too many were rejected.
            Chunks hold episodes that follow one another; the parts of a chunk come in order, chunks in any order.

        Raises:
            ConfigError: Episodes are not pairs of different integers.
            ClosedError: The vector env was closed meanwhile.
        """
        self._runner.begin("rollout", self._calls.none)
        self._runner.opened(self._calls.none)  # interrupted from its begin: who stops iterating leaves answers
        call = self._runner.number
        limits: dict[str, Any] = {"max_steps": max_steps, "max_rejects": max_rejects}
        limits |= {"nonfinite": nonfinite, "keep_rejected": keep_rejected, "reports": reports}
        longest = self._pool.description["max_episode_steps"]
        once = runs_in_real_time(self._pool.description["metadata"])
        handle_reply = self._runner.handle_rollout_reply
        try:
            for part in EpisodeSchedule(
                self._pool, self._turnover, episodes, limits, handle_reply, samples, longest, once=once
            ).run():
                yield part
                if self._runner.number != call:
                    raise PendingCallError("another call has ended this rollout", "rollout")
            self._runner.finish()
        finally:
            self._turnover.finish()

    def add_worker(self, env_fns: Iterable[Callable[[], gymnasium.Env[Any, Any]]]) -> int:
        """Have one more worker take part in rollouts, also in one that runs; other calls do not see its environments.

        Args:
            env_fns: One callable for each of its environments.

        Returns:
            Its index, for `release_worker`. The thread that runs the rollout starts it, and does not wait for it.

        Raises:
            ConfigError: It has no environment, or the environments are in this process.
        """
        return self._turnover.join(list(env_fns))

    def release_worker(self, index: int) -> None:
        """Have a worker leave: it completes the episodes that it was given, and ends.

        Args:
            index: Of the worker; the ``num_workers`` first ones come first. Where it has environments of this vector
                env, `restart_workers` has to bring it back before they can be reset again.

        Raises:
            ConfigError: There is none of this index.
        """
        self._turnover.leave(index)

    def cancel_rollout(self) -> None:
        """Let a rollout that another thread waits for raise `ClosedError`; after it only `close` will do."""
        self._pool.closed = True  # which the loop looks at every second

    def restart_workers(self) -> None:
        """Start workers again that are gone since an earlier error; their environments need a `reset`.

        Raises:
            WorkerError: One does not come up.
        """
        self._runner.restart_gone()
