"""The rules that a worker has to keep, in any language, as a test suite and for `physgym check`.

Subclass `WorkerConformance` in a test file and say how the worker is started::

    class TestMyWorker(WorkerConformance):
        command = ("./worker",)
        env = "my/Spring-v0"
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from physgym.errors import ConfigError
from physgym.testing.rules import RuleReport, broken_rules, listed
from physgym.testing.worker_faults import FaultRules
from physgym.testing.worker_greeting import GreetingRules
from physgym.testing.worker_rollouts import RolloutRules
from physgym.testing.worker_stepping import SteppingRules


class WorkerConformance(FaultRules, RolloutRules, SteppingRules, GreetingRules):
    """The rules of docs/reference/protocol.md for a program that connects as a worker."""


def check_worker(
    command: Sequence[str],
    env: str = "",
    arguments: Mapping[str, Any] | None = None,
    report: RuleReport | None = None,
    skipped: RuleReport | None = None,
    *,
    timeout: float = 30.0,
) -> None:
    """Check a worker against all rules.

    Args:
        command: The program and its arguments; ``HOST:PORT --token-file FILE``, and maybe ``--envs K``, are added.
        env: Id that it makes; by default the first one that its offer names.
        arguments: Arguments of the environments.
        report: Called for each rule with its name and what was expected and came, empty if it holds.
        skipped: Called with the name of a rule that cannot be tried, and why.
        timeout: Seconds to wait for the program, and for each of its answers.

    Raises:
        AssertionError: Rules are broken; the text lists all of them.
        ConfigError: The program cannot be started, or nothing says what it makes.
    """
    if not command or shutil.which(command[0]) is None:
        raise ConfigError(f"{' '.join(command)!r} is no program that can be started; name a file, or one of the PATH")

    class Tried(WorkerConformance):
        """The rules for this program."""

    Tried.command, Tried.env, Tried.arguments, Tried.timeout = tuple(command), env, dict(arguments or {}), timeout
    suite = Tried()
    try:
        with contextlib.suppress(AssertionError):  # which rules tell
            suite.find_id()
        broken = broken_rules(suite, report, skipped)
    finally:
        suite.teardown_class()
    if broken:
        raise AssertionError(f"the worker breaks rules:\n{listed(broken)}")
