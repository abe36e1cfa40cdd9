"""Progress: a bar on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios

import pytest

from physgym import progress
from physgym.progress import Progress


def count(total=4):
    with Progress(total, "count", "sheep") as bar:
        for number in range(4):
            bar.update(1, f"number {number}")


def printed(terminal):
    """Yield what was printed on a terminal that nobody else has open, which comes in pieces."""
    with contextlib.suppress(OSError):  # EIO: that is all
        while data := os.read(terminal, 1 << 16):
            yield data.decode()


@pytest.mark.parametrize("columns", [120, 0])
def test_a_bar_on_a_terminal_and_lines_on_one_without_columns(monkeypatch, columns):
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with open(theirs, "w", buffering=1) as stream:  # noqa: PTH123 - a descriptor
            monkeypatch.setattr(sys, "stderr", stream)
            count()
            monkeypatch.undo()
        text = "".join(printed(ours))
    finally:
        os.close(ours)
    assert ("\rcount: 100%|" in text) == (columns > 0)
    assert ("count: 4/4 in 0 s" in text) == (columns == 0)
    assert "number 3" in text


def test_lines_elsewhere_every_so_often(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))  # seconds, whenever somebody looks
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Progress(None, "count", "sheep") as bar:
        for number in range(12):
            bar.update(1, f"number {number}")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "\r" not in printed.err
    lines = printed.err.splitlines()
    assert 3 <= len(lines) <= 6
    assert lines[0].startswith("count: 3 in ")
    assert lines[-1].startswith("count: 12 in ")
    assert lines[-1].endswith("number 11")


def test_the_last_state_is_said_once(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))  # each step takes longer than the time between two lines
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Progress(2, "draw", "frame") as bar:
        bar.update()
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" in ")[0] for line in lines] == ["draw: 1/2", "draw: 2/2"]


def test_nothing_where_it_is_switched_off_or_stderr_is_closed(capsys, monkeypatch):
    with Progress(4, "count", "sheep", enabled=False) as bar:
        bar.update()
    assert capsys.readouterr().err == ""
    closed = open(os.devnull, "w")  # noqa: PTH123, SIM115
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with Progress(4, "count", "sheep", enabled=False) as bar:
        bar.update()


def test_a_bar_in_a_notebook(monkeypatch):
    class OutStream(io.StringIO):
        """What a kernel puts in place of stderr: no terminal, and shown as one."""

    OutStream.__module__ = "ipykernel.iostream"
    monkeypatch.setattr(sys, "stderr", shown := OutStream())
    with Progress(4, "count", "sheep") as bar:
        for _ in range(4):
            bar.update(note="a long note, " * 5 + "seen to its end")
    *_, last = shown.getvalue().split("\r")
    assert re.match(r"count: 100%\|[█#]{20}\| 4/4 \[", last)  # the note takes nothing of the bar
    assert last.rstrip().endswith("seen to its end]")
    assert "count: 4/4 in" not in shown.getvalue()
    with Progress(4, "count", "sheep") as bar:
        bar.update(note="endless " * 100)
    assert max(len(line.strip()) for line in shown.getvalue().split("\r")) <= progress.NOTEBOOK_COLUMNS
    with Progress(None, "count", "sheep") as bar:
        bar.update(7)
    assert shown.getvalue().split("\r")[-1].startswith("count: 7sheep [")
