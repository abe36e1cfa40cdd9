"""A worker: a process that hosts several environments and serves them over a socket.

Its parent starts `main` in a fresh interpreter, which reads from its standard input what to do: a line of JSON, then
the env factories of the parent that started it (cloudpickle over the pipe between the two, never over a socket). It
never imports torch, h5py or a viewer unless an environment does.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from physgym import spaces as walk
from physgym.errors import ConfigError, ProtocolError, SampleError
from physgym.rollout import require_spec, run_episode
from physgym.sample import SampleSpec
from physgym.spaces import Array
from physgym.vector.transport import Channel, PeerGone, dial
from physgym.vector.wire import (
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

Env = gymnasium.Env[Any, Any]
EnvFactory = Callable[[], Env]


@dataclass(frozen=True)
class Boot:
    """What a parent tells a worker it starts.

    Attributes:
        address: Where to connect to.
        token: Proves to the parent that this is its worker.
        worker: Index of this worker.
        first_env: Index of its first environment among all.
        num_envs: Number of environments of all workers.
        autoreset_mode: Name of the `AutoresetMode`.
        timeout: Seconds to wait for the parent when connecting and sending.
        sys_path: The parent's module search path, so that its modules import here.
    """

    address: tuple[str, int]
    token: str
    worker: int
    first_env: int
    num_envs: int
    autoreset_mode: str
    timeout: float
    sys_path: list[str]

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Boot:
        """The inverse of `to_line`."""
        data = json.loads(line)
        return cls(**{**data, "address": (str(data["address"][0]), int(data["address"][1]))})


EPISODE_ENDED = (
    'the episode has ended; with autoreset_mode DISABLED call reset(options={"reset_mask": ...}) before the next step'
)
RETURNED = "{name} must return {count} values, {what}; it returned {got}"
WHAT = {2: "(observation, info)", 5: "(observation, reward, terminated, truncated, info)"}


class RequestFailed(Exception):
    """An environment raised while a request was served; the cause is its exception."""

    def __init__(self, env: int) -> None:
        super().__init__(env)
        self.env = env


class Host:
    """Serves requests on a list of environments.

    Args:
        envs: The environments; all have equal spaces.
        mode: What happens when an episode ends.

    Raises:
        ConfigError: The environments differ.
    """

    def __init__(self, envs: Sequence[Env], mode: AutoresetMode) -> None:
        self.envs = list(envs)
        self.mode = mode
        self.observation_space = envs[0].observation_space
        self.action_space = envs[0].action_space
        for i, env in enumerate(envs):
            for name in ("observation_space", "action_space"):
                if getattr(env, name) != getattr(self, name):
                    raise ConfigError(
                        f"environment {i} of this worker has {name} {getattr(env, name)}, the first one "
                        f"{getattr(self, name)}; environments of one vector env need equal spaces"
                    )
        self.spec = SampleSpec.from_env(envs[0])
        self.leaves = walk.leaves(self.observation_space)
        count = len(self.envs)
        # buffers live as long as the worker: an environment that a masked reset leaves alone keeps its observation
        self.observations = [np.zeros((count, *leaf.shape), leaf.dtype) for leaf in self.leaves]
        self.ended = np.zeros(count, np.bool_)

    def describe(self) -> dict[str, Any]:
        """What `Ready` tells the parent: JSON data."""
        env = self.envs[0]
        return {
            "observation_space": walk.to_json(self.observation_space),
            "action_space": walk.to_json(self.action_space),
            "sample_fields": None if self.spec is None else self.spec.to_json(),
            "metadata": _json_only(env.metadata),
            "render_mode": env.render_mode,
            "max_episode_steps": getattr(env.spec, "max_episode_steps", None),
        }

    def serve(self, message: Message) -> Message:
        """The reply to a request.

        Raises:
            RequestFailed: An environment raised.
        """
        match message:
            case Step(actions):
                return self.step(actions)
            case Reset():
                return self.reset(message)
            case Rollout():
                return self.rollout(message)
            case Call():
                return CallResult([self._guard(i, _call, env, message, i) for i, env in enumerate(self.envs)])
            case _:
                raise ProtocolError(f"a worker does not serve {type(message).__name__}")

    def reset(self, request: Reset) -> ResetResult:
        """Reset the environments of the mask."""
        infos: Infos = [{} for _ in self.envs]
        for i in range(len(self.envs)):
            if request.mask[i]:
                options = None if request.options is None else dict(request.options)
                infos[i] = self._guard(i, self._reset_one, i, seed=request.seeds[i], options=options)
        return ResetResult(self.observations, infos)

    def step(self, actions: list[Array]) -> StepResult:
        """Step all environments, resetting those whose episode ended as the autoreset mode says."""
        count = len(self.envs)
        rewards = np.zeros(count)
        terminations, truncations = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        infos: Infos = []
        for i in range(count):
            if self.ended[i] and self.mode is AutoresetMode.NEXT_STEP:
                infos.append(self._guard(i, self._reset_one, i))
            else:
                action = [leaf[i] for leaf in actions]
                rewards[i], terminations[i], truncations[i], info = self._guard(i, self._step_one, i, action)
                infos.append(info)
        self.ended = np.logical_or(terminations, truncations)
        return StepResult(self.observations, rewards, terminations, truncations, infos)

    def _reset_one(self, index: int, **kwargs: Any) -> dict[str, Any]:
        observation, info = _returned("reset", self.envs[index].reset(**kwargs), 2)
        self._observe(index, observation)
        self.ended[index] = False
        return _checked_info(info)

    def _step_one(self, index: int, action: list[Array]) -> tuple[float, bool, bool, dict[str, Any]]:
        if self.ended[index] and self.mode is AutoresetMode.DISABLED:
            raise ConfigError(EPISODE_ENDED)
        env = self.envs[index]
        returned = env.step(walk.unflatten(self.action_space, iter(action)))
        observation, reward, terminated, truncated, info = _returned("step", returned, 5)
        info = _checked_info(info)
        if self.mode is AutoresetMode.SAME_STEP and (terminated or truncated):
            info = {"final_obs": observation, "final_info": info, **self._reset_one(index)}
        else:
            self._observe(index, observation)
        return float(reward), bool(terminated), bool(truncated), info

    def rollout(self, request: Rollout) -> RolloutResult:
        """Run one episode and collect its samples."""
        index = request.episode % len(self.envs)
        self.ended[index] = True  # whatever was going on in this environment is over

        def collect() -> RolloutResult:
            env = self.envs[index]
            spec = self.spec or require_spec(env)
            transitions = list(
                run_episode(
                    env,
                    spec,
                    seed=request.seed,
                    max_steps=request.max_steps,
                    max_rejects=request.max_rejects,
                    where=f"episode {request.episode}",
                )
            )
            kept = [(t.step, t.sample) for t in transitions if t.sample is not None]
            return RolloutResult(
                episode=request.episode,
                seed=request.seed,
                num_steps=len(transitions),
                total_reward=sum(t.reward for t in transitions),
                rejected={t.step: t.rejected for t in transitions if t.sample is None},
                steps=np.array([step for step, _ in kept], np.int64),
                samples={
                    name: np.array([sample[name] for _, sample in kept], field.dtype).reshape(len(kept), *field.shape)
                    for name, field in spec.items()
                },
            )

        result: RolloutResult = self._guard(index, collect)
        return result

    def close(self) -> None:
        """Close the environments."""
        for i, env in enumerate(self.envs):
            self._guard(i, env.close)

    def _observe(self, index: int, observation: Any) -> None:
        for buffer, leaf, value in zip(
            self.observations, self.leaves, walk.flatten(self.observation_space, observation), strict=True
        ):
            if np.shape(value) != leaf.shape:
                raise SampleError(
                    f"observation {leaf.path!r} has shape {np.shape(value)}; observation_space says {leaf.shape}"
                )
            buffer[index] = value

    def _guard(self, index: int, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            raise RequestFailed(index) from error


def _returned(name: str, values: Any, count: int) -> Any:
    """What an environment's method returned, if it is a tuple of the right length."""
    if not isinstance(values, tuple) or len(values) != count:
        got = f"{len(values)} values" if isinstance(values, tuple) else f"a {type(values).__name__}"
        raise SampleError(RETURNED.format(name=name, count=count, what=WHAT[count], got=got))
    return values


def _checked_info(info: Any) -> dict[str, Any]:
    if not isinstance(info, dict):
        raise SampleError(f"info must be a dictionary, not a {type(info).__name__}")
    return info


def _call(env: Env, request: Call, index: int) -> Any:
    if request.kind == "render":
        return env.render()
    if request.kind == "set":
        env.set_wrapper_attr(request.name, request.args[index])
        return None
    value = env.get_wrapper_attr(request.name)
    return value(*request.args, **request.kwargs) if callable(value) else value


def _json_only(metadata: dict[str, Any]) -> dict[str, Any]:
    """The entries of an env's metadata that travel; foreign objects in it stay behind."""
    plain = {}
    for key, value in metadata.items():
        try:
            plain[key] = json.loads(json.dumps(value))
        except TypeError:
            continue
    return plain


def _failure(env: int, error: BaseException) -> Failure:
    return Failure(env, type(error).__name__, str(error), "".join(traceback.format_exception(error)))


def serve(channel: Channel, boot: Boot, pickled_factories: bytes) -> None:
    """Greet the parent, build the environments, then answer requests until `Close` or the end of the connection.

    Args:
        channel: Connected to the parent.
        boot: What the parent said.
        pickled_factories: List of env factories as the parent pickled them; loading may import the user's modules.
    """
    channel.send(Hello(boot.token, boot.worker, os.getpid()))
    try:
        factories: list[EnvFactory] = cloudpickle.loads(pickled_factories)
        envs = [_build(factory, boot, i) for i, factory in enumerate(factories)]
        host = Host(envs, AutoresetMode[boot.autoreset_mode])
        ready = Ready(len(envs), host.describe())
    except RequestFailed as failed:
        channel.send(_failure(failed.env, failed.__cause__ or failed))
        return
    except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
        channel.send(_failure(-1, error))
        return
    channel.send(ready)
    channel.sock.settimeout(None)  # a parent may be idle for hours; its death ends the connection
    while True:
        message = channel.receive_some()
        if message is None:
            continue
        try:
            reply: Message = Closed() if isinstance(message, Close) else host.serve(message)
            if isinstance(message, Close):
                host.close()
        except RequestFailed as failed:
            reply = _failure(failed.env, failed.__cause__ or failed)
        try:
            channel.send(reply)
        except ProtocolError as error:
            if isinstance(error, PeerGone):
                raise
            channel.send(_failure(-1, error))
        if isinstance(message, Close):
            return


def _build(factory: EnvFactory, boot: Boot, index: int) -> Env:
    try:
        env = factory()
        # environments may want to know their place, for instance to open a port of their own
        for name, value in (("env_index", boot.first_env + index), ("num_envs", boot.num_envs)):
            if hasattr(env.unwrapped, name):
                with contextlib.suppress(AttributeError):  # a property of the environment's own
                    setattr(env.unwrapped, name, value)
        return env
    except Exception as error:
        raise RequestFailed(index) from error


def _end_with_parent() -> None:
    """End this process when the pipe to its parent closes, also while an environment computes.

    Only code that holds Python's lock without a pause delays that.
    """
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # an environment that reads its standard input shall find its end, not the pipe
    os.close(nothing)

    def watch() -> None:
        while os.read(pipe, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def main() -> None:
    """Entry point of the worker process."""
    stdin = sys.stdin.buffer
    boot = Boot.from_line(stdin.readline())
    sys.path[:] = boot.sys_path
    size = int.from_bytes(stdin.read(8), "little")
    payload = stdin.read(size)
    channel = dial(boot.address, boot.timeout)
    _end_with_parent()
    try:
        serve(channel, boot, payload)
    except PeerGone:
        pass  # the parent closed or died; there is nobody to tell
    finally:
        channel.close()
