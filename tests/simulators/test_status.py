"""The status page of a service: what it shows, and to whom."""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from physgym.errors import ConfigError
from physgym.simulators.status import READERS, StatusPage

EVIL = {"number": 1, "state": "lent", "port": 9, "holder": "<script>x</script>", "lease": "1-secret", "seconds": 1.5}
ROWS = [{**EVIL, "used": 3}]


@contextmanager
def page():
    found = StatusPage(0, "[::]:7100", 8, lambda: ROWS)
    try:
        yield urlsplit(found.url)
    finally:
        found.close()


def asked(place, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def test_names_that_clients_give_are_text_and_leases_are_not_shown():
    with page() as place:
        status, text, headers = asked(place)
        assert status == 200
        assert "&lt;script&gt;x&lt;/script&gt;" in text
        assert "<script" not in text
        assert "secret" not in text
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Access-Control-Allow-Origin"] is None
        status, text, _ = asked(place, "/status.json", Sec_Fetch_Site="same-origin")
        found = json.loads(text)
        assert (found["most"], found["simulators"][0]["holder"]) == (8, "<script>x</script>")
        assert "lease" not in found["simulators"][0]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"Host": "evil.example:80"}, 421),  # a name of its own for the loopback address
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"path": "/../token"}, 404),
        ({"method": "POST"}, 501),
    ],
)
def test_other_sites_get_nothing(request_, status):
    with page() as place:
        found, text, _ = asked(place, **request_)
        assert found == status
        assert "lent" not in text


@pytest.mark.slow
def test_slow_readers_do_not_stop_others(monkeypatch):
    monkeypatch.setattr("physgym.simulators.status._Reader.timeout", 0.5)
    with page() as place, ExitStack() as stack:
        for _ in range(2 * READERS):
            stack.enter_context(socket.create_connection((place.hostname, place.port)))
        deadline = time.monotonic() + 60
        while True:
            try:
                assert asked(place)[0] == 200
                break
            except (http.client.HTTPException, OSError):
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_port_that_is_taken_is_an_error():
    with page() as place, pytest.raises(ConfigError, match="cannot listen"):
        StatusPage(place.port, "", 1, list)
    for port in (-1, 65536):
        with pytest.raises(ConfigError, match="between 0"):
            StatusPage(port, "", 1, list)
