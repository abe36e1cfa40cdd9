"""Python, packages and extras, as the doctor finds them."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from physgym.doctor import installation
from physgym.doctor.installation import extras, packages, python

BASE = [Requirement(name) for name in ("torch", "numpy", "gymnasium", "h5py")]


def test_packages_that_are_there():
    (found,) = packages([*BASE, Requirement("msgpack>=1"), Requirement('nothing; extra == "s3"')])
    assert found.state == "ok"
    assert found.text.endswith("and 1 more")
    assert set(found.values) == {"torch", "numpy", "gymnasium", "h5py", "msgpack"}


def test_packages_that_are_missing_or_too_old():
    (found,) = packages([*BASE, Requirement("numpy>=999"), Requirement("no-such-package>=1")])
    assert found.state == "problem"
    assert ">=999" in found.text
    assert "no-such-package is missing" in found.text
    assert found.remedy


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(
        installation, "extra_names", lambda one: {one.extras.copy().pop()} if one.extras else set()
    )  # instead of the markers of the installed physgym: numpy[s3] is of the extra s3


def test_extras_that_are_whole_missing_and_too_old(known):
    one = [Requirement(f"{name}[{extra}]") for name, extra in (("numpy", "a"), ("numpy", "b"), ("no-such", "b"))]
    first, *others = extras([*one, Requirement("numpy[c]>=999"), Requirement("numpy[test]>=999"), Requirement("torch")])
    assert first.values == {"installed": ["a", "c"], "missing": ["b"]}
    (old,) = others
    assert (old.state, old.subject) == ("note", "extra c")
    assert "'physgym[c]'" in old.remedy


def test_physgym_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(installation, "_requirements", lambda: None)
    assert [one.state for one in installation.installation()] == ["ok", "problem"]


def test_python_that_is_too_old(monkeypatch):
    assert python().state == "ok"
    monkeypatch.setattr(installation, "OLDEST", (99, 0))
    assert python().state == "problem"
