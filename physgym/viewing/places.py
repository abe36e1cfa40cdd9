"""The sockets of what runs on this machine, where another process of the same user finds them by a folder's path.

They lie in a folder of its own below the one for temporary files, which nobody else may enter. Paths of sockets are at
most 107 bytes long, for any path of a session.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from physgym.checks import is_integer
from physgym.errors import ConfigError
from physgym.files import absolute, read_regular, write_atomically

LONGEST = 107  # bytes of the path of a socket
LARGEST = 1 << 16  # bytes of an entry
SHORT = Path("/tmp")


@dataclass(frozen=True)
class WatchedRun:
    """Something that runs, and can be watched.

    Attributes:
        title: What it is.
        places: Absolute paths of the folders by which it is known.
        pid: The process.
        token: The secret that a viewer has to prove, as hexadecimal digits.
        socket: Path of the socket.
    """

    title: str
    places: list[str]
    pid: int
    token: str
    socket: str

    @property
    def file(self) -> Path:
        """Return the file in which it stands."""
        return Path(self.socket).with_suffix(".json")

    def remove(self) -> None:
        """Remove socket and entry, and their folder where nothing else is in it."""
        for path in (self.file, Path(self.socket)):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self.file.parent.rmdir()


def folders() -> list[Path]:
    """Return where sockets may lie, and where they are looked for: the folder for temporary files, and `SHORT`."""
    name = f"physgym-{os.getuid()}"
    return list(dict.fromkeys(Path(base) / name for base in (tempfile.gettempdir(), SHORT)))


def own_folder() -> Path:
    """Return the folder for new sockets, made if need be.

    Raises:
        ConfigError: Somebody else may enter it, or it cannot be made.
    """
    name = "0" * 16 + ".sock"
    fitting = [folder for folder in folders() if len(os.fsencode(folder / name)) <= LONGEST]
    folder = fitting[0] if fitting else folders()[-1]
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        check_private(folder)
    except OSError as error:
        raise ConfigError(f"{folder}, for the sockets of viewers, cannot be made: {error.strerror}") from error
    return folder


def check_private(folder: Path) -> None:
    """Check that a folder belongs to this user, and that nobody else may enter it.

    Raises:
        ConfigError: It does not, or others may.
        OSError: There is none.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"{folder} is no folder that this user alone may enter, so nothing can be watched by it. Remove it, or set "
            f"its mode: chmod 700 {folder}"
        )


def new_entry(title: str, places: Sequence[str | Path]) -> WatchedRun:
    """Return an entry with a token and a path of its own, not written yet.

    Raises:
        ConfigError: There is no place for it.
    """
    socket = own_folder() / f"{secrets.token_hex(8)}.sock"
    known = [_real(place) for place in places]
    return WatchedRun(title, known, os.getpid(), secrets.token_hex(32), str(socket))


def write_entry(entry: WatchedRun) -> None:
    """Let others find an entry."""
    write_atomically(entry.file, json.dumps(asdict(entry)), durable=False)


def entries() -> Iterator[WatchedRun]:
    """Yield what runs on this machine; what was killed is removed.

    Raises:
        ConfigError: Somebody else may enter the folder.
    """
    for folder in folders():
        if not folder.exists():
            continue
        check_private(folder)
        for file in sorted(folder.glob("*.json")):
            try:
                entry = _entry(file)
            except (OSError, ValueError, TypeError):
                continue  # it has just ended, or is none
            if _runs(entry.pid):
                yield entry
            else:
                entry.remove()


def _entry(file: Path) -> WatchedRun:
    """Return the entry in a file.

    Raises:
        OSError: It is gone.
        TypeError: It is none.
        ValueError: As well.
    """
    entry = WatchedRun(**json.loads(read_regular(file, LARGEST)))
    texts = [entry.title, entry.token, entry.socket, *entry.places]
    bytes.fromhex(entry.token)
    number = is_integer(entry.pid, 1) and entry.pid < 1 << 31
    if not number or not all(isinstance(text, str) for text in texts) or entry.file.name != file.name:
        raise ValueError(f"{file} is no entry")
    return entry


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def find(path: str | Path) -> WatchedRun:
    """Return what runs in a session or dataset, or in the dataset of a session; of several what began last.

    Raises:
        ConfigError: There is no such folder, or nothing runs there.
    """
    wanted = Path(_real(path))
    found = [entry for entry in entries() if any(wanted in (Path(at), Path(at).parent) for at in entry.places)]
    if found:
        return max(found, key=_begun)
    if not wanted.is_dir():
        raise ConfigError(f"there is no {path}; name the folder of a session or dataset in which something runs")
    raise ConfigError(
        f"nothing that can be watched runs in {path}: no simulation of this user on this machine. While "
        "generate, train, run or replay are at it, watch shows it; physgym view shows what is stored. Looked for in "
        f"{' and '.join(map(str, folders()))}: if the run has another TMPDIR, set the same one here"
    )


def _begun(entry: WatchedRun) -> int:
    try:
        return entry.file.stat().st_mtime_ns
    except OSError:  # it has just ended
        return 0


def _real(path: str | Path) -> str:
    return os.path.realpath(absolute(path))
