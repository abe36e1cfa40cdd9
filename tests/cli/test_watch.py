"""`physgym watch` and `--view`: clear errors, and a way to what runs."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict, replace

import pytest

from physgym import cli
from physgym.events import Callback
from physgym.generation.generate import generate
from physgym.scene import viewer
from physgym.scene.sinks.counting import CountingSink
from physgym.viewing.places import find
from tests.support.watching import Drawn, until


def status_of(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["physgym", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


class Tamper(Callback):
    """Calls something while a generation is under way."""

    def __init__(self, during):
        self.during = during

    def data_generation_begin(self, stream):
        self.during(stream.writer.path)


def generated(folder, during):
    return generate(Drawn, folder, samples=4, num_envs=1, num_workers=0, progress=False, callbacks=[Tamper(during)])


def test_what_cannot_be_watched_is_one_clear_error_each(tmp_path, monkeypatch, capsys):
    assert status_of(monkeypatch, "watch", tmp_path / "unknown", "--sink", "count") == 2
    assert "there is no " in capsys.readouterr().err
    assert status_of(monkeypatch, "watch", tmp_path, "--sink", "count") == 2
    assert "nothing that can be watched runs in" in capsys.readouterr().err

    def during(folder):
        assert status_of(monkeypatch, "watch", folder, "--sink", "cinema") == 2
        assert "not 'cinema'" in capsys.readouterr().err
        assert status_of(monkeypatch, "watch", folder, "--sink", "count", "--env", "7") == 2
        assert "there are 1" in capsys.readouterr().err
        assert status_of(monkeypatch, "watch", folder, "--sink", "count", "--rate", "0") == 2
        assert "--rate is frames per second" in capsys.readouterr().err
        assert status_of(monkeypatch, "watch", folder, "--sink", "count", "--port", "8080") == 2
        assert "count has no option port" in capsys.readouterr().err
        entry = find(folder)
        entry.file.write_text(json.dumps(asdict(replace(entry, token="00" * 32))))
        assert status_of(monkeypatch, "watch", folder, "--sink", "count") == 2
        assert "the token is wrong" in capsys.readouterr().err

    assert len(generated(tmp_path / "data", during)) == 4


def test_a_page_is_opened_by_its_address(monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    for status in (0, 2):
        assert status_of(monkeypatch, "watch", "http://127.0.0.1:8080/?token=x") == status
    assert opened == ["http://127.0.0.1:8080/?token=x"] * 2
    assert "no browser opens here" in capsys.readouterr().err


def test_a_generation_is_watched_until_it_ends(tmp_path, monkeypatch, capsys):
    shown, sinks = threading.Event(), []

    class Sink(CountingSink):
        def _opened(self):
            sinks.append(self)
            return super()._opened()

        def _shown(self, environment, snapshot):
            super()._shown(environment, snapshot)
            self.title_shown = snapshot["title"]
            shown.set()

    monkeypatch.setattr("physgym.scene.sinks.counting.CountingSink", Sink)
    statuses = []

    class Watched(Callback):
        def data_generation_begin(self, stream):
            self.thread = threading.Thread(
                target=lambda: statuses.append(
                    cli.app(["watch", str(tmp_path / "data"), "--sink", "count"], standalone_mode=False)
                ),
                daemon=True,
            )
            self.thread.start()
            until(lambda: stream._envs.views.attention)

        def data_generation_batch_end(self, stream, samples):
            assert shown.wait(60)

    watched = Watched()
    generate(Drawn, tmp_path / "data", samples=60, num_envs=1, num_workers=0, progress=False, callbacks=[watched])
    watched.thread.join(60)
    assert not watched.thread.is_alive()
    assert statuses == [None]
    assert sinks[0].shown[0] >= 1
    assert sinks[0].title_shown.startswith("episode ")
    assert "has ended" in capsys.readouterr().err


@pytest.mark.slow
def test_a_view_of_a_training_without_simulations_is_refused(tmp_path, monkeypatch, capsys):
    generated(tmp_path / "data", lambda folder: None)
    (tmp_path / "c.yaml").write_text(
        f"dataset: {{path: {tmp_path / 'data'}, samples: 4}}\nnetwork: {{type: MLP}}\ninputs: [x]\noutputs: [x]\n"
    )
    assert status_of(monkeypatch, "train", tmp_path / "c.yaml", "--no-logging", "--view", "web") == 2
    assert "this training runs no simulation" in capsys.readouterr().err
    assert status_of(monkeypatch, "train", tmp_path / "c.yaml", "--no-logging", "--view", "cinema") == 2
    assert "view must be one of" in capsys.readouterr().err


def test_titles_name_the_step():
    assert viewer.titled("beam", 3, 17) == "beam: episode 3, step 17"
    assert viewer.titled("", 3, 17) == "episode 3, step 17"
    assert viewer.titled("beam", None, None) == "beam"
