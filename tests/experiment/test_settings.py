"""What counts as code, and what happens with changes that are not committed."""

from __future__ import annotations

import pytest

from physgym.errors import ConfigError
from physgym.experiment.repository import check_repository, find_repository
from physgym.experiment.settings import read_settings
from tests.support.repositories import commit


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    for name in ("PHYSGYM_UNCOMMITTED", "PHYSGYM_CODE_SUFFIXES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of-the-user"))


def check(found, **options):
    settings = read_settings(found.root)
    return check_repository(
        found, **{"allow_dirty": False, "save_diff": False, "yes": False} | options, settings=settings
    )


def test_what_is_no_code_refuses_nothing_and_is_listed(repository):
    for name in ("train.log", "frames/step-00000.png", "arrays/x.npy", "arrays/fields.json", "notes", "a.csv"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("{}")
    found = find_repository(repository)
    assert found.untracked == ()
    assert not found.dirty
    assert {"train.log", "frames/step-00000.png", "arrays/x.npy", "notes", "a.csv"} <= set(found.others)
    assert check(found)


@pytest.mark.parametrize("name", ["a.py", "a.ipynb", "a.cu", "a.F90", "a.sh", "a.urdf", "a.yaml", "a.json", "x/a.toml"])
def test_what_is_code_refuses(repository, name):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).touch()
    assert find_repository(repository).untracked == (name,)
    with pytest.raises(ConfigError, match="PHYSGYM_UNCOMMITTED"):
        check(find_repository(repository))


def test_sessions_and_datasets_hold_no_code(repository):
    session = repository / "s"
    (session / "networks").mkdir(parents=True)
    for name in ("record.json", "config.yaml", "networks/manifest.json"):
        (session / name).write_text("{}")
    assert find_repository(repository).untracked == ()
    (session / "solver.py").touch()
    assert find_repository(repository).untracked == ("s/solver.py",)


def test_a_changed_document_is_no_change_but_a_changed_mesh_is(repository):
    for name in ("README.md", "mesh.msh"):
        (repository / name).write_text("1")
    commit(repository)
    (repository / "README.md").write_text("2")
    found = find_repository(repository)
    assert (found.changed, found.others, found.dirty) == ((), ("README.md",), False)
    (repository / "mesh.msh").write_text("2")
    assert find_repository(repository).changed == ("mesh.msh",)


def test_settings_of_user_project_and_environment(repository, tmp_path, monkeypatch, capsys):
    (repository / "new.py").touch()
    assert read_settings(repository).uncommitted == "refuse"
    user = tmp_path / "of-the-user" / "physgym" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('uncommitted = "save-diff"\n')
    assert read_settings(repository).uncommitted == "save-diff"
    (repository / "pyproject.toml").write_text('[tool.physgym]\nuncommitted = "unrecorded"\n')
    commit(repository)
    (repository / "newer.py").touch()
    assert check(find_repository(repository)) is False
    assert "newer.py" in (said := capsys.readouterr().err)
    assert "without a session" in said
    assert "pyproject.toml" in said
    monkeypatch.setenv("PHYSGYM_UNCOMMITTED", "refuse")
    with pytest.raises(ConfigError, match=r"newer\.py"):
        check(find_repository(repository))
    monkeypatch.setenv("PHYSGYM_CODE_SUFFIXES", ".c,.msh")
    assert find_repository(repository).untracked == ()
    (repository / "mesh.msh").touch()
    assert find_repository(repository).untracked == ("mesh.msh",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('uncommitted = "sometimes"', "must be one of refuse, save-diff, unrecorded"),
        ('code-suffixes = "py"', "must be a list of suffixes"),
        ('uncommited = "refuse"', "did you mean 'uncommitted'"),
    ],
)
def test_a_wrong_setting_names_file_and_key(repository, text, said):
    (repository / "pyproject.toml").write_text(f"[tool.physgym]\n{text}\n")
    with pytest.raises(ConfigError, match=said) as caught:
        read_settings(repository)
    assert "pyproject.toml" in str(caught.value)
