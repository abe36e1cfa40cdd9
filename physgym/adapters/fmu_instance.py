"""An instance of an FMU in this process, by FMPy: initialization, steps, values, and its state as bytes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from physgym.adapters.fmu_description import FmuDescription, FmuVariable
from physgym.adapters.fmu_folder import FmuFolder
from physgym.errors import ConfigError, SharedProcess, SimulatorError
from physgym.spaces import Array

DISCARD, ERROR, FATAL, PENDING = 2, 3, 4, 5  # statuses of calls, the same in FMI 2 and 3
TERMINATED, LAST_SUCCESSFUL_TIME = 3, 2  # what FMI 2 is asked for after a discarded step
MESSAGES = 20  # of the FMU, the last of which errors have
EARLY, ROUNDING = 1e-6, 1e-15  # of a step, and of the time, by which a step may end sooner

_logs: dict[int, deque[str]] = {}  # of the instances in this process, since FMPy has one logger of FMI 2 for them all
_keys = itertools.count(1)
_alone: dict[tuple[int, str, str], int] = {}  # FMUs that this process has once, with the key of the instance


class FmuFailure(SimulatorError):
    """A call of an FMU failed.

    Attributes:
        status: What it returned: `DISCARD`, `ERROR`, `FATAL` or `PENDING`.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class FmuStep:
    """Result of a step.

    Attributes:
        time: Time in s that was reached.
        terminated: Whether the FMU asks for the end of the simulation.
    """

    time: float
    terminated: bool


class FmuInstance:
    """An FMU that is unpacked, loaded and instantiated.

    Args:
        description: What it says about itself.
        log: Whether it says all that it does, and not only what goes wrong.

    Raises:
        ConfigError: It has no library for this platform, or the library cannot be loaded.
        SharedProcess: A process may have it once, and has it already.
        SimulatorError: It cannot be instantiated.
    """

    def __init__(self, description: FmuDescription, *, log: bool = False) -> None:
        self.description, self._log, self._process = description, log, os.getpid()
        self._key = next(_keys)
        self._fmu: Any = None
        self._failure, self._stepping = 0, False
        library = library_of(description)
        if description.once and self._identity in _alone:
            gc.collect()  # one that nobody closed
        if description.once and _alone.setdefault(self._identity, self._key) != self._key:
            raise SharedProcess(
                f"{description.path.name} can be instantiated only once per process "
                "(canBeInstantiatedOnlyOncePerProcess), and this process has an instance already: close that, or give "
                "each environment a process of its own (num_workers)"
            )
        _logs[self._key] = deque(maxlen=MESSAGES)
        self._folder: FmuFolder | None = None
        try:
            self._folder = FmuFolder(description.path)
            if not (self._folder.path / library).is_file():
                raise ConfigError(f"{description.path} lacks its library {library}")
            self._open()
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        """Close an instance that nobody has closed, but in a child that was forked, and at the end of the process."""
        with contextlib.suppress(Exception):
            if os.getpid() == self._process and not sys.is_finalizing():
                self.close()

    @property
    def _identity(self) -> tuple[int, str, str]:
        return self._process, self.description.identifier, self.description.token

    def _open(self) -> None:
        """Load the library and make an instance."""
        from fmpy import fmi2, fmi3

        assert self._folder is not None
        about = self.description
        kind = fmi2.FMU2Slave if about.version == 2 else fmi3.FMU3Slave
        try:
            with contextlib.chdir(Path.cwd()):  # FMPy goes to the library, and stays there where it cannot be loaded
                fmu = kind(
                    guid=about.token,
                    unzipDirectory=str(self._folder.path),
                    modelIdentifier=about.identifier,
                    instanceName=about.identifier,
                )
        except Exception as error:
            raise ConfigError(f"the library of {about.path} cannot be loaded: {error}") from error
        try:
            if about.version == 2:
                fmu.instantiate(callbacks=_callbacks(self._key), loggingOn=self._log)
            else:
                fmu.instantiate(logMessage=_logger(self._key), loggingOn=self._log)
        except Exception as error:
            fmu.freeLibrary()
            raise SimulatorError(self._text(f"{about.path.name} cannot be instantiated")) from error
        self._fmu, self._failure, self._stepping = fmu, 0, False

    def _shut(self) -> None:
        """Free the instance and unload the library, unless it has failed so that nothing of it may be called."""
        fmu, self._fmu = self._fmu, None
        if fmu is None or self._failure == FATAL:
            return
        with contextlib.suppress(Exception):
            if self._stepping and not self._failure:
                fmu.terminate()
        with contextlib.suppress(Exception):
            fmu.freeInstance()

    def close(self) -> None:
        """Free the instance and remove its folder; calling it again does no harm."""
        self._shut()
        _logs.pop(self._key, None)
        if _alone.get(self._identity) == self._key:
            del _alone[self._identity]
        if self._folder is not None:
            self._folder.close()

    def begin(
        self,
        starts: Sequence[tuple[FmuVariable, Any]],
        start_time: float,
        tolerance: float | None,
        *,
        renew: bool = False,
    ) -> None:
        """Bring the FMU to the beginning of a simulation.

        Args:
            starts: Variables with their start values: arrays of their shapes and dtypes, or texts.
            start_time: Time in s.
            tolerance: Relative tolerance of its solver; None for its own one.
            renew: Whether to make a new instance, and not to reset this one.

        Raises:
            SimulatorError: It fails.
        """
        if self._failure == FATAL:
            raise SimulatorError(
                f"{self.description.path.name} has failed fatally, and is not to be called again in this process; make "
                'the environment again in another one, as on_error="restart" does'
            )
        if renew or self._failure or self._fmu is None:
            self._shut()
            self._open()
        elif self._stepping:
            with self._calling("reset"):
                self._fmu.reset()
        self._stepping = True
        _logs[self._key].clear()
        with self._calling("initialize"):
            if self.description.version == 2:
                self._fmu.setupExperiment(tolerance=tolerance, startTime=start_time)
                self._give(starts)
                self._fmu.enterInitializationMode()
            else:
                self._give(starts)
                self._fmu.enterInitializationMode(tolerance=tolerance, startTime=start_time)
            self._fmu.exitInitializationMode()

    def _give(self, starts: Sequence[tuple[FmuVariable, Any]]) -> None:
        for variable, value in starts:
            if isinstance(value, str):
                self._fmu.setString(variable.references, [value])
        values = {variable.name: value for variable, value in starts if not isinstance(value, str)}
        FmuValues(self, [variable for variable, _ in starts if variable.name in values]).write(values)

    def step(self, time: float, size: float) -> FmuStep:
        """Make a step.

        Args:
            time: Time in s at which the FMU is.
            size: Length of the step in s.

        Raises:
            FmuFailure: It fails; for "discard" the text says how far it came.
        """
        goes_back = self.description.keeps_state  # then it must keep what it needs for that
        least = time + size - EARLY * size - ROUNDING * abs(time + size)
        if self.description.version == 2:
            ends: list[float] = []
            try:
                with self._calling("step", lambda: self._after_discard(ends)):
                    self._fmu.doStep(time, size, not goes_back)
            except FmuFailure:
                if not ends or ends[0] < least:
                    raise
            return FmuStep(time + size, bool(ends))
        with self._calling("step"):
            _, terminated, early, reached = self._fmu.doStep(time, size, not goes_back)
        if early and reached < least:
            raise FmuFailure(
                self._text(f"{self.description.path.name} returned early from a step, at {reached} s, unasked"), DISCARD
            )
        return FmuStep(time + size, terminated)

    def _after_discard(self, ended: list[float]) -> str:
        """Return what FMI 2 says after a step that it discarded; add to a list at what time it asks for the end."""
        text = ""
        with contextlib.suppress(Exception):
            time = float(self._fmu.getRealStatus(LAST_SUCCESSFUL_TIME))
            text = f", at {time} s"
            if self._fmu.getBooleanStatus(TERMINATED):
                ended.append(time)
                text += "; it asks for the end of the simulation"
        return text

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of FMI for this instance.

        Args:
            name: Without the version, such as "GetReal".
            arguments: All but the instance.

        Raises:
            FmuFailure: It fails.
        """
        with self._calling(name):
            getattr(self._fmu, f"fmi{self.description.version}{name}")(self._fmu.component, *arguments)

    def snapshot(self) -> bytes:
        """Return its state.

        Raises:
            FmuFailure: It fails.
        """
        with self._calling("give its state"):
            state = self._fmu.getFMUState()
            try:
                return bytes(self._fmu.serializeFMUState(state))
            finally:
                self._fmu.freeFMUState(state)

    def restore(self, state: bytes) -> None:
        """Take a state that `snapshot` gave.

        Raises:
            FmuFailure: It fails.
        """
        with self._calling("take a state"):
            taken = self._fmu.deserializeFMUState(state)
            try:
                self._fmu.setFMUState(taken)
            finally:
                self._fmu.freeFMUState(taken)

    @contextlib.contextmanager
    def _calling(self, what: str, more: Callable[[], str] = str) -> Iterator[None]:
        """Translate what fails inside."""
        from fmpy.fmi1 import FMICallException

        if self._fmu is None or self._failure:
            raise SimulatorError(f"{self.description.path.name} has failed before, or is closed; reset the environment")
        try:
            yield
        except FMICallException as error:
            name, status = self.description.path.name, error.status
            said = {DISCARD: "discard", ERROR: "error", FATAL: "fatal"}.get(status, f"status {status}")
            if status == PENDING:
                said = "pending: it computes on while others wait, which is not supported"
            text = f"{name} failed to {what} ({error.function}: {said}{more() if status == DISCARD else ''})"
            self._failure = 0 if status == DISCARD else status
            raise FmuFailure(self._text(text), status) from error

    def _text(self, text: str) -> str:
        """Return the text of an error with what the FMU has said."""
        said = _logs.get(self._key)
        return f"{text}: {'; '.join(said)}" if said else text


def library_of(description: FmuDescription) -> str:
    """Return where the library of an FMU for this platform is, in its folder.

    Raises:
        ConfigError: It has none.
    """
    import fmpy

    if fmpy.platform not in description.platforms:
        others = [name for name in description.platforms if name != "c-code"]
        sources = (
            "; it has its sources: `fmpy compile` makes a library of them" if "c-code" in description.platforms else ""
        )
        raise ConfigError(
            f"{description.path} has libraries for {', '.join(others) or 'no platform'}, and this is {fmpy.platform}; "
            f"export it for this one{sources}"
        )
    folder = fmpy.platform if description.version == 2 else fmpy.platform_tuple
    return f"binaries/{folder}/{description.identifier}{fmpy.sharedLibraryExtension}"


class FmuValues:
    """Some variables of an instance, read and written together.

    Args:
        instance: The instance.
        variables: The variables.
    """

    def __init__(self, instance: FmuInstance, variables: Sequence[FmuVariable]) -> None:
        self._instance, self._variables = instance, list(variables)
        kinds = dict.fromkeys(_suffix(variable, instance.description.version) for variable in variables)
        self._blocks = {kind: _Block(kind, instance.description.version) for kind in kinds}
        for variable in variables:
            self._blocks[_suffix(variable, instance.description.version)].add(variable)

    def read(self) -> dict[str, Array]:
        """Return the values by name, as copies.

        Raises:
            FmuFailure: The FMU fails.
        """
        found: dict[str, Array] = {}
        for block in self._blocks.values():
            self._instance.call(f"Get{block.kind}", *block.arguments())
            found |= block.taken()
        return {variable.name: found[variable.name] for variable in self._variables}

    def write(self, values: Mapping[str, Any]) -> None:
        """Set the variables to values by name, of their shapes.

        Raises:
            FmuFailure: The FMU fails.
        """
        for block in self._blocks.values():
            block.give(values)
            self._instance.call(f"Set{block.kind}", *block.arguments())


class _Block:
    """Variables of a type, whose values are in one array for calls of FMI."""

    def __init__(self, kind: str, version: int) -> None:
        self.kind, self._version = kind, version
        self._variables: list[FmuVariable] = []
        self._arguments: tuple[Any, ...] | None = None
        self._values: Any = None

    def add(self, variable: FmuVariable) -> None:
        self._variables.append(variable)

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments of a call: references, their number, values; for FMI 3 the number of these."""
        if self._arguments is None:
            references = [reference for variable in self._variables for reference in variable.references]
            count = sum(prod(variable.shape) for variable in self._variables)
            values = (_value_type(self.kind, self._version) * count)()
            self._values = np.frombuffer(values, np.dtype(_value_type(self.kind, self._version)))
            named = (ctypes.c_uint * len(references))(*references)
            self._arguments = (named, len(references), values, *((count,) if self._version == 3 else ()))
        return self._arguments

    def taken(self) -> dict[str, Array]:
        return {v.name: self._values[part].astype(v.dtype).reshape(v.shape) for v, part in self._parts()}

    def give(self, values: Mapping[str, Any]) -> None:
        self.arguments()
        for variable, part in self._parts():
            self._values[part] = np.ravel(values[variable.name])

    def _parts(self) -> Iterator[tuple[FmuVariable, slice]]:
        begin = 0
        for variable in self._variables:
            end = begin + prod(variable.shape)
            yield variable, slice(begin, end)
            begin = end


def _suffix(variable: FmuVariable, version: int) -> str:
    """Return what the calls for a type are named after."""
    if variable.kind == "Enumeration":
        return "Integer" if version == 2 else "Int64"
    return variable.kind


def _value_type(kind: str, version: int) -> Any:
    """Return the type of C of the values of calls."""
    if kind == "Boolean":
        return ctypes.c_int if version == 2 else ctypes.c_bool
    named = {"Real": "double", "Float64": "double", "Float32": "float", "Integer": "int"}
    return getattr(ctypes, f"c_{named.get(kind, kind.lower())}")


def _callbacks(key: int) -> Any:
    """Return the callbacks of an instance of FMI 2."""
    from fmpy.fmi2 import defaultCallbacks, fmi2CallbackFunctions, fmi2CallbackLoggerTYPE
    from fmpy.logging import addLoggerProxy

    if not _LOGGER:
        _LOGGER.append(fmi2CallbackLoggerTYPE(_log_by_key))
    callbacks = fmi2CallbackFunctions()
    callbacks.logger = _LOGGER[0]
    callbacks.allocateMemory, callbacks.freeMemory = defaultCallbacks.allocateMemory, defaultCallbacks.freeMemory
    callbacks.componentEnvironment = key
    addLoggerProxy(ctypes.byref(callbacks))  # which formats the message, and knows one logger for all
    return callbacks


_LOGGER: list[Any] = []  # of FMI 2, made once and kept for good


def _log_by_key(key: int | None, instance: bytes, status: int, category: bytes, message: bytes) -> None:
    _note(key, status, message)


def _logger(key: int) -> Callable[[Any, int, bytes, bytes], None]:
    """Return the logger of an instance of FMI 3."""

    def log(_: Any, status: int, category: bytes, message: bytes) -> None:
        _note(key, status, message)

    return log


def _note(key: int | None, status: int, message: bytes | None) -> None:
    if (kept := _logs.get(key or 0)) is not None and message:
        kept.append(message.decode(errors="replace").strip())
