"""Run git: the only module that calls its executable.

Commands run with a cleaned environment, and with options that keep the user's configuration from running programs or
changing the form of the output.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from physgym.errors import ConfigError
from physgym.system.children import capture

TIMEOUT = 120.0  # seconds for a command
QUICK = 5.0  # seconds for a command whose answer is welcome, but not needed

# parts of the user's configuration that would run programs, or change the form of the output
PINNED = (
    *("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "core.quotePath=true", f"diff.orderFile={os.devnull}"),
    *("diff.noprefix=false", "diff.mnemonicPrefix=false", "diff.suppressBlankEmpty=false", "diff.external="),
    *("apply.whitespace=nowarn", "apply.ignoreWhitespace=no", "core.safecrlf=false", "gc.auto=0"),
)
# other variables of git, as a hook sets them, would say which repository it is
KEPT = ("GIT_CONFIG", "GIT_SSH", "GIT_CEILING_DIRECTORIES", "GIT_EXEC_PATH", "GIT_DISCOVERY_ACROSS_FILESYSTEM")

NO_GIT = "git is not installed"


class GitError(ConfigError):
    """A command of git failed; the text is the error that git prints."""


def git(
    folder: Path,
    *arguments: str,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> bytes:
    """Return the output of a command of git.

    Args:
        folder: Folder in which to run it.
        arguments: The command and its arguments.
        stdin: Standard input of the command.
        environment: Variables that are added.
        timeout: Seconds that it may take.

    Raises:
        GitError: It fails, takes too long, or git is not installed.
    """
    done = run(folder, *arguments, stdin=stdin, environment=environment, timeout=timeout)
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip() or f"it ended with {done.returncode}"
        raise GitError(f"git {arguments[0]} in {folder}: {without_credentials(text)}")
    return done.stdout


def run(
    folder: Path,
    *arguments: str,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    config: Sequence[str] = PINNED,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of git and return its status, output and errors.

    Args:
        folder: Folder in which to run it.
        arguments: The command and its arguments.
        stdin: Standard input of the command.
        environment: Variables that are added.
        timeout: Seconds that it may take.
        config: Settings that replace those of the user, each as "name=value".

    Raises:
        GitError: It takes too long, or git is not installed.
    """
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key.startswith(KEPT)}
    variables |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", **(environment or {})}
    options = [word for pin in config for word in ("-c", pin)]
    try:
        # a server that git leaves behind may hold its output open
        return capture(["git", *options, *arguments], cwd=folder, environment=variables, stdin=stdin, timeout=timeout)
    except FileNotFoundError as error:
        raise GitError(NO_GIT if shutil.which("git") is None else f"there is no folder {folder}") from error
    except OSError as error:
        raise GitError(f"git cannot be run in {folder}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git {arguments[0]} took longer than {timeout:.0f} s in {folder}") from error


def one_line(output: bytes) -> str:
    """Return the one line that git printed; names may end in white space."""
    return os.fsdecode(output).removesuffix("\n")


def commit_around(folder: Path) -> tuple[str, bool]:
    """Return the commit of the repository around a folder, and whether its tracked files have changes.

    Without a repository, a commit or git they are an empty text and False.
    """
    try:
        lines = git(folder, "status", "--porcelain=v2", "--branch", "-uno", timeout=QUICK).splitlines()
    except GitError:  # where there are too many files to look at in time, the commit is known nevertheless
        with contextlib.suppress(GitError):
            return one_line(git(folder, "rev-parse", "HEAD", timeout=QUICK)), False
        return "", False
    # "# branch.oid" with the commit, "(initial)" where there is none
    commits = [line.split()[-1] for line in lines if line.startswith(b"# branch.oid ")]
    commit = next((commit.decode() for commit in commits if commit != b"(initial)"), "")
    return commit, any(not line.startswith(b"#") for line in lines)


def without_credentials(text: str) -> str:
    """Remove user names and passwords from addresses; ssh keeps the name of the user, which is no secret."""
    text = re.sub(r"(ssh://[^/\s:@]+):[^/\s]*@", r"\1@", text)
    return re.sub(r"(?<!ssh)://[^/\s]*@", "://", re.sub(r"(https?://[^\s?#]*)[?#]\S*", r"\1", text))
