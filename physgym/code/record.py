"""The record of a simulation's code, so that samples of two physics are not mixed, and comparing two records.

The code of a simulation is the text of the module of its class and of every module that this one imports, directly or
not. Of an installed package name and version count; Python itself does not count. A package that is installed to be
edited counts as own code. Imports are read from the texts; nothing is imported for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physgym.code.fingerprint import sha256
from physgym.code.values import SHORT
from physgym.errors import ChangedCode

PARTS = ("modules", "packages", "files", "texts", "values")
SHOWN = 8  # differences that a message names


@dataclass(frozen=True)
class Code:
    """The code of a simulation.

    Attributes:
        modules: Hash of the text, or of the compiled file, of each own module, by its name.
        packages: Version of each installed package that these import, by its name.
        files: Hash of each file that the simulation says it reads.
        texts: Hash of the text of each class and function that stands in no file: in a notebook, after ``python -c``.
        values: Values that a factory brings along: arguments of a partial, the closure of a lambda.
        unknown: Why part of it cannot be known; empty if all of it is.
        commit: The commit of the repository around the simulation, empty if there is none.
        dirty: Whether tracked files of that repository have changes.
        made: Whether an environment was made, which names its classes and the files that it reads.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    commit: str = ""
    dirty: bool = False
    made: bool = False

    @property
    def hash(self) -> str | None:
        """Return the SHA-256 over all of it, hexadecimal; None if part of it is unknown."""
        if self.unknown:
            return None
        return sha256(json.dumps([dict(part) for part in self._parts().values()], sort_keys=True).encode())

    def _parts(self) -> dict[str, Mapping[str, str]]:
        return {name: getattr(self, name) for name in PARTS}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON data that a dataset and a session record."""
        found: dict[str, Any] = {"hash": self.hash or "unknown"}
        found |= {name: dict(sorted(part.items())) for name, part in self._parts().items()}
        return found | {
            "unknown": list(self.unknown),
            "commit": self.commit,
            "dirty": self.dirty,
            "made": self.made,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Code:
        """Return a recorded code; missing entries count as empty."""
        known = {name: data[name] for name in (*PARTS, "commit", "dirty", "made") if name in data}
        unknown = list(data.get("unknown", ()))
        if data.get("hash") == "unknown" and not unknown:
            unknown = ["the record says so"]
        return cls(**known, unknown=unknown)


def recorded_code(session: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record of the code that made the samples of a session's training; None without one.

    Args:
        session: Its folder, or a checkpoint in it.
    """
    folder = Path(session)
    for place in (folder, *list(folder.parents)[:2]):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            runs = json.loads((place / "record.json").read_bytes())["runs"]
            for run in reversed(runs):
                if code := (run.get("dataset") or {}).get("code"):
                    return dict(code)
                if (run.get("code") or {}).get("hash", "unknown") != "unknown":
                    return dict(run["code"])
            return last_known([run.get("code") for run in runs])
    return None


def last_known(codes: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the last record of a code that is known, else the last record; None where there is none.

    A run whose simulation could not be imported records no code, and must not open the door for another one.
    """
    recorded = [dict(code) for code in codes if code]
    return next((code for code in reversed(recorded) if code.get("hash") != "unknown"), next(reversed(recorded), None))


def differences(before: Code, now: Code, *, compare_factories: bool = True) -> list[str]:
    """List the differences between two codes, one text each; empty if they are the same.

    If an environment was made for one of them only, entries of the other alone are no difference.

    Args:
        before: The older code.
        now: The newer code.
        compare_factories: Whether the factories of the environment are compared too: a class, a lambda and an id may
            make the same simulation.
    """
    found = [f"it is unknown ({reason})" for code in (before, now) for reason in code.unknown]
    if found and not all(any(getattr(code, part) for part in PARTS) for code in (before, now)):
        return list(dict.fromkeys(found))  # nothing is known of a code that could not be imported
    both = compare_factories and before.made == now.made
    for part in PARTS if compare_factories else PARTS[:-1]:
        old, new = getattr(before, part), getattr(now, part)
        for name in sorted({*old, *new}):
            if old.get(name) == new.get(name) or (not both and (name not in old or name not in new)):
                continue
            found.append(_difference(part, name, old.get(name), new.get(name)))
    return list(dict.fromkeys(found))


def _difference(part: str, name: str, old: str | None, new: str | None) -> str:
    kind = {"modules": "module ", "packages": "package ", "files": "file ", "texts": "", "values": "value "}[part]
    if old is None or new is None:
        return f"{kind}{name} is {'new' if old is None else 'no longer used'}"
    if part in ("packages", "values"):
        return f"{kind}{name} was {old:.60}, is {new:.60}"
    return f"{kind}{name} has changed ({old[:SHORT]}, now {new[:SHORT]})"


def check_same(
    before: Mapping[str, Any] | None, now: Code, where: str, *, allow: bool = False, compare_factories: bool = True
) -> list[str]:
    """Refuse code that differs from the recorded one.

    Args:
        before: The record; None, if there is none, is accepted with a warning.
        now: The present code.
        where: Name of the dataset or session with that record, for the message.
        allow: Whether to accept differences.
        compare_factories: As in `differences`.

    Returns:
        The differences that were allowed.

    Raises:
        ChangedCode: They differ, or one of them is unknown; the text names both.
    """
    if before is None:
        warnings.warn(
            f"{where} does not say which code of the simulation made it (it is from before physgym recorded that); "
            "taken as the same as that of now, which is recorded from here on",
            UserWarning,
            stacklevel=3,
        )
        return []
    old = Code.from_json(before)
    found = differences(old, now, compare_factories=compare_factories)
    if found and not allow:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise ChangedCode(
            f"{where} was made by other code of the simulation than that of now: {'; '.join([*found[:SHOWN], *more])}. "
            f"Then {_text(old)}, now {_text(now)}. Take the code with which it was begun, or continue with that of "
            "now, and have both recorded: --allow-changed-code (allow_changed_code=True)"
        )
    return found


def warn_unknown(code: Code) -> None:
    """Warn if part of a simulation's code cannot be known."""
    if code.unknown:
        warnings.warn(
            f"the code of the simulation is unknown: {'; '.join(code.unknown[:SHOWN])}. What it makes can be continued "
            "only with --allow-changed-code (allow_changed_code=True); put the simulation into a module of its own to "
            "have its code recorded",
            UserWarning,
            stacklevel=3,
        )


def _text(code: Code) -> str:
    what = f"code {code.hash[:SHORT]}" if code.hash else "unknown code"
    return f"{what} (commit {code.commit[:SHORT]}{' with changes' if code.dirty else ''})" if code.commit else what
