"""A server that hangs, drips or sends requests in circles is away: retried, then an error in plain words."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

import pytest

boto3 = pytest.importorskip("boto3", reason="pip install 'physgym[s3]'")

from physgym.errors import StorageError  # noqa: E402
from physgym.storage import s3 as stores  # noqa: E402
from physgym.storage.backend import Stopped, Unreachable  # noqa: E402
from physgym.storage.cache import Entry  # noqa: E402
from physgym.storage.location import Location  # noqa: E402
from physgym.storage.s3 import S3Backend  # noqa: E402

GOOD = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 5\r\n\r\nhello'


class Server:
    """Answers one request a connection with what `answers` gives, in order; the last one for ever."""

    def __init__(self, *answers: Callable[[socket.socket, threading.Event], None]) -> None:
        self.answers, self.count, self.closed = list(answers), 0, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.url = f"s3://bucket/data?endpoint=http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self.closed.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                answer = self.answers[min(self.count, len(self.answers) - 1)]
                self.count += 1
                thread = threading.Thread(target=self._serve, args=(connection, answer))
                thread.start()
                self._threads.append(thread)

    def _serve(self, connection: socket.socket, answer: Callable[[socket.socket, threading.Event], None]) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            while b"\r\n\r\n" not in connection.recv(1 << 16):
                pass
            answer(connection, self.closed)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *args: object) -> None:
        self.closed.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()


def good(connection, closed):
    connection.sendall(GOOD)


def hang(connection, closed):
    closed.wait(20)


def drip(connection, closed):
    for i in range(len(GOOD)):
        connection.sendall(GOOD[i : i + 1])
        if closed.wait(0.15):
            return


def drip_body(connection, closed):
    connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 1000\r\n\r\n')
    while not closed.wait(0.1):
        connection.sendall(b"x")


def unavailable(connection, closed):
    connection.sendall(b"HTTP/1.1 503 Slow\r\nContent-Length: 0\r\n\r\n")


def redirect(connection, closed):
    connection.sendall(
        b"HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-1\r\nContent-Type: application/xml\r\n"
        b"Content-Length: 71\r\n\r\n<Error><Code>PermanentRedirect</Code><Endpoint>elsewhere</Endpoint></Error>"
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stores, "LEAST_TIMEOUT", 0.3)
    monkeypatch.setattr(stores, "FIRST_READ", 4)
    for name, value in (("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    stores._client.cache_clear()
    yield
    stores._client.cache_clear()


def store(server: Server, patience: float) -> S3Backend:
    return S3Backend(Location.parse(server.url), patience)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [hang, drip, drip_body, unavailable])
def test_a_server_that_comes_back_is_waited_for(fault, caplog):
    caplog.set_level(logging.WARNING, "physgym.storage.s3")
    with Server(fault, fault, good) as server:
        assert store(server, 0.3).read("x") == (b"hello", '"x"')
        assert server.count == 3
    assert "cannot read x at s3://bucket" in caplog.text
    assert "once more" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("call", ["size", "delete", "replace", "folders", "upload"])
def test_every_call_ends_with_an_error_that_says_how_long(call, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    with Server(hang) as server:
        begin, there = time.monotonic(), store(server, 0.5)
        calls = {
            "size": lambda: there.size("x"),
            "delete": lambda: there.delete(["x"]),
            "replace": lambda: there.replace("x", b"1", None),
            "folders": there.folders,
            "upload": lambda: there.upload(file, "x"),
        }
        with pytest.raises(Unreachable, match="PHYSGYM_S3_PATIENCE"):
            calls[call]()
        assert server.count >= stores.ATTEMPTS
        assert time.monotonic() - begin < 30


@pytest.mark.slow
def test_a_server_that_drips_is_given_up():
    with Server(drip_body) as server, pytest.raises(Unreachable, match=r"Dripping|no whole answer|bytes? in"):
        store(server, 0.5).read("x")


def late(connection, closed):
    """Send most of a large object at once, and the rest as a drip."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 100000\r\n\r\n' + bytes(90000))
    while not closed.wait(0.1):
        connection.sendall(b"x")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [drip_body, late])
def test_a_drip_does_not_outlast_patience(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "FIRST_READ", 1000)
    file = tmp_path / "file"
    file.touch()
    with Server(fault) as server:
        there = store(server, 0.5)
        size = 1000 if fault is drip_body else 100000
        entry = Entry("x", "x", size, "0" * 64)
        for call in (lambda: there.read("x"), *([] if fault is late else [lambda: there.download(entry, file)])):
            begin = time.monotonic()
            with pytest.raises(Unreachable, match="the next bytes did not come in"):
                call()
            assert time.monotonic() - begin < 50  # 100 s for a byte after the other


def test_what_waits_for_a_drip_can_be_stopped(monkeypatch):
    monkeypatch.setattr(stores, "FIRST_READ", 1000)
    with Server(drip_body) as server:
        there = store(server, 60)
        timer = threading.Timer(0.5, there.stop.set)
        timer.start()
        begin = time.monotonic()
        with pytest.raises(Stopped):
            there.read("x")
        assert time.monotonic() - begin < 50
        timer.join()


def test_a_redirect_without_end_is_named():
    with Server(redirect) as server, pytest.raises(StorageError) as caught:
        store(server, 0.5).size("x")
    assert "RecursionError" not in str(caught.value)


def test_what_the_disk_refuses_is_not_retried():
    assert stores._of_disk(OSError(28, "No space left on device"))
    assert not stores._of_disk(TimeoutError())
    assert not stores._of_disk(ConnectionResetError())
