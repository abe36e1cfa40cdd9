"""`SessionSummary`: a session as a notebook shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.experiment.record import read_record, results_of, state
from physgym.experiment.report_text import code_text, command_text, printable, when_text
from physgym.html_parts import html_table, html_title
from physgym.storage.location import local


class SessionSummary:
    """Summary of a session, which a notebook shows as tables: what was run, how it ended, and its last values.

    It is read again whenever it is shown, so that a cell that runs once more shows a training that continues.

    Args:
        path: The folder of the session, such as ``trainer.session``.

    Raises:
        ConfigError: The folder is not a session, or its record is damaged or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = local(path, "a session")
        read_record(self._path)

    def __repr__(self) -> str:
        return f"SessionSummary({str(self._path)!r})"

    def _repr_html_(self) -> str:
        record, outcome = read_record(self._path), state(self._path)
        title = html_title(f"Session {printable(record['session'])}", printable(record["description"]))
        rows = [(name, printable(text)) for name, text in _facts(record, outcome).items()]
        results = results_of(self._path, record)
        values = [printable(f"{value:.6g}" if isinstance(value, float) else str(value)) for value in results.values()]
        lines = [title, html_table((), rows, texts=True)]
        lines += [html_table([printable(name) for name in results], [values])] if results else []
        return "\n".join(lines)


def _facts(record: Mapping[str, Any], outcome: str) -> dict[str, str]:
    """Return what was run and how it ended by name, of the last run."""
    runs = record["runs"]
    last, found = runs[-1], runs[-1]["dataset"]
    facts = {
        "what": f"{last['kind']}, {outcome}" + (f", {len(runs)} runs" if len(runs) > 1 else ""),
        "started": when_text(runs[0]["start"]),
        "ended": when_text(last["end"]) if last["end"] else "",
        "seed": "" if record["seed"] is None else str(record["seed"]),
        "command": command_text(last["command"]),
        "code": code_text(last),
        "dataset": f"{found['samples']} samples in {found['path']}" if found else "",
        "device": last.get("device") or "",
    }
    return {name: text for name, text in facts.items() if text}
