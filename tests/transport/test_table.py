"""The table of transports."""

from __future__ import annotations

import pytest

from physgym.errors import ConfigError
from physgym.testing.transports import ChannelContract
from physgym.transport import table
from physgym.transport.base import Transport
from physgym.transport.table import entry_of, imported, register_transport, transport_of
from physgym.transport.tcp import Tcp
from physgym.transport.unix import Unix


class Pigeon(Unix):
    pass


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    monkeypatch.setattr(table, "TRANSPORTS", dict(table.TRANSPORTS))


@pytest.mark.parametrize("name", list(table.TRANSPORTS))
def test_every_name_leads_to_a_transport_that_a_worker_finds(name):
    found = transport_of(name, 0, inherit=True)
    assert isinstance(found, Transport)
    assert entry_of(found) == table.TRANSPORTS[name]
    assert imported(entry_of(found)) is type(found)


def test_what_fits_is_taken_where_none_is_named():
    assert type(transport_of(None, 0, inherit=True)) is Unix
    assert type(transport_of(None, 5000, inherit=True)) is Tcp
    assert type(transport_of(None, 0, inherit=False)) is Tcp


def test_a_transport_is_added_with_its_name():
    known = " or ".join(f'"{name}"' for name in table.TRANSPORTS)
    assert known.startswith('"unix" or "tcp"')
    with pytest.raises(ConfigError, match=f"transport must be {known}, not 'pigeon'"):
        transport_of("pigeon", 0, inherit=True)
    entry = entry_of(Pigeon())
    for _ in range(2):
        register_transport("pigeon", entry)
    assert type(transport_of("pigeon", 0, inherit=True)) is Pigeon
    with pytest.raises(ConfigError, match=f'{known} or "pigeon"'):
        transport_of("smoke", 0, inherit=True)
    with pytest.raises(ConfigError, match=r"the transport 'tcp' is physgym\.transport\.tcp:Tcp already"):
        register_transport("tcp", entry)


def test_a_transport_may_be_given_itself():
    mine = Pigeon()
    assert transport_of(mine, 0, inherit=True) is mine


def test_a_worker_has_to_find_the_class():
    class Hidden(Unix):
        pass

    with pytest.raises(ConfigError, match="a worker cannot import"):
        transport_of(Hidden(), 0, inherit=True)


class TestPair(ChannelContract):
    def pair(self):
        ours, theirs = Unix().pair()
        return ours, Unix.adopt(theirs)
