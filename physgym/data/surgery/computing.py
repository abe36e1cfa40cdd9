"""`add`: a field that a function computes from each sample, in worker processes, in the order of the samples."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from physgym.casting import CastError, as_array, as_dtype
from physgym.data.dataset import SampleDataset
from physgym.data.layout import EPISODES, INDEX
from physgym.data.partition import Partition
from physgym.data.surgery.fields import changed_part, spec_of
from physgym.data.surgery.filtering import ParameterRows
from physgym.data.surgery.plans import NewDataset, block_rows, blocks
from physgym.data.surgery.sources import SourceDataset
from physgym.errors import ConfigError, PhysGymError, SampleError, WorkerError
from physgym.interrupt import leave_signals_to_parent
from physgym.sample import Field, FieldRole
from physgym.spaces import Array
from physgym.system.parent_watch import end_with_parent

Computing = Callable[..., Any]
NUMBERS = "biufc"  # kinds of dtypes
TIMEOUT = 600.0  # seconds to wait for the values of some rows
AHEAD = 3  # requests for each worker that are under way


@dataclass(frozen=True)
class Computation:
    """The computation of a field of one part of a dataset.

    Attributes:
        function: Returns the value of a sample, see `physgym.data.surgery.add`.
        path: Where the dataset is, for errors.
        dataset: One mode of one folder.
        field: The new field; None where its form is still to be seen.
        nonfinite: What happens with a value that is not finite: "error" or "allow".
    """

    function: Computing
    path: str
    dataset: SampleDataset
    field: Field | None = None
    nonfinite: Literal["error", "allow"] = "error"

    def values(self, number: int, start: int, stop: int) -> Array:
        """Compute the values of rows of a partition, shape (stop - start, *field shape).

        Raises:
            SampleError: The function fails for a sample, or its value does not fit; the text names it.
        """
        part = self.dataset.partitions[number]
        columns = {name: part.read(f"data/{name}", start, stop) for name in self.dataset.spec}
        index = {name: part.read(f"index/{name}", start, stop) for name in INDEX}
        about = self._about(part, index) if _takes_two(self.function) else None
        found = []
        for row in range(stop - start):
            where = f"episode {index['episode'][row]}, step {index['step'][row]} of {self.path} ({self.dataset.mode})"
            given = {name: np.array(column[row]) for name, column in columns.items()}
            found.append(self._value(where, given, about if about is None else about(row)))
        return np.stack(found)

    def _about(self, part: Partition, index: Mapping[str, Array]) -> Callable[[int], dict[str, Any]]:
        """Return what a function of two arguments is given: index, and parameters of the episode where there are."""
        parameters: dict[str, Array] = {}
        if EPISODES in part.tables:
            lookup = ParameterRows(self.dataset, self.path)
            named = list(self.dataset.parameter_spec or ())
            parameters = {name: lookup.of(name, index["episode"]) for name in named}

        def of(row: int) -> dict[str, Any]:
            names = {name: column[row].item() for name, column in index.items()}
            return {**names, "parameters": {name: np.array(column[row]) for name, column in parameters.items()}}

        return of

    def _value(self, where: str, given: Mapping[str, Array], about: Mapping[str, Any] | None) -> Array:
        name = name_of(self.function)
        try:
            returned = self.function(given) if about is None else self.function(given, about)
        except Exception as error:
            raise SampleError(f"{name} fails for {where}: {type(error).__name__}: {error}") from error
        try:
            value = as_array(returned)
        except (CastError, PhysGymError) as error:
            raise SampleError(f"{name} returns for {where} what is no array: {error}") from error
        if value.dtype.kind not in NUMBERS:
            what = "a text" if value.dtype.kind in "US" else f"values of dtype {value.dtype}"
            raise SampleError(f"{name} returns {what} for {where}; numbers or flags are wanted")
        if self.field is not None and value.shape != self.field.shape:
            raise SampleError(f"{name} returns shape {value.shape} for {where}, and {self.field.shape} before")
        if self.nonfinite == "error" and value.dtype.kind in "fc" and not np.isfinite(value).all():
            raise SampleError(
                f"{name} returns a value that is not finite for {where}; filter such samples out first, or allow it "
                "(--nonfinite allow)"
            )
        if self.field is None:
            return value
        try:
            return np.array(as_dtype(returned, self.field.dtype))  # a function may fill one array again and again
        except CastError as error:
            raise SampleError(
                f"{name} returns {value.dtype} for {where}, and {self.field.dtype} is wanted; say which dtype the "
                f"field has (--dtype): what it returns {error}"
            ) from error


def with_field(
    source: SourceDataset,
    name: str,
    function: Computing,
    *,
    role: FieldRole,
    unit: str,
    dtype: str | None,
    nonfinite: Literal["error", "allow"],
    num_workers: int,
    timeout: float = TIMEOUT,
) -> NewDataset:
    """Return the dataset with a field more; what form it has is seen at the first sample of each part.

    Raises:
        ConfigError: The name is taken or none.
        SampleError: The function fails for the first sample.
        WorkerError: Its process died.
    """
    parts, notes = [], []
    form: Field | None = None
    for mode, dataset in source.parts.items():
        if name in dataset.spec:
            raise ConfigError(f"{source.path} has a field {name!r} already; drop or rename it first, or choose another")
        work = Computation(function, source.path, dataset, nonfinite=nonfinite)
        if form is None:
            spec_of([*dataset.spec.values(), Field(name, (), np.dtype("f8"), role, unit)])
            number, _, start, _ = next(blocks(dataset))
            with _processes(work, min(1, num_workers), timeout) as ask:
                first = ask([(number, start, start + 1)])
                value = next(first)
            form = Field(name, value.shape[1:], value.dtype if dtype is None else _dtype(dtype), role, unit)
        spec = spec_of([*dataset.spec.values(), form])
        step = {"add": name, "with": name_of(function), **_code(function)}
        part = replace(changed_part(source, mode, spec, step), rejected=False)
        if dataset.rejected is not None:
            notes.append(f"{mode}: rejected samples are left out, for which {name!r} is not computed")
        parts.append(replace(part, computed=_Columns(replace(work, field=form), num_workers, timeout)))
    return NewDataset(parts, source.constants, source.metadata, notes)


@dataclass(frozen=True)
class _Columns:
    """Gives the computed column of each block of a part, in order."""

    work: Computation
    num_workers: int
    timeout: float

    @contextlib.contextmanager
    def _given(self) -> Iterator[Iterator[Mapping[str, Array]]]:
        dataset, field = self.work.dataset, self.work.field
        assert field is not None
        several = max(1, self.num_workers)
        size = min(block_rows(dataset), max(1, -(-len(dataset) // (several * AHEAD))))
        each = [(number, start, stop) for number, _, start, stop in blocks(dataset)]
        with _processes(self.work, self.num_workers, self.timeout) as ask:
            values = ask(
                (number, first, min(stop, first + size))
                for number, start, stop in each
                for first in range(start, stop, size)
            )

            def columns() -> Iterator[Mapping[str, Array]]:
                for _, start, stop in each:
                    yield {field.name: np.concatenate([next(values) for _ in range(start, stop, size)])}

            yield columns()

    def __call__(self) -> contextlib.AbstractContextManager[Iterator[Mapping[str, Array]]]:
        return self._given()


RowRange = tuple[int, int, int]  # number of a partition, first row, end
AskValues = Callable[[Any], Iterator[Array]]


@contextlib.contextmanager
def _processes(work: Computation, num_workers: int, timeout: float) -> Iterator[AskValues]:
    """Give a function that yields the values of several ranges of rows, in their order.

    They are computed in so many processes, or in this one for 0.
    """
    if not num_workers:
        yield lambda every: (work.values(*rows) for rows in every)
        return
    methods = multiprocessing.get_all_start_methods()  # a fork knows any function, and needs no main module
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(work, os.getpid()))
    try:
        pool.submit(os.getpid).result(timeout)  # they start here, before this process has threads that write
        yield lambda every: _in_order(pool, iter(every), num_workers * AHEAD, work, timeout)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
            process.join(timeout)
        raise
    pool.shutdown()


def _in_order(
    pool: ProcessPoolExecutor, every: Iterator[RowRange], ahead: int, work: Computation, timeout: float
) -> Iterator[Array]:
    """Yield values in the order of the requests, of which some are under way."""
    waiting: deque[tuple[RowRange, Future[Array]]] = deque()
    name = name_of(work.function)
    try:
        while True:
            while len(waiting) < ahead and (rows := next(every, None)) is not None:
                waiting.append((rows, pool.submit(_values, rows)))
            if not waiting:
                return
            (_, start, stop), future = waiting.popleft()
            try:
                yield future.result(timeout)
            except TimeoutError as error:
                if future.done():  # an error of the function itself
                    raise
                raise WorkerError(
                    f"{name} has not computed the samples {start} to {stop} within {timeout:g} s; a function that "
                    "takes longer needs more: --timeout (timeout=)"
                ) from error
    except BrokenProcessPool as error:
        raise WorkerError(
            f"a process that computes {name} died; compute it in this process to see why (num_workers=0)"
        ) from error


_work: list[Computation] = []  # of this process


def _begin(work: Computation, parent: int) -> None:
    """Begin a worker process."""
    _work[:] = [work]
    leave_signals_to_parent()
    end_with_parent(parent)


def _values(rows: RowRange) -> Array:
    return _work[0].values(*rows)


def function_of(given: str | Computing) -> Computing:
    """Return a function, which may be named as ``module:function``.

    Raises:
        ConfigError: There is none.
    """
    if callable(given):
        return given
    module, colon, names = str(given).partition(":")
    if not colon or not module or not names:
        raise ConfigError(f"--with (function=) must be written module:function, not {given!r}")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"--with: importing {module!r} failed: {type(error).__name__}: {error}") from error
    for name in names.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        raise ConfigError(f"--with: {module} has no function {names!r}")
    return found  # type: ignore[no-any-return]


def name_of(function: Computing) -> str:
    """Return the name of a function as ``module:function``."""
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}:{getattr(function, '__qualname__', None) or type(function).__qualname__}"


def _takes_two(function: Computing) -> bool:
    """Return whether a function takes what is known of a sample as well."""
    try:
        parameters: Sequence[inspect.Parameter] = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some of C have none
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [one for one in parameters if one.kind in positional and one.default is inspect.Parameter.empty]
    if len(needed) > 2 or not any(one.kind in (*positional, inspect.Parameter.VAR_POSITIONAL) for one in parameters):
        raise ConfigError(f"{name_of(function)} must take a sample, or a sample and what is known of it")
    return len(needed) == 2


def _code(function: Computing) -> dict[str, str]:
    """Return a hash of the source of a function, where it has one."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        return {}
    return {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def _dtype(text: str) -> np.dtype[Any]:
    try:
        found = np.dtype(text)
    except TypeError as error:
        raise ConfigError(f"--dtype: {error}") from error
    if found.kind not in NUMBERS:
        raise ConfigError(f"--dtype must be of numbers or flags, not {found}")
    return found
