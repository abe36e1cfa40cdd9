"""`TransitionLog`: what a recorder writes, in the form of `physgym.data.recordings`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.casting import CastError, as_array, as_dtype
from physgym.checks import integer
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode, check_mode, partition_files
from physgym.data.recordings import ACTED, ACTION, FLAGS, INFO, OBSERVATION, REWARD
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, PhysGymError, SampleError
from physgym.rl.recorded_code import RecordedCode
from physgym.sample import Field, SampleSpec
from physgym.simulation import NonFinite
from physgym.spaces import Array, fixed_leaves, flatten, to_json
from physgym.storage.location import Location, place

TEXT = np.dtype("S64")  # of an info that is a text; how long later ones are is not known at first


class Columns:
    """Values of a space as columns of fields: one for each of its arrays.

    Args:
        name: What the fields are called, and what their paths begin with.
        space: The space of a single environment.

    Raises:
        ConfigError: An array of the space has no fixed size.
    """

    def __init__(self, name: str, space: spaces.Space[Any]) -> None:
        self.name, self.space = name, space
        self.leaves = fixed_leaves(spaces.Dict({name: space}))

    def of(self, values: Any, count: int | None = None) -> dict[str, Array]:
        """Return values as arrays of shape (n, *shape) by field, copied.

        Args:
            values: A value of the space, or a batch of them, as a vector environment gives it.
            count: Values in the batch; None for a single one.

        Raises:
            SampleError: They do not fit the space.
        """
        found: dict[str, Array] = {}
        try:
            parts = flatten(self.space, values)
        except (KeyError, IndexError, TypeError) as error:
            raise SampleError(f"the {self.name} {values!r} does not fit its space {self.space}") from error
        for leaf, value in zip(self.leaves, parts, strict=True):
            try:
                array = as_dtype(value, leaf.dtype)
            except CastError as error:
                raise SampleError(f"{leaf.path} {error}") from error
            rows = array[None] if count is None else array
            if rows.shape != (1 if count is None else count, *leaf.shape):
                want = leaf.shape if count is None else (count, *leaf.shape)
                raise SampleError(f"{leaf.path} has shape {array.shape}, and its space says {want}")
            found[leaf.path] = rows.copy()
        return found

    def none(self) -> dict[str, Array]:
        """Return zeros in place of a value, of shape (1, *shape)."""
        return {leaf.path: np.zeros((1, *leaf.shape), leaf.dtype) for leaf in self.leaves}


def described_spaces(observation: spaces.Space[Any], action: spaces.Space[Any]) -> dict[str, str]:
    """Return the attribute of a recording's partitions that says the spaces of its observations and actions."""
    described = {f"{name}_space": to_json(one) for name, one in ((OBSERVATION, observation), (ACTION, action))}
    return {"spaces": json.dumps(described)}


class TransitionLog:
    """Writer of the steps of one or several environments.

    The dataset is made at the first step, since only then the infos are known.

    Args:
        path: The dataset's folder, or ``s3://bucket/prefix``.
        observation: Space of a single environment.
        action: Space of a single environment.
        environments: How many there are.
        infos: Names of the entries of the info to keep.
        every: Rows of a file.
        mode: Part of the dataset to write.
        resume: Continue what is there.
        nonfinite: What to do with a row that has a value which is not finite, see `SampleWriter`.
        source: JSON data that says where the samples come from.
        env_spec: Gymnasium's description of the environment as JSON; empty where there is none.
        code: The code of the environments.

    Raises:
        ConfigError: An argument is wrong, or a space has arrays of variable size.
        DatasetError: There are samples already, and `resume` is not set.
        ChangedCode: What is continued was recorded of other code; of S3 the first step finds it.
    """

    def __init__(
        self,
        path: str | Path | Location,
        observation: spaces.Space[Any],
        action: spaces.Space[Any],
        environments: int,
        *,
        infos: Sequence[str],
        every: int,
        mode: Mode,
        resume: bool,
        nonfinite: NonFinite,
        source: Mapping[str, Any],
        code: RecordedCode,
        env_spec: str = "",
    ) -> None:
        self.observation, self.action = Columns(OBSERVATION, observation), Columns(ACTION, action)
        if isinstance(infos, str):
            raise ConfigError(f"infos are a list of names, not the text {infos!r}")
        self._infos = tuple(infos)
        self._options: dict[str, Any] = {
            "max_rows": integer("every", every, 1),
            "mode": mode,
            "resume": resume,
            "nonfinite": nonfinite,
            "source": dict(source),
            "attributes": {"env_spec": env_spec, **described_spaces(observation, action)},
        }
        check_mode(mode)
        self._path = place(path)
        # of S3 the writer knows, at the first step
        if not resume and isinstance(self._path, Path) and partition_files(self._path, mode):
            raise DatasetError(
                f"{self._path} holds {mode} samples already; continue with resume=True, or choose another folder"
            )
        self._code = code
        if isinstance(self._path, Path):
            code.check(self._path, mode)
        self._writer: SampleWriter | None = None
        self._before = 0  # episodes that were there already
        self._next = 0
        self._episode = np.full(environments, -1, np.int64)  # that each environment is in, without those before
        self._step = np.zeros(environments, np.int64)
        self._seed = np.zeros(environments, np.uint64)

    @property
    def rows(self) -> int:
        """Return the rows that were written, those of the last observations included."""
        return 0 if self._writer is None else self._writer.count

    def begin(self, environments: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Begin an episode in some environments.

        Args:
            environments: Their numbers.
            seeds: With which each was reset; None where nobody knows, which is stored as 0.

        Raises:
            SampleError: A seed has more than 64 bits.
        """
        for number, seed in zip(environments, seeds, strict=True):
            if seed is not None and not 0 <= seed < 2**64:
                raise SampleError(f"a dataset holds seeds from 0 to 2**64 - 1, not {seed}")
            self._episode[number], self._step[number] = self._next, 0
            self._seed[number] = 0 if seed is None else seed
            self._next += 1

    def began(self, number: int) -> bool:
        """Return whether an environment is in an episode."""
        return bool(self._episode[number] >= 0)

    def add(
        self,
        environments: Array,
        before: Mapping[str, Array],
        actions: Mapping[str, Array],
        reward: Array,
        flags: Mapping[str, Array],
        infos: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write a step of some environments.

        Args:
            environments: Their numbers, shape (n,).
            before: Observations before the step, by field, of shape (n, *shape).
            actions: What was applied, in the same form.
            reward: Of shape (n,).
            flags: ``terminated`` and ``truncated``, of shape (n,).
            infos: The info of each after the step.

        Raises:
            SampleError: An info is missing, or has another form than before.
            DatasetError: The disk refuses.
        """
        count = len(environments)
        kept = {f"{INFO}/{name}": _stacked(name, infos) for name in self._infos}
        rows = {**before, **actions, REWARD: np.asarray(reward, np.float64), ACTED: np.ones(count, np.bool_)}
        rows |= {name: np.asarray(flags[name], np.int8) for name in FLAGS} | kept
        self._append(environments, rows, self._episode[environments])

    def end(self, number: int, last: Mapping[str, Array]) -> None:
        """Write the last observation of an episode, and leave it; nothing where an environment is in none.

        An episode without a step leaves nothing.

        Args:
            number: Of the environment.
            last: The observation by field, of shape (1, *shape).
        """
        began, writer = self.began(number), self._writer
        if not began or writer is None or not self._step[number]:
            self._episode[number] = -1
            return
        episode, self._episode[number] = self._episode[number : number + 1].copy(), -1  # left, whatever happens
        infos = {
            name: np.zeros((1, *f.shape), f.dtype) for name, f in writer.spec.items() if name.startswith(f"{INFO}/")
        }
        flags = {name: np.zeros(1, np.int8) for name in FLAGS}
        rows = {**last, **self.action.none(), **flags, **infos, REWARD: np.zeros(1), ACTED: np.zeros(1, np.bool_)}
        self._append(np.array([number]), rows, episode)

    @contextlib.contextmanager
    def left_on_error(self, last: Mapping[str, Array] | None = None) -> Iterator[None]:
        """Leave all episodes where an error interrupts the block: where the environments are then, nobody knows.

        Args:
            last: Observations at hand, by field, with which the episodes end; None where they are not sure.
        """
        try:
            yield
        except BaseException:
            if last is not None:
                for number in np.flatnonzero(self._episode >= 0).tolist():
                    with contextlib.suppress(PhysGymError):  # the first one is raised
                        self.end(number, {name: value[number : number + 1] for name, value in last.items()})
            self._episode[:] = -1
            raise

    def close(self) -> None:
        """Complete the dataset."""
        if self._writer is not None:
            self._writer.close()

    def _append(self, environments: Array, rows: Mapping[str, Array], episode: Array) -> None:
        if self._writer is None:
            self._writer = self._opened(rows)
            self._before = _episodes_in(self._writer)
        fields = self._writer.spec
        columns = {}
        for name, field in fields.items():
            value = rows[name]
            try:
                columns[name] = as_dtype(value, field.dtype)
            except CastError as error:
                raise SampleError(f"{name} {error}; it was of dtype {field.dtype} at first") from error
            if value.shape[1:] != field.shape:
                raise SampleError(f"{name} has shape {value.shape[1:]} now, and had {field.shape} at first")
            if self._options["nonfinite"] == "error" and field.dtype.kind in "fc":
                self._check_finite(name, columns[name], environments)
        self._writer.append(
            columns,
            episode=self._before + episode,
            step=self._step[environments],
            seed=self._seed[environments],
            env=environments.astype(np.int32),
        )
        self._step[environments] += 1

    def _opened(self, rows: Mapping[str, Array]) -> SampleWriter:
        writer = SampleWriter(self._path, self._spec(rows), **self._options)
        try:
            self._code.record(writer)
        except BaseException:
            writer.close()
            raise
        return writer

    def _check_finite(self, name: str, values: Array, environments: Array) -> None:
        """Raise an error now; that of the writer comes when the buffer is written."""
        finite = np.isfinite(values)
        if not finite.all():
            number = environments[~finite.reshape(len(values), -1).all(1)][0]
            raise SampleError(
                f"{name} of environment {number} is not finite in step {self._step[number]} of its episode; the "
                'Recorder takes nonfinite="reject" or "allow"'
            )

    def _spec(self, rows: Mapping[str, Array]) -> SampleSpec:
        """Return the fields, with the infos in the form that they have now."""
        infos = {name: value for name, value in rows.items() if name.startswith(f"{INFO}/")}
        return transition_fields(self.observation, self.action, infos)


def transition_fields(observation: Columns, action: Columns, infos: Mapping[str, Array]) -> SampleSpec:
    """Return the fields of a recording.

    Args:
        observation: What is observed.
        action: What is applied.
        infos: Values of the kept infos by field, shape (n, *shape).
    """
    fields = [Field(leaf.path, leaf.shape, leaf.dtype, "input", feeds=leaf.path) for leaf in observation.leaves]
    fields += [Field(leaf.path, leaf.shape, leaf.dtype, "input", mask=ACTED) for leaf in action.leaves]
    fields += [Field(REWARD, (), np.dtype("f8"), "target", mask=ACTED)]
    fields += [Field(name, (), np.dtype("i1"), "additional", kind="flag", mask=ACTED) for name in FLAGS]
    fields += [Field(ACTED, (), np.dtype("?"), "additional", kind="flag")]
    fields += [Field(name, value.shape[1:], value.dtype, "additional", mask=ACTED) for name, value in infos.items()]
    return SampleSpec(fields)


def _stacked(name: str, infos: Sequence[Mapping[str, Any]]) -> Array:
    """Return an entry of several infos as one array of shape (n, *shape)."""
    missing = [number for number, info in enumerate(infos) if name not in info]
    if missing:
        raise SampleError(f"the info has no {name!r}; there are {sorted(map(str, infos[missing[0]]))}")
    try:
        found = as_array([as_array(info[name]) for info in infos])
    except CastError as error:
        raise SampleError(f"the info {name!r} {error}") from error
    if found.dtype.kind == "U":
        found = np.char.encode(found, "utf-8")
    if found.dtype.kind == "S":
        return _texts(name, found)
    if found.dtype.kind not in "biufc":
        raise SampleError(f"the info {name!r} is {infos[0][name]!r}; numbers, flags, texts and arrays can be recorded")
    return found


def _texts(name: str, texts: Array) -> Array:
    if texts.dtype.itemsize > TEXT.itemsize:
        raise SampleError(f"the info {name!r} has a text of more than {TEXT.itemsize} bytes: {max(texts, key=len)!r}")
    return texts.astype(TEXT)


def _episodes_in(writer: SampleWriter) -> int:
    """Return the number of the first episode that is free in what a writer continues."""
    if not writer.count:
        return 0
    # its folder, not what S3 has: a killed writer may have left samples that were not uploaded
    return int(SampleDataset(writer.path, mode=writer.mode).index("episode").max()) + 1
