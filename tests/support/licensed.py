"""Simulators of which a machine may hold one alone, and one that is costly to start."""

from __future__ import annotations

from physgym.envs.spring import Spring


class Licensed(Spring):
    """The spring, one per machine."""

    metadata = {**Spring.metadata, "physgym.single": "machine"}  # noqa: RUF012


class Found(Spring):
    """The same, of which the class does not say so."""

    def __init__(self):
        super().__init__()
        self.metadata = {**self.metadata, "physgym.single": "machine"}


class PerProcess(Spring):
    """The spring, one per process."""

    metadata = {**Spring.metadata, "physgym.single": "process"}  # noqa: RUF012


class Slow(Spring):
    """The spring, costly to start."""

    metadata = {**Spring.metadata, "physgym.costly_start": True}  # noqa: RUF012
    made = 0

    def __init__(self):
        Slow.made += 1
        super().__init__()


class Wrong(Spring):
    """The spring, with a declaration that is none."""

    metadata = {**Spring.metadata, "physgym.single": True}  # noqa: RUF012


def licensed():
    """Make one; what it declares is not known before."""
    return Licensed()
