"""The record of a session as a person reads it."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from physgym.experiment.record import DIED
from physgym.experiment.repository import printable_name
from physgym.experiment.session import CONFIG, INFO, RECORD
from physgym.files import write_atomically

NOTES = "--- notes: what is written below this line is kept ---"
KERNEL = "ipykernel_launcher.py"  # the program of a notebook
CONTENT = {
    "dataset/": "samples, unless the configuration names another place",
    "networks/": "checkpoints",
    "stats/": "curves",
    CONFIG: "the resolved configuration",
    RECORD: "where it comes from and what came out, for programs; this file is made of it",
}


def write_info(session: Path, record: Mapping[str, Any], outcome: str) -> None:
    """Write the record for people into a session; what a user has added to it stays.

    Args:
        session: The folder.
        record: The record.
        outcome: How the last run ended.
    """
    notes = _notes(session / INFO)
    write_atomically(session / INFO, f"{record_text(record, outcome)}\n{NOTES}\n{notes}")


def _notes(info: Path) -> str:
    """Return the text of a user below the line for notes; in an older file, below everything."""
    try:
        text = info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    _, found, notes = text.partition(f"\n{NOTES}\n")
    if not found:
        *_, last = CONTENT.values()
        _, _, notes = text.partition(last)
    return notes.lstrip("\n")


def record_text(record: Mapping[str, Any], outcome: str, *, details: bool = False) -> str:
    """Return a record as a person reads it.

    Args:
        record: The record.
        outcome: How the last run ended, as `state` says it.
        details: Whether to show all of every run instead of the most important facts of the last one.
    """
    runs = record["runs"]
    last = runs[-1]
    lines = [
        f"physgym session {record['session']}: {last['kind']}",
        record["description"] or "(no description)",
        "",
        f"outcome: {outcome}",
        f"started: {when_text(runs[0]['start'])}",
        *([f"ended:   {when_text(last['end'])}"] if last["end"] else []),
        f"seed:    {record['seed']}",
        f"command: {command_text(last['command'])}",
        f"code:    {code_text(last)}",
    ]
    if last["dataset"]:
        found = last["dataset"]
        lines.append(f"dataset: {found['samples']} samples in {found['path']}, sha256 {found['hash'][:16]}...")
    if last["weights"]:
        lines.append(f"weights: sha256 {last['weights'][:16]}...")
    lines += ["", *(f"{name}: {_figure(value)}" for name, value in last["results"].items())]
    if len(runs) > 1 and not details:
        lines += ["", f"{len(runs)} runs: it was resumed"]
    if details:
        for number, run in enumerate(runs, 1):
            ended = run["outcome"] or (outcome if run is last else DIED)
            lines += ["", f"run {number} of {len(runs)}: {ended}", *(f"  {line}" for line in _details(run))]
    width = max(map(len, CONTENT))
    lines += ["", *(f"{name:<{width}}  {what}" for name, what in CONTENT.items())]
    return printable("\n".join(lines) + "\n")


def printable(text: str) -> str:
    """Return a text of somebody else without characters that would steer a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def _details(run: Mapping[str, Any]) -> list[str]:
    hardware, found = run["hardware"], run["git"] or {}
    gpus = ", ".join(hardware.get("gpus") or []) or "no GPU"
    memory = f"{(hardware.get('memory') or 0) / 2**30:.0f} GiB"
    more = [f"{name}={value}" for name, value in run["environment"].items()]
    lines = [
        f"{when_text(run['start'])} to {when_text(run['end']) if run['end'] else '?'}",
        f"command:  {command_text(run['command'])}",
        f"folder:   {run['folder']}",
        f"code:     {code_text(run)}",
        *(f"          changed {printable_name(name)}" for name in found.get("changed", [])),
        *(f"          untracked {printable_name(name)}" for name in found.get("untracked", [])),
        *(f"          others    {printable_name(name)}" for name in found.get("others", [])),
        f"machine:  {run['host']}, {hardware.get('cpu')}, {hardware.get('cores')} cores, {memory}, {gpus}",
        f"software: Python {run['python']}, {run['platform']}, {len(run['packages'])} packages in {RECORD}",
        f"threads:  {run['threads'] or 'unknown'}{': ' if more else ''}{' '.join(more)}",
    ]
    if device := run.get("device"):
        lines.append(f"device:   {device}")
    if code := run.get("code"):
        count = len(code.get("modules", ()))
        lines.append(f"solver:   code {str(code.get('hash'))[:16]}, a hash over the {count} modules that it imports")
    if run["edits"]:
        lines.append(f"edits:    {json.dumps(run['edits'], ensure_ascii=False)}")
    samples = {"dataset": run["dataset"], **run.get("others", {})}
    lines += [f"{what + ':':<9} {one['path']}, sha256 {one['hash']}" for what, one in samples.items() if one]
    if run["weights"]:
        lines.append(f"weights:  sha256 {run['weights']}")
    return lines


def code_text(run: Mapping[str, Any]) -> str:
    """Return where the code of a run is: its commit, or its folder."""
    found = run["git"]
    if not found or not found["commit"]:
        return f"in no repository; in the folder {run['folder']}"
    branch = f" on {found['branch']}" if found["branch"] else ""
    remote = f" of {found['remote']}" if found["remote"] else ""
    changes = f", with {run['patch']}" if run["patch"] else ", with changes that are not kept" if found["dirty"] else ""
    return f"commit {found['commit'][:12]}{branch}{remote}{changes}"


def when_text(moment: str) -> str:
    """Return a moment of a record as a person reads it."""
    with contextlib.suppress(ValueError):
        return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return moment


def command_text(command: Sequence[str]) -> str:
    """Return the command of a run as a person may type it; a notebook's is of no use to anybody."""
    return "in a notebook" if command and Path(command[0]).name == KERNEL else shell_text(command)


def shell_text(command: Sequence[str]) -> str:
    """Return a command as a person may type it."""
    return " ".join(printable_name(shlex.quote(word)) for word in command)


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
