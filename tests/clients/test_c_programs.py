"""The programs in C and C++ at the command line: their states, what they refuse, TLS, garbage, memory."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import physgym
from physgym.envs.heat import Heat
from physgym.envs.spring import Spring
from physgym.errors import ConfigError
from physgym.machines.address import Address
from physgym.machines.reception import Reception
from physgym.protocol.codec import encode, nbytes, pack_header
from physgym.protocol.messages import Challenge, Refusal, Welcome
from physgym.transport import certificates
from physgym.transport.certificates import given_certificate, own_certificate
from physgym.vector.make import env_factory
from tests.clients.frames import conversation
from tests.support.machines import ROOT, TOKEN, listening
from tests.support.programs import (
    CLIENT,
    SANITIZED,
    built,
    dialling,
    has_openssl,
    needs_gcc,
    token_file,
)
from tests.support.tls import key_and_certificate, of_days

pytestmark = [
    pytest.mark.slow,
    needs_gcc,
    pytest.mark.filterwarnings("ignore:.*It was let in:RuntimeWarning"),
]
needs_openssl = pytest.mark.skipif(not has_openssl, reason="the headers of OpenSSL are not there")
SPRING = "physgym/Spring-v0"
TOY = "tests.clients.toy:clients/Toy-v0"


def ran(*words, status=0):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def states(program, file, parameters, state, actions):
    """What a program prints for parameters, initial state and actions: shape (steps + 1, size)."""
    lines = [("parameters", parameters), ("state", state), *(("action", action) for action in actions)]
    text = "".join(f"{word} {' '.join(map(repr, np.ravel(values).tolist()))}\n" for word, values in lines)
    file.write_text(text)
    return np.array([row.split() for row in ran(program, "--states", file).splitlines()], np.float64)


def assert_near(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-12 * np.abs(expected).max()


def test_the_states_of_the_spring_are_those_of_python(programs, tmp_path):
    rng = np.random.default_rng(1)
    for values in ([5.0, 2.0, 0.1, 0, 0], [20.0, 0.5, 2.0, 1.0, -2.0], [7.3, 1.1, 0.6, 0.2, 0.3]):
        env = Spring()
        env.reset(seed=0, options={"parameters": dict(zip(env.ranges, values, strict=True))})
        start, actions = rng.uniform(-1, 1, 2), rng.uniform(-5, 5, (100, 1))
        env.set_state({**env.state(), "state": start})
        expected = [start]
        for action in actions:
            env.advance(action)
            expected.append(env.state()["state"])
        assert_near(states(programs / "spring", tmp_path / "given", values, start, actions), np.array(expected))


def test_the_states_of_the_plate_are_those_of_python(programs, tmp_path):
    rng = np.random.default_rng(2)
    env = Heat(size=16)
    env.reset(seed=0)
    parameters = np.concatenate([np.ravel(value) for value in env.parameters.values()])
    start, actions = rng.uniform(-20, 20, (16, 16)), rng.uniform(-20, 20, (20, 16, 16))
    env.set_state({**env.state(), "temperature": start})
    expected = [start.ravel()]
    for action in actions:
        env.advance(action)
        expected.append(env.state()["temperature"].ravel())
    assert_near(states(programs / "heat_plate", tmp_path / "given", parameters, start, actions), np.array(expected))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no action"),
        ("parameters 1 2", "at byte 0: wanted are parameters and 5 numbers"),
        ("action 1", "at byte 0"),
        ("parameters 5 1 1 0 0 state 0 x", "at byte 21"),
        ("parameters 5 0 1 0 0 action 1", "parameter 'mass' is not within its bounds"),
        ("parameters 5 1 1 0 0 action 1 state 0 0", "at byte 30"),
        (
            "parameters 5 1 1 0 0 action 1 action inf",
            "step 2 was rejected: the state is not finite after",
        ),
        ("parameters 5 1 1 0 0 state nan 0 action 1", "step 1 was rejected: the state is not finite"),
        ("parameters 5 1 1 0 0\0", "is no text"),
    ],
)
def test_a_file_of_states_that_is_wrong(programs, tmp_path, text, said):
    (tmp_path / "given").write_text(text)
    assert said in ran(programs / "spring", "--states", tmp_path / "given", status=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "write HOST:PORT"),
        (("nowhere", "--token-file", "token"), "write HOST:PORT"),
        (("127.0.0.1:99999", "--token-file", "token"), "write HOST:PORT"),
        (("127.0.0.1:1",), "--token-file FILE is missing"),
        (("127.0.0.1:1", "--token-file", "none"), "cannot be read"),
        (("127.0.0.1:1", "--token-file", "open"), "others can read"),
        (("127.0.0.1:1", "--token-file", "short"), "no token of 32 bytes"),
        (("127.0.0.1:1", "--token-file", "words"), "no token of 32 bytes"),
        (("127.0.0.1:1", "--token-file", "token", "--envs", "0"), "--envs must be"),
        (("127.0.0.1:1", "--token-file", "token", "--workers", "2"), "unknown"),
        (("127.0.0.1:1", "--token-file", "token", "--fingerprint", "00"), "64 hexadecimal digits"),
        (("127.0.0.1:1", "--token-file", "token", "--authorities", "file"), "without TLS"),
        (("192.0.2.1:1", "--token-file", "token"), "would be sent in clear"),
        (("--states", "none"), "cannot be read"),
    ],
)
def test_bad_options(programs, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for name, text, mode in (
        ("token", TOKEN.hex(), 0o600),
        ("open", TOKEN.hex(), 0o644),
        ("short", "00" * 31, 0o600),
        ("words", "x" * 64, 0o600),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    assert said in ran(programs / "spring", *words, status=2)


def test_nobody_answers(programs, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = ran(
        programs / "spring", f"127.0.0.1:{port}", "--token-file", token_file(tmp_path), "--patience", "0.3", status=3
    )
    assert "no run answers" in said


def test_a_wrong_token_and_a_wrong_id(programs, tmp_path):
    with listening(tmp_path, plain=True, on_difference="warn") as reception:
        other = token_file(tmp_path, bytes([7] * 32))
        said = ran(programs / "spring", reception.address, "--token-file", other, "--patience", "0.3", status=3)
        assert "does not know this token" in said
        assert any("does not know the token" in text for text in reception.news())
        with dialling([programs / "spring"], reception, tmp_path) as workers:  # which kills them at its end
            with pytest.raises(ConfigError, match="does not make 'physgym/Heat-v0'; it makes physgym/Spring-v0"):
                physgym.generate("physgym/Heat-v0", tmp_path / "d", samples=5, launcher=reception, progress=False)
            assert workers[0].process.wait(60) == 2


def test_a_parent_that_hangs_up_without_a_word(programs, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        words = ("--token-file", token_file(tmp_path), "--patience", "0")
        said = ran(programs / "spring", f"127.0.0.1:{listener.getsockname()[1]}", *words, status=3)
        thread.join(20)
    assert "perhaps it speaks TLS" in said


def _frame(message, number=0):
    body = encode(message, None)
    return pack_header(type(message), number, sum(map(nbytes, body))) + b"".join(bytes(part) for part in body)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\x16\x03\x01" + bytes(40), "perhaps it speaks TLS"),
        (b"PG\x06" + bytes(13), "another version"),
        (b"PG\x07\xff" + bytes(12), "unknown message"),
        (b"PG\x07\x00" + struct.pack("<IQ", 0, 1 << 11), "too large"),
        (b"PG\x07\x02" + struct.pack("<IQ", 0, 0), "may not send now"),
        (b"PG\x07\x00" + struct.pack("<IQ", 1, 1) + b"\x80", "numbers its messages"),
        (b"PG\x07\x00" + struct.pack("<IQ", 0, 2) + b"\x80\x80", "no value"),
        (b"PG\x07\x00" + struct.pack("<IQ", 0, 1) + b"\xc1", "no value"),
        (_frame(Challenge(bytes(31))), "Challenge is wrong"),
        (_frame(Challenge(bytes(32))) + _frame(Welcome(bytes(32))), "does not know the token"),
        (_frame(Challenge(bytes(32))) + _frame(Refusal("")), "may not send now"),
    ],
)
def test_a_parent_that_says_something_wrong(spring, tmp_path, sent, said):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk():
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(sent)
                while peer.recv(4096):
                    pass

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            assert said in ran(spring, address, "--token-file", token_file(tmp_path), "--patience", "0", status=2)
        finally:
            thread.join(20)


@pytest.mark.parametrize(
    ("simulation", "env", "parameters", "arguments"),
    [
        ("../../clients/c/spring.c", SPRING, {"mass": 1.0}, []),
        ("toy.c", TOY, {"gain": 1.5, "start": [1, 2]}, [{"trouble": 1}, {"trouble": 5, "scale": 2.0}]),
    ],
)
def test_garbage_does_no_harm(tmp_path, simulation, env, parameters, arguments):
    (tmp_path / "frames").write_bytes(conversation(env, env_factory(env, {}), parameters, arguments))
    program = built(
        Path(__file__).with_name("fuzz.c"), tmp_path / "fuzz", *SANITIZED, f'-DSIMULATION="{simulation}"', "-lpthread"
    )
    done, lost, refused = (int(part.split()[0]) for part in ran(program, tmp_path / "frames", 150, 1).split(","))
    assert done >= 50
    assert lost
    assert refused > 50


@needs_openssl
def test_tls_with_a_pinned_certificate(spring, tmp_path):
    physgym.generate(SPRING, tmp_path / "here", samples=200, seed=1, num_workers=0, progress=False)
    with listening(tmp_path, on_difference="warn") as reception:
        fingerprint = own_certificate(tmp_path / "state").fingerprint
        wrong = "0" * 64
        said = ran(spring, reception.address, "--token-file", token_file(tmp_path), "--fingerprint", wrong, status=2)
        assert fingerprint in said
        assert wrong in said
        with dialling([spring], reception, tmp_path, 1, 1, "--fingerprint", fingerprint.upper()):
            physgym.generate(SPRING, tmp_path / "there", samples=200, seed=1, launcher=reception, progress=False)
    files = [(tmp_path / name / "training-00000.h5").read_bytes() for name in ("here", "there")]
    assert files[0] == files[1]


@needs_openssl
@pytest.mark.filterwarnings("ignore:.*is turned away:RuntimeWarning")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there")
def test_tls_with_authorities_and_certificates_of_both_ends(spring, tmp_path):
    files = {}
    for name in ("localhost", "worker"):
        for kind, text in zip(("key", "crt"), key_and_certificate(name), strict=True):
            files[name, kind] = tmp_path / f"{name}.{kind}"
            files[name, kind].write_text(text)
    certificate = given_certificate(files["localhost", "crt"], files["localhost", "key"])
    clients = certificate.context(files["worker", "crt"])
    reception = Reception(Address("127.0.0.1", 0), TOKEN, certificate, clients=clients, on_difference="warn")
    with contextlib.closing(reception):
        token, trusted = token_file(tmp_path), files["localhost", "crt"]
        words = ("--token-file", token, "--authorities", trusted, "--patience", "0")
        assert "IP address mismatch" in ran(spring, reception.address, *words, status=2)
        words = ("--token-file", token, "--authorities", files["worker", "crt"], "--patience", "0")
        assert "self-signed" in ran(spring, f"localhost:{reception.address.port}", *words, status=2)
        own = ("--certificate", files["worker", "crt"], "--key", files["worker", "key"])
        process = subprocess.Popen(
            [spring, f"localhost:{reception.address.port}", "--token-file", token, "--authorities", trusted, *own],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            physgym.generate(SPRING, tmp_path / "d", samples=100, launcher=reception, progress=False)
        finally:
            process.kill()
            process.communicate(timeout=60)


@needs_openssl
@pytest.mark.filterwarnings("ignore:.*is turned away:RuntimeWarning")
@pytest.mark.parametrize(("days", "said"), [((-3, -0.5), "has expired"), ((0.5, 3), "not yet valid")])
def test_tls_with_wrong_dates(spring, tmp_path, monkeypatch, days, said):
    monkeypatch.setattr(certificates, "_check_dates", lambda *_: None)  # the clock of the parent is right
    certificate = of_days(tmp_path, *days, "localhost")
    with contextlib.closing(Reception(Address("127.0.0.1", 0), TOKEN, certificate)) as reception:
        address = f"localhost:{reception.address.port}"
        words = (address, "--token-file", token_file(tmp_path), "--authorities", tmp_path / "authority")
        error = ran(spring, *words, "--patience", "0", status=2)
        assert said in error
        assert "clocks of both machines" in error


@needs_openssl
@pytest.mark.filterwarnings("ignore:.*is turned away:RuntimeWarning")
@pytest.mark.parametrize(("shown", "said"), [(True, "certificate expired"), (False, "certificate required")])
def test_a_run_that_does_not_accept_the_certificate_of_a_worker(spring, tmp_path, shown, said):
    of_days(tmp_path, -3, -0.5)
    own = own_certificate(tmp_path / "own")
    clients = own.context(clients=tmp_path / "authority")
    with contextlib.closing(Reception(Address("127.0.0.1", 0), TOKEN, own, clients=clients)) as reception:
        words = (reception.address, "--token-file", token_file(tmp_path), "--fingerprint", own.fingerprint)
        words += ("--certificate", tmp_path / "chain", "--key", tmp_path / "key") if shown else ()
        error = ran(spring, *words, "--patience", "0", status=2)
        assert said in error
        assert "see --certificate and --key" in error


@needs_openssl
def test_tls_to_a_parent_without(spring, tmp_path):
    with listening(tmp_path, plain=True) as reception:
        words = ("--token-file", token_file(tmp_path), "--fingerprint", "0" * 64, "--patience", "0")
        assert "TLS" in ran(spring, reception.address, *words, status=2)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not there")
def test_valgrind_finds_nothing(programs, tmp_path):
    with listening(tmp_path, plain=True, on_difference="warn") as reception:
        command = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", programs / "heat_plate"]
        with dialling(command, reception, tmp_path, 2) as workers:
            arguments = {"env_kwargs": {"size": 16}, "parameters": "sobol", "samples": 100}
            physgym.generate("physgym/Heat-v0", tmp_path / "d", launcher=reception, progress=False, **arguments)
            reception.close()
            assert workers[0].process.wait(60) == 0


def test_the_program_of_the_guide_makes_a_dataset(tmp_path):
    (text,) = re.findall(r"^```c\n(.*?)^```", (ROOT / "docs" / "howto" / "c_client.md").read_text(), re.M | re.S)
    (tmp_path / "tank.c").write_text(text)
    program = built(tmp_path / "tank.c", tmp_path / "tank", f"-I{CLIENT}", *SANITIZED)
    words = ["generate", "worker:my/Tank-v0", "--out", "d", "--samples", "300", "--parameters", "sobol"]
    words += ["--listen", "127.0.0.1:0", "--plain", "--token-file", "token"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", "physgym", *words], cwd=tmp_path, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while (found := re.search(r"^  PROGRAM (.*)$", (tmp_path / "log").read_text(), re.M)) is None:
            assert time.monotonic() < deadline
            assert run.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        done = subprocess.run(
            [program, *found[1].split(), "--envs", "3"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert run.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        run.kill()
        run.wait(30)
    dataset = physgym.SampleDataset(tmp_path / "d")
    assert [(field.name, field.role, field.unit) for field in dataset.spec.values()] == [
        ("level", "input", "m"),
        ("inflow", "input", "m/s"),
        ("next_level", "target", "m"),
    ]
    sample = dataset[7]
    level, inflow = float(sample["level"]), float(sample["inflow"])
    assert sample["next_level"] == pytest.approx(level + 0.1 * (inflow - 0.3 * level**0.5), rel=1e-6)


def test_an_example_in_cpp_is_short():
    assert len((CLIENT / "pendulum.cpp").read_text().splitlines()) <= 60
