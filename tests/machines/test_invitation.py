"""Files that tell workers where a run listens."""

from __future__ import annotations

import json
import stat
import threading
import time

import pytest

from physgym import cli
from physgym.errors import ConfigError
from physgym.machines.address import read_token
from physgym.machines.invitation import OVER, Invitation, read_invitation

NODE = Invitation("node1", 7000, "ab12")


def test_it_is_read_as_it_was_written_and_nobody_else_may_change_it(tmp_path):
    file = tmp_path / "i"
    NODE.write(file)
    assert read_invitation(file) == NODE
    assert not NODE.is_over
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    OVER.write(file)
    assert read_invitation(file).is_over


def test_it_is_waited_for(tmp_path):
    thread = threading.Thread(target=lambda: (time.sleep(0.2), NODE.write(tmp_path / "i")))
    thread.start()
    assert read_invitation(tmp_path / "i", 20) == NODE
    thread.join()
    with pytest.raises(ConfigError, match="after 0 s"):
        read_invitation(tmp_path / "none", 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "[]", "{}", '{"host": "a"}', '{"host": "a", "port": "b"}', '{"host": "a", "port": 70000}'),
        json.dumps({"host": "a", "port": 1, "more": 2}),
        "\xff",
        json.dumps({"host": "a" * 5000, "port": 1}),
    ],
)
def test_what_is_none_is_refused(tmp_path, text):
    (tmp_path / "i").write_text(text)
    with pytest.raises(ConfigError):
        read_invitation(tmp_path / "i")


def test_one_that_others_can_change_is_refused(tmp_path):
    NODE.write(tmp_path / "i")
    (tmp_path / "i").chmod(0o620)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_invitation(tmp_path / "i")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a token."""
    monkeypatch.chdir(tmp_path)
    read_token("token", make=True)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "either HOST:PORT, or --invitation"),
        (("a:1", "--invitation", "i"), "either HOST:PORT, or --invitation"),
        (("--invitation", "i", "--plain"), "leave --plain"),
        (("--invitation", "i", "--stay"), "leave --plain"),
    ],
)
def test_wrong_words_are_one_error(folder, words, said):
    with pytest.raises(ConfigError, match=said):
        cli.app(["worker", *words, "--token-file", "token"], standalone_mode=False)


def test_a_worker_of_a_run_that_is_over_ends(folder, capsys):
    OVER.write(folder / "i")
    cli.app(["worker", "--invitation", "i", "--token-file", "token"], standalone_mode=False)
    assert "is over" in capsys.readouterr().err


def test_a_worker_reads_a_token_that_the_run_makes_before_its_invitation(tmp_path, monkeypatch):
    started = []

    class Noted:
        def __init__(self, settings, workers, *, stay):
            started.append(settings.token)

        def run(self):
            return 0

    monkeypatch.setattr("physgym.machines.supervisor.Supervisor", Noted)
    monkeypatch.chdir(tmp_path)
    begin = threading.Event()

    def run():
        begin.wait(20)
        read_token("token", make=True)
        NODE.write(tmp_path / "i")

    def waited(file):  # nothing is there when the worker begins to wait
        assert list(tmp_path.iterdir()) == []
        begin.set()
        return read_invitation(file, 20)

    monkeypatch.setattr("physgym.machines.invitation.read_invitation", waited)
    thread = threading.Thread(target=run)
    thread.start()
    cli.app(["worker", "--invitation", "i", "--token-file", "token"], standalone_mode=False)
    thread.join()
    assert started == [read_token("token").hex()]
