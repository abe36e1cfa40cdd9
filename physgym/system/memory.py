"""Memory for the page cache, which decides how a dataset is shuffled."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that programs and the page cache can still take, within a cgroup's limit.

    Args:
        root: Folder that holds ``proc`` and ``sys``; for tests.

    Returns:
        None where the system does not say.
    """
    known = [value for value in (_of_machine(root), *_of_cgroups(root)) if value is not None]
    return max(0, min(known)) if known else None


def _of_machine(root: Path) -> int | None:
    fields = _table(root / "proc/meminfo")
    if "MemAvailable:" in fields:
        return fields["MemAvailable:"] * 1024
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):  # macOS knows the second one alone
        if name in os.sysconf_names and (pages := os.sysconf(name)) > 0:
            return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_cgroups(root: Path) -> list[int]:
    """Return the rest of the limits of this process's group and of those above it, version 1 and 2."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, anonymous = root / "sys/fs/cgroup", "memory.max", "anon"
        elif "memory" in controllers.split(","):
            top, limit, anonymous = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "total_rss"
        else:
            continue
        # inside of a container the group's folder is often mounted as the top one, and its path does not exist
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            text = _text(folder / limit).strip()
            if text.isdigit():  # "max" is no limit; the page cache counts as used but makes room
                found.append(int(text) - _table(folder / "memory.stat").get(anonymous, 0))
            if folder == top:
                break
    return found


def _table(path: Path) -> dict[str, int]:
    """Return the first two words of every line of a file of the kernel."""
    words = (line.split() for line in _text(path).splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
