"""Git repositories for tests, independent of who runs them."""

from __future__ import annotations

import os
import subprocess

import pytest


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder, message="a commit"):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def ignoring(folder):
    """Make a folder a repository with one commit, in which nothing else is ever a change."""
    git(folder, "init", "-q", "-b", "main")
    (folder / ".gitignore").write_text("*\n")
    git(folder, "add", "-f", ".gitignore")
    git(folder, "-c", "user.name=Someone", "-c", "user.email=someone@example.org", "commit", "-q", "-m", "ignore all")


def set_identity(monkeypatch):
    """No configuration of the machine or of the user, and a name to commit with."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        settings |= {f"GIT_{who}_NAME": "Someone", f"GIT_{who}_EMAIL": "someone@example.org"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def identity(monkeypatch):
    """No configuration of the machine or of the user, and a name to commit with."""
    set_identity(monkeypatch)


@pytest.fixture
def repository(tmp_path, identity):
    """A repository with one commit, on the branch main."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "README").write_text("a repository\n")
    commit(root)
    return root
