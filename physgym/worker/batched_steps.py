"""Steps and resets of environments that are rows of one vector environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from physgym import spaces as walk
from physgym.batched.rows import SteppedRows, VectorRows, arrays_of, row_info
from physgym.errors import ConfigError, ProtocolError
from physgym.protocol.batched_infos import FINAL, pack_infos
from physgym.protocol.messages import Message, Reset, Results, Step
from physgym.protocol.short_frames import STEPPED_ALL
from physgym.spaces import Array
from physgym.worker.arena_rows import ArenaRows, SlotRows
from physgym.worker.failures import RequestFailed
from physgym.worker.scene_offers import SceneOffers
from physgym.worker.stepping import RESTARTED
from physgym.worker.working_folders import WorkingFolders


class BatchedStepper:
    """Steps and resets the rows of a vector environment, all at once.

    What happens at the end of an episode is what the caller asked for, where the rows are reset on request
    (`AutoresetMode.DISABLED`); else it must be what the vector environment does.

    Args:
        rows: The rows.
        mode: What is to happen when an episode ends.
        arena: Where actions and results lie.
        folders: The working folders.
        seeds: As of a `physgym.worker.stepping.Stepper`.
        offers: Frames for those who watch.

    Attributes:
        ended: Whether the episode of each row has ended.

    Raises:
        ConfigError: The vector environment resets its rows in another way.
    """

    def __init__(
        self,
        rows: VectorRows,
        mode: AutoresetMode,
        arena: ArenaRows,
        folders: WorkingFolders,
        seeds: Sequence[int | None] | None,
        offers: SceneOffers,
    ) -> None:
        if rows.mode not in (AutoresetMode.DISABLED, mode):
            raise ConfigError(
                f"{type(rows.venv).__name__} has the autoreset mode {rows.mode.value}, and {mode.value} is asked for: "
                f"pass autoreset_mode={rows.mode.value!r}, or let it have the mode DISABLED, in which its rows are "
                "reset as anybody wants"
            )
        self._rows, self._mode, self._arena, self._folders, self._offers = rows, mode, arena, folders, offers
        self._on_request = rows.mode is AutoresetMode.DISABLED
        self._cut = np.full(rows.count, seeds is not None)
        self.ended = self._cut.tolist()
        self._seeds = list(seeds) if seeds is not None else [None] * rows.count

    def reset(self, request: Reset) -> Results:
        """Reset the rows that a request names, and return what they gave.

        Raises:
            RequestFailed: The vector environment raised.
        """
        slot, mask = self._arena.slot(request.slot), np.array(request.mask, np.bool_)
        seeds = [self._seeds[row] if seed is None else seed for row, seed in enumerate(request.seeds)]
        infos = self._guarded("reset", self._reset, slot, mask, seeds, request.options)
        restarted = self._cut & mask
        self._cut[mask] = False
        for array in (slot.slot.rewards, slot.slot.terminations, slot.slot.truncations):
            array[mask] = 0
        rows = np.flatnonzero(mask).tolist()
        if self._offers.watched:
            self._offers.begin(rows)
        return self._results(self._infos(infos, rows, dict.fromkeys(np.flatnonzero(restarted).tolist(), RESTARTED)))

    def _reset(self, slot: SlotRows, mask: Array, seeds: Sequence[int | None], options: Any) -> dict[str, Any]:
        observations, infos = self._rows.reset(mask, seeds, options)
        self._write(slot, observations, mask)
        for row in np.flatnonzero(mask).tolist():
            self.ended[row], self._seeds[row] = False, None
        kept: dict[str, Any] = arrays_of(infos)
        return kept

    def step(self, request: Step, emit: Callable[[Message], None]) -> Results:
        """Step all rows.

        Raises:
            RequestFailed: The vector environment raised, or an episode has ended and was not reset.
        """
        results: Results = self._guarded("step", self._step, request)
        return results

    def _step(self, request: Step) -> Results:
        count = self._rows.count
        if request.rows is not None and sorted(request.rows) != list(range(count)):
            raise ConfigError(
                f"the {count} rows of {type(self._rows.venv).__name__} are computed together; send actions to all of "
                "them, or step"
            )
        slot = self._arena.slots[0 if self._arena.inline else request.slot]
        ended = np.array(self.ended)
        if self._mode is AutoresetMode.DISABLED and (ended & ~self._cut).any():
            raise ConfigError(
                "the episode has ended; with autoreset_mode DISABLED call "
                'reset(options={"reset_mask": ...}) before the next step'
            )
        resets = (
            ended & ~self._cut if self._on_request and self._mode is AutoresetMode.NEXT_STEP else np.zeros(count, bool)
        )
        if self._cut.any():
            return self._report_lost(slot)
        infos: dict[int, dict[str, Any]] = {}
        if not resets.all():
            infos = self._stepped(slot, self._rows.step(self._actions(request)), ~resets)
        if resets.any():
            given = self._reset(slot, resets, self._seeds, None)
            for array in (slot.slot.rewards, slot.slot.terminations, slot.slot.truncations):
                array[resets] = 0
            infos |= self._infos(given, np.flatnonzero(resets).tolist())
        if self._offers.watched:
            self._offers.stepped(range(count), infos)
        return self._results(dict(sorted(infos.items())), named=request.rows is not None)

    def _stepped(self, slot: SlotRows, found: SteppedRows, counted: Array) -> dict[int, dict[str, Any]]:
        """Take the results of a step in some rows; return their infos."""
        over = (found.terminations | found.truncations) & counted
        for target, source in zip(
            slot.slot.arrays[-3:], (found.rewards, found.terminations, found.truncations), strict=True
        ):
            target[:] = source
        self._write(slot, found.observations, counted)
        infos = self._infos(arrays_of(found.infos), np.flatnonzero(counted).tolist()) if found.infos else {}
        if not over.any():
            return infos
        which = np.flatnonzero(over).tolist()
        if self._mode is not AutoresetMode.SAME_STEP:
            for row in which:
                self.ended[row] = self._on_request or self._mode is AutoresetMode.DISABLED
        elif self._on_request:
            last = self._single_observations(found.observations, which)
            given = self._infos(self._reset(slot, over, self._seeds, None), which)
            for row in which:
                final = {FINAL: last[row], "final_info": infos.get(row, {})}
                infos[row] = {**final, **given.get(row, {})}
        return infos

    def _report_lost(self, slot: SlotRows) -> Results:
        """Report all episodes as truncated, in place of a step, since the worker was started again."""
        count = self._rows.count
        self._cut[:] = False
        for target, value in zip(slot.slot.arrays[-3:], (0.0, False, True), strict=True):
            target[:] = value
        infos: dict[int, dict[str, Any]] = {row: {RESTARTED: True} for row in range(count)}
        self.ended[:] = [True] * count
        if self._mode is AutoresetMode.SAME_STEP:
            given = self._infos(self._reset(slot, np.ones(count, np.bool_), self._seeds, None), range(count))
            infos = {row: {**given.get(row, {}), **info} for row, info in infos.items()}
        return self._results(infos, list(range(count)))

    # --- parts

    def _guarded(self, doing: str, work: Callable[..., Any], *args: Any) -> Any:
        self._arena.begin(0)
        try:
            with self._folders.of(0):
                return work(*args)
        except Exception as error:
            self.ended[:] = [True] * self._rows.count
            raise RequestFailed(0, f"{doing} of all rows") from error

    def _actions(self, request: Step) -> list[Array]:
        if any(values is not None for values in request.objects):
            raise ProtocolError("rows of a batch take actions of the dtype of their space")
        given = self._arena.actions if request.actions is None else request.actions
        if request.rows is not None:
            order = np.argsort(request.rows)
            given = [array[order if request.actions is not None else slice(None)] for array in given]
        return [array.copy() for array in given]  # not views of shared memory, which a simulator may not keep

    def _write(self, slot: SlotRows, observations: Sequence[Array], which: Array) -> None:
        for target, source in zip(slot.slot.observations, observations, strict=True):
            if which.all():
                target[:] = source
            else:
                target[which] = source[which]

    def _single_observations(self, leaves: Sequence[Array], which: Sequence[int]) -> dict[int, Any]:
        space = self._rows.venv.single_observation_space
        return {row: walk.unflatten(space, iter([leaf[row].copy() for leaf in leaves])) for row in which}

    def _infos(
        self, infos: dict[str, Any], rows: Sequence[int], marks: dict[int, str] | None = None
    ) -> dict[int, dict[str, Any]]:
        """Return the infos of some rows that have one."""
        found = {row: row_info(infos, row, self._rows.count) for row in rows} if infos else {}
        for row, name in (marks or {}).items():
            found[row] = {**found.get(row, {}), name: True}
        return {row: info for row, info in found.items() if info}

    def _results(
        self, infos: dict[int, dict[str, Any]], lost: list[int] | None = None, *, named: bool = False
    ) -> Results:
        if not (infos or lost or named or self._arena.inline):
            return STEPPED_ALL
        arrays = self._arena.slots[0].slot.arrays if self._arena.inline else None
        rows = list(range(self._rows.count)) if named else None
        return Results(rows, arrays, pack_infos(infos), [], [], lost or [], last=True)
