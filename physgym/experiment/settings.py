"""Settings of a person, a project and a machine: what happens with uncommitted changes, what is code, and reports.

In rising order they stand in ``~/.config/physgym/config.toml``, in the table ``[tool.physgym]`` of the project's
``pyproject.toml``, and in environment variables. Flags of a command come before all of them.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from physgym.errors import ConfigError

Uncommitted = Literal["refuse", "save-diff", "unrecorded"]
Reports = Literal["write", "none"]
SUFFIXES = (
    *(".py", ".ipynb", ".pyx", ".c", ".cc", ".cpp", ".cxx", ".h", ".hh", ".hpp", ".cu", ".f", ".F90", ".f90", ".jl"),
    *(".rs", ".so", ".sh", ".xml", ".urdf", ".scn", ".inp", ".yaml", ".yml", ".toml", ".json"),
)
# changes of committed files that are no change of what runs
DOCUMENTS = (*(".md", ".rst", ".log", ".tex", ".bib", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".out", ".err"),)
UNCOMMITTED, CODE, REPORTS = "PHYSGYM_UNCOMMITTED", "PHYSGYM_CODE_SUFFIXES", "PHYSGYM_REPORTS"
KEYS = {"uncommitted": UNCOMMITTED, "code-suffixes": CODE, "reports": REPORTS}
PROJECT, USER = "pyproject.toml", Path("physgym") / "config.toml"

WRONG = "{where}: {key} must be {wanted}, not {value!r}"


@dataclass(frozen=True)
class Settings:
    """Settings of a project or user.

    Attributes:
        uncommitted: What happens with a run whose code is not committed: "refuse" it, "save-diff" (keep the changes
            with its session), or run it "unrecorded".
        code_suffixes: Suffixes of the files that are code.
        reports: Whether commands "write" a report at their end, or "none".
        where: What said `uncommitted`; empty for the default.
    """

    uncommitted: Uncommitted = "refuse"
    code_suffixes: tuple[str, ...] = SUFFIXES
    reports: Reports = "write"
    where: str = ""

    def is_code(self, name: str) -> bool:
        """Return whether an untracked file can change what runs."""
        return Path(name).suffix in self.code_suffixes

    def is_document(self, name: str) -> bool:
        """Return whether a change of a committed file changes nothing that runs."""
        return Path(name).suffix in DOCUMENTS and not self.is_code(name)


def read_settings(root: Path | None = None) -> Settings:
    """Return the settings that hold in a project.

    Args:
        root: Its folder, in which its ``pyproject.toml`` is; None if there is none.

    Raises:
        ConfigError: A file cannot be read, or a setting is unknown or wrong; the text names file and key.
    """
    found = Settings()
    around = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    user = (Path(around) / USER).expanduser()
    found = _taken(found, _table(user), str(user))
    if root is not None:
        table = _table(root / PROJECT).get("tool", {})
        found = _taken(found, table.get("physgym", {}) if isinstance(table, dict) else {}, f"{root / PROJECT}")
    named = {key: os.environ[name] for key, name in KEYS.items() if os.environ.get(name)}
    for key, text in named.items():
        value: Any = text.replace(",", " ").split() if key == "code-suffixes" else text
        found = _taken(found, {key: value}, KEYS[key])
    return found


def _table(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error


def _taken(settings: Settings, table: Any, where: str) -> Settings:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: tool.physgym must be a table")
    for key, value in table.items():
        if key == "uncommitted":
            if value not in get_args(Uncommitted):
                wanted = f"one of {', '.join(get_args(Uncommitted))}"
                raise ConfigError(WRONG.format(where=where, key=key, wanted=wanted, value=value))
            settings = replace(settings, uncommitted=value, where=where)
        elif key == "reports":
            if value not in get_args(Reports):
                wanted = f"one of {', '.join(get_args(Reports))}"
                raise ConfigError(WRONG.format(where=where, key=key, wanted=wanted, value=value))
            settings = replace(settings, reports=value)
        elif key == "code-suffixes":
            if not isinstance(value, list) or not all(isinstance(s, str) and s.startswith(".") for s in value):
                wanted = 'a list of suffixes, such as [".py", ".msh"]'
                raise ConfigError(WRONG.format(where=where, key=key, wanted=wanted, value=value))
            settings = replace(settings, code_suffixes=tuple(value))
        else:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KEYS)}"
            raise ConfigError(f"{where}: there is no setting {key!r}; {hint}")
    return settings
