"""The place where workers of other machines dial in: who gets in, and what becomes of those who do not."""

from __future__ import annotations

import contextlib
import platform
import socket
import sys
import threading
import time
from dataclasses import replace

import pytest

from physgym.code.search import code_of
from physgym.errors import ConfigError, ProtocolError, WorkerError
from physgym.launch.base import Order
from physgym.machines.address import CALLER, Address
from physgym.machines.dialled_worker import DialIn
from physgym.machines.reception import OVER, Reception
from physgym.machines.strangers import STRANGERS
from physgym.machines.versions import versions_here
from physgym.protocol.messages import Assignment, Refusal, WorkerOffer
from physgym.testing.transports import in_thread
from physgym.transport.auth import greet
from physgym.transport.base import PeerGone
from physgym.transport.certificates import own_certificate
from physgym.vector.make import env_factory
from physgym.worker.main import WorkerStart
from tests.support.machines import TOKEN, listening, settings_for

START = WorkerStart("", None, "", 3, 0, 2, "NEXT_STEP", 60.0, [], None, "mark")
HERE = versions_here()


@pytest.fixture
def reception(tmp_path):
    with listening(tmp_path, token_file="token") as found:
        yield found


def offered(reception, folder, offer, token=TOKEN, **changed):
    """A worker's end, behind its offer."""
    channel = settings_for(reception, folder, **changed).connected(10)
    channel.set_timeout(10)
    try:
        greet(channel, token, CALLER, 1)
        channel.send(offer)
    except BaseException:
        channel.close()
        raise
    return channel


def soon(what):
    deadline = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def spring(**arguments):
    return env_factory("physgym/Spring-v0", arguments)


def test_a_worker_gets_what_it_is_to_make(reception, tmp_path):
    wanted = reception.start(Order(START, [spring(stiffness=[1.0, 2.0])] * 2))
    assert wanted.connection() is None
    assert "with --envs 2" in wanted.advice
    assert "physgym worker 127.0.0.1:" in wanted.advice
    worker = offered(reception, tmp_path, WorkerOffer(2, "far", HERE))
    ours = soon(wanted.connection)
    answer = worker.next()
    assert isinstance(answer, Assignment)
    ours.close()
    assert answer.start["worker"] == 3
    assert "token" not in answer.start
    assert answer.environments[1]["arguments"] == {"stiffness": [1.0, 2.0]}
    assert str(wanted).startswith("on far, 127.0.0.1")
    worker.close()


def test_one_that_hosts_too_few_is_not_taken_for_an_order(reception, tmp_path):
    small = offered(reception, tmp_path, WorkerOffer(1, "small", HERE))
    assert reception.first(60) == 1
    wanted = reception.start(Order(START, [spring()] * 2))
    assert wanted.connection() is None
    large = offered(reception, tmp_path, WorkerOffer(4, "large", HERE))
    soon(wanted.connection).close()
    assert "large" in str(wanted)
    assert reception.callers() == [1]
    assert reception.callers() == []
    small.close()
    large.close()


def test_a_stranger_is_turned_away(reception, tmp_path):
    with pytest.raises(PeerGone):
        offered(reception, tmp_path, WorkerOffer(1, "far", HERE), token=bytes(32))
    (said,) = soon(reception.news)
    assert "does not know the token" in said
    assert reception.callers() == []


def test_versions_that_differ_are_refused_with_both_named(reception, tmp_path):
    packages = HERE["packages"] | {"numpy": "1.0.0"}
    worker = offered(reception, tmp_path, WorkerOffer(1, "old", {**HERE, "packages": packages}))
    answer = worker.next()
    assert isinstance(answer, Refusal)
    assert f"numpy 1.0.0 there, {HERE['packages']['numpy']} here" in answer.reason
    assert "--on-difference warn" in soon(reception.news)[0]
    worker.close()


def test_code_that_differs_is_refused_with_both_named(reception, tmp_path):
    theirs = versions_here(["tests.support.toys:Line"])
    module = next(iter(theirs["codes"]["tests.support.toys:Line"]["modules"]))
    theirs["codes"]["tests.support.toys:Line"]["modules"][module] = "0" * 64
    worker = offered(reception, tmp_path, WorkerOffer(1, "old", theirs))
    answer = worker.next()
    assert isinstance(answer, Refusal)
    assert module in answer.reason
    worker.close()


def test_nobody_waits_while_the_code_of_a_simulation_is_looked_for(reception, tmp_path, monkeypatch):
    looks, found = threading.Event(), threading.Event()

    def slow(env):
        looks.set()
        assert found.wait(60)
        return code_of(env)

    monkeypatch.setattr("physgym.machines.versions.code_of", slow)
    theirs = HERE | {"codes": {"tests.support.toys:Line": code_of("tests.support.toys:Line").to_json()}}
    worker = offered(reception, tmp_path, WorkerOffer(1, "far", theirs))
    try:
        assert looks.wait(60)
        begun = time.monotonic()
        assert reception.callers() == reception.news() == []
        assert time.monotonic() < begun + 30
    finally:
        found.set()
    assert reception.first(60) == 1
    worker.close()


def test_what_a_worker_names_imports_nothing_here(reception, tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    worker = offered(reception, tmp_path, WorkerOffer(1, "far", {**HERE, "codes": {"never_imported:X-v0": {}}}))
    assert reception.first(60) == 1
    assert "never_imported" not in sys.modules
    worker.close()


@pytest.mark.parametrize("count", [0, -1, 10**9])
def test_an_offer_of_no_or_endless_environments_is_refused(reception, tmp_path, count):
    worker = offered(reception, tmp_path, WorkerOffer(count, "far\x1b[2J\n", HERE))
    answer = worker.next()
    assert isinstance(answer, Refusal)
    (said,) = soon(reception.news)
    assert f"on far?[2J? (127.0.0.1) offers {count} environments; a worker may offer 1 to" in said
    assert said.isprintable()
    worker.close()


def test_strangers_do_not_use_up_what_is_said_of_workers(reception, tmp_path):
    for _ in range(30):
        with socket.create_connection(tuple(reception.address), 10) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert stranger.recv(1) is not None
    said = []
    soon(lambda: said.extend(reception.news()) or any("no more is said" in text for text in said))
    worker = offered(reception, tmp_path, WorkerOffer(0, "far", HERE))
    assert "offers 0 environments" in soon(reception.news)[0]
    worker.close()


def test_a_flood_from_one_address_leaves_those_of_others(tmp_path):
    with listening(tmp_path, plain=True) as reception, contextlib.ExitStack() as stack:
        far = socket.create_connection(tuple(reception.address), 10, source_address=("127.0.0.2", 0))
        stack.callback(far.close)
        for _ in range(STRANGERS + 8):
            one = socket.create_connection(tuple(reception.address), 10)
            stack.callback(one.close)
            one.recv(1)  # it is let in
        with reception._lock:
            peers = [caller.peer for caller in reception._callers.values()]
        assert peers.count("127.0.0.2") == 1
        assert len(peers) == STRANGERS


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_addresses_of_ipv6_listen(tmp_path):
    try:
        reception = Reception(Address("::1", 0), TOKEN, None)
    except ConfigError as error:
        pytest.skip(str(error))  # a machine without it
    try:
        assert f"physgym worker '[::1]:{reception.address.port}'" in reception.command
        settings = DialIn(tuple(reception.address), TOKEN.hex(), plain=True)
        channel = settings.connected(10)
        channel.set_timeout(10)
        greet(channel, TOKEN, CALLER, 1)
        channel.close()
    finally:
        reception.close()


def test_versions_that_differ_are_let_in_where_that_is_chosen(tmp_path):
    with listening(tmp_path, on_difference="warn") as reception:
        packages = HERE["packages"] | {"numpy": "1.0.0"}
        worker = offered(reception, tmp_path, WorkerOffer(1, "old", {**HERE, "packages": packages}))
        assert reception.first(60) == 1
        assert "let in" in reception.news()[0]
        worker.close()


def test_a_parent_of_another_certificate_is_left(reception, tmp_path):
    with pytest.raises(ProtocolError, match="was given 0000"):
        offered(reception, tmp_path, WorkerOffer(1, "far", HERE), fingerprint="0" * 64)


@pytest.mark.parametrize("plain_here", [True, False])
def test_plain_text_to_tls_and_tls_to_plain_text_say_so(tmp_path, plain_here, monkeypatch):
    monkeypatch.setattr("physgym.machines.reception.STRANGER_SECONDS", 0.3)
    with listening(tmp_path, plain=plain_here) as reception:
        other = {"plain": not plain_here, "fingerprint": "0" * 64}
        with pytest.raises(ProtocolError) as raised:
            offered(reception, tmp_path, WorkerOffer(1, "far", HERE), **other)
        said = [str(raised.value), *soon(reception.news)]
        assert any("does not speak TLS" in text or "started with --plain" in text for text in said)


def test_garbage_and_silence_do_no_harm(reception, tmp_path):
    with socket.create_connection(tuple(reception.address), 10) as silent:
        with socket.create_connection(tuple(reception.address), 10) as loud:
            loud.sendall(bytes(range(256)) * 40)
            worker = offered(reception, tmp_path, WorkerOffer(1, "far", HERE))
            assert reception.first(60) == 1
            worker.close()
        silent.close()


def test_one_that_waits_and_dies_is_forgotten(reception, tmp_path):
    worker = offered(reception, tmp_path, WorkerOffer(1, "far", HERE))
    assert reception.first(60) == 1
    worker.close()
    soon(lambda: not reception._callers)


def test_nobody_who_comes_is_an_error_that_says_how_to_start_one(reception):
    with pytest.raises(WorkerError, match=r"Start one:\n  physgym worker 127.0.0.1:\d+ --token-file token --finger"):
        reception.first(0.1)


def test_those_who_wait_at_the_end_are_told(tmp_path):
    with listening(tmp_path) as reception:
        worker = offered(reception, tmp_path, WorkerOffer(1, "far", HERE))
        assert reception.first(60) == 1
        answer = in_thread(worker.next)
    assert answer() == Refusal("")
    worker.close()


@pytest.mark.parametrize(("advertise", "host"), [("", platform.node()), ("far.example.org", "far.example.org")])
def test_the_command_names_a_host_that_others_can_dial(tmp_path, advertise, host):
    reception = Reception(Address("0.0.0.0", 0), TOKEN, own_certificate(tmp_path), advertise=advertise)
    try:
        assert reception.command.startswith(f"physgym worker {host}:{reception.address.port} ")
    finally:
        reception.close()


def test_plain_is_for_loopback_alone():
    with pytest.raises(ConfigError, match="no loopback address"):
        Reception(Address("0.0.0.0", 0), TOKEN, None)


def test_an_address_in_use_is_one_error(reception):
    with pytest.raises(ConfigError, match="cannot listen on"):
        Reception(reception.address, TOKEN, None)


def test_a_function_cannot_be_ordered(reception):
    with pytest.raises(ConfigError, match="names and JSON data alone"):
        reception.start(Order(replace(START), [lambda: None]))


def test_one_that_comes_in_the_place_of_another_hears_that_all_is_over(reception, tmp_path):
    reception.expect()
    closing = threading.Thread(target=reception.close)
    closing.start()
    try:
        time.sleep(0.1)
        worker = offered(reception, tmp_path, WorkerOffer(1, "far", HERE))
        answer = worker.next()
        assert isinstance(answer, Refusal)
        assert answer.reason == OVER
        worker.close()
    finally:
        closing.join(20)
    with pytest.raises(OSError, match="refused"):
        offered(reception, tmp_path, WorkerOffer(1, "late", HERE))


def test_where_nobody_is_to_come_the_end_is_at_once(reception, tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.machines.reception.LAST_CALL", 100.0)
    reception.expect()
    worker = offered(reception, tmp_path, WorkerOffer(1, "far", HERE))
    reception.first(60)
    begun = time.monotonic()
    reception.close()
    assert time.monotonic() - begun < 50
    assert isinstance(worker.next(), Refusal)
    worker.close()
