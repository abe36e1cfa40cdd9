"""Sinks: the contract with one that counts, and the table of their names."""

from __future__ import annotations

import importlib
from contextlib import nullcontext

import pytest

from physgym import cli
from physgym.errors import ConfigError
from physgym.scene.sinks.base import SceneSink
from physgym.scene.sinks.counting import CountingSink
from physgym.scene.sinks.table import SINKS, make_sink
from physgym.testing.sinks import SinkContract, snapshot_of
from physgym.viewing.shown import view_of


class TestCounting(SinkContract):
    def sink(self, folder, **options):
        return CountingSink(**options)

    def breaks(self):
        return {}


def test_snapshots_are_counted_by_environment():
    sink = make_sink("count", chosen=[0, 2])
    sink.open("springs", 3)
    for environments in ([0, 1, 2], [2]):
        sink.show(dict.fromkeys(environments, snapshot_of()))
    assert sink.shown == {0: 1, 2: 2}


def test_a_sink_is_made_by_its_name():
    assert [make_sink("count").name] == [name for name in SINKS if name == "count"]
    with pytest.raises(ConfigError, match=r"view must be one of .*'count'.*, not 'cinema'"):
        make_sink("cinema")


@pytest.mark.parametrize("name", SINKS)
def test_a_row_of_the_table_is_all_that_a_name_needs(name, capsys):
    row = SINKS[name]
    module, _, kind = row.place.partition(":")
    assert getattr(importlib.import_module(module), kind).name == name
    with nullcontext() if row.with_run else pytest.raises(ConfigError, match="view must be one of"):
        assert view_of(name).sink == name
    for command, offered in (("watch", True), ("generate", row.with_run), ("train", row.with_run)):
        cli.app([command, "--help"], standalone_mode=False)
        text = " ".join(capsys.readouterr().out.split())
        assert (f"{name}, {row.title}" in text) == (offered and bool(row.title))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("count", {"port": 8080}, "count has no option port; it has chosen"),
        ("vedo", {"out": "x.rrd"}, "vedo has no option out; it has .*chosen"),
        ("rerun", {}, "rerun needs the option out"),
    ],
)
def test_options_that_a_sink_does_not_have_or_lacks_are_named(name, options, match):
    with pytest.raises(ConfigError, match=match):
        make_sink(name, **options)


def test_what_could_not_be_opened_is_closed():
    class Refusing(SceneSink):
        name, closed = "refusing", 0

        def _opened(self):
            raise ConfigError("no display")

        def _shown(self, environment, snapshot):
            raise AssertionError

        def _closed(self):
            self.closed += 1

    sink = Refusing()
    with pytest.raises(ConfigError, match="no display"):
        sink.open("springs", 1)
    assert (sink.closed, sink.poll()) == (1, False)
