"""`FolderClaim`: the lock that keeps a second writer out of a dataset folder."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from pathlib import Path

from physgym import files
from physgym.data.description import LOCK
from physgym.errors import DatasetError
from physgym.system.descriptors import above_standard

_claims: weakref.WeakSet[FolderClaim] = weakref.WeakSet()


def _forget_claims() -> None:
    """Give up the claims in a forked child: the samples and the lock are the parent's."""
    for claim in _claims:
        claim.give_up()


os.register_at_fork(after_in_child=_forget_claims)


class FolderClaim:
    """A dataset folder, made if needed, that this writer alone writes to.

    The operating system takes the lock from a killed process at once. A forked child has no part in a claim.

    Args:
        path: The folder.

    Attributes:
        given_up: Whether the folder is another writer's to take.

    Raises:
        DatasetError: Another writer has it, or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made_folder = not path.exists()
        self._lock, self._folder = self._acquire()
        self.given_up = False
        _claims.add(self)

    def _acquire(self) -> tuple[int, int]:
        """Make the folder and take its lock; return the descriptors of both."""
        lock = -1
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            folder = above_standard(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            try:
                lock = files.open_regular(self.path / LOCK, os.O_RDWR | os.O_CREAT)
                taken = files.lock(lock, self.path) == "taken"  # a killed writer loses it at once
            except BaseException:
                os.close(folder)
                raise
        except OSError as error:
            if lock >= 0:
                os.close(lock)
            what = "lock" if lock >= 0 else "create a dataset at"
            raise DatasetError(f"cannot {what} {self.path}: {error.strerror or error}") from error
        if taken:
            found = os.fstat(folder)
            os.close(lock)
            os.close(folder)
            if any(os.path.samestat(found, claim.folder_stat()) for claim in _claims if not claim.given_up):
                raise DatasetError(
                    f"{self.path} is being written by this process: close the writer or the stream that has it. What a "
                    "cell of a notebook has opened and not closed ends with the kernel: restart it"
                )
            raise DatasetError(f"{self.path} is being written by another process; wait for it or choose another")
        return lock, folder

    def folder_stat(self) -> os.stat_result:
        """Return what the folder is to the operating system, wherever it was moved."""
        return os.fstat(self._folder)

    def check(self) -> None:
        """Raise OSError if the folder is no longer the one whose lock this claim has."""
        try:
            same = os.path.samestat(self.path.stat(), os.fstat(self._folder))
        except FileNotFoundError:
            same = False
        if not same:
            raise OSError(
                errno.ESTALE,
                "the folder was moved away, replaced or removed while it was written; nothing more is written. Move "
                "it back, then continue with resume",
            )

    def release(self) -> None:
        """Give up the claim; remove the folder if it was made for it and is empty."""
        try:
            with contextlib.suppress(OSError):  # it may have been removed
                self.check()
                if self._made_folder and not any(p for p in self.path.iterdir() if p.name != LOCK):
                    (self.path / LOCK).unlink()
                    self.path.rmdir()
        finally:
            if self._lock >= 0:
                files.unlock(self._lock)  # a child that was just forked has not given it up yet
            self.give_up()

    def give_up(self) -> None:
        """Close the lock; calling it again does no harm."""
        self.given_up = True
        held, self._lock, self._folder = (self._lock, self._folder), -1, -1
        for handle in held:
            if handle >= 0:
                os.close(handle)
