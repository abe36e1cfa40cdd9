"""A host: several environments in one process, stepped one after another, their results written into an arena.

It serves the requests of the protocol and knows nothing of sockets: a worker process has one, and a vector env without
workers has one in its own process.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from physgym import spaces as walk
from physgym.casting import CastError, as_arrays, as_dtype
from physgym.code.made import describe_made
from physgym.episode import ActionGenerator, Transition, episode_policy, require_spec, run_episode
from physgym.errors import ClosedError, ConfigError, ProtocolError, SampleError, UnequalSpaces
from physgym.placement import Env
from physgym.policies import EpisodePolicy
from physgym.protocol import batched_infos as batching
from physgym.protocol.buffers import IDLE, Arena, Layout, Slot, results_layout
from physgym.protocol.messages import (
    Call,
    CallResult,
    Failure,
    Message,
    Parameters,
    Predict,
    Prediction,
    Rejected,
    Reset,
    Results,
    Rollout,
    RolloutResult,
    Step,
)
from physgym.protocol.short_frames import STEPPED_ALL
from physgym.returned import flag_of, info_of, returned, reward_of, taken
from physgym.sample import Columns, SampleSpec, declared, flat_items
from physgym.simulation import Simulation
from physgym.spaces import Array, Leaf
from physgym.worker.folders import Folder, here
from physgym.worker.sharing import refuse_same
from physgym.worker.variants import Variants, described

Emit: TypeAlias = Callable[[Message], None]
Ask: TypeAlias = Callable[[Predict], Prediction]

FLUSH_SECONDS = 2e-4  # a streamed step answers in parts that took so long: messages cost little then
ROLLOUT_SECONDS = 0.05  # likewise for samples, which are written to disk at the other end
ROLLOUT_BYTES = 1 << 20
SIGN_OF_LIFE = 1.0  # a rollout whose steps give no samples still answers so often
CLOSING_SECONDS = 0.05  # how often a rollout looks whether it is to end
LONGEST_TEXT, LONGEST_TRACEBACK = 1 << 14, 1 << 16  # characters of an exception's message and of its traceback
RESTARTED = "worker_restarted"  # key of an info: the episode was cut because its worker had to be started again

EPISODE_ENDED = (
    'the episode has ended; with autoreset_mode DISABLED call reset(options={"reset_mask": ...}) before the next step'
)
WRONG_SHAPE = "{name} has shape {got}; observation_space says {want}"
WRONG_VALUE = "{name} {error}; observation_space says {want}. Convert it in the environment, or change the space"
NO_PARAMETERS = (
    'the environment declares a parameter_space, but the info of its reset has no "parameters". Return them there, or '
    "take parameter_space away"
)
OTHER_PARAMETERS = (
    'episode {episode}: parameter {name!r} was to be {asked}, info["parameters"] has {got}. Use options["parameters"] '
    "in reset, and report what is used"
)
CUT_SHORT = "episode {episode} was cut short, since the vector env is being closed"
NO_NETWORK = (
    "the simulation asked for a prediction, but this pipeline has no network. Pass predictor= to the vector env, run "
    "the simulation in a Runner, or do not ask during generation."
)


LATE_FOLDER = (
    "an environment left the process in the working folder {folder} in a step, after {count} steps in which none did. "
    "Which one it was is not known, and others may have used its folder. Change the folder in the constructor or in "
    'reset, come back before the step ends, or declare metadata["physgym.single"] = True: one environment per process'
)
WATCHED_STEPS = 16  # of each environment, after which of its folder is looked at resets and whole messages alone


class RequestFailed(Exception):
    """An environment raised while a request was served; the cause is its exception."""

    def __init__(self, env: int, doing: str) -> None:
        super().__init__(env)
        self.env, self.doing = env, doing


class Host:
    """Serves requests on a list of environments.

    Args:
        envs: The environments; all have spaces of equal layout.
        mode: What happens when an episode ends.
        ask: How to get a prediction that an environment asks for in the middle of a step.
        seeds: Where the worker was started again, the seed for the next reset of each environment; its episode counts
            as cut until then.
        closing: Whether the parent wants to close, which ends a rollout between two steps.
        folders: The working folders in which their constructors left the process; by default they did not change it.
        local: Whether the process is not theirs alone, and is to be left in the folder in which it was.

    Raises:
        UnequalSpaces: The environments differ.
        WrongValue: Two are the same object.
    """

    def __init__(
        self,
        envs: Sequence[Env],
        mode: AutoresetMode,
        ask: Ask,
        seeds: Sequence[int | None] | None = None,
        closing: Callable[[], bool] = lambda: False,
        *,
        folders: Sequence[Folder] = (),
        local: bool = False,
    ) -> None:
        refuse_same(envs)
        self.envs = list(envs)
        self.mode = mode
        self._closing, self._next_look = closing, 0.0
        self.observation_space = envs[0].observation_space
        self.action_space = envs[0].action_space
        self.leaves = walk.leaves(self.observation_space)
        for i, env in enumerate(envs):
            if env.action_space != self.action_space:
                raise UnequalSpaces(
                    _DIFFERENT.format(i=i, name="action_space", got=env.action_space, want=self.action_space)
                )
            if walk.leaves(env.observation_space) != self.leaves:
                raise UnequalSpaces(
                    _DIFFERENT.format(
                        i=i, name="observation_space", got=env.observation_space, want=self.observation_space
                    )
                )
        self._check_samples()
        self.spec = SampleSpec.from_env(envs[0])
        self.parameter_spec = SampleSpec.parameters_of(envs[0])
        self.count = len(self.envs)
        self.ended = [False] * self.count
        self._cut = [seeds is not None] * self.count
        self._seeds = list(seeds) if seeds is not None else [None] * self.count
        self._action_leaves = walk.leaves(self.action_space)
        self._plain_action = walk.children(self.action_space) is None
        self._objects: list[list[Any]] = [[None] * self.count for leaf in self.leaves if leaf.variable]
        self._folders = list(folders) or [Folder() for _ in self.envs]
        self._local, self._home = local, here()
        self._alone = self.count == 1 and not local  # nobody minds in which folder it works
        self._apart = False  # whether one was seen in another folder than the others
        self._unwatched = [WATCHED_STEPS] * self.count  # steps until a step is made without looking at the folder
        self._steps: list[Callable[[Any], Any]] = [
            functools.partial(self._step_in_folder, i) for i in range(self.count)
        ]
        if self._alone:
            self._steps = [env.step for env in self.envs]
            if self._folders[0].path:
                os.chdir(self._folders[0].path)
        self._look_apart()
        self._policies: dict[int, EpisodePolicy] = {}
        self._generator = ActionGenerator()
        self.made = 0  # samples of all rollouts
        self._stopped: _Running | None = None  # the episode in which the limit of the last rollout came
        # without shared memory, rows are kept here and travel in messages
        self._inline = True
        self._use(Arena(*self.layouts(), self.count, 1), 0, 0)
        for i, env in enumerate(self.envs):
            if hasattr(env.unwrapped, "predictor"):
                env.unwrapped.predictor = _Asker(i, ask, self._folders[i] if local else None)

    def _check_samples(self) -> None:
        """Raise UnequalSpaces where the environments declare other samples, or other parameters of an episode."""
        first = described(self.envs[0])
        names = ["sample_fields", "parameter_space"]
        if isinstance(self.envs[0], Variants):  # of one dataset
            names = list(first)
        for i, env in enumerate(self.envs[1:], start=1):
            found = described(env)
            for name in names:
                if found[name] != first[name]:
                    raise UnequalSpaces(_DIFFERENT.format(i=i, name=name, got=found[name], want=first[name]))

    def layouts(self) -> tuple[Layout, Layout]:
        """Layouts of actions and results."""
        return Layout(self._action_leaves), results_layout(Layout(self.leaves))

    def attach(self, arena: Arena, first: int, worker: int) -> None:
        """Read actions from and write results to an arena, from its row `first` on."""
        self._inline = False
        self._use(arena, first, worker)

    def _use(self, arena: Arena, first: int, worker: int) -> None:
        part = slice(first, first + self.count)
        self._first = first
        self._actions = [array[part] for array in arena.actions]
        self._slots = [
            _Rows(slot.rows(part), self.leaves, self._objects, self.observation_space) for slot in arena.slots
        ]
        self._doing = _view(arena.doing[worker : worker + 1])
        self._doing[0] = IDLE

    def describe(self) -> dict[str, Any]:
        """What `Ready` tells the parent: JSON data."""
        env = self.envs[0]
        return {
            "observation_space": walk.to_json(self.observation_space),
            "observation_spaces": self._further_spaces(),
            "action_space": walk.to_json(self.action_space),
            "sample_space": None if self.spec is None else walk.to_json(declared(env, "sample_space")),
            "sample_fields": None if self.spec is None else self.spec.to_json(),
            "parameter_space": (
                None if self.parameter_spec is None else walk.to_json(declared(env, "parameter_space"))
            ),
            "parameter_fields": None if self.parameter_spec is None else self.parameter_spec.to_json(),
            "metadata": _json_only(env.metadata),
            "render_mode": env.render_mode,
            "max_episode_steps": getattr(env.spec, "max_episode_steps", None),
            "code": describe_made(env.present if isinstance(env, Variants) else env),
        }

    def _further_spaces(self) -> list[Any]:
        """Observation spaces of all environments if they differ (in their bounds), else none."""
        if all(env.observation_space == self.observation_space for env in self.envs):
            return []
        return [walk.to_json(env.observation_space) for env in self.envs]

    def serve(self, message: Message, emit: Emit) -> Message:
        """The reply to a request; parts of it that come before go to `emit`.

        Raises:
            RequestFailed: An environment raised.
        """
        home = here() if self._local else self._home
        try:
            reply = self._serve(message, emit)
        except Exception:
            self._doing[0] = IDLE
            raise
        finally:
            left = "" if self._alone else _return_to(home)
        self._doing[0] = IDLE  # stays where an environment ends the process, so that the parent can name it
        if left:
            self._keep_apart(left)
        return reply

    def _keep_apart(self, folder: str) -> None:
        """Deal with a folder in which a step left the process that was not looked at."""
        self._look_apart(now=True)
        if self.count > 1:
            raise RequestFailed(0, "step") from ConfigError(LATE_FOLDER.format(folder=folder, count=WATCHED_STEPS))
        self._folders[0].path = folder

    def _look_apart(self, *, now: bool = False) -> None:
        """From the first one on that is in a folder of its own, every environment gets its folder for all it does."""
        if not self._apart and not self._alone and (now or any(folder.path for folder in self._folders)):
            self._apart = True
            self._steps[:] = [functools.partial(self._step_in_folder, i) for i in range(self.count)]

    def _step_in_folder(self, index: int, action: Any) -> Any:
        """A step in the environment's working folder; the first ones are, and all where folders differ."""
        with self._folders[index]:
            values = self.envs[index].step(action)
        self._look_apart()
        if not self._apart:
            self._unwatched[index] -= 1
            if self._unwatched[index] <= 0:
                self._steps[index] = self.envs[index].step
        return values

    def _serve(self, message: Message, emit: Emit) -> Message:
        stopped, self._stopped = self._stopped, None
        match message:
            case Step():
                return self._step(message, emit)
            case Reset():
                return self._reset(message)
            case Rollout():
                return self._rollout(message, emit, stopped if message.goes_on else None)
            case Call():
                return CallResult(self._call(message))
            case _:
                raise ProtocolError(f"a worker does not serve {type(message).__name__}")

    def _call(self, request: Call) -> list[Any]:
        rows = range(self.count) if request.rows is None else request.rows
        return [self._guard(i, request.name, _call, request, place, self.envs[i]) for place, i in enumerate(rows)]

    def close(self) -> None:
        """Close the environments, all of them even where one raises.

        Raises:
            RequestFailed: The first one that raised.
        """
        failed: RequestFailed | None = None
        for i, env in enumerate(self.envs):
            try:
                self._guard(i, "close", env.close)
            except RequestFailed as error:
                if failed is None:
                    failed = error
                elif failed.__cause__ is not None:
                    other = failure(i, error.__cause__ or error)
                    failed.__cause__.add_note(f"At the same time: close of environment {i}: {other.message}")
        if failed is not None:
            raise failed

    # --- steps and resets

    def _reset(self, request: Reset) -> Results:
        slot, infos, failures = self._slots[0 if self._inline else request.slot], {}, []
        for i, wanted in enumerate(request.mask):
            if not wanted:
                continue
            options = None if request.options is None else dict(request.options)
            restarted = self._cut[i]
            self._cut[i] = False
            try:
                info = self._reset_one(slot, i, seed=request.seeds[i], options=options)
                slot.rewards[i], slot.terminations[i], slot.truncations[i] = 0.0, False, False
            except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
                failures.append(self._failed(i, error, "reset"))
                continue
            if restarted:
                info = {**info, RESTARTED: True}
            if info:
                infos[i] = info
        return self._results(slot, None, infos, failures, [], last=True)

    def _reset_one(self, slot: _Rows, index: int, **kwargs: Any) -> dict[str, Any]:
        self._doing[0] = self._first + index
        after_restart, self._seeds[index] = self._seeds[index], None
        if after_restart is not None and kwargs.get("seed") is None:
            kwargs["seed"] = after_restart
        with self._folders[index] if not self._alone else _ANYWHERE:
            values = self.envs[index].reset(**kwargs)
        self._look_apart()
        observation, info = returned("reset", values, 2)
        self.ended[index] = False
        slot.write(index, observation)
        return _taken_info(info)

    def _step(self, request: Step, emit: Emit) -> Results:
        slot = self._slots[0 if self._inline else request.slot]
        rows = range(self.count) if request.rows is None else request.rows
        actions = self._single_actions(request, rows)
        steps, ended, cut, doing, first = self._steps, self.ended, self._cut, self._doing, self._first
        write, rewards, terminations, truncations = slot.write, slot.rewards, slot.terminations, slot.truncations
        same_step, disabled = self.mode is AutoresetMode.SAME_STEP, self.mode is AutoresetMode.DISABLED
        infos: dict[int, dict[str, Any]] = {}
        failures: list[Failure] = []
        lost: list[int] = []
        flush = time.perf_counter() + FLUSH_SECONDS if request.stream else 0.0
        sent = 0
        values: Any = _NOTHING
        for place, (i, action) in enumerate(zip(rows, actions, strict=True)):
            doing[0] = first + i
            try:
                if cut[i]:
                    info = self._report_cut(slot, i)
                    lost.append(i)
                elif ended[i]:
                    if disabled:
                        raise ConfigError(EPISODE_ENDED)
                    info = self._reset_one(slot, i)
                    rewards[i], terminations[i], truncations[i] = 0.0, False, False
                else:
                    values = steps[i](action)
                    observation, reward, terminated, truncated, info = values
                    rewards[i] = reward if reward.__class__ is float else reward_of(reward)
                    if terminated.__class__ is not bool or truncated.__class__ is not bool:
                        terminated, truncated = flag_of("terminated", terminated), flag_of("truncated", truncated)
                    terminations[i] = terminated
                    truncations[i] = truncated
                    if terminated or truncated:
                        if same_step:
                            # the reset may write into the same arrays
                            final = {"final_obs": copy.deepcopy(observation), "final_info": _taken_info(info)}
                            info = {**final, **self._reset_one(slot, i)}
                        else:
                            ended[i] = True
                            write(i, observation)
                            info = _taken_info(info)
                    else:
                        write(i, observation)
                        if info or info.__class__ is not dict:
                            info = _taken_info(info)
                if info:
                    infos[i] = info
            except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
                failures.append(self._failed(i, _explained(values, error), "step"))
                values = _NOTHING
            if flush and time.perf_counter() > flush and place + 1 < len(rows):
                emit(self._results(slot, rows[sent : place + 1], infos, failures, lost, last=False))
                sent, infos, failures, lost = place + 1, {}, [], []
                flush = time.perf_counter() + FLUSH_SECONDS
        part = None if request.rows is None and not sent else rows[sent:]
        return self._results(slot, part, infos, failures, lost, last=True)

    def _results(
        self,
        slot: _Rows,
        rows: Sequence[int] | None,
        infos: Any,
        failures: list[Failure],
        cut: list[int],
        *,
        last: bool,
    ) -> Results:
        if rows is None and not (infos or failures or cut or self._inline or self._objects) and last:
            return STEPPED_ALL
        part = None if rows is None else list(rows)
        which = range(self.count) if part is None else part
        objects = [[values[i] for i in which] for values in self._objects]
        arrays = slot.slot.arrays if self._inline else None
        if arrays is not None and part is not None:
            arrays = [array[part] for array in arrays]
        return Results(part, arrays, batching.pack(infos), objects, failures, list(cut), last)

    def _report_cut(self, slot: _Rows, index: int) -> dict[str, Any]:
        """The step of an environment whose worker was started again: its episode is reported as truncated."""
        self._cut[index] = False
        slot.rewards[index], slot.terminations[index], slot.truncations[index] = 0.0, False, True
        if self.mode is AutoresetMode.SAME_STEP:
            return {**self._reset_one(slot, index), RESTARTED: True}
        self.ended[index] = True
        return {RESTARTED: True}

    def _failed(self, index: int, error: Exception, doing: str) -> Failure:
        self.ended[index] = True
        return failure(index, error, doing)

    def _single_actions(self, request: Step, rows: Sequence[int]) -> Sequence[Any]:
        """One action per row; not views of shared memory, which an environment may not keep."""
        if request.actions is not None:
            leaves = request.actions
        elif request.rows is None:
            leaves = [array.copy() for array in self._actions]
        else:
            leaves = [array[request.rows] for array in self._actions]
        if self._plain_action and not request.objects:
            return list(leaves[0])
        fixed = iter(leaves)
        columns: list[Any] = [None if leaf.variable else next(fixed) for leaf in self._action_leaves]
        for place, values in enumerate(request.objects):
            if values is not None:
                columns[place] = values
        if self._plain_action:
            return list(columns[0])
        if not columns:
            return [walk.unflatten(self.action_space, iter(())) for _ in rows]
        return [walk.unflatten(self.action_space, iter(values)) for values in zip(*columns, strict=True)]

    # --- rollouts

    def _rollout(self, request: Rollout, emit: Emit, stopped: _Running | None) -> RolloutResult:
        spec = self._guard(0, "rollout", lambda: self.spec or require_spec(self.envs[0]))
        part = _Part(spec, self.parameter_spec, request.keep_rejected)
        index, doing = 0, "rollout"
        own = [env.unwrapped for env in self.envs if isinstance(env.unwrapped, (Simulation, Variants))]
        try:
            for simulation in own:
                simulation.nonfinite = "allow"  # it is decided here, where the step has a name
            for entry in request.episodes:
                if self._enough(request):
                    break
                episode = entry[0]
                index = episode % self.count
                self.ended[index] = True  # whatever was going on in this environment is over
                doing = f"rollout of episode {episode}"
                goes_on = stopped is not None and stopped.episode == episode
                running = stopped if goes_on else None
                self._guard(index, doing, self._run_episode, index, entry, request, part, emit, running)
            result: RolloutResult = self._guard(index, doing, part.result, finite=request.nonfinite != "error")
            return result
        except RequestFailed:
            # what came before it is not lost, and may hold an earlier fault
            self._guard(index, doing, part.send, emit, finite=request.nonfinite != "error")
            raise
        finally:
            for simulation in own:
                simulation.nonfinite = "error"

    def _run_episode(
        self, index: int, entry: Sequence[Any], request: Rollout, part: _Part, emit: Emit, running: _Running | None
    ) -> None:
        if running is None:
            running = _Running(entry[0], self._transitions(index, entry, request, part))
        episode, rejected = running.episode, running.rejected
        for transition in running.transitions:
            running.reward += transition.reward
            if transition.sample is None:
                rejected[transition.step] = transition.rejected
                part.reject(episode, transition)
            else:
                running.kept += 1
                self.made += 1
                part.add(episode, transition)
            if transition.last:  # told together with the last sample, so that both are stored or neither
                told = [transition.step + 1, running.kept, running.reward, rejected, transition.ending]
                part.ended.append([episode, *told])
            if part.due():
                part.send(emit, finite=request.nonfinite != "error")
            if self._enough(request):
                self._stopped = None if transition.last else running
                return
            if self._to_close():
                raise ClosedError(CUT_SHORT.format(episode=episode))

    def _transitions(self, index: int, entry: Sequence[Any], request: Rollout, part: _Part) -> Iterator[Transition]:
        """An episode, from its beginning."""
        episode, seed = entry[0], entry[1]
        options = entry[2] if len(entry) > 2 else None
        return run_episode(
            self.envs[index],
            part.spec,
            seed=seed,
            policy=self._policy(index, episode),
            max_steps=request.max_steps,
            max_rejects=request.max_rejects,
            where=f"episode {episode}",
            check=False,  # as they are gathered
            nonfinite=request.nonfinite,  # type: ignore[arg-type]  # checked by the protocol
            options=options,
            begun=lambda info: part.begin(episode, info, options),
            generator=self._generator.of(seed),
        )

    def _to_close(self) -> bool:
        """Whether the environments are to be closed; asked for now and then."""
        now = time.perf_counter()
        if now < self._next_look:
            return False
        self._next_look = now + CLOSING_SECONDS
        return self._closing()

    def _enough(self, request: Rollout) -> bool:
        """Whether no further sample of a rollout is wanted."""
        return request.limit > 0 and self.made - request.made >= request.limit

    def _policy(self, index: int, episode: int) -> Any:
        if index not in self._policies:
            self._policies[index] = episode_policy(self.envs[index])
        return self._policies[index](episode)

    def _guard(self, index: int, doing: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._doing[0] = self._first + index
        try:
            with self._folders[index] if not self._alone else _ANYWHERE:
                result = work(*args, **kwargs)
        except Exception as error:
            raise RequestFailed(index, doing) from error
        self._look_apart()
        return result


def _return_to(home: str) -> str:
    """Bring the process back to a folder; return the other one in which it was, else an empty text."""
    if not home or (now := here()) == home:
        return ""
    os.chdir(home)
    return now


_ANYWHERE = contextlib.nullcontext()
_NOTHING = object()
_DIFFERENT = (
    "environment {i} of this worker has {name} {got}, the first one {want}; environments of one vector env need equal "
    "spaces"
)


def _explained(values: Any, error: Exception) -> Exception:
    """The error for what `step` returned where that is not of its form, else the error that it led to."""
    if isinstance(error, (TypeError, ValueError)) and values is not _NOTHING:
        try:
            returned("step", values, 5)
        except SampleError as wrong:
            return wrong
    return error


def _view(array: Any) -> Any:
    return memoryview(array)  # single numbers are written much faster than through numpy


class _Rows:
    """The rows of one slot as the stepping loop writes them."""

    def __init__(self, slot: Slot, leaves: list[Leaf], objects: list[list[Any]], space: gymnasium.Space[Any]) -> None:
        self.slot = slot
        self.rewards = _view(slot.rewards)
        self.terminations = _view(slot.terminations)
        self.truncations = _view(slot.truncations)
        self.write = _writer(slot, leaves, objects, space)


def _writer(
    slot: Slot, leaves: list[Leaf], objects: list[list[Any]], space: gymnasium.Space[Any]
) -> Callable[[int, Any], None]:
    """A function that stores the observation of one environment; made for the layout, as it is the innermost one."""
    if walk.children(space) is None and not leaves[0].variable:
        (buffer,), leaf = slot.observations, leaves[0]
        array_shape, array_dtype, numbers = leaf.shape, leaf.dtype, _numbers(leaf)

        def write_array(index: int, value: Any) -> None:
            if value.__class__ is np.ndarray:
                if value.dtype is not array_dtype or value.shape != array_shape:
                    value = _fitted(value, leaf)
            elif value.__class__ not in numbers:
                value = _fitted(value, leaf)
            try:
                buffer[index] = value
            except OverflowError:  # of an integer of Python's own
                buffer[index] = _fitted(value, leaf)

        return write_array
    fixed, variable = iter(slot.observations), iter(objects)
    targets: list[Any] = [next(variable) if leaf.variable else next(fixed) for leaf in leaves]
    keys = list(space.keys()) if isinstance(space, gymnasium.spaces.Dict) else []
    flat = isinstance(space, gymnasium.spaces.Dict) and all(walk.children(s) is None for s in space.values())
    if flat and not any(leaf.variable for leaf in leaves):
        items = [
            (k, leaf.shape, leaf.dtype, target, leaf) for k, leaf, target in zip(keys, leaves, targets, strict=True)
        ]

        def write_dict(index: int, value: Any) -> None:
            for key, shape, dtype, target, leaf in items:
                part = value[key]
                if part.__class__ is not np.ndarray or part.dtype is not dtype or part.shape != shape:
                    part = _fitted(part, leaf)
                target[index] = part

        return write_dict

    def write(index: int, value: Any) -> None:
        for target, leaf, part in zip(targets, leaves, walk.flatten(space, value), strict=True):
            target[index] = taken(part) if leaf.variable else _fitted(part, leaf)

    return write


def _numbers(leaf: Leaf) -> tuple[type, ...]:
    """Classes of single numbers that are values of a leaf as they are."""
    own = {np.dtype(np.float64): float, np.dtype(np.int64): int, np.dtype(np.bool_): bool}
    if leaf.shape:
        return ()
    return (leaf.dtype.type, own[leaf.dtype]) if leaf.dtype in own else (leaf.dtype.type,)


def _fitted(value: Any, leaf: Leaf) -> Array:
    """A value with the dtype of a leaf.

    Raises:
        SampleError: It has another shape or kind, or the dtype cannot hold it.
    """
    try:
        array = as_dtype(value, leaf.dtype)
    except CastError as error:
        raise SampleError(WRONG_VALUE.format(name=_observation(leaf), want=leaf.dtype, error=error)) from error
    if array.shape != leaf.shape:
        raise SampleError(WRONG_SHAPE.format(name=_observation(leaf), got=array.shape, want=leaf.shape))
    return array


def _observation(leaf: Leaf) -> str:
    """What a message calls it."""
    return f"observation {leaf.path!r}" if leaf.path else "the observation"


@dataclass(slots=True)
class _Running:
    """An episode of a rollout.

    Attributes:
        episode: Its index.
        transitions: Its steps, from the next one on.
        reward: Sum of its rewards.
        kept: Number of its samples.
        rejected: Its rejected steps, and why.
    """

    episode: int
    transitions: Iterator[Transition]
    reward: float = 0.0
    kept: int = 0
    rejected: dict[int, str] = field(default_factory=dict)


class _Part:
    """Samples of a rollout that wait to be sent.

    Args:
        spec: Their fields.
        parameter_spec: Parameters of an episode, None if there are none.
        keep_rejected: Whether to keep the samples of rejected steps.

    Attributes:
        ended: What became of each episode that ended, as in a `RolloutResult`.
    """

    def __init__(self, spec: SampleSpec, parameter_spec: SampleSpec | None, keep_rejected: bool) -> None:
        self.spec, self._parameter_spec, self._keep_rejected = spec, parameter_spec, keep_rejected
        self._most = 1 + ROLLOUT_BYTES // max(1, spec.nbytes)
        self._clear()

    def _clear(self) -> None:
        """Begin the next part, in memory of its own: where the parent is in this process, it has the old one."""
        self.ended: list[Any] = []
        self._episodes: list[int] = []
        self._steps: list[int] = []
        self._samples = Columns(self.spec, min(16, self._most))
        self._begun: list[int] = []
        self._parameters = None if self._parameter_spec is None else Columns(self._parameter_spec, of="parameters")
        self._rejected = Columns(self.spec, min(16, self._most))
        self._names_rejected: list[tuple[int, int, str]] = []
        self._since = time.perf_counter()

    def begin(self, episode: int, info: Any, options: Mapping[str, Any] | None) -> None:
        """Take the parameters from the info of an episode's reset.

        Raises:
            SampleError: There are none, they do not fit their declaration, or are not those that were asked for.
        """
        if self._parameters is None:
            return
        if not isinstance(info, dict) or "parameters" not in info:
            raise SampleError(NO_PARAMETERS)
        self._parameters.add(info["parameters"], episode)
        if options is not None and "parameters" in options:
            got = self._parameters.last()
            for name, asked in flat_items(options["parameters"]):
                if name not in got or not _is_asked(got[name], asked):
                    shown = got.get(name, "none")
                    raise SampleError(OTHER_PARAMETERS.format(episode=episode, name=name, asked=asked, got=shown))
        self._begun.append(episode)

    def add(self, episode: int, transition: Transition) -> None:
        """Take a sample.

        Raises:
            SampleError: It does not fit its declaration.
        """
        self._samples.add(transition.sample, episode, transition.step)  # type: ignore[arg-type]  # it has one
        self._episodes.append(episode)
        self._steps.append(transition.step)

    def reject(self, episode: int, transition: Transition) -> None:
        """Take the sample of a rejected step if it is asked for and fits."""
        if not self._keep_rejected or transition.rejected_sample is None:
            return
        try:
            self._rejected.add(transition.rejected_sample, episode, transition.step)
        except SampleError:
            return  # a solver that failed need not have one
        self._names_rejected.append((episode, transition.step, transition.rejected))

    def due(self) -> bool:
        """Whether it is time to send it."""
        if len(self._steps) + len(self._names_rejected) >= self._most:
            return True
        age = time.perf_counter() - self._since
        return age > (ROLLOUT_SECONDS if self._steps else SIGN_OF_LIFE)

    def send(self, emit: Emit, *, finite: bool) -> None:
        """Send what there is, as `result` gives it, and begin anew.

        Raises:
            SampleError: As `result`, after what came before was sent.
        """
        try:
            emit(self.result(last=False, finite=finite))
        except SampleError:
            emit(self.result(last=False, finite=True))
            raise
        finally:
            self._clear()

    def result(self, *, last: bool = True, finite: bool) -> RolloutResult:
        """The message.

        Args:
            last: Whether it completes the answer.
            finite: Whether all samples are known to be good as they are.

        Raises:
            SampleError: A value is not finite; what is left then is what came before it.
        """
        if not finite and (row := self._samples.nonfinite()) is not None:
            sample = {name: column[row] for name, column in self._samples.result().items()}
            episode, step = self._episodes[row], self._steps[row]
            self._cut(row)
            self.spec.check_finite(sample, f"episode {episode}, step {step}")
        parameters = rejected = None
        if self._begun:
            assert self._parameters is not None
            parameters = Parameters(np.array(self._begun, np.int64), self._parameters.result())
        if self._names_rejected:
            episodes, steps, reasons = zip(*self._names_rejected, strict=True)
            names = (np.array(episodes, np.int64), np.array(steps, np.int64), list(reasons))
            rejected = Rejected(*names, self._rejected.result())
        return RolloutResult(
            np.array(self._episodes, np.int64),
            np.array(self._steps, np.int64),
            self._samples.result(),
            self.ended,
            last,
            parameters,
            rejected,
        )

    def _cut(self, row: int) -> None:
        """Forget a sample and all samples after it."""
        episode = self._episodes[row]
        self.ended = list(itertools.takewhile(lambda entry: entry[0] != episode, self.ended))
        del self._episodes[row:], self._steps[row:]
        self._samples.cut(row)


def _is_asked(used: Array, asked: Any) -> bool:
    """Whether a parameter is what it was to be, as far as its dtype can hold that."""
    try:
        return np.array_equal(used, as_dtype(asked, used.dtype))
    except CastError:
        return False


class _Asker:
    """What an environment calls to get a prediction from its pipeline's network."""

    def __init__(self, index: int, ask: Ask, folder: Folder | None) -> None:
        self._index, self._ask, self._folder = index, ask, folder

    def __call__(self, inputs: dict[str, Array]) -> dict[str, Array]:
        inputs = as_arrays(inputs, "the network")
        with _ANYWHERE if self._folder is None else self._folder.left():  # the network is not the environment's
            answer = self._ask(Predict(self._index, inputs))
        if answer.error:
            raise SampleError(answer.error)
        return answer.fields


def failure(env: int, error: BaseException, doing: str = "") -> Failure:
    """An exception as a message, of bounded length, whatever the exception makes of being asked for its text."""
    kind = type(error)
    try:
        message = str(error)
    except Exception as fault:  # noqa: BLE001 - the exception is what counts, not what its text is
        message = f"({kind.__qualname__}.__str__ raised {type(fault).__name__})"
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as fault:  # noqa: BLE001 - likewise
        text = f"(its traceback cannot be formatted: {type(fault).__name__})"
    name = f"{kind.__module__}:{kind.__qualname__}"
    return Failure(env, _sendable(name), _sendable(message), _sendable(text, LONGEST_TRACEBACK), _sendable(doing))


def _sendable(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text without lone surrogates, cut in the middle where it is longer than a person would read."""
    if len(text) > longest:
        kept = longest // 2
        text = f"{text[:kept]} [... {len(text) - 2 * kept} characters are left out ...] {text[-kept:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _taken_info(info: Any) -> dict[str, Any]:
    """An info as it is now, since an environment may write into the same dictionary and arrays in its next step."""
    return taken(info_of(info))  # type: ignore[no-any-return]  # which keeps dictionaries


def _call(request: Call, place: int, env: Env) -> Any:
    if request.kind == "render":
        return env.render()
    if request.kind == "set":
        env.set_wrapper_attr(request.name, request.args[place])
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
