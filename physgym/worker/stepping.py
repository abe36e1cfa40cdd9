"""Steps and resets of a group of environments, their results written into rows of an arena."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from physgym import spaces as walk
from physgym.errors import ConfigError, SampleError
from physgym.placement import Env
from physgym.protocol.batched_infos import pack_infos
from physgym.protocol.messages import Failure, Message, Reset, Results, Step
from physgym.protocol.short_frames import STEPPED_ALL
from physgym.returned import flag_of, info_of, returned, reward_of, taken
from physgym.worker.arena_rows import ArenaRows, SlotRows
from physgym.worker.failures import failure
from physgym.worker.scene_offers import SceneOffers
from physgym.worker.working_folders import WorkingFolders

Emit: TypeAlias = Callable[[Message], None]

FLUSH_SECONDS = (
    3e-3  # a streamed step answers in parts that took so long: a message wakes the parent, which takes a core
)
MOST_CHOICES = 256  # actions of a space that are made once and for all
RESTARTED = "worker_restarted"  # key of an info: the episode was cut because its worker had to be started again

_NOTHING = object()


class Stepper:
    """Steps and resets environments.

    Args:
        envs: The environments.
        mode: What happens when an episode ends.
        action_space: Of each environment.
        rows: Where actions and results lie.
        folders: The working folders.
        seeds: Where the worker was started again, the seed for the next reset of each environment; its episode counts
            as cut until then.
        offers: Frames for those who watch.

    Attributes:
        ended: Whether the episode of each environment has ended.
    """

    def __init__(
        self,
        envs: Sequence[Env],
        mode: AutoresetMode,
        action_space: gymnasium.Space[Any],
        rows: ArenaRows,
        folders: WorkingFolders,
        seeds: Sequence[int | None] | None,
        offers: SceneOffers,
    ) -> None:
        self._envs, self._rows, self._folders, self._offers = envs, rows, folders, offers
        self._same_step, self._disabled = mode is AutoresetMode.SAME_STEP, mode is AutoresetMode.DISABLED
        self._space, self._leaves = action_space, walk.leaves(action_space)
        self._plain_action = walk.children(action_space) is None
        self._choices = _choices(action_space) if self._plain_action else {}
        self._cut = [seeds is not None] * len(envs)
        self.ended = list(self._cut)
        self._seeds = list(seeds) if seeds is not None else [None] * len(envs)

    def reset(self, request: Reset) -> Results:
        """Reset the environments that a request names, and return what they gave."""
        slot, infos, failures = self._rows.slot(request.slot), {}, []
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
        if self._offers.watched:
            self._offers.begin([i for i, wanted in enumerate(request.mask) if wanted])
        return self._results(slot, None, infos, failures, [], last=True)

    def _reset_one(self, slot: SlotRows, index: int, **kwargs: Any) -> dict[str, Any]:
        self._rows.begin(index)
        after_restart, self._seeds[index] = self._seeds[index], None
        if after_restart is not None and kwargs.get("seed") is None:
            kwargs["seed"] = after_restart
        with self._folders.of(index):
            values = self._envs[index].reset(**kwargs)
        self._folders.compare()
        observation, info = returned("reset", values, 2)
        self.ended[index] = False
        slot.write(index, observation)
        return _taken_info(info)

    def step(self, request: Step, emit: Emit) -> Results:
        """Step the environments that a request names; return what they gave, or its last part.

        Args:
            request: What to do.
            emit: Takes the parts of the answer before the last one.
        """
        slot = self._rows.slots[0 if self._rows.inline else request.slot]
        rows = range(len(self._envs)) if request.rows is None else request.rows
        actions = self._single_actions(request, rows)
        steps, ended, cut = self._folders.steps, self.ended, self._cut
        current_env, first = self._rows.current_env, self._rows.first
        write, rewards, terminations, truncations = slot.write, slot.rewards, slot.terminations, slot.truncations
        (buffer, shape, dtype), ndarray = slot.plain, np.ndarray
        slot.clear_flags(request.rows)  # flags of most steps: what is not False is written below
        same_step, disabled = self._same_step, self._disabled
        infos: dict[int, dict[str, Any]] = {}
        failures: list[Failure] = []
        lost: list[int] = []
        flush = time.perf_counter() + FLUSH_SECONDS if request.stream else 0.0
        sent = 0
        values: Any = _NOTHING
        for i, action in enumerate(actions) if request.rows is None else zip(rows, actions, strict=True):
            current_env[0] = first + i
            try:
                if ended[i]:
                    if cut[i]:
                        info = self._report_cut(slot, i)
                        lost.append(i)
                    elif disabled:
                        raise ConfigError(
                            "the episode has ended; with autoreset_mode DISABLED call "
                            'reset(options={"reset_mask": ...}) before the next step'
                        )
                    else:
                        info = self._reset_one(slot, i)
                        rewards[i] = 0.0
                else:
                    values = steps[i](action)
                    observation, reward, terminated, truncated, info = values
                    rewards[i] = reward if reward.__class__ is float else reward_of(reward)
                    if terminated is not False or truncated is not False:
                        terminations[i] = terminated = flag_of("terminated", terminated)
                        truncations[i] = truncated = flag_of("truncated", truncated)
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
                        if (
                            observation.__class__ is ndarray
                            and observation.dtype is dtype
                            and observation.shape == shape
                        ):
                            buffer[i] = observation  # as `write` would
                        else:
                            write(i, observation)
                        if info or info.__class__ is not dict:
                            info = _taken_info(info)
                if info:
                    infos[i] = info
            except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
                failures.append(self._failed(i, _explained(values, error), "step"))
                values = _NOTHING
            if flush and time.perf_counter() > flush and i != rows[-1]:
                done = rows.index(i) + 1
                emit(self._results(slot, rows[sent:done], infos, failures, lost, last=False))
                sent, infos, failures, lost = done, {}, [], []
                flush = time.perf_counter() + FLUSH_SECONDS
        if self._offers.watched:
            self._offers.stepped(rows, infos)
        part = None if request.rows is None and not sent else rows[sent:]
        if part is None and not (infos or failures or lost or self._rows.inline or self._rows.objects):
            return STEPPED_ALL
        return self._results(slot, part, infos, failures, lost, last=True)

    def _results(
        self,
        slot: SlotRows,
        rows: Sequence[int] | None,
        infos: Any,
        failures: list[Failure],
        cut: list[int],
        *,
        last: bool,
    ) -> Results:
        part = None if rows is None else list(rows)
        which = range(len(self._envs)) if part is None else part
        objects = [[values[i] for i in which] for values in self._rows.objects]
        arrays = slot.slot.arrays if self._rows.inline else None
        if arrays is not None and part is not None:
            arrays = [array[part] for array in arrays]
        return Results(part, arrays, pack_infos(infos), objects, failures, list(cut), last)

    def _report_cut(self, slot: SlotRows, index: int) -> dict[str, Any]:
        """Report the episode of an environment as truncated, in place of a step, since its worker was started again."""
        self._cut[index] = False
        slot.rewards[index], slot.terminations[index], slot.truncations[index] = 0.0, False, True
        if self._same_step:
            return {**self._reset_one(slot, index), RESTARTED: True}
        self.ended[index] = True
        return {RESTARTED: True}

    def _failed(self, index: int, error: Exception, doing: str) -> Failure:
        self.ended[index] = True
        return failure(index, error, doing)

    def _single_actions(self, request: Step, rows: Sequence[int]) -> Sequence[Any]:
        """Return one action per row; not views of shared memory, which an environment may not keep."""
        shared = request.actions is None and request.rows is None
        if request.actions is not None:
            leaves = request.actions
        elif request.rows is None:
            leaves = self._rows.actions
        else:
            leaves = [array[request.rows] for array in self._rows.actions]
        if self._choices and not request.objects:
            try:
                return list(map(self._choices.__getitem__, leaves[0].tolist()))
            except KeyError:  # an action that the space has not
                pass
        if shared:
            leaves = [array.copy() for array in leaves]
        if self._plain_action and not request.objects:
            return list(leaves[0])
        fixed = iter(leaves)
        columns: list[Any] = [None if leaf.variable else next(fixed) for leaf in self._leaves]
        for place, values in enumerate(request.objects):
            if values is not None:
                columns[place] = values
        if self._plain_action:
            return list(columns[0])
        if not columns:
            return [walk.unflatten(self._space, iter(())) for _ in rows]
        return [walk.unflatten(self._space, iter(values)) for values in zip(*columns, strict=True)]


def _choices(space: gymnasium.Space[Any]) -> dict[int, Any]:
    """Return the actions of a space of few, by number: making one in each step takes longer than finding it."""
    allowed = walk.value_range(space)
    if allowed is None or not 0 < allowed.choices <= MOST_CHOICES:
        return {}
    return {action: allowed.dtype.type(action) for action in range(int(allowed.low), int(allowed.high) + 1)}


def _explained(values: Any, error: Exception) -> Exception:
    """Return the error for what `step` returned where that is not of its form, else the error that it led to."""
    if isinstance(error, (TypeError, ValueError)) and values is not _NOTHING:
        try:
            returned("step", values, 5)
        except SampleError as wrong:
            return wrong
    return error


def _taken_info(info: Any) -> dict[str, Any]:
    """Return an info as it is now: an environment may write into the same dictionary and arrays in its next step."""
    return taken(info_of(info))  # type: ignore[no-any-return]  # which keeps dictionaries
