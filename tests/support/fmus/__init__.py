"""FMUs of versions 2 and 3 of two damped springs, compiled from C with the headers that FMPy brings."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NONE, DISCARDS, FAILS, IS_FATAL, ENDS, RETURNS_EARLY, GIVES_NAN, FAILS_AT_START, ENDS_EARLY = range(
    9
)  # values of `fault`


@cache
def library(version: int) -> bytes:
    """Return the library of the FMU; the test is skipped where FMPy or a compiler is missing."""
    fmpy = pytest.importorskip("fmpy", reason="FMPy reads FMUs")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("a compiler makes the FMU")
    headers = Path(fmpy.__file__).parent / "c-code"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "springs.so"
        flags = ["-shared", "-fPIC", "-O1", "-w", f"-I{headers}", f"-I{HERE}"]
        command = [compiler, *flags, str(HERE / f"springs{version}.c"), "-lm", "-o", str(made)]
        ended = subprocess.run(command, capture_output=True, timeout=110, check=False)
        assert ended.returncode == 0, ended.stderr.decode()
        return made.read_bytes()


def make_fmu(file: Path, version: int, changes: dict[str, str] | None = None, platform: str = "") -> Path:
    """Write an FMU.

    Args:
        file: Where.
        version: 2 or 3.
        changes: Texts of the model description, and those that replace them.
        platform: Folder of its library, by default that of this machine.
    """
    code = library(version)
    import fmpy

    text = (HERE / f"springs{version}.xml").read_text()
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    folder = platform or (fmpy.platform if version == 2 else fmpy.platform_tuple)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("modelDescription.xml", text)
        suffix = ".dll" if "win" in folder else fmpy.sharedLibraryExtension
        archive.writestr(f"binaries/{folder}/springs{suffix}", code)
        archive.writestr("resources/readme.txt", "of the springs")
    return file
