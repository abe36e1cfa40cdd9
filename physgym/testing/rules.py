"""The rules of a conformance suite, tried one by one outside of pytest."""

from __future__ import annotations

import inspect
import unittest
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from physgym.errors import PhysGymError
from physgym.testing.isolation import ConformanceNote
from physgym.worker.folders import Folder

# of Gymnasium's warnings, at every step and reset, what a rule says once
SAID_BY_RULES = ("WARN: Casting input x to numpy array", "WARN: The obs returned by the ")

RuleReport: TypeAlias = Callable[[str, str], None]


class NothingToCheck(unittest.SkipTest):
    """A rule is about something that what is checked does not have to have."""


def rules(suite: Any) -> dict[str, Callable[[], None]]:
    """Return the tests of a suite by name, in the order of their definition."""
    names = [n for cls in reversed(type(suite).__mro__) for n in vars(cls) if n.startswith("test_")]
    return {name: getattr(suite, name) for name in dict.fromkeys(names) if inspect.ismethod(getattr(suite, name))}


def broken_rules(
    suite: Any, report: RuleReport | None = None, note: RuleReport | None = None, skip: RuleReport | None = None
) -> list[str]:
    """Try all rules of a suite; return the broken ones, each with its name.

    Args:
        suite: An object whose methods ``test_...`` are the rules.
        report: Called for each rule with its name and the broken rule's text, empty if it holds.
        note: Called with the name of a rule that holds only nearly, or is not tried, and what there is to say; by
            default a warning, and nothing where there is nothing to check.
        skip: Called in place of `note` with the name of a rule that is not tried, and why.
    """
    broken = []
    heard: set[str] = set()
    for name, rule in rules(suite).items():
        try:
            with Folder(), warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("default", ConformanceNote)
                rule()
            text = ""
            for warning in said:
                if note is not None and issubclass(warning.category, ConformanceNote):
                    note(name, str(warning.message))
                elif (words := str(warning.message)) not in heard and not any(map(words.count, SAID_BY_RULES)):
                    heard.add(words)
                    warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        except unittest.SkipTest as skipped:
            if (take := skip or note) is not None:
                take(name, str(skipped))
            elif not isinstance(skipped, NothingToCheck):
                warnings.warn(f"{name}: {skipped}", ConformanceNote, stacklevel=3)
            continue
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what is tested may raise anything
            text = fault_text(error)
            broken.append(f"{name}: {text}")
        if report is not None:
            report(name, text)
    return broken


def fault_text(error: BaseException) -> str:
    """Return what a rule says that has raised."""
    return str(error) if isinstance(error, (AssertionError, PhysGymError)) else f"it raised {error!r}"


def listed(broken: Sequence[str]) -> str:
    """Return broken rules line by line; a fault that breaks several is named once, with all of them.

    Args:
        broken: What `broken_rules` returned. Rules that break by one fault say it with the same words at the end, after
            what they did until then, such as "episode, step 0".
    """
    faults: list[tuple[str, list[str]]] = []  # each with the rules that it breaks
    for name, _, text in (line.partition(": ") for line in broken):
        for i, (known, names) in enumerate(faults):
            if f": {text}".endswith(f": {known}") or f": {known}".endswith(f": {text}"):
                faults[i] = min(known, text, key=len), [*names, name]
                break
        else:
            faults.append((text, [name]))
    more = "\n  The same fault breaks {}"
    return "\n".join(
        f"- {names[0]}: {text}{more.format(', '.join(names[1:])) if names[1:] else ''}" for text, names in faults
    )
