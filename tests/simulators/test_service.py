"""A service of simulators: who gets one, and what becomes of simulators and clients that do what they should not."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from physgym.errors import ConfigError, SimulatorError
from physgym.machines.address import Address
from physgym.machines.strangers import STRANGERS
from physgym.protocol.messages import Refusal, WorkerOffer
from physgym.simulators.client import LentSimulator, ServiceClient, _first_free, described_service
from physgym.simulators.pool import PoolSettings
from physgym.simulators.program import Phase, Program
from physgym.simulators.service import SimulatorService
from physgym.system.ports import answers, holders
from physgym.transport.auth import greet
from physgym.transport.base import PeerGone
from tests.support.machines import TOKEN
from tests.support.simulators import lending, program, reaching


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("physgym.simulators.program.GRACE", 0.3)
    monkeypatch.setattr("physgym.simulators.program.LOOK", 0.01)


def soon(what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def listed(client):
    return client.list()["simulators"]


def test_a_simulator_is_lent_when_it_answers_and_lent_again(tmp_path):
    with lending(tmp_path, most=1) as service, ServiceClient(reaching(service)) as client:
        first = client.request()
        assert answers("127.0.0.1", first.port, 1)
        (there,) = listed(client)
        assert (there["state"], there["lease"], there["used"]) == ("lent", first.lease, 1)
        assert f"process {os.getpid()}" in there["holder"]
        client.release(first.lease)
        again = client.request()
        assert again.port == first.port
        assert again.lease != first.lease
        assert listed(client)[0]["used"] == 2
        with pytest.raises(SimulatorError, match=r"there is no lease .* over: it was given back"):
            client.ping(first.lease)
        pid = holders(again.port)
    assert not any(map(psutil.pid_exists, pid))
    assert not answers("127.0.0.1", again.port, 1)


@pytest.mark.slow
def test_who_waits_gets_what_becomes_free_in_turn(tmp_path):
    with lending(tmp_path, most=1) as service, ServiceClient(reaching(service)) as client:
        lent = client.request(holder="the first one")
        with pytest.raises(SimulatorError, match=r"no simulator is free.* 1 by the first one .*--wait SECONDS"):
            client.request()
        begin = time.monotonic()
        with pytest.raises(SimulatorError, match="no simulator is free"):
            client.request(0.2)
        assert 0.2 <= time.monotonic() - begin < 50
        order, places = [], [ServiceClient(reaching(service)) for _ in range(3)]

        def wait(number):
            with places[number] as place:
                found = place.request(20)
                order.append(number)
                place.release(found.lease)

        threads = [threading.Thread(target=wait, args=(number,)) for number in range(3)]
        for number, thread in enumerate(threads):
            thread.start()
            soon(lambda number=number: len(service._pool._waiting) > number)
        assert order == []
        client.release(lent.lease)
        for thread in threads:
            thread.join(20)
        assert order == [0, 1, 2]


def test_a_client_that_hangs_up_takes_nothing_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.simulators.pool.LEFT", 0.2)
    with lending(tmp_path, most=1) as service, ServiceClient(reaching(service)) as client:
        waiting = ServiceClient(reaching(service))
        lent = waiting.request(attached=True)
        pid = holders(lent.port)
        asking = ServiceClient(reaching(service))
        thread = threading.Thread(target=_ignored, args=(asking,))
        thread.start()
        time.sleep(0.1)
        asking._channel.sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        asking.close()
        waiting.close()  # as by a kill
        soon(lambda: not any(map(psutil.pid_exists, pid)))  # its client may still drive it
        assert "was not renewed" in soon(lambda: [line for line in service.said if "has ended" in line])[0]
        with pytest.raises(SimulatorError, match="over: its lease was not renewed"):
            client.ping(lent.lease)
        assert client.request().port


def _ignored(client):
    with contextlib.suppress(SimulatorError):
        client.request(9)


@pytest.mark.slow
def test_a_lease_that_is_renewed_lasts_and_one_that_is_not_ends(tmp_path):
    with lending(tmp_path, lease=1.5) as service, ServiceClient(reaching(service)) as client:
        kept, left = LentSimulator([reaching(service)], 5), client.request()
        soon(lambda: left.lease not in [one["lease"] for one in listed(client)])
        time.sleep(0.5)
        assert [one["state"] for one in listed(client) if one["port"] == kept.port] == ["lent"]
        assert kept.running
        kept.end()
        kept.end()
        assert not kept.running
        assert [one["state"] for one in listed(client) if one["port"] == kept.port] == ["free"]


@pytest.mark.slow
def test_a_cut_link_is_connected_again(tmp_path):
    with lending(tmp_path, lease=1.5) as service, ServiceClient(reaching(service)) as client:
        kept = LentSimulator([reaching(service)], 5)
        kept._client._channel.sock.shutdown(socket.SHUT_RDWR)
        time.sleep(2.0)
        assert listed(client)[0]["state"] == "lent"
        kept.end(broken=True)
        soon(lambda: listed(client) == [])


def test_one_that_nobody_wants_is_ended(tmp_path):
    with lending(tmp_path, idle=0.2) as service, ServiceClient(reaching(service)) as client:
        client.release(client.request().lease)
        soon(lambda: listed(client) == [])
        assert "nobody has wanted it for 0.2 s" in service.said[-1]


@pytest.mark.slow
def test_whole_trees_end_also_of_those_that_ignore_sigterm(tmp_path):
    with lending(tmp_path, "stays", "forks") as service, ServiceClient(reaching(service)) as client:
        lent = client.request()
        (pid,) = holders(lent.port)
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        assert len(tree) == 3
        client.kill(lent.lease)
        soon(lambda: listed(client) == [])
        assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in tree)
        assert "killed by a client" in service.said[-1]
        lent = client.request()
        (pid,) = holders(lent.port)
        client.kill(str(listed(client)[0]["number"]))
        soon(lambda: not psutil.pid_exists(pid))


def test_one_that_dies_by_itself_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with lending(tmp_path, "dies", most=1) as service, ServiceClient(reaching(service)) as client:
        lent = client.request()
        Path("die").touch()
        soon(lambda: listed(client) == [])
        Path("die").unlink()
        with pytest.raises(SimulatorError, match="has ended with status 7"):
            client.ping(lent.lease)
        assert client.request().lease != lent.lease


@pytest.mark.slow
def test_one_that_hangs_is_not_lent_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("physgym.simulators.program.CHECKED", 0.2)
    with lending(tmp_path, "hangs", most=1) as service, ServiceClient(reaching(service)) as client:
        lent = client.request()
        Path("hang").touch()
        soon(lambda: not answers("127.0.0.1", lent.port, 0.5))
        Path("hang").unlink()
        client.release(lent.lease)
        other = client.request(20)  # which is another one
        assert answers("127.0.0.1", other.port, 1)
        assert any("accepts no connection" in line for line in service.said)


@pytest.mark.parametrize(
    ("habits", "settings", "text"),
    [
        (("fails",), {}, r"could be started: .* ended with status 1; it has printed: the licence has expired \?\[31m"),
        (("late",), {"start_timeout": 0.3}, r"accepts no connection at 127\.0\.0\.1:\d+ within 0\.3 s"),
    ],
)
def test_one_that_does_not_start_is_an_error_that_says_why(tmp_path, habits, settings, text):
    with lending(tmp_path, *habits, **settings) as service, ServiceClient(reaching(service)) as client:
        with pytest.raises(SimulatorError, match=text):
            client.request()
        soon(lambda: listed(client) == [])
    with (
        lending(tmp_path, command=["/nowhere/sim", "{port}"]) as service,
        ServiceClient(reaching(service)) as client,
        pytest.raises(SimulatorError, match="/nowhere/sim cannot be started"),
    ):
        client.request()


@pytest.mark.slow
def test_one_that_prints_without_end_takes_no_room_and_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("enough").touch()
    with lending(tmp_path, "prints", most=2) as service, ServiceClient(reaching(service)) as client:
        client.request()
        before = psutil.Process().memory_info().rss
        begin = time.monotonic()
        for _ in range(20):
            client.list()
            time.sleep(0.01)
        assert time.monotonic() - begin < 50
        assert psutil.Process().memory_info().rss - before < 50e6
        client.request()


def test_another_program_at_its_port_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.simulators.pool.is_free", lambda port: True)
    with socket.create_server(("127.0.0.1", 0)) as yesterday:
        port = yesterday.getsockname()[1]
        with (
            lending(tmp_path, "late", ports=(port, port)) as service,
            ServiceClient(reaching(service)) as client,
            pytest.raises(SimulatorError, match=rf"another program \(process {os.getpid()}\) listens at port {port}"),
        ):
            client.request()


def test_ports_of_a_range_that_are_taken_are_left_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            lending(tmp_path, ports=(port, port)) as service,
            ServiceClient(reaching(service)) as client,
            pytest.raises(SimulatorError, match=r"no port of .* is free"),
        ):
            client.request()


def test_where_there_are_fewer_ports_than_simulators_a_request_waits_for_one(tmp_path):
    with socket.create_server(("", 0)) as found:
        port = found.getsockname()[1]
    with lending(tmp_path, ports=(port, port)) as service, ServiceClient(reaching(service)) as client:
        lent = client.request()
        with pytest.raises(SimulatorError, match=rf"no port of {port}-{port} is free .*: 1 by .* held. Wait for one"):
            client.request()
        asking = threading.Thread(target=lambda: found.append(client.request(20)))
        found = []
        asking.start()
        time.sleep(0.1)
        with ServiceClient(reaching(service)) as other:
            other.release(lent.lease)
        asking.join(20)
        assert [one.port for one in found] == [port]


@pytest.mark.slow
def test_silent_and_slow_clients_block_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.simulators.service.STRANGER_SECONDS", 60.0)
    with lending(tmp_path, plain=False) as service, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(tuple(service.address))) for _ in range(STRANGERS + 30)]
        for sock in silent[::2]:
            sock.sendall(b"\x16\x03\x01\x02")  # the beginning of a handshake
        stopped = stack.enter_context(ServiceClient(reaching(service, tmp_path)))  # proved, and then silent
        begin = time.monotonic()
        clients = [stack.enter_context(ServiceClient(reaching(service, tmp_path))) for _ in range(10)]
        found = []
        threads = [threading.Thread(target=lambda one=one: found.append(one.list())) for one in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(found) == 10
        assert time.monotonic() - begin < 50
        monkeypatch.setattr("physgym.simulators.service.STRANGER_SECONDS", 0.5)
        soon(lambda: any("has said nothing" in line for line in service.said))
        assert stopped.list()["simulators"] == []


def test_tls_and_the_proof_of_the_token(tmp_path):
    with lending(tmp_path, plain=False) as service:
        with ServiceClient(reaching(service, tmp_path)) as client:
            assert client.list() == {"most": 8, "simulators": []}
        with pytest.raises(SimulatorError, match="does not know this token"):
            ServiceClient(reaching(service, tmp_path, token="00" * 32))
        with pytest.raises(SimulatorError, match="the other end has the certificate"):
            ServiceClient(reaching(service, tmp_path, fingerprint="00" * 32))
        with pytest.raises(SimulatorError, match="speaks TLS: leave plain out"):
            ServiceClient(reaching(service), 0.3)
        assert soon(lambda: [line for line in service.said if "does not know the token" in line])
    with lending(tmp_path) as service:
        with pytest.raises(SimulatorError, match="the other end does not speak TLS"):
            ServiceClient(reaching(service, tmp_path))
        channel = reaching(service).connected(10)
        channel.set_timeout(10)
        greet(channel, TOKEN, -1, 1)
        channel.send(WorkerOffer(1, "far", {}))
        assert channel.next() == Refusal("a simulator service listens here, and no run; look for the port of the run")
        channel.close()
    with pytest.raises(SimulatorError, match=r"no simulator service answers at .* start it there"):
        ServiceClient(reaching(service))


@pytest.mark.parametrize(
    "asked", [("dance", {}), ("request", {}), ("renew", {"lease": 3, "attached": 1}), ("kill", {})]
)
def test_what_is_no_request_is_an_error_and_the_connection_goes_on(tmp_path, asked):
    with lending(tmp_path) as service, ServiceClient(reaching(service)) as client:
        with pytest.raises(SimulatorError, match="the simulator service at"):
            client._ask(*asked)
        with pytest.raises(SimulatorError, match="waits between 0"):
            client._ask("request", {"wait": float("nan"), "attached": False, "holder": "me"})
        with pytest.raises(ConfigError, match="wait must"):
            client.request(float("nan"))
        assert listed(client) == []


def test_garbage_closes_its_own_connection_alone(tmp_path):
    with lending(tmp_path) as service, ServiceClient(reaching(service)) as client:
        with socket.create_connection(tuple(service.address)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 9)
            sock.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
        channel = reaching(service).connected(10)
        channel.set_timeout(10)
        channel.next()
        channel.sock.sendall(b"\0" * 100)
        with pytest.raises(PeerGone):
            channel.next()
        channel.close()
        assert listed(client) == []


@pytest.mark.slow
def test_the_first_service_with_a_free_one_is_taken(tmp_path):
    with lending(tmp_path, most=1) as first, lending(tmp_path, most=1) as second:
        services = [reaching(first), reaching(second)]
        one, other = LentSimulator(services, 5), LentSimulator(services, 5)
        assert {one._client.place, other._client.place} == {first.address, second.address}
        with pytest.raises(SimulatorError, match=r"(?s)no simulator is free.*\n.*no simulator is free"):
            _first_free(services, 0.1)
        first.close()
        with pytest.raises(SimulatorError, match=r"(?s)no simulator service answers.*\n.*no simulator is free"):
            _first_free(services, 0.1)
        one.end()
        other.end()
        third = LentSimulator(services, 5)
        assert third._client.place == second.address
        third.end()


def test_wrong_settings_are_refused(tmp_path):
    token = tmp_path / "token"
    token.write_text("00" * 32)
    token.chmod(0o600)
    good = {"address": "127.0.0.1:1", "token_file": str(token)}
    for wrong, text in [
        ({"command": "sim"}, "list of a program"),
        ({"command": ["sim"]}, r"needs \{port\}"),
        ({"command": program(), "most": 0}, "at least 1"),
        ({"command": program(), "lease": 0}, "lease must be positive"),
        ({"command": program(), "ports": (9, 3)}, "FIRST-LAST"),
        ({"command": program(), "host": "no.such.host.invalid"}, "no address at which simulators could answer"),
        ({"command": program(), "start_timeout": -1}, "start_timeout must be positive"),
    ]:
        with pytest.raises(ConfigError, match=text):
            PoolSettings(**wrong)
    with pytest.raises(ConfigError, match="no loopback address"):
        SimulatorService(PoolSettings(program()), Address("0.0.0.0", 0), TOKEN, None)
    for wrong, text in [
        ({}, "described by address and token_file"),
        ("127.0.0.1:1", "described by address"),
        ({**good, "password": "x"}, "described by address"),
        ({**good, "address": "here"}, "write HOST:PORT"),
        ({**good, "plain": True, "fingerprint": "00"}, "leave one of both out"),
        ({**good, "plain": "yes"}, "plain must be true or false"),
        ({**good, "key": "k"}, "go together"),
        ({**good, "token_file": "none"}, "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=text):
            described_service(wrong)
    assert described_service({**good, "fingerprint": "AB:CD"}).fingerprint == "abcd"


def test_one_that_is_ended_makes_room_for_who_asks_next(tmp_path):
    with lending(tmp_path, most=1) as service, ServiceClient(reaching(service)) as client:
        lent = client.request()
        client.kill(lent.lease)
        assert client.request().lease != lent.lease  # without a wait: nobody has the one that ends


def test_hundreds_of_clients_are_answered(tmp_path):
    with lending(tmp_path, most=1) as service, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(ServiceClient(reaching(service))) for _ in range(300)]
        lent = clients[0].request()
        assert [client.list()["simulators"][0]["lease"] for client in clients] == [lent.lease] * 300
        clients[200].release(lent.lease)
        assert clients[299].request().port == lent.port


def test_idle_clients_give_way_to_others_and_those_with_a_simulator_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.simulators.service.CLIENTS", 3)
    with lending(tmp_path, most=1) as service, contextlib.ExitStack() as stack:
        holder, idle, other, last = (reaching(service) for _ in range(4))
        holder, idle, other = (stack.enter_context(ServiceClient(one)) for one in (holder, idle, other))
        holder.request(attached=True)
        other.list()
        with ServiceClient(last) as client:
            assert client.list()["simulators"][0]["state"] == "lent"
            with pytest.raises(SimulatorError, match="has gone"):
                idle.list()
            assert holder.list() == other.list() | {"simulators": holder.list()["simulators"]}
        assert "has asked for nothing, and there are 3 clients" in service.said[-1]
        monkeypatch.setattr("physgym.simulators.service.CLIENTS", 1)
        other.close()
        soon(lambda: len(service._lines) == 1)
        with ServiceClient(last) as client, pytest.raises(SimulatorError, match=r"1 clients .* ask again later"):
            client.list()
        assert listed(holder)[0]["state"] == "lent"


def test_one_that_is_given_back_at_once_is_asked_for_as_long_as_any_other(monkeypatch):
    """Its thread then sees no other phase between its start and the question."""
    answered, there = iter([True]), threading.Event()
    monkeypatch.setattr("physgym.simulators.program.CHECKED", 0.1)
    monkeypatch.setattr("physgym.simulators.program.answers", lambda *_: next(answered, False))

    def check():
        there.wait(10)
        found.check()

    found = Program(program(), "127.0.0.1", 1, 60.0, check)
    there.set()
    found.join(10)
    assert found.phase is Phase.ENDED
    assert "accepts no connection at 127.0.0.1:1 within 0.1 s" in found.reason


def test_a_service_that_fails_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    with lending(tmp_path) as service, ServiceClient(reaching(service)) as client:
        lent = client.request()
        monkeypatch.setattr(service._pool, "look", lambda: 1 / 0)
        service._wake()
        with pytest.raises(SimulatorError, match="the service has failed"):
            service.wait()
        assert not answers("127.0.0.1", lent.port, 1)


def test_where_there_is_no_more_room_a_request_fails_and_the_service_goes_on(tmp_path, monkeypatch):
    def none(*arguments, **more):
        raise OSError(24, "Too many open files")

    with lending(tmp_path) as service, ServiceClient(reaching(service)) as client:
        with monkeypatch.context() as patched:
            patched.setattr("physgym.simulators.program.os.pipe", none)
            with pytest.raises(SimulatorError, match="Too many open files"):
                client.request()
        with monkeypatch.context() as patched:
            patched.setattr(
                "physgym.simulators.pool.Program", lambda *_: (_ for _ in ()).throw(RuntimeError("threads"))
            )
            with pytest.raises(SimulatorError, match="no simulator could be started: threads"):
                client.request()
        assert client.request().port


def test_a_program_takes_its_phases_in_order():
    ended = threading.Event()
    found = Program(program("fails"), "127.0.0.1", 1, 5.0, lambda: ended.set() if found_ended() else None)

    def found_ended():
        return found.phase is Phase.ENDED

    found.check()  # which one that is not ready is not asked for
    assert found.phase is not Phase.CHECKING
    found.join(10)
    assert found.phase is Phase.ENDED
    found.end("again")
    assert found.phase is Phase.ENDED
    assert "status 1" in found.reason
