"""The folder of a program's input files, those with templates among them."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from physgym.errors import ConfigError

TEMPLATE = ".j2"  # ending of the names of templates
BYTES = {"encoding": "utf-8", "errors": "surrogateescape"}  # keeps texts of other encodings as they are


class CaseFiles:
    """The files of a case, in all of its folders; links are followed.

    Args:
        case: The folder; None for no files.

    Raises:
        ConfigError: It is no folder, or something in it is no file, or cannot be read.
    """

    def __init__(self, case: Path | None) -> None:
        self._case = case
        if case is not None and not case.is_dir():
            raise ConfigError(f"case: {case} is no folder")
        found = [] if case is None else sorted(_walk(case))
        self._folders = [path for path in found if path.is_dir()]
        self._files = [path for path in found if not path.is_dir()]

    def paths(self) -> list[Path]:
        """Return all files."""
        return self._files

    def path_of(self, name: str) -> Path | None:
        """Return the file that a run has by a name, its template where it is made of one; None where there is none."""
        for path in self._files:
            if self._case is not None and path.relative_to(self._case) in (Path(name), Path(f"{name}{TEMPLATE}")):
                return path
        return None

    def has_within(self, folder: Path) -> bool:
        """Return whether a folder is the case or lies in it."""
        return self._case is not None and folder.resolve().is_relative_to(self._case.resolve())

    def templates(self) -> dict[str, str]:
        """Return the texts of the templates, by their path in the folder.

        Raises:
            ConfigError: One cannot be read.
        """
        try:
            return {self._name(path): path.read_text(**BYTES) for path in self._files if path.suffix == TEMPLATE}
        except OSError as error:
            raise ConfigError(f"case: a template cannot be read: {error}") from error

    def copy(self, folder: Path) -> None:
        """Copy all but the templates, as files that may be written to.

        Raises:
            OSError: One cannot be copied.
        """
        for path in self._folders:
            (folder / self._name(path)).mkdir()
        for path in self._files:
            if path.suffix != TEMPLATE:
                _writable(Path(shutil.copy2(path, folder / self._name(path))))

    def write(self, folder: Path, name: str, text: str) -> None:
        """Write the text of a template under its name, with the rights of its file.

        Raises:
            OSError: It cannot be written.
        """
        if self._case is not None:
            target = (folder / name).with_suffix("")
            target.write_text(text, **BYTES)
            shutil.copymode(self._case / name, target)
            _writable(target)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._case or "").as_posix()


def _walk(case: Path) -> Iterator[Path]:
    """Return the folders and files below a folder."""
    for path in case.iterdir():
        if path.is_dir():
            if case.resolve().is_relative_to(path.resolve()):
                raise ConfigError(f"case: {path} is a link to a folder in which it lies; remove it")
            yield path
            yield from _walk(path)
        elif path.is_file():
            yield path
        else:
            raise ConfigError(f"case: {path} is no file that can be copied (a link to nothing, a pipe); remove it")


def _writable(path: Path) -> None:
    path.chmod(path.stat().st_mode | stat.S_IWUSR | stat.S_IRUSR)
