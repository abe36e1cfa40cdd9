"""Files and folders: absolute paths, replacement in one instant, locks; once, for everybody.

What a file system lacks (locks, flushing a folder, changing modes) is a convenience in most places: these functions
continue without it where that is safe, with one warning for what a user must know.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from physgym.system.descriptors import above_standard

TEMPORARY = re.compile(r"\.(.+)-([0-9a-f]{8})([0-9a-f]{8})\.tmp", re.DOTALL)
CACHE_VARIABLE = "PHYSGYM_CACHE"
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
NO_FLUSH_OF_FILES = UNSUPPORTED - {errno.ENOLCK}  # never EIO or ENOSPC
NO_FLUSH = UNSUPPORTED | {errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}


NO_FLUSHED_FOLDERS = (
    "the file system of {path} cannot write folders through to the disk ({error}): what is in files is safe, but after "
    "a power cut the names of the last ones may be missing. Nothing is lost where a process is killed"
)

LockState = Literal["held", "taken", "unsupported"]


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return what a path means now, as an absolute path with ``~`` expanded; links and ``..`` stay."""
    given = Path(path)
    with contextlib.suppress(RuntimeError):  # of an unknown user: a name like others, as in shells
        given = given.expanduser()
    return given.absolute()


def cache_folder() -> Path:
    """Return the folder of this user's caches: that of the environment variable PHYSGYM_CACHE, or ~/.cache/physgym."""
    return absolute(os.environ.get(CACHE_VARIABLE) or "~/.cache/physgym")


def short(path: str | os.PathLike[str]) -> str:
    """Return a path as a person may type it here: relative where it is in the current folder, else as it is.

    One with ``..`` becomes that of the place where it leads, relative if that is in the current folder, else absolute.
    """
    text = os.fspath(path)
    with contextlib.suppress(OSError, ValueError):  # the folder may be gone
        if ".." in Path(text).parts:
            text = os.path.realpath(absolute(text))
        return str(Path(text).relative_to(Path.cwd()))
    return text


def temporary_name(file: Path) -> Path:
    """Return a hidden name in the folder of a file that nobody else has, see `is_temporary`; nothing is made."""
    salt = secrets.token_hex(4)
    return file.with_name(f".{file.name}-{salt}{_mark(file.name, salt)}.tmp")


def is_temporary(name: str) -> bool:
    """Return whether a name was made by `temporary_name`: half of what looks random in it follows from the rest."""
    found = TEMPORARY.fullmatch(name)
    return found is not None and found[3] == _mark(found[1], found[2])


def _mark(name: str, salt: str) -> str:
    return hashlib.sha256(f"physgym {salt} {name}".encode(errors="surrogateescape")).hexdigest()[:8]


@contextlib.contextmanager
def replacing(file: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary name for a new file, which takes the place of the old one at the end of the block.

    Args:
        file: The file to make or to replace.
        durable: Whether a power cut afterwards leaves the new file.

    Raises:
        OSError: The disk refuses; a file that was there is as it was, and nothing else is left in the folder.
    """
    temporary = temporary_name(file)
    try:
        yield temporary
        if durable:
            flush(temporary)
        rename_over(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        flush(file.parent)


def write_atomically(file: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader finds the old content or the new one, never a part.

    Raises:
        OSError: The disk refuses; a file that was there is as it was.
    """
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    with replacing(file, durable=durable) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def creating(path: Path, *, durable: bool = True, remove: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Give a temporary name for a new file or folder, which takes its own name at the end of the block.

    Args:
        path: The file or folder to make; the block makes it under the temporary name.
        durable: Whether a power cut afterwards leaves it. The files of a folder are flushed by the block.
        remove: Takes away what has the name at the end. By default that stays, and the new one is given up; only an
            empty folder gives way to a folder.

    Raises:
        OSError: The name is taken, or the disk refuses; nothing else is left in the folder.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        if durable:
            flush(temporary)
        if remove is not None and path.exists():
            remove(path)
        _take_free_name(temporary, path)
        if durable:
            flush(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _take_free_name(made: Path, path: Path) -> None:
    """Give a finished file or folder its name, if that is still free."""
    if made.is_dir():
        made.rename(path)  # which an existing folder refuses, unless it is empty
        return
    try:
        path.hardlink_to(made)
    except FileExistsError:
        raise
    except OSError:  # a file system without such links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        made.replace(path)


def rename_over(made: Path, file: Path) -> None:
    """Give a finished file its name, at once, also where another file has it.

    Raises:
        OSError: The disk refuses.
    """
    made.replace(file)


def link_over(file: Path, target: str) -> None:
    """Make a symbolic link, at once, also where a file has its name.

    Args:
        file: The link.
        target: Where it leads, relative to its folder.

    Raises:
        OSError: The disk refuses.
    """
    temporary = temporary_name(file)
    temporary.symlink_to(target)
    rename_over(temporary, file)


def add_name(file: Path, name: Path) -> None:
    """Give a file a second name, a hard link.

    Raises:
        OSError: The name is taken, the file system has no such links, or the disk refuses.
    """
    name.hardlink_to(file)


def delete_folder(path: Path) -> None:
    """Delete a folder and all that is in it; others see it whole or not at all.

    Raises:
        OSError: The disk refuses.
    """
    temporary = temporary_name(path)
    path.rename(temporary)
    shutil.rmtree(temporary)


def open_regular(file: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file, without waiting as a pipe makes one wait, as none of the standard streams.

    Raises:
        OSError: There is none, or it is a folder, a pipe, a socket or a device.
    """
    descriptor = above_standard(os.open(file, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return descriptor


def read_regular(file: Path, largest: int) -> bytes:
    """Return the content of a regular file that is not too large.

    Raises:
        OSError: It is no regular file, or larger than that.
    """
    with open(open_regular(file), "rb") as stream:
        if (size := os.fstat(stream.fileno()).st_size) > largest:
            raise OSError(errno.EFBIG, f"it has {size} bytes, {largest} are the most")
        return stream.read()


def flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk; where its file system cannot do that a warning says so.

    Raises:
        OSError: The disk refuses.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if path.is_dir():
            _say_once(NO_FLUSHED_FOLDERS, path, error)
            return
        raise
    try:
        flush_open(descriptor, path)
    finally:
        os.close(descriptor)


def flush_open(descriptor: int, path: Path) -> None:
    """Do what `flush` does with a file or a folder that is open.

    Raises:
        OSError: The disk refuses.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if error.errno not in (NO_FLUSH if folder else NO_FLUSH_OF_FILES):
            raise
        if folder:
            _say_once(NO_FLUSHED_FOLDERS, path, error)
        else:
            _say_once(
                "the file system of {path} cannot write files through to the disk ({error}): after a power cut what "
                "was written last may be missing. Nothing is lost where a process is killed",
                path.parent,  # the file may have a temporary name
                error,
            )


def copy_mode(source: Path, target: Path) -> None:
    """Give a file the permissions of another one where the file system allows it; else say so."""
    try:
        shutil.copymode(source, target)
    except OSError as error:
        _say_once(
            "the file system of {path} does not change permissions ({error}): files have those that it gives them, so "
            "that other users may be able to read them, or not",
            target,
            error,
        )


_said: set[str] = set()


def _say_once(text: str, path: Path, error: OSError) -> None:
    """Warn of what a file system lacks, once in a process."""
    if text not in _said:
        _said.add(text)
        reason = os.strerror(error.errno) if error.errno else str(error)
        warnings.warn(text.format(path=path, error=reason), RuntimeWarning, stacklevel=4)


def lock(descriptor: int, path: Path, *, shared: bool = False, warn: bool = True) -> LockState:
    """Take the lock of an open file or folder at once; closing the descriptor gives it back.

    Args:
        descriptor: The open file or folder.
        path: What to call it in a warning.
        shared: Whether others may hold it too, in the same way.
        warn: Whether to warn where the file system has no locks.

    Returns:
        "held", "taken" where somebody else has it, or "unsupported" where the file system has no locks.

    Raises:
        OSError: The disk refuses.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        if warn:
            warnings.warn(
                (
                    f"the file system of {path} has no locks ({os.strerror(error.errno or 0)}), so that nothing keeps "
                    "a second process from writing there at the same time. Make sure that there is none, or mount it "
                    "with locks"
                ),
                RuntimeWarning,
                stacklevel=3,
            )
        return "unsupported"
    return "held"


def unlock(descriptor: int) -> None:
    """Give the lock of an open file or folder back, also where a process that was forked has the same open file."""
    with contextlib.suppress(OSError):  # there are no locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def try_lock(file: Path) -> Iterator[bool]:
    """Try to lock a file, which is made if need be, at once; the lock is held inside if the value is true."""
    handle = open_regular(file, os.O_RDWR | os.O_CREAT)
    try:
        try:
            if lock(handle, file) == "taken":
                yield False
                return
            named = file.stat()
        except FileNotFoundError:
            yield False
            return
        yield os.path.samestat(named, os.fstat(handle))  # it may have been deleted or renamed in between
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(
    file: Path, timeout: float, pause: Callable[[], object], error: type[Exception] = TimeoutError
) -> Iterator[None]:
    """Lock a file, which is made if need be, for a block that another process may hold for a moment.

    Args:
        file: The file.
        timeout: Seconds to wait for it.
        pause: Called between two looks at the lock; what it raises ends the wait.
        error: Raised with a message where another process holds it for longer.
    """
    deadline = time.monotonic() + timeout
    while True:
        with try_lock(file) as mine:
            if mine:
                yield
                return
        if time.monotonic() > deadline:
            raise error(f"{file} is held by another process; end it, then try again")
        pause()
