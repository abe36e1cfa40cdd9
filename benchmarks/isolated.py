"""Calls a function in a process of its own, so that no library meets what another has imported or left behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

MARK = "PHYSGYM_BENCHMARK"  # environment variable by which processes that were left behind are found
GRACE = 5.0  # seconds in which the last processes of a measurement have to end

# the libraries are imported at the top, as in a user's script: a fork server imports that once for all its workers
SCRIPT = """\
import json, sys
import {module}
from {here} import {function}

if __name__ == "__main__":
    try:
        answer = {{"value": {function}(**json.loads(sys.argv[1]))}}
    except Exception as error:
        answer = {{"error": f"{{type(error).__name__}}: {{error}}"}}
    with open(sys.argv[2], "w") as file:
        json.dump(answer, file)
"""


class Failed(Exception):
    """The function raised, its process died or took too long, or processes were left behind."""


def environment(**more: str) -> dict[str, str]:
    """Return variables as in workers of a vector env: one thread for linear algebra, these modules found."""
    here = str(Path(__file__).resolve().parent)
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **more}


def call(
    here: str, function: str, module: str, timeout: float, *, python: str = sys.executable, **arguments: Any
) -> Any:
    """Return what a function returns.

    Args:
        here: The module beside this one that has the function.
        function: Its name.
        module: Imported first.
        timeout: Seconds that it may take.
        python: The interpreter that runs it, of another environment for libraries that need other versions.
        **arguments: Of the function; JSON.

    Raises:
        Failed: There is no result.
    """
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as folder:  # as the working directory too: some libraries write into it
        script, answer, log = (Path(folder) / name for name in ("main.py", "answer.json", "log.txt"))
        script.write_text(SCRIPT.format(here=here, function=function, module=module))
        command = [python, str(script), json.dumps(arguments), str(answer)]
        try:
            with log.open("w") as output:
                subprocess.run(
                    command,
                    cwd=folder,
                    env=environment(**{MARK: mark}),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=timeout,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"no result within {timeout:.0f} s") from error
        finally:
            left = end_those_left(mark)
        if not answer.exists():
            raise Failed("it died: " + log.read_text()[-400:].strip())
        result = json.loads(answer.read_text())
    if "error" in result:
        raise Failed(result["error"])
    if left:
        raise Failed(f"it left {left} processes behind, which were ended")
    return result["value"]


def end_those_left(mark: str) -> int:
    """Wait a moment for processes with the mark to end, and end those that do not; how many those were."""
    deadline = time.monotonic() + GRACE
    while processes := marked(mark):
        if time.monotonic() > deadline:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            return len(processes)
        time.sleep(0.05)
    return 0


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that have the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found
