"""The pytest plug-in that runs Gymnasium's own tests of vector environments against `physgym.SocketVectorEnv`.

``pytest -p physgym.testing.gymnasium_suite tests/vector tests/wrappers/vector``, started in the source tree of the
Gymnasium release that is installed (``tests/envs/registration/test_make_vec.py`` belongs to them), replaces
`gymnasium.vector.AsyncVectorEnv` before the test modules import it. No test is left out: the few that ask for something
`SocketVectorEnv` does differently on purpose are `KNOWN_DIFFERENCES`; they run as well, and are expected to fail in the
way and for the reason given there.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import gymnasium
import gymnasium.vector
import gymnasium.vector.async_vector_env
import pytest

from physgym.system.cores import usable_cores

REPLACED = "AsyncVectorEnv"
CHOSEN = "--chosen-workers"  # option
# `gymnasium.make_vec` looks the name up in the first when it is called, test modules import it from either
PLACES = (gymnasium.vector, gymnasium.vector.async_vector_env)


class Difference(NamedTuple):
    """Tests of Gymnasium that `SocketVectorEnv` does not pass on purpose.

    Attributes:
        pattern: The end of their ids, without the parameters or with them; ``*`` stands for anything.
        reason: What `SocketVectorEnv` does instead, and why.
        raises: How they fail. Any other failure is none of the known ones, and counts.
        strict: Whether they fail every time, so that one that passes is a failure.
    """

    pattern: str
    reason: str
    raises: type[BaseException]
    strict: bool = True

    def covers(self, nodeid: str) -> bool:
        """Say whether a test is one of these."""
        end = ".*".join(re.escape(part) for part in self.pattern.split("*"))
        return re.search(rf"(^|/){end}(\[.*\])?$", nodeid, re.DOTALL) is not None


KNOWN_DIFFERENCES = (
    Difference(
        "vector/test_async_vector_env.py::test_async_vector_subenv_error",
        "the error that reset and step raise carries the worker's traceback and names the environment; it is not given "
        "a second time in warnings of one 'Worker-N' per environment, as a worker has several environments and others "
        "of them may not have been asked yet",
        AssertionError,  # of the number of warnings; that the environment's own ValueError is raised comes before
    ),
    Difference(
        "vector/test_async_vector_env.py::test_custom_space_async_vector_env_shared_memory",
        "shared_memory=True takes every space: observations that have no fixed layout in memory are sent in messages "
        "instead of being refused",
        pytest.fail.Exception,  # of pytest.raises(ValueError): nothing was raised
    ),
)

_original = pytest.StashKey[Any]()
_counts = pytest.StashKey[dict[Difference, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests run with the number of workers that is chosen by default."""
    parser.addoption(CHOSEN, action="store_true", help="let SocketVectorEnv choose how many workers it has, or none")


def pytest_configure(config: pytest.Config) -> None:
    """Put `SocketVectorEnv` in the place of `AsyncVectorEnv` until the session ends."""
    from physgym.vector import SocketVectorEnv

    workers = None if config.getoption(CHOSEN) else usable_cores()

    class InWorkers(SocketVectorEnv):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"num_workers": workers, **kwargs})

    original = gymnasium.vector.AsyncVectorEnv
    config.stash[_original] = original
    config.stash[_counts] = dict.fromkeys(KNOWN_DIFFERENCES, 0)

    def put(vector_env: Any) -> None:
        for place in PLACES:
            setattr(place, REPLACED, vector_env)

    put(InWorkers)
    config.add_cleanup(lambda: put(original))


def pytest_report_header() -> str:
    """Say which class is tested."""
    return f"gymnasium {gymnasium.__version__}: physgym.SocketVectorEnv in the place of {REPLACED}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the known differences.

    Raises:
        pytest.UsageError: A test module has the class that was to be replaced, so its tests would prove nothing.
    """
    counts = config.stash[_counts]
    for item in items:
        module = getattr(item, "module", None)
        if getattr(module, REPLACED, None) is config.stash[_original]:
            raise pytest.UsageError(f"{item.nodeid}: its module was imported before {REPLACED} was replaced")
        for difference in KNOWN_DIFFERENCES:
            if difference.covers(item.nodeid):
                counts[difference] += 1
                item.add_marker(
                    pytest.mark.xfail(reason=difference.reason, raises=difference.raises, strict=difference.strict)
                )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List the known differences with their reasons, and how many of the tests each one concerns."""
    terminalreporter.section(f"known differences from {REPLACED}")
    for difference, count in config.stash[_counts].items():
        terminalreporter.line(f"{difference.pattern} ({count} collected): {difference.reason}")
