"""The package that is built: its files and metadata, what it needs, and what stands beside it for people."""

from __future__ import annotations

import email
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import physgym
from tests.support.archives import unpack

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = {"test", "interop", "bench", "docs", "lint"}
# texts of metadata that name a family of licences
FAMILIES = {
    "MIT": r"\bMIT\b",
    "BSD": r"\bBSD\b",
    "Apache": r"\bApache\b",
    "MPL": r"\bMPL\b|Mozilla",
    "LGPL": r"\bLGPL\b",
    "PSF": r"PSF|Python Software Foundation|\bmatplotlib\b",
}


def script(name: str):
    """A program of .ci as a module."""
    found = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_of_licences_has_what_pyproject_names():
    licences = script("licences")
    missing = set(licences.uses()) - set(licences.LICENCES)
    assert not missing, f"name their licences in .ci/licences.py: {missing}"
    assert licences.PAGE.read_text() == licences.page(), "run: python .ci/licences.py"


def families(text: str) -> set[str]:
    return {name for name, pattern in FAMILIES.items() if re.search(pattern, text)}


def stated(name: str) -> set[str]:
    """The families of licences that an installed package states; none where it is not installed or says nothing."""
    try:
        data = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return set()
    classifiers = " ".join(text for text in data.get_all("Classifier") or () if text.startswith("License"))
    short = (data.get("License") or "")[:80]
    return families(data.get("License-Expression") or "") or families(classifiers) or families(short)


def test_licences_are_those_that_packages_state():
    listed = script("licences").LICENCES
    own = {name: families(text) for name, text in listed.items()}
    wrong = {name: (own[name], said) for name in own if (said := stated(name)) and not own[name] & said}
    assert wrong == {}
    assert sum(bool(stated(name)) for name in own) > 15  # the packages that everything needs are installed


def test_the_page_on_installation_has_all_extras():
    text = (ROOT / "docs" / "start" / "installation.md").read_text()
    table = text[text.index("\n## Extras") : text.index("\n## Versions")]
    assert set(re.findall(r"^\| `([\w-]+)`", table, re.M)) == set(PROJECT["optional-dependencies"]) - FOR_DEVELOPERS


def lowest() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints-lowest.txt").read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def test_the_lowest_versions_are_those_of_pyproject():
    bounds = {}
    for text in PROJECT["dependencies"]:
        one = Requirement(text)
        (bounds[one.name],) = [part.version for part in one.specifier if part.operator == ">="]
    pinned = lowest()
    assert set(bounds) <= set(pinned)
    assert {name for name, low in bounds.items() if Version(low) != Version(pinned[name])} == {"torch"}  # see there


def test_the_version_is_everywhere_the_same():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == physgym.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)


FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("form", [form for form in FORMS if form.name != "config.yml"], ids=lambda form: form.stem)
def test_forms_of_issues_are_whole(form):
    read = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(read)
    for part in read["body"]:
        assert part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert part["attributes"]["label"]
    names = [part["id"] for part in read["body"] if "id" in part]
    assert len(names) == len(set(names))


def in_package() -> set[str]:
    """The files of the package that git knows, or does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "physgym"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_wheel_and_source_have_all_files(tmp_path):
    package = script("package")
    source = package.copied(tmp_path / "source")
    sdist = package.build(source, "sdist", tmp_path / "dist")
    with tarfile.open(sdist) as archive:
        unpack(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    beside = {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "pyproject.toml",
        "clients/c/physgym.h",
        "examples/spring.yaml",
    }
    assert [name for name in sorted(beside) if not (unpacked / name).is_file()] == []
    wheel = files_of(package.build(unpacked, "wheel", tmp_path / "dist"))  # what an installation from it builds
    mine = {name for name in wheel if ".dist-info/" not in name}
    assert mine == in_package()
    assert {"physgym/py.typed", "physgym/experiment/project/template/README.md.template"} <= mine
    (metadata,) = (email.message_from_bytes(text) for name, text in wheel.items() if name.endswith("/METADATA"))
    for name in (
        "Name",
        "Version",
        "Summary",
        "License-Expression",
        "License-File",
        "Author",
        "Keywords",
        "Requires-Python",
    ):
        assert metadata[name], name
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert "Typing :: Typed" in metadata.get_all("Classifier")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_wheel_runs_the_demo_in_a_fresh_environment(tmp_path):
    """What it needs is that of this environment; make package installs it all."""
    package = script("package")
    wheel = package.build(package.copied(tmp_path / "source"), "wheel", tmp_path / "dist")
    fresh = tmp_path / "environment"
    run(tmp_path, sys.executable, "-m", "venv", "--without-pip", str(fresh))
    (site,) = fresh.glob("lib/python3*/site-packages")
    needed = Path(yaml.__file__).parents[1]
    (site / "needed.pth").write_text(f"{needed}\n")  # which is not looked through for editable installations
    python = str(fresh / "bin" / "python")
    pip = ["--python", python, "--quiet", "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    run(tmp_path, sys.executable, "-m", "pip", *pip)
    place = run(tmp_path, python, "-c", "import physgym; print(physgym.__file__)").strip()
    assert Path(place).is_relative_to(fresh)
    physgym_ = str(fresh / "bin" / "physgym")
    assert run(tmp_path, physgym_, "--version") == f"physgym {physgym.__version__}\n"
    run(tmp_path, physgym_, "new", "rod", "--no-git")
    assert (tmp_path / "rod" / "rod" / "simulation.py").is_file()
    run(tmp_path, physgym_, "demo", "--quick", "--out", "demo", "--quiet")
    assert (tmp_path / "demo" / "report.png").stat().st_size > 10_000


def run(folder: Path, *command: str) -> str:
    """The output of a program that does not see this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
