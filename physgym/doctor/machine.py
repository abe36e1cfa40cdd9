"""The machine: system, cores, memory, shared memory, open files, and the file system of a folder."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from physgym import files
from physgym.doctor.finding import Finding
from physgym.system import shared_memory
from physgym.system.cores import THREAD_VARIABLES, usable_cores
from physgym.system.disk_space import size
from physgym.system.memory import available_memory

FEW_FILES = 1024  # descriptors; a worker takes a few of the parent's
LITTLE = 1 << 30  # bytes of memory or disk
PROBE = 1 << 22  # bytes of shared memory that are tried
WSL = Path("/proc/sys/kernel/osrelease")
OF_WINDOWS = "/mnt/"  # where WSL has the drives of Windows


def machine() -> Iterator[Finding]:
    """Yield findings on the system and what this process may take of it."""
    yield system()
    yield cores()
    yield memory()
    yield shared()
    yield descriptors()


def system(name: str = sys.platform, release: Path = WSL) -> Finding:
    """Return which system it is, and what differs there.

    Args:
        name: As of `sys.platform`.
        release: File in which Linux says whether it is one of Windows.
    """
    text = f"{platform.system()} {platform.release()}, {platform.machine()}"
    values = {"system": name, "wsl": False}
    if name == "darwin":
        text += (
            "\nmacOS: not tested. Shared memory is a file in the temporary folder. What a simulator has started in a"
            "\ngroup of its own may continue after the simulator was killed"
        )
        remedy = "after a run that was killed look for programs of simulators: ps -ax"
        return Finding("system", "note", text, remedy, values)
    if name != "linux":
        text += "\nphysgym needs Linux, macOS or WSL"
        return Finding("system", "problem", text, "on Windows install WSL: wsl --install", values)
    if "microsoft" in _read(release).lower():
        values["wsl"] = True
        text += (
            "\nWSL: as Linux. Drives of Windows below /mnt are slow, and their locks do not reach Windows' own programs"
        )
        remedy = "keep sessions and datasets below your home folder; windows need WSLg, which Windows 11 has"
        return Finding("system", "note", text, remedy, values)
    return Finding("system", "ok", text, values=values)


def cores() -> Finding:
    """Return how many cores this process may use, and the variables that change how."""
    usable, there = usable_cores(), os.cpu_count() or 1
    text = f"{usable}" if usable == there else f"{usable} of {there}; the rest is kept from this process"
    variables = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    if variables:
        text += f" ({', '.join(f'{name}={value}' for name, value in variables.items())})"
    return Finding("cores", "ok", text, values={"usable": usable, "there": there, "variables": variables})


def memory() -> Finding:
    """Return how much memory programs and the page cache can still take."""
    free = available_memory()
    if free is None:
        return Finding("memory", "note", "the system does not say how much is free")
    values = {"available": free}
    if free < LITTLE:
        return Finding("memory", "note", f"{size(free)} available", "use fewer workers: num_workers", values)
    return Finding("memory", "ok", f"{size(free)} available", values=values)


def shared() -> Finding:
    """Try the memory through which workers hand over observations, and say what /dev/shm has for torch."""
    try:
        file = shared_memory.make_file()
        try:
            os.ftruncate(file, PROBE)
        finally:
            os.close(file)
    except OSError as error:
        remedy = "pass shared_memory=False: observations are then sent in messages"
        return Finding("shared memory", "problem", f"the system gives none: {error.strerror}", remedy)
    text = "works" if hasattr(os, "memfd_create") else f"works, as files in {tempfile.gettempdir()}"
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding("shared memory", "ok", text)
    text += f"; /dev/shm has {size(free)} free"
    if free < LITTLE:
        remedy = "for other libraries, such as loaders of torch: start containers with --shm-size=2g or --ipc=host"
        return Finding("shared memory", "note", text, remedy, {"dev_shm": free})
    return Finding("shared memory", "ok", text, values={"dev_shm": free})


def descriptors() -> Finding:
    """Return how many files may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    values = {"soft": soft, "hard": hard}
    if soft < FEW_FILES and soft != resource.RLIM_INFINITY:
        most = "unlimited" if hard == resource.RLIM_INFINITY else hard
        return Finding("open files", "note", f"{soft} at most", f"for many workers: ulimit -n {most}", values)
    return Finding(
        "open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"{soft} at most", values=values
    )


def folder(path: Path) -> Iterator[Finding]:
    """Yield findings on the file system of a folder, in which a folder is made and taken away again."""
    try:
        with tempfile.TemporaryDirectory(prefix=".physgym-doctor-", dir=path) as made:
            yield from _file_system(Path(made), path)
    except OSError as error:
        remedy = "choose a folder that is yours, with --folder"
        yield Finding("folder", "problem", f"cannot write in {path}: {error.strerror or error}", remedy)


def _file_system(made: Path, path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(path).free
    text, values = f"{path}: {size(free)} free", {"folder": str(path), "free": free}
    if free < LITTLE:
        yield Finding(
            "folder", "note", text, "sessions and datasets take room; clear some, or take another disk", values
        )
    elif str(path).startswith(OF_WINDOWS) and "microsoft" in _read(WSL).lower():
        yield Finding("folder", "note", f"{text}; on a drive of Windows", "work below your home folder instead", values)
    else:
        yield Finding("folder", "ok", text, values=values)
    state = locks(made / "lock")
    yield Finding(
        "locks",
        "ok" if state == "taken" else "problem",
        "work: one process at a time writes to a session or a dataset"
        if state == "taken"
        else "nothing keeps a second process from writing to the same session or dataset",
        "" if state == "taken" else "mount the file system with locks (NFS: without nolock), or use a local folder",
        {"second": state},
    )
    first, second = made / "first", made / "second"
    first.touch()
    try:
        files.add_name(first, second)
    except OSError as error:
        text = f"the file system has no hard links ({error.strerror}): checkpoints and copies take more room"
        yield Finding("hard links", "note", text)
    else:
        yield Finding("hard links", "ok", "work")


def locks(file: Path) -> files.LockState:
    """Return what a second one gets who asks for the lock of a file that is taken: "taken" where locks work."""
    handles = [files.open_regular(file, os.O_RDWR | os.O_CREAT) for _ in range(2)]
    try:
        states = [files.lock(handle, file, warn=False) for handle in handles]
    finally:
        for handle in handles:
            os.close(handle)
    return states[1]


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
