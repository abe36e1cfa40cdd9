"""Build the wheel and the source distribution, and try the wheel in a fresh environment: make package.

The files are built in a copy, so that nothing is left in the checkout.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = "from setuptools import build_meta; print(getattr(build_meta, 'build_{}')({!r}))"


def copied(folder: Path) -> Path:
    """Copy the files that git knows, and new ones that it does not ignore, into a folder; return it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def build(source: Path, kind: str, out: Path) -> Path:
    """Build a "wheel" or an "sdist" of a source tree with the setuptools of this environment; return its file."""
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD.format(kind, str(out))],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise SystemExit(f"building the {kind} failed:\n{done.stderr}")
    return out / done.stdout.split()[-1]


def environment(folder: Path, python: str = sys.executable) -> Path:
    """Make a fresh virtual environment; return its folder of programs."""
    subprocess.run([python, "-m", "venv", folder], check=True, timeout=300)
    return folder / "bin"


def main() -> None:
    """Build both into dist/, install the wheel with what it needs, and run the demo."""
    with tempfile.TemporaryDirectory(prefix="physgym-package-") as place:
        source = copied(Path(place, "source"))
        sdist = build(source, "sdist", ROOT / "dist")
        wheel = build(source, "wheel", ROOT / "dist")
        print(f"{wheel.relative_to(ROOT)} and {sdist.relative_to(ROOT)} are built; trying the wheel", flush=True)
        programs = environment(Path(place, "environment"))
        pip = [programs / "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-c", ROOT / "constraints.txt", wheel], check=True, timeout=1800)
        for command in (
            ["pip", "check"],
            ["physgym", "doctor", "--folder", place],
            ["physgym", "demo", "--quick", "--out", str(Path(place, "demo"))],
        ):
            subprocess.run([programs / command[0], *command[1:]], cwd=place, check=True, timeout=600)


if __name__ == "__main__":
    main()
