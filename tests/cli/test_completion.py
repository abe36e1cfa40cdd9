"""What shells complete: ids, sessions, datasets and configuration files."""

from __future__ import annotations

import pytest
from typer.main import get_command

from physgym import cli
from physgym.cli import completion
from physgym.cli.completion import COMPLETIONS, completion_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, file in (
        ("sessions/beam", "record.json"),
        ("sessions/beam/dataset", "dataset.json"),
        ("sessions/search/trials/0", "record.json"),
        ("elsewhere/old", "record.json"),
        ("data/spring", "dataset.json"),
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).touch()
    for name in ("beam.yaml", "elsewhere/spring.yml", "notes.txt", "sessions/.hidden.yaml"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("metavar", "typed", "found"),
    [
        ("ENV", "physgym/Bu", ["physgym/Burgers-v0", "physgym/BurgersStep-v0"]),
        ("ENV", "CartPole-v", ["CartPole-v0", "CartPole-v1"]),
        ("SESSION", "", ["sessions/beam", "sessions/search/trials/0"]),
        ("SESSION", "elsewhere/", ["elsewhere/old"]),
        ("SESSION", "nowhere/", []),
        ("DATA", "", ["data/spring", "sessions/beam/dataset"]),
        ("DATA", "data/s", ["data/spring"]),
        ("CONFIG", "", ["beam.yaml"]),
        ("CONFIG", "elsewhere/s", ["elsewhere/spring.yml"]),
        ("SESSION|CONFIG", "", ["beam.yaml", "sessions/beam", "sessions/search/trials/0"]),
        ("CONFIG|ENV", "b", ["beam.yaml"]),
    ],
)
def test_what_is_completed(folder, metavar, typed, found):
    assert completion_of(metavar)(typed) == found


def test_shipped_environments_come_first():
    names = completion_of("ENV")("")
    assert "physgym/Spring-v0" in names
    assert all(name.startswith("physgym/") for name in names)


def test_other_words_are_completed_as_files():
    assert completion_of("FILE") is completion_of("[KEY.SUB=VALUE]...") is None


def test_a_look_into_many_folders_ends(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(completion, "MOST", 2)
    monkeypatch.setattr(completion, "_entries", lambda folder: asked.append(folder) or [])
    assert list(completion.sessions("")) == []
    assert len(asked) == 2


def commands(command):
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from commands(inner)


def test_every_word_is_completed_where_a_command_takes_it():
    parameters = [one for command in commands(get_command(cli.app)) for one in command.params]
    named = {str(one.metavar) for one in parameters if completion_of(str(one.metavar)) is not None}
    assert {"ENV", "SESSION", "DATA", "SESSION|CONFIG"} <= named
    assert all(any(word in name for name in named) for word in COMPLETIONS)


@pytest.mark.parametrize(
    ("shell", "typed"),
    [
        ("bash", {"COMP_WORDS": "physgym check physgym/Bu", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "physgym check physgym/Bu"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "physgym check physgym/Bu", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_a_shell_gets_what_it_asks_for(shell, typed, monkeypatch, capsys):
    for name, value in (typed | {"_PHYSGYM_COMPLETE": f"complete_{shell}"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        cli.app([], prog_name="physgym")
    printed = capsys.readouterr().out
    assert "physgym/Burgers-v0" in printed
    assert "physgym/BurgersStep-v0" in printed
    assert "Spring" not in printed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell, monkeypatch, capsys):
    monkeypatch.setenv("_PHYSGYM_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        cli.app([], prog_name="physgym")
    assert f"_PHYSGYM_COMPLETE=complete_{shell}" in capsys.readouterr().out
