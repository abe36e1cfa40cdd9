"""A tracker whose server is a folder: files in it say that it refuses, never answers, or refuses one record."""

from __future__ import annotations

import json
import time
from pathlib import Path

from physgym.training.remote_logger import RemoteLogger
from physgym.training.tracker import RecordRefused, RunIsGone, Tracker


class FileTracker(Tracker):
    def _check(self):
        self.server = Path(self.arguments["server"])
        if (self.server / "silent").exists():
            time.sleep(600)
        if not self.server.is_dir() or (self.server / "away").exists():
            raise ConnectionError("the server is away")

    def begin(self, head, remote):
        self._check()
        if remote is not None and remote.get("superseded"):
            raise RunIsGone
        if remote is None:
            remote = {"run": f"run-{len(list(self.server.glob('run-*')))}"}
            (self.server / remote["run"]).touch()
        self.remote = dict(remote)

    def send(self, records):
        self._check()
        if any("poison" in record.get("values", {}) for record in records):
            raise RecordRefused("poison is not allowed")
        with (self.server / self.remote["run"]).open("a") as stream:
            for record in records:
                stream.write(json.dumps(record) + "\n")

    def end(self):
        self._check()


class FileLogger(RemoteLogger):
    title = "the curves for a folder"
    tracker = "tests.support.file_tracker:FileTracker"
    name = "folder"
    package = "json"
    extra = "none"

    def __init__(self, folder, server=None, **options):
        super().__init__(folder, {"server": str(server)}, **options)


def runs_of(server):
    """The curves of the runs in a folder, the oldest first."""
    found = []
    for file in sorted(server.glob("run-*")):
        curves = {}
        for line in file.read_text().splitlines():
            record = json.loads(line)
            for name, value in record.get("values", {}).items():
                curves.setdefault(name, []).append((record["step"], float(value)))
        found.append(curves)
    return found
