"""Addresses, tokens and the command for workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from physgym.errors import ConfigError
from physgym.machines.address import Address, parse_address, read_token, worker_command


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node1:7000", Address("node1", 7000)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::1]:9", Address("::1", 9)),
    ],
)
def test_addresses_are_read_and_written(text, address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "7000", "node1", "node1:", ":7000", "node1:port", "node1:70000", "node1:-1"])
def test_what_is_no_address_is_one_error(text):
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        parse_address(text)


def test_loopback_addresses_are_known():
    assert [Address(h, 1).is_loopback for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [Address(h, 1).is_loopback for h in ("0.0.0.0", "10.0.0.1", "node1", "::")] == [False] * 4


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path):
    file = tmp_path / "new" / "token"
    token = read_token(file, make=True)
    assert len(token) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_token(file) == token == read_token(file, make=True)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(file)


def test_two_runs_that_make_a_token_together_have_one(tmp_path, monkeypatch):
    file = tmp_path / "token"
    token = read_token(file, make=True)
    there = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path, **options: path != file and there(path, **options))
    assert read_token(file, make=True) == token


@pytest.mark.parametrize("content", ["", "short", "00" * 31, "zz" * 32, "00" * 2000])
def test_what_is_no_token_is_one_error(tmp_path, content):
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="token"):
        read_token(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_the_command_names_what_is_needed():
    plain = worker_command(Address("node1", 7000), "my token", None, ["pkg:my/Sim-v0"])
    assert plain == "physgym worker node1:7000 --token-file 'my token' --plain --env pkg:my/Sim-v0"
