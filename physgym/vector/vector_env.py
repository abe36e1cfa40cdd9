"""`SocketVectorEnv`: many environments in few worker processes, as one Gymnasium vector environment."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import secrets
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from physgym import errors
from physgym import spaces as walk
from physgym.errors import ConfigError, ProtocolError, WorkerError
from physgym.sample import SampleSpec
from physgym.spaces import Array
from physgym.vector.transport import Channel, Listener, PeerGone, authentic
from physgym.vector.wire import (
    Agreement,
    Call,
    CallResult,
    Close,
    Closed,
    Failure,
    Hello,
    Infos,
    Message,
    Ready,
    Reset,
    ResetResult,
    Rollout,
    RolloutResult,
    Step,
    StepResult,
)
from physgym.vector.worker import Boot

DEFAULT_TIMEOUT = 120.0
CLOSE_TIMEOUT = 5.0
HANDSHAKE_POLL = 0.2
DEATH_POLL = 1.0  # a dead worker whose environment has forked does not hang up
LONGEST_TIMEOUT = 1e7
EPISODES_AHEAD = 2  # per worker: one that runs and one that waits, so that no worker idles between episodes

# one BLAS thread per worker: workers are the parallelism, and bits depend on the number of threads
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


NO_ANSWER = (
    "{worker}: no answer for {timeout} s. Raise timeout= if a step takes longer, or in a rollout a whole episode"
)
BUSY = (
    "an earlier call was interrupted, or a rollout is under way: its answers are still to come. Finish iterating over "
    "the rollout, or close this vector env and make a new one"
)


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Worker:
    """A worker process as its parent sees it.

    Args:
        index: Which worker this is.
        first_env: Index of its first environment.
        process: The process.
    """

    def __init__(self, index: int, first_env: int, count: int, process: subprocess.Popen[bytes]) -> None:
        self.index = index
        self.envs = range(first_env, first_env + count)
        self.process = process
        self.channel: Channel | None = None
        self.since = 0.0  # when it was last heard of or began to owe an answer

    @property
    def owed(self) -> int:
        """How many answers it owes."""
        return 0 if self.channel is None else len(self.channel.connection.pending)

    @property
    def slice(self) -> slice:
        """Its environments as a slice of the batch."""
        return slice(self.envs.start, self.envs.stop)

    @property
    def agreement(self) -> Agreement:
        """Layouts of its messages."""
        assert self.channel is not None
        assert self.channel.connection.agreement is not None
        return self.channel.connection.agreement

    def __str__(self) -> str:
        return f"worker {self.index} (pid {self.process.pid}, environments {self.envs.start}-{self.envs.stop - 1})"


def _reap(workers: Sequence[Worker], selector: selectors.BaseSelector, patience: float) -> None:
    """Wait for workers to end, and end those that do not."""
    selector.close()
    deadline = time.monotonic() + patience
    for worker in workers:
        if worker.channel is not None:
            worker.channel.close()
        if worker.process.stdin is not None:
            with contextlib.suppress(OSError):
                worker.process.stdin.close()  # the worker ends itself when this pipe closes
    for end in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
        for worker in workers:
            if end is not None and worker.process.poll() is None:
                end(worker.process)
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.01, deadline - time.monotonic()))
        deadline = time.monotonic() + 1.0
    for worker in workers:
        if worker.process.poll() != 0:  # it could not close its environments; what they started is in its group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.process.pid, signal.SIGKILL)


class SocketVectorEnv(VectorEnv[Any, Any, Any]):
    """Environments in worker processes behind sockets, as one Gymnasium vector environment.

    Each worker hosts several environments and steps them with one message. Results equal those of
    `gymnasium.vector.SyncVectorEnv` seed for seed.

    Args:
        env_fns: One callable per environment; closures and lambdas are fine.
        num_workers: Worker processes; by default one per usable core, at most one per environment.
        autoreset_mode: What happens when an episode ends.
        timeout: Seconds to wait for a worker before giving up: for building its environments, for a step of all of
            them, for a whole episode of a rollout.
        port: TCP port on the loopback interface that workers connect to; 0 takes a free one.

    Raises:
        ConfigError: An argument is wrong, or the port is taken.
        WorkerError: A worker died or did not answer, or an environment's constructor raised.
    """

    def __init__(
        self,
        env_fns: Iterable[Callable[[], gymnasium.Env[Any, Any]]],
        *,
        num_workers: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        timeout: float = DEFAULT_TIMEOUT,
        port: int = 0,
    ) -> None:
        factories = list(env_fns)
        if not factories:
            raise ConfigError("env_fns is empty; a vector env needs at least one environment")
        if num_workers is not None and num_workers < 1:
            raise ConfigError(f"num_workers must be at least 1, not {num_workers}; leave it out for one per core")
        timeout = float(timeout)
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise ConfigError(f"timeout must be positive seconds, at most {LONGEST_TIMEOUT:.0f}, not {timeout}")
        if autoreset_mode not in list(AutoresetMode) and autoreset_mode not in [mode.value for mode in AutoresetMode]:
            modes = [mode.value for mode in AutoresetMode]
            raise ConfigError(f"autoreset_mode must be one of {modes}, not {autoreset_mode!r}")
        self.num_envs = len(factories)
        self.timeout = timeout
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        count = min(num_workers or usable_cores(), self.num_envs)
        self._token = secrets.token_hex(16)
        self._workers: list[Worker] = []
        # a finalizer instead of __del__: it also runs at exit, and holds nothing that keeps this object alive
        self._selector = selectors.DefaultSelector()
        self._finalizer = weakref.finalize(self, _reap, self._workers, self._selector, 0.0)
        listener = Listener(port)
        try:
            self._start(factories, count, listener)
            descriptions = self._handshake(listener)
        except BaseException:
            self._finalizer()
            raise
        finally:
            listener.close()
        self._describe(descriptions)

    # --- start and end

    def _start(self, factories: list[Callable[[], Any]], num_workers: int, listener: Listener) -> None:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
        bounds = [round(i * len(factories) / num_workers) for i in range(num_workers + 1)]
        try:
            payloads = [cloudpickle.dumps(factories[a:b]) for a, b in itertools.pairwise(bounds)]
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise ConfigError(
                f"an env factory cannot be sent to a worker: {error}. Open files, locks and the like inside of it"
            ) from error
        for index, payload in enumerate(payloads):
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from physgym.vector.worker import main; main()"],
                stdin=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which decides
            )
            worker = Worker(index, bounds[index], bounds[index + 1] - bounds[index], process)
            self._workers.append(worker)
            boot = Boot(
                listener.address,
                self._token,
                index,
                worker.envs.start,
                self.num_envs,
                self.autoreset_mode.name,
                self.timeout,
                [str(Path(entry).resolve()) for entry in sys.path],
            )
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died at once; the handshake reports it with its status
                process.stdin.write(boot.to_line() + len(payload).to_bytes(8, "little") + payload)
                process.stdin.flush()

    def _handshake(self, listener: Listener) -> list[Ready]:
        """Wait until every worker has connected, greeted and built its environments."""
        deadline = time.monotonic() + self.timeout
        strangers: set[Channel] = set()
        ready: dict[int, Ready] = {}
        self._selector.register(listener, selectors.EVENT_READ, None)
        try:
            while len(ready) < len(self._workers):
                # a worker that dies before it dials shows by its process alone, hence the short waits
                for key, _ in self._selector.select(HANDSHAKE_POLL):
                    if isinstance(key.data, Worker):
                        message = self._receive_some(key.data)
                        if isinstance(message, Ready):
                            ready[key.data.index] = message
                        elif message is not None:
                            self._raise_failure(key.data, message)
                    elif isinstance(key.data, Channel):
                        self._admit(key.data, strangers)
                    else:
                        channel = listener.accept(self.timeout)
                        strangers.add(channel)
                        self._selector.register(channel, selectors.EVENT_READ, channel)
                for worker in self._workers:
                    if worker.channel is None and worker.process.poll() is not None:
                        self._report_death(worker)
                if time.monotonic() >= deadline:
                    late = ", ".join(str(w) for w in self._workers if w.index not in ready)
                    raise WorkerError(
                        f"{late}: not ready after {self.timeout} s. Raise timeout= if environments take long to build"
                    )
            self._selector.unregister(listener)
            for channel in strangers:
                self._selector.unregister(channel)
        finally:
            for channel in strangers:
                channel.close()
        return [ready[w.index] for w in self._workers]

    def _admit(self, channel: Channel, strangers: set[Channel]) -> None:
        """Read a greeting; whoever is not one of our workers is disconnected and forgotten."""
        try:
            hello = channel.receive_some()
        except ProtocolError:
            hello = Closed()
        if hello is None:
            return
        strangers.remove(channel)
        if (
            isinstance(hello, Hello)
            and authentic(hello, self._token)
            and 0 <= hello.worker < len(self._workers)
            and self._workers[hello.worker].channel is None
        ):
            worker = self._workers[hello.worker]
            worker.channel = channel
            self._selector.modify(channel, selectors.EVENT_READ, worker)
        else:
            self._selector.unregister(channel)
            channel.close()

    def _describe(self, ready: list[Ready]) -> None:
        first = ready[0].description
        agreement = self._workers[0].agreement
        for worker, message in zip(self._workers, ready, strict=True):
            for key in ("observation_space", "action_space", "sample_fields"):
                if message.description[key] != first[key]:
                    self._finalizer()
                    raise ConfigError(
                        f"{key} of {worker} is {message.description[key]}, that of environment 0 is {first[key]}; "
                        "environments of one vector env need equal spaces"
                    )
        self.single_observation_space = agreement.observation_space
        self.single_action_space = agreement.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**first["metadata"], "autoreset_mode": self.autoreset_mode}
        self.render_mode = first["render_mode"]
        self._max_episode_steps: int | None = first["max_episode_steps"]

    @property
    def sample_spec(self) -> SampleSpec | None:
        """Sample fields of the environments, None if they declare none."""
        return self._workers[0].agreement.sample_spec

    @property
    def num_workers(self) -> int:
        """Number of worker processes."""
        return len(self._workers)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments and end the workers.

        Args:
            **kwargs: ``patience``: seconds that workers get to finish what they compute and close their environments
                before they are ended by force.
        """
        patience = float(kwargs.get("patience", CLOSE_TIMEOUT))
        if self._finalizer.detach() is None:
            return  # a fault has ended the workers already
        deadline = time.monotonic() + patience
        with contextlib.suppress(ProtocolError):
            for worker in self._workers:
                assert worker.channel is not None
                worker.channel.sock.settimeout(max(0.1, deadline - time.monotonic()))
                worker.channel.send(Close())
            while any(w.owed for w in self._workers):
                events = self._selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    break
                for key, _ in events:
                    if isinstance(key.data.channel.receive_some(), Closed):
                        self._selector.unregister(key.fileobj)  # it hangs up now, which would read as an event
        _reap(self._workers, self._selector, max(0.5, deadline - time.monotonic()))

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
        """
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None if s is None else int(s) for s in seed]
        if len(seeds) != self.num_envs:
            raise ConfigError(f"got {len(seeds)} seeds for {self.num_envs} environments; pass one each, or one integer")
        mask = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            options = dict(options)
            mask = options.pop("reset_mask")
            if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
                raise ConfigError(
                    f'options["reset_mask"] must be a bool array of shape ({self.num_envs},), not {mask!r}'
                )
            if not mask.any():
                raise ConfigError('options["reset_mask"] picks no environment; at least one must be True')
        for worker in self._workers:
            self._post(worker, Reset(seeds[worker.slice], mask[worker.slice].tolist(), options))
        observations = self._empty_observations()
        infos: dict[str, Any] = {}
        for worker, result in self._answers():
            assert isinstance(result, ResetResult)
            self._fill(observations, worker, result.observations)
            infos = self._merge_infos(infos, worker, result.infos)
        return self._nest(observations), infos

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
        leaves = self._action_leaves(actions)
        for worker in self._workers:
            self._post(worker, Step([leaf[worker.slice] for leaf in leaves]))
        observations = self._empty_observations()
        rewards = np.empty(self.num_envs)
        terminations, truncations = np.empty(self.num_envs, np.bool_), np.empty(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        for worker, result in self._answers():
            assert isinstance(result, StepResult)
            self._fill(observations, worker, result.observations)
            rewards[worker.slice] = result.rewards
            terminations[worker.slice] = result.terminations
            truncations[worker.slice] = result.truncations
            infos = self._merge_infos(infos, worker, result.infos)
        return self._nest(observations), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...]:
        """One frame per environment."""
        return self._call(lambda _: Call("render"))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or read an attribute; one result per environment.

        Arguments and results are numbers, strings, arrays, or lists, tuples and dictionaries of them.
        """
        return self._call(lambda _: Call("call", name, list(args), kwargs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every environment: one value for all, or a list or tuple with one each."""
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ConfigError(f"got {len(values)} values of {name!r} for {self.num_envs} environments")
        self._call(lambda worker: Call("set", name, list(values[worker.slice])))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]  # as Gymnasium's own vector envs
        """Seed of every environment."""
        return self.get_attr("np_random_seed")

    # --- rollouts without a policy in the parent

    def rollout(
        self, episodes: Iterable[tuple[int, int]], *, max_steps: int, max_rejects: int, ahead: int = sys.maxsize
    ) -> Iterator[RolloutResult]:
        """Run episodes with the environments' own samplers, wherever a worker is free.

        Args:
            episodes: Index and seed of each episode; may be endless.
            max_steps: Truncate an episode after so many steps.
            max_rejects: Fail after so many rejected steps in a row.
            ahead: Begin no episode so many places behind the earliest one that is not completed.

        Yields:
            One result per episode, as they complete; their order is not that of `episodes`.

        Raises:
            WorkerError: A worker died or did not answer, or an environment raised.
            SampleError: A sample does not fit its declaration, or too many were rejected.
        """
        source = iter(episodes)
        running: dict[int, int] = {}  # place of an episode in the sequence, by its index
        begun = 0

        def feed() -> None:
            """Give every worker that has room its next episode."""
            nonlocal begun
            for worker in sorted(self._workers, key=lambda worker: worker.owed):
                if worker.owed >= EPISODES_AHEAD or begun - min(running.values(), default=begun) >= ahead:
                    continue
                for episode, seed in itertools.islice(source, 1):
                    self._post(worker, Rollout(episode, seed, max_steps, max_rejects))
                    running[episode] = begun
                    begun += 1

        for _ in range(EPISODES_AHEAD):
            feed()
        for _, message in self._replies():
            assert isinstance(message, RolloutResult)
            del running[message.episode]
            feed()
            yield message

    # --- messages

    def _post(self, worker: Worker, message: Message) -> None:
        if self.closed or worker.channel is None:
            raise WorkerError("the vector env is closed; make a new one")
        if not worker.owed:
            worker.since = time.monotonic()
        elif not isinstance(message, Rollout):
            raise ConfigError(BUSY)
        try:
            worker.channel.send(message)
        except PeerGone:
            self._report_death(worker)
        except ProtocolError as error:
            raise ConfigError(f"{type(message).__name__} to {worker}: {error}") from error

    def _answers(self) -> list[tuple[Worker, Message]]:
        """The reply of every worker, in the order of the workers; raises as `_replies` does."""
        return sorted(self._replies(), key=lambda reply: reply[0].index)

    def _replies(self) -> Iterator[tuple[Worker, Message]]:
        """The loop: replies as they come, until no worker owes one.

        Raises:
            WorkerError: A worker died, did not answer in time, or an environment raised.
        """
        while busy := [worker for worker in self._workers if worker.owed]:
            latest = min(busy, key=lambda worker: worker.since)
            left = latest.since + self.timeout - time.monotonic()
            events = self._selector.select(max(0.0, min(DEATH_POLL, left)))
            if not events:
                for worker in busy:
                    if worker.process.poll() is not None:
                        self._report_death(worker)
                if left <= 0:
                    self._fail(latest, NO_ANSWER.format(worker=latest, timeout=self.timeout))
            for key, _ in events:
                worker = key.data
                message = self._receive_some(worker)
                if message is None:
                    continue
                if isinstance(message, Failure):
                    self._raise_failure(worker, message)
                before = worker.since = time.monotonic()
                yield worker, message
                pause = time.monotonic() - before  # whoever iterates may have taken its time; no worker is to blame
                for other in busy:
                    other.since += pause

    def _receive_some(self, worker: Worker) -> Message | None:
        assert worker.channel is not None
        try:
            return worker.channel.receive_some()
        except PeerGone:
            self._report_death(worker)
        except ProtocolError as error:
            self._fail(worker, f"{worker} broke the protocol: {error}")

    def _report_death(self, worker: Worker) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(1.0)
        status = worker.process.poll()
        how = "closed its connection" if status is None else _exit_text(status)
        self._fail(worker, f"{worker} {how}. Anything it wrote to stderr stands above")

    def _fail(self, worker: Worker, text: str) -> NoReturn:
        self._abandon()
        raise WorkerError(text, env_indices=tuple(worker.envs))

    def _raise_failure(self, worker: Worker, message: Message) -> NoReturn:
        """Raise what a worker reported: as the same physgym error, else as a WorkerError; both show its traceback."""
        self._abandon()
        if not isinstance(message, Failure):
            raise WorkerError(f"{worker} sent {type(message).__name__}, which nobody asked for")
        indices = tuple(worker.envs) if message.env < 0 else (worker.envs[message.env],)
        place = f"{worker}" if message.env < 0 else f"environment {indices[0]}"
        remote = WorkerError(
            f"{place} raised {message.error}: {message.message}\n\nTraceback in the worker:\n{message.traceback}",
            remote_traceback=message.traceback,
            env_indices=indices,
        )
        known = getattr(errors, message.error, None)
        if isinstance(known, type) and issubclass(known, errors.PhysGymError) and known is not WorkerError:
            raise known(f"{place}: {message.message}") from remote
        raise remote

    def _abandon(self) -> None:
        """After a fault the batch has no defined state: end all workers at once."""
        self.closed = True
        self._finalizer()

    # --- batches

    def _action_leaves(self, actions: Any) -> list[Array]:
        space = self.single_action_space
        layout = self._workers[0].agreement.actions.leaves
        try:
            values = walk.flatten(space, actions)
            arrays = [np.asarray(value, leaf.dtype) for value, leaf in zip(values, layout, strict=True)]
            if any(a.shape != (self.num_envs, *leaf.shape) for a, leaf in zip(arrays, layout, strict=True)):
                raise ValueError("shape")
        except (TypeError, ValueError, KeyError, IndexError):
            arrays = self._actions_one_by_one(actions, layout)
        return arrays

    def _actions_one_by_one(self, actions: Any, layout: list[walk.Leaf]) -> list[Array]:
        try:
            single = list(iterate(self.action_space, actions))
            flat = [walk.flatten(self.single_action_space, action) for action in single]
            if len(flat) != self.num_envs:
                raise ValueError(f"{len(flat)} actions")
            return [
                np.stack([np.asarray(row[i], leaf.dtype).reshape(leaf.shape) for row in flat])
                for i, leaf in enumerate(layout)
            ]
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise ConfigError(
                f"the actions do not fit: {error}. step takes an element of action_space, {self.action_space}"
            ) from error

    def _empty_observations(self) -> list[Array]:
        leaves = self._workers[0].agreement.observations.leaves
        return [np.empty((self.num_envs, *leaf.shape), leaf.dtype) for leaf in leaves]

    def _fill(self, batch: list[Array], worker: Worker, parts: list[Array]) -> None:
        for whole, part in zip(batch, parts, strict=True):
            whole[worker.slice] = part

    def _nest(self, leaves: list[Array]) -> Any:
        return walk.unflatten(self.single_observation_space, iter(leaves))

    def _merge_infos(self, merged: dict[str, Any], worker: Worker, infos: Infos) -> dict[str, Any]:
        for index, info in zip(worker.envs, infos, strict=True):
            merged = self._add_info(merged, info, index)
        return merged

    def _call(self, request: Callable[[Worker], Call]) -> tuple[Any, ...]:
        for worker in self._workers:
            self._post(worker, request(worker))
        results: list[Any] = []
        for _, reply in self._answers():
            assert isinstance(reply, CallResult)
            results += reply.results
        return tuple(results)


def _exit_text(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
