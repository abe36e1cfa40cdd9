"""Programs in other languages that dial in as workers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from physgym.machines.reception import Reception
from physgym.system.children import Child
from tests.support.machines import ROOT, TOKEN

WORKER_JS = ROOT / "examples" / "workers" / "worker.js"
CLIENT = ROOT / "clients" / "c"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-ffp-contract=off")
SANITIZED = ("-g", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

needs_gcc = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("g++")), reason="there is no gcc")
has_openssl = Path("/usr/include/openssl/ssl.h").exists()
TLS = ("-DPHYSGYM_TLS", "-lssl", "-lcrypto")


def node() -> list[str]:
    """The command of the worker in JavaScript; the test is skipped where there is no node that runs it."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node, which runs examples/workers/worker.js")
    return [found, str(WORKER_JS)]


def built(source: Path, out: Path, *options: str) -> Path:
    """Compile a program in C, without a single warning."""
    libraries = [option for option in options if option.startswith("-l")]
    flags = [option for option in options if not option.startswith("-l")]
    command = ["gcc", "-std=c99", *STRICT, *flags, "-o", str(out), str(source), *libraries, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return out


def token_file(folder: Path, token: bytes = TOKEN) -> str:
    """A file with a secret that nobody else may read."""
    file = folder / f"token-{token[0]}"
    file.touch(mode=0o600)
    file.write_text(token.hex() + "\n")
    return str(file)


@contextmanager
def dialling(
    command: Sequence[str | Path], reception: Reception, folder: Path, envs: int = 1, count: int = 1, *options: str
) -> Iterator[list[Child]]:
    """Programs that dial to a reception, ended with the block."""
    with ExitStack() as stack:
        words = [*map(str, command), str(reception.address), "--token-file", token_file(folder), "--envs", str(envs)]
        yield [stack.enter_context(Child([*words, *options])) for _ in range(count)]
