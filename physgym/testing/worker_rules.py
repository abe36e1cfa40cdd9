"""The base of the rules for workers: how the worker is started, and what its messages say of environments."""

from __future__ import annotations

import contextlib
import unittest
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from physgym import spaces as walk
from physgym.errors import ConfigError
from physgym.protocol.batched_infos import infos_by_env
from physgym.protocol.messages import Failure, Reset, Results, Step
from physgym.protocol.msgpack_values import encode_value
from physgym.real_time import runs_in_real_time
from physgym.testing.comparing import require, same_bits
from physgym.testing.dialled_programs import DialledProgram, ParentEnd

SEVERAL = 3  # environments that a worker is asked for, where it hosts more than one
SEED = 20


class Row(NamedTuple):
    """The results of a step or a reset of one environment.

    Attributes:
        observation: Its leaves.
        reward: Of the step.
        terminated: Whether the episode ended by its own rules.
        truncated: Whether it ended otherwise.
        info: The info.
    """

    observation: list[Any]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Return whether the episode ended."""
        return self.terminated or self.truncated

    def is_same(self, other: Row) -> bool:
        """Return whether two are equal to the bit, infos left out."""
        flags = self[2:4] == other[2:4] and same_bits(np.float64(self.reward), np.float64(other.reward))
        return flags and same_values(self.observation, other.observation)


def same_values(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Return whether leaves are equal to the bit."""
    return len(one) == len(other) and all(encode_value(a) == encode_value(b) for a, b in zip(one, other, strict=True))


def are_near(one: Any, other: Any) -> bool:
    """Return whether values are equal but for rounding; what is no array of numbers counts as equal."""
    first, second = np.asarray(one), np.asarray(other)
    if first.dtype.kind not in "bifu":
        return True
    first, second = first.astype(np.float64), second.astype(np.float64)
    size = np.max(np.abs(first), initial=0.0, where=np.isfinite(first))
    return bool(np.allclose(first, second, 1e-3, 1e-5 * size, equal_nan=True))


class WorkerRules:
    """Base class of rules for a worker; subclasses say how it is started.

    Attributes:
        command: The program and its arguments, without those that every worker takes.
        env: Id that it makes; empty for the one that it names in its offer.
        arguments: Arguments of the environments.
        timeout: Seconds to wait for the program and for each answer.
    """

    command: Sequence[str] = ()
    env: str = ""
    arguments: Mapping[str, Any] = {}
    timeout: float = 30.0
    _kept: ClassVar[dict[str, DialledProgram]]
    _link: ClassVar[ParentEnd | None]
    _broken: ClassVar[str]  # why there is no connection

    def __init_subclass__(cls) -> None:
        cls._kept, cls._link, cls._broken = {}, None, ""

    @classmethod
    def teardown_class(cls) -> None:
        """End the programs that several rules have used; pytest calls it behind the last one."""
        cls._link, cls._broken = None, ""
        while cls._kept:
            cls._kept.popitem()[1].close()

    # --- connections

    @contextlib.contextmanager
    def started(self, envs: int = 0) -> Iterator[tuple[DialledProgram, ParentEnd]]:
        """Start the program; give it, and the first connection."""
        with DialledProgram(self.command, envs, self.timeout) as program, with_words(program):
            yield program, program.accept()

    @contextlib.contextmanager
    def ready(self, mode: str = "NEXT_STEP") -> Iterator[tuple[DialledProgram, ParentEnd]]:
        """Start the program, and have as many environments made as it is asked for elsewhere."""
        count = self.count
        with self.started(count if count > 1 else 0) as (program, link):
            link.welcomed()
            link.assigned(self.env, dict(self.arguments), count, mode)
            yield program, link

    @contextlib.contextmanager
    def asked(self) -> Iterator[ParentEnd]:
        """Give the connection that rules share which leave it as it was; a rule that is broken ends it."""
        mine = type(self)
        require(not mine._broken, mine._broken)  # nobody waits for every rule again
        if mine._link is None:
            mine._link = self._begun()
        try:
            with with_words(mine._kept["asked"]):
                yield mine._link
        except unittest.SkipTest:
            raise
        except BaseException:
            mine._link = None
            mine._kept.pop("asked").close()
            raise

    def _begun(self) -> ParentEnd:
        """Start the program that rules share, with several environments where it hosts them."""
        for envs in (SEVERAL, 0):
            program = type(self)._kept["asked"] = DialledProgram(self.command, envs, self.timeout)
            try:
                with with_words(program):
                    link = program.accept()
                    offer = link.welcomed()
                    self._name(list(offer.versions.get("codes", {})))
                    link.assigned(self.env, dict(self.arguments), min(offer.count, SEVERAL))
            except BaseException as error:
                type(self)._kept.pop("asked").close()
                if not isinstance(error, AssertionError):
                    raise
                type(self)._broken = str(error)
            else:
                type(self)._broken = ""
                return link
        raise AssertionError(self._broken)

    def find_id(self) -> None:
        """Know the id that the worker makes.

        Raises:
            ConfigError: Nothing says it.
        """
        if not self.env:
            assert self.count

    def _name(self, offered: list[str]) -> None:
        """Take the id that a worker names where none is given."""
        if not self.env:
            if not offered:
                raise ConfigError("name the environment that the worker makes: its offer names none (versions.codes)")
            type(self).env = offered[0]

    @property
    def count(self) -> int:
        """Return how many environments the worker is asked for."""
        with self.asked() as link:
            return int(link.agreed.count)

    def several(self, link: ParentEnd) -> int:
        """Return how many environments there are; skip the rule where there is one alone."""
        count = int(link.agreed.count)
        if count < 2:
            self.skip("the worker hosts one environment: it does not know --envs, or offers one alone")
        return count

    def skip(self, reason: str) -> NoReturn:
        """Leave a rule out."""
        raise unittest.SkipTest(reason)

    def skip_in_real_time(self, link: ParentEnd) -> None:
        """Leave a rule out where no episode is like another one."""
        if runs_in_real_time(link.ready.description["metadata"]):
            self.skip('the environment runs in real time (metadata["physgym.real_time"]): no episode comes twice')

    # --- environments

    def reset(
        self,
        link: ParentEnd,
        seeds: Sequence[int | None],
        mask: Sequence[bool] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[int, Row]:
        """Reset environments; return what each of them gave."""
        wanted = [True] * len(seeds) if mask is None else list(mask)
        found = rows_of(link, link.answers(Reset(0, list(seeds), wanted, None if options is None else dict(options))))
        for row, failed in found.items():
            require(not wanted[row] or isinstance(failed, Row), f"expected that a reset works; it failed: {failed}")
        return {row: one for row, one in found.items() if isinstance(one, Row)}

    def step(
        self, link: ParentEnd, actions: Sequence[Any], rows: list[int] | None = None, *, stream: bool = False
    ) -> dict[int, Row]:
        """Step environments; return what each of them gave.

        Raises:
            AssertionError: One of them failed.
        """
        found = rows_of(link, link.answers(step_request(link, actions, rows, stream=stream)))
        named = set(range(link.agreed.count) if rows is None else rows)
        require(set(found) == named, f"expected results of the environments {sorted(named)}; {sorted(found)} came")
        failed = [one for one in found.values() if not isinstance(one, Row)]
        require(not failed, f"expected that a step with an action of the space works; it failed: {failed[:1]}")
        return {row: one for row, one in found.items() if isinstance(one, Row)}

    def actions(self, link: ParentEnd, number: int) -> list[list[Any]]:
        """Return so many actions for each environment, the same every time."""
        space = link.agreed.action_space
        if walk.is_custom(walk.to_json(space)):
            self.skip("the action space is of a class that the description only names")
        space.seed(SEED)
        return [[space.sample() for _ in range(link.agreed.count)] for _ in range(number)]

    def run(self, link: ParentEnd, seed: int, number: int) -> list[dict[int, Row]]:
        """Return what a reset with a seed and so many steps gave."""
        count = link.agreed.count
        begun = self.reset(link, [seed + i for i in range(count)])
        return [begun, *(self.step(link, actions) for actions in self.actions(link, number))]


@contextlib.contextmanager
def with_words(program: DialledProgram) -> Iterator[None]:
    """Add what a program wrote to the error of a rule that it breaks."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}{program.written()}") from error.__cause__


def step_request(
    link: ParentEnd, actions: Sequence[Any], rows: list[int] | None = None, *, stream: bool = False
) -> Step:
    """Return the message that steps environments, one action for each."""
    agreed = link.agreed
    columns = zip(*(walk.flatten(agreed.action_space, action) for action in actions), strict=True)
    arrays, objects = list[Any](), list[Any]()
    for leaf, column in zip(agreed.action_leaves, columns, strict=True):
        objects.append(list(column) if leaf.variable else None)
        if not leaf.variable:
            arrays.append(np.stack([np.asarray(value, leaf.dtype) for value in column]))
    return Step(0, rows, arrays, [] if all(one is None for one in objects) else objects, stream)


def rows_of(link: ParentEnd, parts: Sequence[Results]) -> dict[int, Row | Failure]:
    """Return what each environment gave, by its index, or how it failed."""
    agreed = link.agreed
    found: dict[int, Row | Failure] = {}
    for part in parts:
        rows = range(agreed.count) if part.rows is None else part.rows
        require(
            part.arrays is not None, "expected arrays in the Results (flag 4), since no memory is shared; none came"
        )
        assert part.arrays is not None
        *leaves, rewards, terminations, truncations = part.arrays
        infos = infos_by_env(part.infos)
        for place, row in enumerate(rows):
            fixed, variable = iter(leaves), iter(part.objects)
            values = [
                next(variable)[place] if leaf.variable else next(fixed)[place].copy()
                for leaf in walk.leaves(agreed.observation_space)
            ]
            flags = bool(terminations[place]), bool(truncations[place])
            found[row] = Row(values, float(rewards[place]), *flags, infos.get(row, {}))
        found |= {failed.env: failed for failed in part.failures}
    return found


def observation_of(link: ParentEnd, row: Row) -> Any:
    """Return the observation of a row as an element of its space."""
    return walk.unflatten(link.agreed.observation_space, iter(row.observation))
