"""Programs in C and C++, built and started as workers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from physgym.machines.reception import Reception
from tests.support.machines import ROOT, TOKEN

CLIENT = ROOT / "clients" / "c"
HERE = Path(__file__).parent
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-ffp-contract=off")
CHECKED = ("-g", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TLS = ("-DPHYSGYM_TLS", "-lssl", "-lcrypto")

needs_gcc = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("g++")), reason="gcc and g++ are not there")
has_openssl = Path("/usr/include/openssl/ssl.h").exists()


def built(source: Path, out: Path, *options: str) -> Path:
    """Compile a program without a single warning."""
    plus = source.suffix == ".cpp"
    libraries = [option for option in options if option.startswith("-l")]
    flags = [option for option in options if not option.startswith("-l")]
    command = ["g++" if plus else "gcc", "-std=c++11" if plus else "-std=c99", *STRICT, *flags]
    command += ["-o", str(out), str(source), *libraries, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return out


def token_file(folder: Path, token: bytes = TOKEN) -> str:
    """Write the secret to a file that nobody else may read."""
    file = folder / f"token-{token[0]}"
    file.write_text(token.hex() + "\n")
    file.chmod(0o600)
    return str(file)


@contextmanager
def serving(
    program: Sequence[str | Path], reception: Reception, folder: Path, *options: str, count: int = 1
) -> Iterator[list[subprocess.Popen[str]]]:
    """Workers that dial in, ended with the block."""
    words = [*map(str, program), str(reception.address), "--token-file", token_file(folder), "--patience", "10", *options]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=30)
