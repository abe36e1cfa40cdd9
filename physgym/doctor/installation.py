"""Python, the packages that physgym needs, and its extras: versions, and what is missing or too old."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from physgym._version import __version__
from physgym.doctor.finding import Finding

OLDEST = (3, 11)
FOR_DEVELOPERS = ("test", "interop", "bench", "docs", "lint")  # extras without use for anybody else


def installation() -> Iterator[Finding]:
    """Yield findings on Python, physgym, the packages that it needs, and those of its extras."""
    yield python()
    requirements = _requirements()
    if requirements is None:
        yield Finding(
            "packages",
            "problem",
            f"physgym {__version__} is imported from {Path(__file__).parents[1]} and is not installed",
            "pip install physgym, or pip install -e . in its checkout",
        )
        return
    yield from packages(requirements)
    yield from extras(requirements)


def python() -> Finding:
    """Return what Python it is."""
    text = f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    values = {"version": platform.python_version(), "executable": sys.executable, "physgym": __version__}
    if sys.version_info < OLDEST:
        return Finding("Python", "problem", text, "physgym needs Python 3.11 or a newer one", values)
    return Finding("Python", "ok", text, values=values)


def packages(requirements: list[Requirement]) -> Iterator[Finding]:
    """Yield a finding on the packages that everything needs."""
    versions, wrong = {}, []
    for one in requirements:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        versions[one.name] = version = installed(one.name)
        if version is None:
            wrong.append(f"{one.name} is missing")
        elif not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version} is not {one.specifier}")
    if wrong:
        remedy = "pip install --upgrade physgym"
        yield Finding("packages", "problem", f"physgym {__version__}: {'; '.join(wrong)}", remedy, versions)
        return
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "numpy", "gymnasium", "h5py"))
    yield Finding("packages", "ok", f"physgym {__version__} with {shown} and {len(versions) - 4} more", values=versions)


def extras(requirements: list[Requirement]) -> Iterator[Finding]:
    """Yield a finding on the extras whose packages are there, and one on those whose are too old."""
    names = {name for one in requirements for name in extra_names(one)} - set(FOR_DEVELOPERS)
    whole: list[str] = []
    missing: list[str] = []
    old: list[tuple[str, str]] = []
    for name in sorted(names):
        own = [one for one in requirements if name in extra_names(one)]
        there = {one.name: version for one in own if (version := installed(one.name)) is not None}
        wrong = [one for one in own if one.name in there and not one.specifier.contains(there[one.name], True)]
        old += [(name, f"{one.name} {there[one.name]} is not {one.specifier}") for one in wrong]
        (whole if len(there) == len(own) else missing).append(name)
    values = {"installed": whole, "missing": missing}
    text = f"{', '.join(whole) or 'none'}; not installed: {', '.join(missing) or 'none'}"
    yield Finding("extras", "ok", text, values=values)
    for name, fault in old:
        yield Finding(f"extra {name}", "note", fault, f"pip install --upgrade 'physgym[{name}]'")


def extra_names(requirement: Requirement) -> set[str]:
    """Return the extras that a requirement belongs to."""
    if requirement.marker is None or "extra" not in str(requirement.marker):
        return set()
    known = importlib.metadata.metadata("physgym").get_all("Provides-Extra") or []
    return {name for name in known if requirement.marker.evaluate({"extra": name})}


def installed(name: str) -> str | None:
    """Return the version of a package, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> list[Requirement] | None:
    try:
        texts = importlib.metadata.requires("physgym") or []
        return [Requirement(text) for text in texts]
    except (importlib.metadata.PackageNotFoundError, InvalidRequirement):
        return None
