"""Try physgym with further versions of Python, where these are found: make pythons.

For each a fresh environment gets the wheel and what it needs, without torch, whose wheels are large. There all modules
are compiled, those that need no torch are imported, an environment is checked, and workers generate samples.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from package import ROOT, build, copied, environment

VERSIONS = ("3.12", "3.13")
GENERATION = """
import sys
import physgym

if __name__ == "__main__":
    samples = physgym.generate("physgym/Spring-v0", "spring", samples=50, max_steps=10, progress=False)
    assert len(samples) == 50 and "torch" not in sys.modules
"""


def find(version: str) -> str | None:
    """Return the path of an interpreter that runs, None where there is none.

    Shims of pyenv lead nowhere unless a version is chosen, so its installed versions are looked for as well.
    """
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for path in (shutil.which(name), *sorted(pyenv.glob(f"{version}.*/bin/{name}"))):
        if path is not None and _runs(path):
            return str(path)
    return None


def _runs(path: str | Path) -> bool:
    done = subprocess.run(
        [path, "-c", "import venv, ensurepip"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60
    )
    return done.returncode == 0


def dependencies() -> list[str]:
    """Return what physgym needs, without torch."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [name for name in named if not name.startswith("torch")]


def attempt(python: str, wheel: Path, place: Path) -> None:
    """Try the wheel with an interpreter."""
    programs = environment(place / "environment", python)
    pip = [programs / "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, *dependencies()], check=True, timeout=1800)
    subprocess.run([*pip, "--no-deps", wheel], check=True, timeout=300)
    (place / "generation.py").write_text(GENERATION)
    python = str(programs / "python")
    (package,) = (place / "environment" / "lib").glob("python3*/site-packages/physgym")
    for command in (
        [python, "-W", "error", "-m", "compileall", "-q", "-f", str(package)],
        [python, str(ROOT / ".ci" / "import_all.py")],
        [str(programs / "physgym"), "check", "physgym/Spring-v0"],
        [python, "generation.py"],
    ):
        done = subprocess.run(
            command, cwd=place, check=False, timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        if "import_all" in command[1]:
            print(done.stdout.strip(), flush=True)


def main() -> None:
    """Try each version that is found, and say which are not."""
    found = {version: find(version) for version in VERSIONS}
    for version, python in found.items():
        if python is None:
            print(f"Python {version}: skipped, since python{version} is not here, or does not run", flush=True)
    if not any(found.values()):
        return
    with tempfile.TemporaryDirectory(prefix="physgym-pythons-") as place:
        wheel = build(copied(Path(place, "source")), "wheel", Path(place, "dist"))
        for version, python in found.items():
            if python is not None:
                folder = Path(place, version)
                folder.mkdir()
                attempt(python, wheel, folder)


if __name__ == "__main__":
    sys.exit(main())
