"""Environment variables of launchers such as torchrun, and the wait for the processes that they announce."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from physgym.errors import ConfigError

VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = "PHYSGYM_RANKS_TIMEOUT"  # a variable of our own: seconds
PATIENCE = 300.0  # seconds to wait for the others by default
SILENT = 3.0  # seconds after which it is said what is waited for
POLL = 0.1  # seconds between two looks, which is what Ctrl-C waits for
# launchers that start processes which know nothing of each other: how many, and by which variable
OTHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM's srun"),
    ("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun"),
    ("PMI_SIZE", "an MPI launcher"),
    ("MV2_COMM_WORLD_SIZE", "MVAPICH's mpirun"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """Processes that train together, by the environment.

    Attributes:
        size: How many there are; 1 for this one alone.
        rank: Number of this process.
        variables: Those that say it, for messages.
    """

    size: int = 1
    rank: int = 0
    variables: str = ""


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return what a launcher has said in the environment; only torchrun's variables count.

    Raises:
        ConfigError: A variable is no number, out of range, or missing while others are set.
    """
    if "WORLD_SIZE" not in environment:
        return Launch()
    size = _number(environment, "WORLD_SIZE", 1)
    if size == 1:
        return Launch()
    if missing := [name for name in VARIABLES if not environment.get(name)]:
        verb = "is" if len(missing) == 1 else "are"
        names = ", ".join(missing)
        raise ConfigError(
            f"WORLD_SIZE={size} announces {size} processes that train together, but {names} {verb} not set in the "
            f"environment. {_remedy(environment)}"
        )
    rank = _number(environment, "RANK", 0, size - 1)
    _number(environment, "MASTER_PORT", 1, 2**16 - 1)
    return Launch(size, rank, _shown(environment))


def read_local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of this process among those of its machine; 0 where nobody says it.

    Raises:
        ConfigError: The variable is no such number.
    """
    return _number(environment, "LOCAL_RANK", 0) if "LOCAL_RANK" in environment else 0


def read_local_size(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes of this machine; 1 where nobody says it.

    Raises:
        ConfigError: The variable is no such number.
    """
    return _number(environment, "LOCAL_WORLD_SIZE", 1) if "LOCAL_WORLD_SIZE" in environment else 1


def warn_of_separate_trainings(environment: Mapping[str, str] = os.environ) -> None:
    """Warn where a launcher that is not torchrun has started several processes, which then train separately."""
    for name, launcher in OTHERS:
        value = environment.get(name, "")
        if value.isdecimal() and int(value) > 1:
            log.warning(
                "%s",
                (
                    f"{name}={value}: {launcher} has started several processes; each of them trains alone. To train "
                    "one network together, start torchrun in each (docs/howto/training.md)"
                ),
            )
            return


def meet(join: Callable[[], object], launch: Launch, environment: Mapping[str, str] = os.environ) -> None:
    """Wait until all processes are there.

    Args:
        join: Waits for them, without an end and without a look at Ctrl-C; so it is called in a thread.
        launch: What is waited for.
        environment: Where `TIMEOUT` may be set.

    Raises:
        ConfigError: They did not come in time, or cannot meet.
        KeyboardInterrupt: Ctrl-C.
    """
    patience = _number(environment, TIMEOUT, 1) if TIMEOUT in environment else PATIENCE
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            join()
        except BaseException as error:  # noqa: BLE001 - raised below, where it is wanted
            failures.append(error)

    thread = threading.Thread(target=wait, name="physgym-ranks", daemon=True)
    start, said = time.monotonic(), False
    thread.start()
    names = _names(environment)
    while thread.is_alive():
        thread.join(POLL)
        waited = time.monotonic() - start
        if thread.is_alive() and waited > patience:
            raise ConfigError(
                f"the {launch.size} processes that the environment announces did not meet within {patience:.0f} s: "
                f"{launch.variables}. Start all of them, give them more time with {TIMEOUT}=SECONDS, or, to train in "
                f"this process alone: unset {names}"
            )
        if thread.is_alive() and waited > SILENT and not said:
            said = True
            log.warning(
                "%s",
                f"waiting for {launch.size} processes to train together: {launch.variables} say so (this is process "
                f"{launch.rank}); it gives up after {patience:.0f} s. Where these variables are left over from another "
                f"run, end this with Ctrl-C and: unset {names}",
            )
    if failures:
        error = failures[0]
        if not isinstance(error, (RuntimeError, ValueError, OSError)):
            raise error
        text = f"the processes that {launch.variables} announce cannot meet: {error}. {_remedy(environment)}"
        raise ConfigError(text) from error


def _number(environment: Mapping[str, str], name: str, least: int, most: int | None = None) -> int:
    text = environment[name]
    if text.isascii() and text.isdecimal() and least <= int(text) and (most is None or int(text) <= most):
        return int(text)
    want = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
    raise ConfigError(f"the environment variable {name}={text!r} of a launcher must be {want}. {_remedy(environment)}")


def _names(environment: Mapping[str, str]) -> str:
    return " ".join(name for name in VARIABLES if name in environment)


def _shown(environment: Mapping[str, str]) -> str:
    return " ".join(f"{name}={environment[name]}" for name in VARIABLES)


def _remedy(environment: Mapping[str, str]) -> str:
    return (
        "Start the processes with torchrun, which sets it; or, to train in this process alone: unset "
        f"{_names(environment)}"
    )
