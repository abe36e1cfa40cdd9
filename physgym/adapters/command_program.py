"""A program with templates of its input files, its runs and their working folders."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgym.adapters.command_case import CaseFiles
from physgym.adapters.held_folder import HeldFolder
from physgym.checks import flag, integer_list, mapping
from physgym.errors import ConfigError, RejectSample, SimulatorError, needs
from physgym.files import absolute
from physgym.system.children import Child, ending

PREFIX = "physgym-command-"  # of the names of temporary folders
STDOUT, STDERR = "stdout", "stderr"  # files of what a program printed
QUOTED = 12  # lines of a program's output in an error
LONGEST_QUOTED = 500  # characters of such a line
LOOKED_BACK = 1 << 13  # bytes of an output's end of which lines are quoted
LOOKED_AT = 1 << 20  # characters of its output in which a pattern is looked for at a time
OVERLAP = 50  # lines that a pattern may span
MORE_TIME = (
    "If {who} needs more time, give the simulation a larger timeout: --arg timeout=SECONDS, or "
    "environment.arguments.timeout of a configuration."
)


class TemplatedProgram:
    """A command with the files that it is given.

    Args:
        command: Its words, all but the first templates.
        case: Folder of the files, those named ``*.j2`` templates; None for none.
        variables: Variables of its environment, besides those of this process.

    Attributes:
        files_read: The program and the files.
        variables: All variables of its environment.

    Raises:
        ConfigError: The program or a file is not there, a template is wrong, or Jinja2 is not installed.
    """

    def __init__(
        self, command: Sequence[str], case: str | os.PathLike[str] | None, variables: Mapping[str, str]
    ) -> None:
        with needs("jinja2", "command", "CommandSimulation"):
            import jinja2
        if isinstance(command, str) or not command or not all(isinstance(word, str) for word in command):
            raise ConfigError(f"command is a list of words, as ['solver', '-i', 'job'], not {command!r}")
        own = mapping("variables", variables, "{OMP_NUM_THREADS: 1}")
        engine = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        self._undefined: type[Exception] = jinja2.UndefinedError
        self._files = CaseFiles(None if case is None else absolute(case))
        self._program, program = self._found(command[0])
        scripts = [word for word in command[1:] if Path(word).is_absolute() and Path(word).is_file()]
        files = [path for path in self._files.paths() if path != program]
        self.files_read: list[str | os.PathLike[str]] = [program, *scripts, *files]
        self.variables = {**os.environ, **{name: str(value) for name, value in own.items()}}
        self._templates: dict[str, Any] = {}
        self._words = {f"word {place} of command": word for place, word in enumerate(command) if place}
        for name, text in {**self._words, **self._files.templates()}.items():
            try:
                self._templates[name] = engine.from_string(text)
            except jinja2.TemplateSyntaxError as error:
                raise ConfigError(f"the template {name}, line {error.lineno}: {error.message}") from error

    def _found(self, word: str) -> tuple[str, Path]:
        """Return the program as it is called in a working folder, and its file."""
        if executable := shutil.which(word):
            return absolute(executable).as_posix(), absolute(executable)
        if own := self._files.path_of(os.path.normpath(word)):
            return f"./{os.path.normpath(word)}", own
        raise ConfigError(
            f"command: there is no program {word!r}; install it, give its path, or put it into the folder of the case"
        )

    def refuse_within_case(self, where: str | os.PathLike[str]) -> None:
        """Raise ConfigError where working folders would be made among the files of the case."""
        if self._files.has_within(Path(where)):
            raise ConfigError(
                f"working folders are made in {absolute(where)}, which is part of the case; name another one by folder"
            )

    def write(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Write the files of a run; of one that continues, the templates alone, since the others are there.

        Raises:
            ConfigError: A template cannot be filled in.
            SimulatorError: A file cannot be written, as on a full disk.
        """
        texts = {name: self._rendered(name, values) for name in self._templates if name not in self._words}
        try:
            if not any(folder.iterdir()):
                self._files.copy(folder)
            for name, text in texts.items():
                self._files.write(folder, name, text)
        except OSError as error:
            raise SimulatorError(f"the files of the case cannot be written to {folder}: {error}") from error

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """Return the words of the command with values in their places."""
        return [self._program, *(self._rendered(word, values) for word in self._words)]

    def _rendered(self, name: str, values: Mapping[str, Any]) -> str:
        try:
            return str(self._templates[name].render(values))
        except self._undefined as error:
            raise ConfigError(f"the template {name}: {error}; there are {', '.join(values)}") from error
        except Exception as error:  # whatever an expression in it raises, such as a division by zero
            raise ConfigError(f"the template {name}: {type(error).__name__}: {error}") from error


class RunRules:
    """The rules of a run: how long it may take, and which end is a failure, a rejection or neither.

    Args:
        timeout: Seconds.
        statuses: Exit statuses of a run that has worked.
        reject: Pattern in the output of a run that has not converged; may be empty.
        reject_timeout: Whether a run that takes too long is rejected.

    Raises:
        ConfigError: The pattern is no regular expression.
    """

    def __init__(self, timeout: float, statuses: int | Sequence[int], reject: str, reject_timeout: bool) -> None:
        self._statuses = frozenset(integer_list("statuses", statuses))
        self._timeout, self._reject_slow = timeout, flag("reject_timeout", reject_timeout)
        self._reject = reject_pattern(reject)

    def run(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        """Run a program to its end.

        Raises:
            RejectSample: It did not converge.
            SimulatorError: It failed, cannot be started, or took too long.
        """
        with (folder / STDOUT).open("wb") as output, (folder / STDERR).open("wb") as errors:
            try:
                child = Child(command, variables, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
            except (OSError, ValueError) as error:  # the latter of words and variables with a null character
                raise SimulatorError(f"{command[0]} cannot be started: {error}") from error
            with child:
                try:
                    status = child.process.wait(self._timeout)
                except subprocess.TimeoutExpired:
                    text = f"{Path(command[0]).name} took more than {self._timeout:g} s"
                    if self._reject_slow:
                        raise RejectSample(text) from None
                    said = f"{text} and was ended{last_output(folder)}"
                    raise SimulatorError(f"{said}\n{MORE_TIME.format(who='the program')}") from None
        if self._reject is not None:
            for name in (STDOUT, STDERR):
                if found := _search(folder / name, self._reject):
                    raise RejectSample(f"{Path(command[0]).name}: {found.strip()}")
        if status not in self._statuses:
            raise SimulatorError(f"{Path(command[0]).name} {ending(status)}{last_output(folder)}")


class RunFolders:
    """The working folders of an environment: one for each run.

    Args:
        where: Folder in which they are made; None for that of temporary files.
        keep: Which of them stay.
        continues: Whether one begins as a copy of that of the run before.
    """

    def __init__(self, where: str | os.PathLike[str] | None, keep: str, continues: bool) -> None:
        if where is not None and not absolute(where).is_dir():
            raise ConfigError(f"folder: {where} is no folder")
        self._where, self._keep, self.continues = where, keep, flag("continues", continues)
        self._base: HeldFolder | None = None
        self._last: Path | None = None
        self._count = 0

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """Give the folder of a run, within the block.

        Raises:
            SimulatorError: It cannot be made, as on a full disk.
        """
        try:
            folder = self._made()
        except OSError as error:
            raise SimulatorError(f"the working folder of a run cannot be made: {error}") from error
        try:
            yield folder
        except RejectSample:
            self._drop(folder)
            raise
        except BaseException as error:
            if self._keep == "none" or not isinstance(error, Exception):  # Ctrl-C is no failure
                self._drop(folder)
            else:
                self._held().keep(folder)
                error.add_note(f"The files of the run are in {folder}")
            raise
        if not self.continues:
            self._drop(folder)
            return
        before, self._last = self._last, folder
        if before is not None:
            self._drop(before)

    def _held(self) -> HeldFolder:
        if self._base is None:
            self._base = HeldFolder(PREFIX, self._where)
        return self._base

    def _made(self) -> Path:
        held = self._held()
        folder = held.path / f"{self._count:06}"
        if self._keep == "all":
            held.keep(folder)
        self._count += 1
        if self._last is None:
            folder.mkdir()
        else:
            try:
                shutil.copytree(self._last, folder, symlinks=True)
            except OSError:
                self._drop(folder)
                raise
        return folder

    def _drop(self, folder: Path) -> None:
        if self._keep != "all":
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Let the next run begin without the files of the last one."""
        if self._last is not None:
            self._drop(self._last)
        self._last = None

    def remove(self) -> None:
        """Remove what is not to stay."""
        if self._base is not None:
            self._base.close()
        self._base = self._last = None


@dataclass(frozen=True)
class ProgramRuns:
    """The runs of a program: what is run, what its end means, and where it works."""

    program: TemplatedProgram
    rules: RunRules
    folders: RunFolders

    def run(self, values: Mapping[str, Any], folder: Path) -> None:
        """Run the program with values in its command; raises as `RunRules.run` does."""
        self.rules.run(self.program.arguments(values), self.program.variables, folder)


def program_file(name: str, words: Sequence[str]) -> str:
    """Return the file of the program that a list of words starts.

    Args:
        name: Argument that has the words, for errors.
        words: The program and its arguments.

    Raises:
        ConfigError: There is none.
    """
    if isinstance(words, str) or not words or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{name} is a list of words, as ['solver', '-i', 'job'], not {words!r}")
    found = str(absolute(words[0])) if absolute(words[0]).is_file() else shutil.which(words[0])
    if found is None:
        raise ConfigError(f"{name}: there is no program {words[0]!r}; give its path")
    return found


def reject_pattern(text: str) -> re.Pattern[str] | None:
    """Return the pattern by which a step is rejected, None for an empty text.

    Raises:
        ConfigError: It is no regular expression.
    """
    try:
        return re.compile(text, re.MULTILINE) if text else None
    except (re.error, TypeError) as error:
        raise ConfigError(f"reject: {text!r} is no regular expression: {error}") from error


def _search(file: Path, pattern: re.Pattern[str]) -> str | None:
    """Return the first match of a pattern in a file of any size; None where there is none, or no file."""
    with contextlib.suppress(FileNotFoundError), file.open(encoding="utf-8", errors="replace") as opened:
        before: list[str] = []
        while lines := opened.readlines(LOOKED_AT):
            if found := pattern.search("".join([*before, *lines])):
                return found[0]
            before = lines[-OVERLAP:]
    return None


def _last(file: Path, count: int) -> str:
    """Return the last bytes of a file as text; nothing where the program has removed it."""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - count))
        return opened.read(count).decode(errors="replace")
    return ""


def last_output(folder: Path) -> str:
    """Return the last lines that a program printed, for an error."""
    said = []
    for name in (STDOUT, STDERR):
        said.append(quoted(name, _last(folder / name, LOOKED_BACK)))
    return "".join(said) or "; it printed nothing"


def quoted(name: str, text: str) -> str:
    """Return the last lines of an output for an error, nothing where there are none.

    Args:
        name: Of the output.
        text: Its end.
    """
    lines = (line.replace("\0", "").rstrip()[-LONGEST_QUOTED:] for line in text.split("\n")[-QUOTED - 1 :])
    shown = "\n  ".join(line for line in lines if line)
    return f"\n{name} ends with:\n  {shown}" if shown else ""
