"""Steps and resets of environments that are rows of one vector environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from physgym import spaces as walk
from physgym.batched.rows import REJECTED, SteppedRows, VectorRows, arrays_of, row_info, step_info
from physgym.errors import ConfigError, ProtocolError, SampleError
from physgym.protocol.batched_infos import FINAL, Infos, columns_of_batch, pack_infos
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
        marks = dict.fromkeys(np.flatnonzero(restarted).tolist(), RESTARTED)
        return self._results(pack_infos(self._infos(infos, rows, marks)))

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
        count, named = self._rows.count, request.rows is not None
        if request.rows is not None and sorted(request.rows) != list(range(count)):
            raise ConfigError(
                f"the {count} rows of {type(self._rows.venv).__name__} are computed together; send actions to all of "
                "them, or step"
            )
        slot = self._arena.slots[0 if self._arena.inline else request.slot]
        if self._cut.any():
            return self._report_lost(slot)
        ended = np.array(self.ended)
        if self._mode is AutoresetMode.DISABLED and ended.any():
            raise ConfigError(
                "the episode has ended; with autoreset_mode DISABLED call "
                'reset(options={"reset_mask": ...}) before the next step'
            )
        resets = ended if self._on_request and self._mode is AutoresetMode.NEXT_STEP else np.zeros(count, np.bool_)
        infos: dict[int, dict[str, Any]] = {}
        if not resets.all():
            found = self._rows.step(self._actions(request))
            over = self._take(slot, found, ~resets)
            given = arrays_of(found.infos)
            if not (resets.any() or over.any() or self._offers.watched):
                columns = self._columns(given)
                if columns is not None:
                    return self._results((list(range(count)), columns) if columns else None, named=named)
            rows = np.flatnonzero(~resets).tolist()
            infos = {row: info for row in rows if (info := step_info(given, row, count))}
            self._end(slot, found, over, infos)
        if resets.any():
            given = self._reset(slot, resets, self._seeds, None)
            for array in slot.slot.arrays[-3:]:
                array[resets] = 0
            infos |= self._infos(given, np.flatnonzero(resets).tolist())
        if self._offers.watched:
            self._offers.stepped(range(count), infos)
        return self._results(pack_infos(dict(sorted(infos.items()))), named=named)

    def _take(self, slot: SlotRows, found: SteppedRows, counted: Array) -> Array:
        """Take the results of a step of some rows; return which episodes have ended with it, shape (rows,), bool."""
        numbers = found.rewards, found.terminations, found.truncations
        for target, source in zip(slot.slot.arrays[-3:], numbers, strict=True):
            target[:] = source
        self._write(slot, found.observations, counted)
        over: Array = (found.terminations | found.truncations) & counted
        return over

    def _columns(self, infos: dict[str, Any]) -> dict[str, Any] | None:
        """Return the infos of all rows as columns; None where they have to be made row by row."""
        if REJECTED in infos:
            if any(infos[REJECTED]):
                return None
            infos = {key: value for key, value in infos.items() if key not in (REJECTED, f"_{REJECTED}")}
        return columns_of_batch(infos, self._rows.count)

    def _end(self, slot: SlotRows, found: SteppedRows, over: Array, infos: dict[int, dict[str, Any]]) -> None:
        """Take note of the rows whose episode has ended; reset them, where that is to happen in the same step."""
        which = np.flatnonzero(over).tolist()
        if self._mode is not AutoresetMode.SAME_STEP:
            for row in which:
                self.ended[row] = self._on_request or self._mode is AutoresetMode.DISABLED
        elif self._on_request and which:
            last = self._single_observations(found.observations, which)
            given = self._infos(self._reset(slot, over, self._seeds, None), which)
            for row in which:
                final = {FINAL: last[row], "final_info": infos.get(row, {})}
                infos[row] = {**final, **given.get(row, {})}

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
        return self._results(pack_infos(infos), list(range(count)))

    # --- parts

    def _guarded(self, doing: str, work: Callable[..., Any], *args: Any) -> Any:
        self._arena.begin(0)
        try:
            with self._folders.of(0):
                return work(*args)
        except Exception as error:
            self.ended[:] = [True] * self._rows.count
            row = error.row if isinstance(error, SampleError) else None
            raise RequestFailed(-1 if row is None else row, f"{doing} of all rows ({self._rows.episodes})") from error

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

    def _results(self, infos: Infos | None, lost: list[int] | None = None, *, named: bool = False) -> Results:
        if infos is None and not (lost or named or self._arena.inline):
            return STEPPED_ALL
        arrays = self._arena.slots[0].slot.arrays if self._arena.inline else None
        return Results(list(range(self._rows.count)) if named else None, arrays, infos, [], [], lost or [], last=True)
