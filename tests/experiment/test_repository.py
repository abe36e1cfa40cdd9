"""What git says, the rule that runs are committed, patches and worktrees."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.experiment import repository as tested
from physgym.experiment.repository import (
    Repository,
    add_worktree,
    check_repository,
    find_repository,
    has_commit,
    make_patch,
    remove_worktree,
)
from physgym.git import without_credentials
from physgym.sample import Field, SampleSpec
from tests.support.repositories import commit, git


def content(root):
    """All files of a tree with their contents, without those of git."""
    files = [path for path in root.rglob("*") if (path.is_symlink() or path.is_file()) and ".git" not in path.parts]
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else (path.read_bytes(), os.access(path, 1))
        for path in files
    }


def snapshot(folder):
    """Everything below a folder: contents, and when it was changed; git notes at objects when it last needed them."""
    return {
        str(path): (
            0 if "objects" in path.parts and path.is_file() else path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in [folder, *folder.rglob("*")]
    }


def check(found, **options):
    return check_repository(found, **{"allow_dirty": False, "save_diff": False, "yes": False} | options)


def test_facts_of_a_clean_repository(repository):
    git(repository, "remote", "add", "backup", "https://me:secret@example.org/backup.git")
    git(repository, "remote", "add", "origin", "https://token@example.org/code.git")
    (repository / "a folder").mkdir()
    found = find_repository(repository / "a folder")
    assert found == Repository(
        repository, "a folder", git(repository, "rev-parse", "HEAD"), "main", "https://example.org/code.git"
    )
    assert not found.dirty
    assert check(found) is True
    git(repository, "config", "branch.main.remote", "backup")
    git(repository, "checkout", "-q", "--detach")
    assert find_repository(repository).branch is None
    git(repository, "checkout", "-q", "main")
    assert find_repository(repository).remote == "https://example.org/backup.git"


def test_the_current_folder_is_the_default(repository, monkeypatch):
    (repository / "sub").mkdir()
    monkeypatch.chdir(repository / "sub")
    assert find_repository().folder == "sub"


@pytest.mark.parametrize(
    ("address", "stripped"),
    [
        ("https://me:secret@example.org/x.git", "https://example.org/x.git"),
        ("https://token@example.org:8443/x.git?key=secret", "https://example.org:8443/x.git"),
        ("ssh://git:secret@example.org/x.git", "ssh://git@example.org/x.git"),
        ("git@example.org:me/x.git", "git@example.org:me/x.git"),
        ("/srv/code.git", "/srv/code.git"),
    ],
)
def test_credentials_are_left_out(address, stripped):
    assert without_credentials(address) == stripped


def test_no_repository_no_commit_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert find_repository(tmp_path) is None
    assert find_repository(tmp_path / "none") is None
    with pytest.raises(ConfigError, match=r"is in no git repository.*git init.*--allow-dirty-repo"):
        check(None)
    with pytest.raises(ConfigError, match="is in no git repository"):
        check(None, save_diff=True)
    assert check(None, allow_dirty=True, yes=True) is False

    git(tmp_path, "init", "-q")
    found = find_repository(tmp_path)
    assert (found.commit, found.remote, found.changed) == (None, None, ())
    for save_diff in (False, True):
        with pytest.raises(ConfigError, match="has no commit yet"):
            check(found, save_diff=save_diff)

    bare = tmp_path / "bare"
    git(tmp_path, "init", "-q", "--bare", str(bare))
    assert find_repository(bare) is None

    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_repository(tmp_path) is None
    with pytest.raises(ConfigError, match="git is not installed"):
        check(None)


def test_a_refusal_of_git_is_told(repository, monkeypatch):
    (repository / ".git" / "index").write_bytes(b"nonsense")
    found = find_repository(repository)
    assert found.dirty
    with pytest.raises(ConfigError, match=r"git cannot read the repository: .*index"):
        check(found, save_diff=True)
    with pytest.raises(ConfigError, match="git cannot read the repository"):
        make_patch(found)
    assert check(found, allow_dirty=True, yes=True) is False


def test_a_repository_of_somebody_else_is_told(tmp_path, monkeypatch):
    said = "fatal: detected dubious ownership in repository at '/x'\n    git config --global --add safe.directory /x"
    (tmp_path / "git").write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 128\n')
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=r"dubious ownership(.|\n)*safe\.directory /x\n.*--allow-dirty-repo"):
        check(find_repository(tmp_path), save_diff=True)


def test_git_may_not_hang(repository, monkeypatch):
    git(repository, "config", "alias.wait", "!sleep 60")
    with pytest.raises(tested.GitError, match="took longer than 0 s"):
        tested.git(repository, "wait", timeout=0.3)


NAMES = ["two words.py", "new\nline.py", "tab\t.py", "Größe.py", "-dash.py", '"quoted".py', "* ?.py", " first.py"]


def test_names_of_all_kinds(repository):
    for name in NAMES[:4]:
        (repository / name).write_text("x = 1\n")
    commit(repository)
    (repository / "folder").mkdir()
    for name in NAMES:
        (repository / name).write_text("x = 2\n")
        (repository / "folder" / name).write_text("x = 3\n")
    found = find_repository(repository / "folder")
    assert found.changed == tuple(sorted(NAMES[:4]))
    assert found.untracked == tuple(sorted([*NAMES[4:], *(f"folder/{name}" for name in NAMES)]))
    with pytest.raises(ConfigError) as raised:
        check(found)
    text = str(raised.value)
    assert "  changed    two words.py\n" in text
    assert "'new\\nline.py'" in text
    assert "untracked  folder/-dash.py" in text
    for option in ("--save-diff", "(--allow-dirty-repo --y)", "Commit"):
        assert option in text
    same_elsewhere(repository, found)


def test_a_refusal_names_the_options_that_are_needed_where_it_is_read(repository, monkeypatch):
    (repository / "new.py").touch()
    found = find_repository(repository)
    for stdin in (io.StringIO(), None):  # of a script, and of a service
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(ConfigError, match=r"\(--allow-dirty-repo --y\)"):
            check(found)
    monkeypatch.setattr("sys.stdin", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    with pytest.raises(ConfigError, match=r"\(--allow-dirty-repo\)"):  # which asks then
        check(found)


def test_a_long_list_is_cut(repository):
    for number in range(25):
        (repository / f"{number:02}.py").touch()
    with pytest.raises(ConfigError) as raised:
        check(find_repository(repository))
    assert "untracked  19.py\n  and 5 more\n" in str(raised.value)


def test_dirty_is_asked_about_on_a_terminal_only(repository, monkeypatch, capsys):
    (repository / "new.py").touch()
    found = find_repository(repository)
    assert check(found, save_diff=True) is True
    assert check(found, allow_dirty=True, yes=True) is False
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(ConfigError, match="There is no terminal to ask on: add --y"):
        check(found, allow_dirty=True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, runs in {"y": True, " YES ": True, "": False, "n": False}.items():
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        if runs:
            assert check(found, allow_dirty=True) is False
        else:
            with pytest.raises(ConfigError, match="nothing was run"):
                check(found, allow_dirty=True)
    assert "new.py" in capsys.readouterr().err


def test_networks_curves_and_caches_do_not_make_a_repository_dirty(repository):
    for name in ("manifest.json", "network.safetensors", "training.json", "training.safetensors"):
        for folder in ("networks/epoch-0001", f"alone/{name}"):
            (repository / folder).mkdir(parents=True, exist_ok=True)
            (repository / folder / name).touch()
    for name in ("stats/events.out.tfevents.0000000001.ab.physgym", "__pycache__/a.cpython-311.pyc"):
        (repository / name).parent.mkdir()
        (repository / name).touch()
    for name in ("beam.onnx", "beam.onnx.json", "beam.pt2", "beam.pt2.json", "alone/beam.onnx.json"):
        (repository / name).touch()
    found = find_repository(repository)
    assert {name.partition("/")[0] for name in found.untracked} == {"alone"}
    assert len(found.untracked) == 3  # those of the suffix .json
    assert len(found.others) == 4  # two are exported networks


def test_datasets_do_not_make_a_repository_dirty(repository):
    data = repository / "data"
    with SampleWriter(data / "spring", SampleSpec([Field("x", (3,), np.dtype("f4"), "input")])) as writer:
        name = {"episode": np.zeros(2, np.int64), "step": np.arange(2)}
        writer.append({"x": np.zeros((2, 3), np.float32)}, seed=np.zeros(2, np.uint64), **name)
    assert (data / "spring" / "dataset.json").exists()
    assert not find_repository(repository).dirty
    (data / "spring" / "sim.py").touch()
    (data / "foreign").mkdir()
    (data / "foreign" / "training-00000.h5").touch()
    (data / "foreign" / "dataset.json").write_text("[" * 100_000)
    assert find_repository(repository).untracked == (
        "data/foreign/dataset.json", "data/spring/sim.py",
    )  # fmt: skip
    assert find_repository(repository).others == ("data/foreign/training-00000.h5",)


def test_a_dataset_that_is_begun_does_not_make_a_repository_dirty(repository):
    data = repository / "data"
    data.mkdir()
    (data / ".lock").touch()
    assert not find_repository(repository).dirty
    for name in ("training-00000.h5", "training-00000.tmp", "dataset-7.tmp"):
        (data / name).touch()
    assert not find_repository(repository).dirty
    (data / "training-00000.py").touch()
    (data / "weights.h5").touch()
    assert find_repository(repository).untracked == ("data/training-00000.py",)
    assert find_repository(repository).others == ("data/weights.h5",)
    (data / "dataset.json").write_text("{}")  # of somebody else
    assert "data/training-00000.h5" in find_repository(repository).others
    (data / "dataset.json").unlink()
    (data / ".lock").unlink()
    assert "data/training-00000.h5" in find_repository(repository).others


def test_a_session_that_is_being_made_does_not_make_a_repository_dirty(repository, monkeypatch):
    session = repository / "s"
    session.mkdir()
    (session / f"..gitignore-{os.getpid()}.tmp").write_text("*")
    assert not find_repository(repository).dirty
    (session / "record.json").touch()
    assert find_repository(repository).untracked == ("s/record.json",)
    looks, ask = [], tested.git

    def during(folder, *arguments, **options):
        output = ask(folder, *arguments, **options)
        if arguments[0] == "status":
            looks.append(output)
            (session / ".gitignore").write_text("*\n")  # appears just after git has looked for it
        return output

    monkeypatch.setattr(tested, "git", during)
    assert not find_repository(repository).dirty
    assert b"s/record.json" in looks[0]
    assert len(looks) == 2
    assert not find_repository(repository).dirty
    assert len(looks) == 3  # of what is clean one look is enough


def same_elsewhere(root, found):
    """Commit and patch give the same files elsewhere, and nothing in the repository is touched by the patch."""
    before = snapshot(root)
    patch = make_patch(found)
    assert snapshot(root) == before
    folder = root.parent / "elsewhere" / root.name
    try:
        add_worktree(root, folder, found.commit, patch)
        assert content(folder) == {name: value for name, value in content(root).items() if not ignored(root, name)}
        again = find_repository(folder)
        assert again.commit == found.commit
        assert {*again.changed, *again.untracked} == {*found.changed, *found.untracked}
        assert make_patch(again) == patch
    finally:
        remove_worktree(root, folder)
    assert not folder.exists()
    assert not list((root / ".git").glob("worktrees/*"))
    return patch


def ignored(root, name):
    return subprocess.run(["git", "check-ignore", "-q", name], cwd=root, check=False).returncode == 0


def change_everything(root):
    """A commit, and all kinds of changes after it."""
    for name in ("edited.py", "staged.py", "both.py", "deleted.py", "removed.py", "renamed.py", "file", "mode.sh"):
        (root / name).write_text(f"{name}\nsecond line\n")
    (root / "folder").mkdir()
    (root / "folder" / "one.py").write_text("one\n")
    (root / "blob").write_bytes(bytes(range(256)) * 10)
    (root / "dos.txt").write_bytes(b"one\r\ntwo\r\n")
    (root / "link").symlink_to("edited.py")
    (root / ".gitignore").write_text("*.log\n")
    commit(root)
    (root / "edited.py").write_text("edited.py\nother line")  # without an end of line
    (root / "staged.py").write_text("staged\n")
    (root / "both.py").write_text("staged\n")
    git(root, "add", "staged.py", "both.py")
    (root / "both.py").write_text("not staged\n")
    (root / "deleted.py").unlink()
    git(root, "rm", "-q", "removed.py")
    git(root, "mv", "renamed.py", "name.py")
    (root / "mode.sh").chmod(0o755)
    (root / "file").unlink()
    (root / "file").mkdir()
    (root / "file" / "below.py").write_text("below\n")
    shutil.rmtree(root / "folder")
    (root / "other").mkdir()
    (root / "other" / "one.py").write_text("other\n")
    (root / "folder").symlink_to("other")
    (root / "blob").write_bytes(bytes(range(255, -1, -1)) * 10)
    (root / "dos.txt").write_bytes(b"one\r\nchanged\r\ntwo\n")
    (root / "link").unlink()
    (root / "link").symlink_to("nowhere")
    (root / "empty.py").touch()
    (root / "new.bin").write_bytes(os.urandom(1000))
    (root / "run.log").write_text("ignored\n")


def test_a_patch_holds_all_kinds_of_changes(repository):
    change_everything(repository)
    patch = same_elsewhere(repository, find_repository(repository))
    assert b"run.log" not in patch


CONFIGS = {
    "diff": "[diff]\nexternal = false\nnoprefix = true\nrenames = copies\ncontext = 0\norderFile = none\n"
    "[color]\nui = always\ndiff = always\n[core]\npager = false\nquotePath = false\n"
    "[status]\nshowUntrackedFiles = no\nrelativePaths = true\nshort = true\n[apply]\nwhitespace = error\n",
    "lines": "[core]\nautocrlf = true\nsafecrlf = true\n",
    "hooks": "[core]\nhooksPath = hooks\nfsmonitor = false\n[diff]\nsuppressBlankEmpty = true\nmnemonicPrefix = true\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_of_the_user_does_not_matter(repository, tmp_path, monkeypatch, name):
    (repository / ".gitattributes").write_text("*.py diff=foreign\n")
    (repository / ".git" / "hooks").mkdir(exist_ok=True)
    change_everything(repository)
    (tmp_path / "config").write_text(CONFIGS[name] + '[diff "foreign"]\ntextconv = false\ncommand = false\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_DIFF_OPTS", "--unified=0")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    found = find_repository(repository)
    patch = make_patch(found)
    folder = tmp_path / "elsewhere"
    add_worktree(repository, folder, found.commit, patch)
    other = dict(content(folder))
    # who has line ends converted gets them as git stores them, here and there
    mine = {key: value for key, value in content(repository).items() if not key.endswith((".log", "-commit"))}
    if name == "lines":
        other, mine = ({k: (str(v).replace("\\r\\n", "\\n")) for k, v in files.items()} for files in (other, mine))
    assert other == mine
    assert make_patch(find_repository(folder)) == patch
    monkeypatch.delenv("GIT_DIR")
    remove_worktree(repository, folder)


def test_a_patch_in_a_worktree_and_in_a_folder_of_a_strange_name(tmp_path, identity):
    root = tmp_path / 'a "b": c\\d'
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "a.py").write_text("1\n")
    commit(root)
    linked = tmp_path / "linked"
    git(root, "worktree", "add", "-q", str(linked))
    (linked / "a.py").write_text("2\n")
    (root / "b.py").write_text("3\n")
    for folder in (root, linked):
        found = find_repository(folder)
        assert found.root == folder
        patch, other = make_patch(found), tmp_path / "elsewhere"
        add_worktree(folder, other, found.commit, patch)
        assert content(other) == content(folder)
        remove_worktree(folder, other)
    assert find_repository(linked).branch == "linked"


def test_what_a_patch_cannot_hold_is_named(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(tested, "LARGEST", 1000)
    monkeypatch.setattr(tested, "LARGEST_TOGETHER", 2500)
    for number in range(3):
        (repository / f"small{number}.py").write_bytes(bytes(900))
    with pytest.raises(ConfigError, match=r"0\.0 MB  small0.py"):
        make_patch(find_repository(repository))
    (repository / "small0.py").unlink()
    (repository / "a.py").write_bytes(bytes(1001))
    with pytest.raises(ConfigError, match=r"at most .*\n  0\.0 MB  a.py\nCommit them, or add them to \.gitignore"):
        make_patch(find_repository(repository))
    (repository / "a.py").unlink()
    assert make_patch(find_repository(repository))

    inner = repository / "inner"
    inner.mkdir()
    git(inner, "init", "-q", "-b", "main")
    (inner / "a.py").touch()
    commit(inner)
    with pytest.raises(ConfigError, match="inner/, repositories of their own"):
        make_patch(find_repository(repository))
    git(repository, "submodule", "--quiet", "add", "./inner", "inner")
    commit(repository)
    assert not find_repository(repository).dirty
    (inner / "a.py").write_text("changed\n")
    with pytest.raises(ConfigError, match="changes of the submodules inner; commit them"):
        make_patch(find_repository(repository))


def test_commits_that_are_there_and_not(repository):
    assert has_commit(repository, git(repository, "rev-parse", "HEAD"))
    assert not has_commit(repository, "0" * 40)
    assert not has_commit(repository.parent / "none", "0" * 40)


def test_a_worktree_that_is_damaged_is_removed(repository, tmp_path):
    for damage in (lambda folder: shutil.rmtree(folder), lambda folder: (folder / ".git").write_text("nonsense")):
        folder = tmp_path / "elsewhere"
        add_worktree(repository, folder, git(repository, "rev-parse", "HEAD"))
        damage(folder)
        remove_worktree(repository, folder)
        assert not folder.exists()
        git(repository, "worktree", "prune", "--expire=now")
    with pytest.raises(ConfigError, match="git worktree"):
        add_worktree(repository, tmp_path / "elsewhere", "0" * 40)
    remove_worktree(repository, tmp_path / "elsewhere")
    assert git(repository, "status", "--porcelain") == ""
    assert Path(repository / ".git").is_dir()
