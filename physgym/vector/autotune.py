"""The number of workers: what a caller asks for, what environments declare, and what is worth its messages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from physgym.batched.env import BATCHED
from physgym.checks import is_integer
from physgym.errors import ConfigError, SharedMachine
from physgym.launch.base import Launcher
from physgym.placement import EnvFactory, declared_metadata, makes_batch
from physgym.real_time import METADATA, runs_in_real_time
from physgym.single import COSTLY_START, MACHINE, PROCESS, SINGLE, refuse_together, single_of, starts_slowly
from physgym.system.cores import can_pin, usable_cores

# of one step of all environments with workers, beyond the steps themselves; measured by benchmarks/vector.py
MESSAGE_SECONDS = 60e-6
LOOP_SECONDS = 0.7e-6  # per environment
WAITING = (
    0.5  # part of a step in which it does not compute, from which more workers than cores let several wait at once
)
WORTH_A_SWITCH = 2e-4  # seconds per step, above which switching between processes on one core costs little
WORTH_A_PROCESS = 1e-3  # seconds of a step of all, above which messages cost little also where nothing is gained

log = logging.getLogger(__name__)


def count_workers(
    num_workers: int | str | None, factories: Sequence[EnvFactory], launcher: Launcher[Any], needing: Mapping[str, Any]
) -> int | None:
    """Return the number of worker processes for what a caller asks for; None where a trial is to find it out.

    Args:
        num_workers: A number, or None or "auto" for what is fastest; never more than there are environments.
        factories: One per environment.
        launcher: What starts them.
        needing: Arguments of the caller that need workers where they are given, even if that is slower.

    Raises:
        ConfigError: It is no such number, or the metadata of the environments do not allow so many here.
    """
    if num_workers not in (None, "auto") and not is_integer(num_workers, 0):
        raise ConfigError(
            f"num_workers must be at least 1, or 0 for this process, not {num_workers!r}; leave it out for what is "
            "fastest"
        )
    asked = None if num_workers in (None, "auto") else int(num_workers)
    if needing.get("pinning") and (asked == 0 or not launcher.inherits):
        where = "num_workers=0 starts none" if asked == 0 else "launcher= starts them elsewhere"
        raise ConfigError(f"pinning keeps workers on cores of this machine, and {where}; leave one of them out")
    if needing.get("pinning") and not can_pin():
        raise ConfigError("pinning= needs a system that keeps processes on chosen cores, as Linux does; leave it out")
    metadata, count = declared_metadata(factories[0]), len(factories)
    single = single_of(metadata)
    if metadata.get(BATCHED) and makes_batch(factories):
        return _count_batches(asked, count, single, launcher)
    if metadata.get(BATCHED) and count > 1:
        _say_one_by_one()
    if asked == 0:
        refuse_together(metadata, count, local=True)
    elif single == PROCESS or (single == MACHINE and launcher.inherits):
        if single == MACHINE:
            refuse_together(metadata, count, local=False)
        say_choice(count, count, f"they declare {SINGLE}")
        return count
    if asked is not None:
        return min(asked, count)
    reasons = [f"{name} needs workers" for name, given in needing.items() if given]
    declared = {
        COSTLY_START: starts_slowly(metadata),
        BATCHED: metadata.get(BATCHED),
        METADATA: runs_in_real_time(metadata),
    }
    reasons += [f"they declare {name}" for name, value in declared.items() if value]
    if not reasons:
        return None
    say_choice(min(usable_cores(), count), count, reasons[0])
    return min(usable_cores(), count)


def say_choice(num_workers: int, num_envs: int, reason: str) -> None:
    """Say in the log how many workers were chosen, and why."""
    where = f"{num_workers} worker processes" if num_workers else "this process (num_workers=0)"
    log.info("%d environments in %s: %s", num_envs, where, reason)


def _count_batches(asked: int | None, num_envs: int, single: str | None, launcher: Launcher[Any]) -> int:
    """Return the number of processes for environments that are computed together, one batch in each."""
    count = 1 if asked is None else min(asked, num_envs)
    if count > 1 and single == MACHINE and launcher.inherits:
        raise SharedMachine(
            f"{count} batches are to share a machine, which may hold one ({SINGLE}). Leave num_workers out: one worker "
            "computes all rows"
        )
    return count


def _say_one_by_one() -> None:
    warnings.warn(
        "the simulator computes many environments at once, but here each is a batch of one row, which is right and "
        "slow: rows are computed together only where all have the same arguments and nothing is around each of them "
        "(no list of env_kwargs, load=, snapshots=, wrappers, or evaluation of an agent)",
        UserWarning,
        stacklevel=3,
    )


def choose(num_envs: int, mean: float, computing: float, cores: int) -> int:
    """Return the number of workers for the fastest step of all environments; 0 for none.

    Args:
        num_envs: How many environments; all are taken to cost the same.
        mean: Seconds of a step of one, on average.
        computing: Seconds of these in which it computes; it waits in the others.
        cores: How many cores there are.
    """
    if num_envs > 1 and mean > WORTH_A_SWITCH and computing < (1 - WAITING) * mean:
        return min(num_envs, 4 * cores)
    workers = min(cores, num_envs)
    cost = mean + LOOP_SECONDS
    if num_envs * cost <= -(-num_envs // workers) * cost + MESSAGE_SECONDS:
        # one worker computes no faster than this process. Where that takes long it costs nothing either, has one thread
        # as others have, and ends by a timeout
        return 0 if workers > 1 or num_envs * cost < WORTH_A_PROCESS else workers
    return workers
