"""Programs in other languages that dial in as workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from physgym.machines.reception import Reception
from physgym.system.children import Child
from tests.support.machines import ROOT, TOKEN

WORKER_JS = ROOT / "examples" / "workers" / "worker.js"


def node() -> list[str]:
    """The command of the worker in JavaScript; the test is skipped where there is no node that runs it."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node, which runs examples/workers/worker.js")
    return [found, str(WORKER_JS)]


@contextmanager
def dialling(
    command: Sequence[str], reception: Reception, folder: Path, envs: int = 1, count: int = 1
) -> Iterator[list[Child]]:
    """Programs that dial to a reception, ended with the block."""
    token = folder / "token"
    token.write_text(TOKEN.hex() + "\n")
    with ExitStack() as stack:
        words = [*command, str(reception.address), "--token-file", str(token), "--envs", str(envs)]
        yield [stack.enter_context(Child(words)) for _ in range(count)]
