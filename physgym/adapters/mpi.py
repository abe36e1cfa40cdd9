"""`MpiSimulation`: a program of several MPI ranks as an environment.

The ranks are started once and stay for all episodes. Rank 0 reads what is asked from a named pipe and writes the
answers to another one, which works in any language: see `physgym.adapters.mpi_exchange`. A program in Python calls
`physgym.adapters.mpi_ranks.serve`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from physgym.adapters.command_fields import DECLARED, WHOLE, FieldsOf, declared_space, taken
from physgym.adapters.command_program import MORE_TIME, STDERR, STDOUT, last_output, program_file
from physgym.adapters.mpi_exchange import FIELDS, FOLDER, MpiExchange, RankAnswer, RankRequest
from physgym.casting import as_dtype
from physgym.checks import flag, integer, mapping, positive
from physgym.errors import ConfigError, RejectSample, SimulatorError
from physgym.simulation import Simulation
from physgym.single import COSTLY_START
from physgym.spaces import Array
from physgym.system.children import Child, ending

END = 10.0  # seconds that the ranks have to end by themselves
LARGEST_OUTPUT = 1 << 24  # bytes of what the ranks print that are kept from one episode to the next
# variables of launchers that have started this process, by which its ranks would take themselves for others
OTHERS = ("PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "SLURM_")
SEEDS = 2**31
LAUNCHER = ("mpiexec", "-n", "{ranks}")
COMPUTED = ("shape", "dtype", "unit")  # what is said of a field that has no bounds


class MpiFields(NamedTuple):
    """The fields of a program, by name.

    Attributes:
        parameters: What differs from episode to episode.
        actions: What a step is given.
        states: What a step changes, and the next one begins with.
        outputs: What a step computes besides.
    """

    parameters: dict[str, spaces.Box]
    actions: dict[str, spaces.Box]
    states: dict[str, spaces.Box]
    outputs: dict[str, spaces.Box]

    def shapes(self) -> str:
        """Return the shapes as JSON, in the order in which numbers follow each other."""
        table = self._asdict()
        return json.dumps({kind: {name: of.shape for name, of in table[kind].items()} for kind in table})


class MpiRanks:
    """The processes of a program, as they run.

    Args:
        command: What starts them all.
        variables: Variables of their environment.
        timeout: Seconds for an answer.

    Raises:
        SimulatorError: They cannot be started.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], timeout: float) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="physgym-mpi-"))
        self._timeout = timeout
        self._closing = contextlib.ExitStack()
        self._closing.callback(shutil.rmtree, str(self._folder), ignore_errors=True)
        self._close = weakref.finalize(self, self._closing.close)  # also where nobody does it
        try:
            self._exchange = MpiExchange(self._folder)
            self._closing.callback(self._exchange.close)
            environment = {**variables, **self._exchange.variables, FOLDER: str(self._folder)}
            # to append: what is cut off at a reset stays cut off
            with (self._folder / STDOUT).open("ab") as output, (self._folder / STDERR).open("ab") as errors:
                self._child = Child(command, environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
            self._closing.enter_context(self._child)
        except OSError as error:
            self._close()
            raise SimulatorError(f"{command[0]} cannot be started: {error.strerror}") from error

    def ask(self, kind: RankRequest, numbers: Array, wanted: int | None) -> Array:
        """Return the answer to a request, one axis, float64.

        Args:
            kind: What is wanted.
            numbers: That go with it.
            wanted: Count of the numbers of the answer; None for any.

        Raises:
            RejectSample: The step did not converge.
            SimulatorError: A rank has failed or ended, or the answer does not come or is wrong.
        """
        try:
            answer, found = self._exchange.ask(kind, numbers, self._timeout, self._check)
        except TimeoutError:
            raise SimulatorError(
                f"the ranks gave no answer to {kind.name} within {self._timeout:g} s and were ended"
                f"{last_output(self._folder)}\n{MORE_TIME.format(who='a step')}"
            ) from None
        except ValueError as error:
            raise SimulatorError(f"rank 0 sends what is no answer to {kind.name}: {error}") from error
        if answer is RankAnswer.REJECTED:
            raise RejectSample(str(found))
        if answer is RankAnswer.FAILED:
            raise SimulatorError(f"the program: {found}{last_output(self._folder)}")
        assert not isinstance(found, str)
        if wanted is not None and len(found) != wanted:
            raise SimulatorError(
                f"rank 0 answers {kind.name} with {len(found)} numbers; states and outputs have {wanted}"
            )
        return found

    def forget_output(self) -> None:
        """Cut off what the ranks have printed, where that is much."""
        for name in (STDOUT, STDERR):
            if (self._folder / name).stat().st_size > LARGEST_OUTPUT:
                os.truncate(self._folder / name, 0)

    def _check(self) -> None:
        """Raise SimulatorError where the program has ended."""
        status = self._child.process.poll()
        if status is None:
            return
        how = ending(status, "been")
        ranks = {note.read_text(): note.name.removeprefix("process-") for note in self._folder.glob("process-*")}
        notes = sorted(self._folder.glob("error-*"))
        if notes:
            said = "\n".join(f"rank {note.name.removeprefix('error-')}: {note.read_text().strip()}" for note in notes)
            raise SimulatorError(f"the ranks have {how}.\n{said}")
        said = last_output(self._folder)
        for process, rank in ranks.items():  # mpiexec may name a process alone
            said = re.sub(rf"\bPID {process}\b", rf"\g<0> (rank {rank})", said)
        raise SimulatorError(f"the ranks have {how}{said}")

    def end(self, *, in_order: bool) -> None:
        """End all ranks, and what they have started.

        Args:
            in_order: Whether they may end by themselves.
        """
        if in_order:
            self._exchange.tell(RankRequest.CLOSE)
            try:
                self._child.process.wait(END)
            except subprocess.TimeoutExpired:
                in_order = False
        self._close()


class MpiSimulation(Simulation[Any, Any]):
    """A program of several MPI ranks, which stay for all episodes.

    The sample has parameters, actions and states as inputs; the targets are ``next_NAME`` of each state, which feeds
    it, and the outputs. The observation is the dictionary of states and outputs; outputs are zeros before the first
    step. All numbers are sent as 64-bit floating-point ones. A rank that fails, or an answer that does not come, ends
    all ranks; the next reset starts them again.

    Args:
        program: The program and its arguments; a first word that ends in ``.py`` is run by this Python.
        ranks: How many.
        parameters: What differs from episode to episode, by name: ``low`` and ``high``, and if need be ``shape``,
            ``dtype`` ("float64") and ``unit``.
        actions: What a step is given, in the same form.
        states: What a step changes, and the next one begins with, by name: ``shape``, ``dtype``, ``unit``.
        outputs: What a step computes besides, in the same form as states.
        launcher: What starts the ranks; ``{ranks}`` stands for their number. ``mpiexec`` alone is that of this Python's
            environment, if it has one.
        variables: Variables of the ranks' environment, besides those of this process.
        timeout: Seconds for an answer; the first one includes the start.
        snapshots: Whether the program gives and takes its whole state.
        time_step: Seconds that a step simulates, if the problem has a time.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is wrong, or the program is not there.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4, COSTLY_START: True}  # noqa: RUF012 - as in gymnasium.Env

    def __init__(
        self,
        *,
        program: Sequence[str],
        ranks: int = 2,
        parameters: FieldsOf | None = None,
        actions: FieldsOf | None = None,
        states: FieldsOf | None = None,
        outputs: FieldsOf | None = None,
        launcher: Sequence[str] = LAUNCHER,
        variables: Mapping[str, str] | None = None,
        timeout: float = 600.0,
        snapshots: bool = False,
        time_step: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        given = {"parameters": parameters, "actions": actions, "states": states, "outputs": outputs}
        self._fields = _fields(given)
        integer("ranks", ranks, 1)
        file = program_file("program", program)
        self._command = [*_launcher(launcher, ranks), *([sys.executable, file] if file.endswith(".py") else [file])]
        self._command += program[1:]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
        shared = {"OMP_NUM_THREADS": "1", **kept} if tuple(launcher) == LAUNCHER else dict(os.environ)
        given_variables = mapping("variables", variables, "{OMP_NUM_THREADS: 1}")
        own = {name: str(value) for name, value in given_variables.items()}
        self._variables = {**shared, **own, FIELDS: self._fields.shapes()}
        self._timeout = positive("timeout", timeout)
        self._ranks: MpiRanks | None = None
        self._now: dict[str, Array] = {}
        self._sample: dict[str, Any] = {}
        self.keeps_state = flag("snapshots", snapshots)
        self.time_step = None if time_step is None else positive("time_step", time_step)
        self.files_read = [file, *(word for word in program[1:] if Path(word).is_file())]
        self._declare(given)

    def _declare(self, given: Mapping[str, FieldsOf | None]) -> None:
        """Set the spaces, roles and units."""
        fields = self._fields
        after = {f"next_{name}": of for name, of in fields.states.items()}
        units = {n: str(of["unit"]) for kind in given.values() for n, of in (kind or {}).items() if of.get("unit")}
        units |= {f"next_{name}": units[name] for name in fields.states if name in units}
        inputs = {**fields.parameters, **fields.actions, **fields.states}
        self.sample_space = spaces.Dict({**inputs, **after, **fields.outputs})
        self.sample_roles = {**dict.fromkeys(inputs, "input"), **dict.fromkeys([*after, *fields.outputs], "target")}  # type: ignore[misc]
        self.sample_units = units  # type: ignore[misc]
        self.sample_feedback = {f"next_{name}": name for name in fields.states}  # type: ignore[misc]
        if fields.parameters:
            self.parameter_space = spaces.Dict({**fields.parameters})
            self.parameter_units = {name: units[name] for name in fields.parameters if name in units}  # type: ignore[misc]
        self.action_space = spaces.Dict({**fields.actions}) if fields.actions else spaces.Discrete(1)
        self.observation_space = spaces.Dict({**fields.states, **fields.outputs})

    # --- the simulation

    def begin(self, options: dict[str, Any]) -> None:
        """Begin an episode in all ranks, which are started if need be."""
        seed = int(self.np_random.integers(SEEDS))
        parameters = taken(self.parameters, self._fields.parameters, "parameters")
        if self._ranks is not None:
            self._ranks.forget_output()
        self._ask(RankRequest.RESET, [np.array([seed]), *parameters.values()])
        self._sample = {}

    def advance(self, action: Any) -> None:
        """Make a step in all ranks."""
        given = taken(action, self._fields.actions, "action")
        before = {name: self._now[name] for name in self._fields.states}
        self._ask(RankRequest.STEP, [*given.values()])
        after = {f"next_{name}": self._now[name] for name in self._fields.states}
        outputs = {name: self._now[name] for name in self._fields.outputs}
        self._sample = {**self.parameters, **given, **before, **after, **outputs}

    def observation(self) -> dict[str, Array]:
        """Return states and outputs by name."""
        return dict(self._now)

    def sample(self) -> Mapping[str, Any]:
        """Return the fields of the step just made."""
        return self._sample

    def sample_action(self, rng: np.random.Generator) -> Any:
        """Draw an action uniformly within the bounds."""
        drawn = super().sample_action(rng)
        return {name: np.asarray(value) for name, value in drawn.items()} if self._fields.actions else drawn

    def state(self) -> Mapping[str, Any]:
        """Return the state that rank 0 gives, one axis, float64; and what was observed last."""
        if not self.keeps_state:
            return super().state()
        if self._ranks is None:
            raise ConfigError(f"{type(self).__name__}: reset the environment before its state is asked for or set")
        kept = self._request(RankRequest.STATE, np.zeros(0), None)
        seen = {f"observed/{name}": value for name, value in self._now.items()}
        return {"program": kept, **seen, **self.parameter_state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Give the program a state that it gave.

        Raises:
            ConfigError: It is none of this environment.
            SimulatorError: The program does not take it.
        """
        if not self.keeps_state:
            return super().set_state(state)
        given = self.checked_state(state)
        self._ask(RankRequest.SET_STATE, [given["program"]])
        for name in self._fields.states:
            if not np.array_equal(given[f"observed/{name}"], self._now[name], equal_nan=True):
                raise SimulatorError(f"the program has another {name!r} after its state was set than it had before")
        self._now.update({name: given[f"observed/{name}"] for name in self._fields.outputs})
        self.parameter_state = given
        return None

    def close(self) -> None:
        """End all ranks; calling it again does no harm."""
        ranks, self._ranks = self._ranks, None
        if ranks is not None:
            ranks.end(in_order=True)
        super().close()

    def _ask(self, kind: RankRequest, numbers: Sequence[Array]) -> None:
        """Send a request, and take the states and outputs that come."""
        spaces_of = {**self._fields.states, **self._fields.outputs}
        wanted = sum(int(np.prod(of.shape)) for of in spaces_of.values())
        sent = np.concatenate([as_dtype(one, np.dtype(np.float64)).ravel() for one in [*numbers, np.zeros(0)]])
        found = self._request(kind, sent, wanted)
        begin = 0
        for name, of in spaces_of.items():
            size = int(np.prod(of.shape))
            self._now[name] = _cast(name, found[begin : begin + size].reshape(of.shape), of)
            begin += size

    def _request(self, kind: RankRequest, numbers: Array, wanted: int | None) -> Array:
        if self._ranks is None:
            self._ranks = MpiRanks(self._command, self._variables, self._timeout)
        try:
            return self._ranks.ask(kind, numbers, wanted)
        except RejectSample:
            raise
        except BaseException:  # also Ctrl-C: the answer would be taken for that to the next request
            ranks, self._ranks = self._ranks, None
            ranks.end(in_order=False)
            raise


def _launcher(words: Sequence[str], ranks: int) -> list[str]:
    """Return the words of a launcher.

    Raises:
        ConfigError: It is not there, or does not take the number of ranks.
    """
    whole = not isinstance(words, str) and all(isinstance(word, str) for word in words)
    if not whole or not any("{ranks}" in word for word in words):
        raise ConfigError(f"launcher is a list of words, as ['mpiexec', '-n', '{{ranks}}'], not {words!r}")
    near = Path(sys.executable).with_name(LAUNCHER[0])
    found = str(near) if words[0] == LAUNCHER[0] and near.is_file() else shutil.which(words[0])
    if found is None:
        raise ConfigError(
            f"launcher: there is no program {words[0]!r}; install MPI, as by pip install 'physgym[mpi]', or give "
            "its path"
        )
    return [found, *(word.replace("{ranks}", str(ranks)) for word in words[1:])]


def _fields(given: Mapping[str, FieldsOf | None]) -> MpiFields:
    """Return the spaces of all fields.

    Raises:
        ConfigError: A name is taken, a field is wrong, or nothing is computed.
    """
    for kind, fields in given.items():
        mapping(kind, fields, "{x: {low: 0, high: 1}}" if kind in ("parameters", "actions") else "{u: {shape: [3]}}")
    names = [name for kind in given.values() for name in kind or {}]
    names += [f"next_{name}" for name in given["states"] or {}]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{twice[0]!r} names two fields; give each a name of its own")
    if not (given["states"] or given["outputs"]):
        raise ConfigError("states and outputs are empty, so that a step computes nothing; declare what it computes")
    said = {"parameters": DECLARED, "actions": DECLARED, "states": COMPUTED, "outputs": COMPUTED}
    found = {
        kind: {name: declared_space(kind, name, of, said[kind]) for name, of in (fields or {}).items()}
        for kind, fields in given.items()
    }
    for name, space in {**found["parameters"], **found["actions"]}.items():
        if max(abs(float(space.low.min())), abs(float(space.high.max()))) >= WHOLE and space.dtype.kind != "f":
            raise ConfigError(f"{name!r} has bounds beyond 2^53, and numbers are sent as 64-bit floating-point ones")
    return MpiFields(**found)


def _cast(name: str, found: Array, of: spaces.Box) -> Array:
    """Return numbers with the dtype of their space.

    Raises:
        SimulatorError: They do not fit.
    """
    cast = found.astype(of.dtype)
    if of.dtype is not None and of.dtype.kind in "iu" and not np.array_equal(cast, found):
        raise SimulatorError(f"rank 0 gives {name!r} = {found}, which are no {of.dtype}")
    return cast
