"""UM-Bridge: models of others as simulations, and trained networks as models; also with the `umbridge` package."""

from __future__ import annotations

import http.client
import json
import re
import runpy
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import physgym
from physgym import cli
from physgym.adapters import umbridge_server
from physgym.adapters.umbridge import UmBridgeSimulation
from physgym.adapters.umbridge_client import ModelFailure, UmBridgeModel
from physgym.adapters.umbridge_server import ServedNetwork, UmBridgeServer
from physgym.envs import UMBRIDGE
from physgym.errors import ConfigError, SampleError, SimulatorError
from physgym.machines.permissions import HARMLESS
from physgym.nn import MLP, Predictor
from physgym.runner import SurrogateEnv
from physgym.sample import Field, SampleSpec
from physgym.testing import check_env
from physgym.training import Trainer
from tests.support.umbridge_models import FakeServer, their_server

TWICE = {"theta": {"low": [0, 1], "high": [1, 3], "unit": "m"}}


@contextmanager
def served(predictor, name="forward"):
    """Serve a network from a thread."""
    server = UmBridgeServer(ServedNetwork(predictor, name))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(10)


def network(dtype="float32"):
    """A predictor of two inputs and two outputs."""
    torch.manual_seed(0)
    spec = SampleSpec(
        [
            Field("force", (2, 2), dtype, "input", "N"),
            Field("stiffness", (), dtype, "input", "N/m"),
            Field("x", (3,), dtype, "target", "m"),
            Field("energy", (), dtype, "target", "J"),
        ]
    )
    return Predictor(MLP.from_spec(spec, hidden=(8,)), spec).to(getattr(torch, dtype))


# --- a model of others as a simulation


def test_a_model_is_a_simulation():
    with FakeServer() as server:
        env = UmBridgeSimulation(server.url, inputs=TWICE, outputs={"u": {"unit": "K", "shape": [1, 2]}}, jacobian=True)
        assert env.action_space == spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 3.0]), dtype=np.float64)
        assert env.reset(seed=1)[0].tolist() == [0, 0]
        observation, _, _, _, info = env.step(np.array([0.25, 2.0]))
        assert observation.tolist() == [0.5, 4.0]
        sample = info["sample"]
        assert sample["theta"].tolist() == [0.25, 2.0]
        assert sample["u"].tolist() == [[0.5, 4.0]]
        assert sample["jacobian/u/theta"].tolist() == [[2, 0], [0, 2]]
        assert env.sample_units == {"theta": "m", "u": "K"}
        env.close()


@pytest.mark.parametrize("action", [[0.5], [0.5, 1.0, 1.0], [[0.5, 1.0]], 0])
def test_an_action_of_another_shape_is_refused(action):
    with FakeServer() as server:
        env = UmBridgeSimulation(server.url, inputs=TWICE)
        env.reset(seed=1)
        with pytest.raises(SampleError, match=r"an action has 2 values in a row \(theta\)"):
            env.step(np.array(action))
        env.close()


def test_inputs_may_be_parameters_and_the_configuration_travels():
    with FakeServer() as server:
        env = UmBridgeSimulation(server.url, inputs=TWICE, parameters=["theta"], config={"level": 3})
        assert env.action_space == spaces.Discrete(1)
        _, info = env.reset(seed=1)
        observation, *_ = env.step(0)
        np.testing.assert_array_equal(observation, 2 * info["parameters"]["theta"])
        assert env.parameter_units == {"theta": "m"}
        assert all(request["config"] == {"level": 3} for path, request in server.requests if path == "/Evaluate")
        env.close()


@pytest.mark.slow
def test_it_keeps_the_rules_of_environments():
    with FakeServer() as server:
        arguments = {"url": server.url, "inputs": TWICE}
        check_env(lambda **more: gymnasium.make("physgym/UmBridge-v0", **arguments, **more))
        check_env(lambda **more: gymnasium.make("physgym/UmBridge-v0", parameters=["theta"], **arguments, **more))


@pytest.mark.slow
def test_a_dataset_of_a_model_and_a_surrogate_in_its_place(tmp_path):
    with FakeServer() as server:
        arguments = {"url": server.url, "inputs": TWICE}
        data = physgym.generate(
            "physgym/UmBridge-v0",
            tmp_path / "data",
            env_kwargs=arguments,
            samples=5,
            actions="sobol",
            num_workers=0,
            progress=False,
        )
        rows = data.read(0, 5)
        np.testing.assert_array_equal(rows["output_0"], 2 * rows["theta"])
        env = SurrogateEnv(UmBridgeSimulation(**arguments), lambda fields: {"output_0": 3 * fields["theta"]})
        env.reset(seed=1)
        assert env.step(np.array([1.0, 2.0]))[0].tolist() == [3, 6]
        env.close()


def test_a_connection_that_the_server_has_closed_is_opened_anew():
    with FakeServer() as server:
        model = UmBridgeModel(server.url)
        time.sleep(0.4)  # the server closes it meanwhile
        assert model.evaluate([[1.0, 2.0]])[0].tolist() == [2, 4]
        model.close()


def test_a_model_that_fails_rejects_the_step():
    with FakeServer() as server:
        env = UmBridgeSimulation(server.url, inputs=TWICE)
        for answer, status, text in (
            ({"error": {"type": "ModelError", "message": "no convergence"}}, 500, "ModelError: no convergence"),
            ("500 Internal Server Error", 500, "status 500: '500 Internal Server Error'"),
        ):
            server.answers["/Evaluate"], server.status = answer, {"/Evaluate": status}
            env.reset(seed=1)
            info = env.step(np.array([0.5, 2.0]))[-1]
            assert text in info["rejected"]
            assert "sample" not in info
        assert "not finite" in env.step(np.array([np.nan, 2.0]))[-1]["rejected"]
        env.close()


def test_answers_that_do_not_fit_are_errors():
    with FakeServer() as server:
        env = UmBridgeSimulation(server.url, inputs=TWICE)
        for answer, text in (
            ({"output": [[1.0]]}, "a list of 2 numbers"),
            ({"output": [[1.0, 2.0], []]}, "answers /Evaluate with"),
            ({"output": [[1.0, "2"]]}, "a list of 2 numbers"),
            ({"output": [[1.0, True]]}, "a list of 2 numbers"),
            ({}, "answers /Evaluate with 'None'"),
            ([], "answers /Evaluate with"),
            ("<html>", "which is no JSON"),
            ({"error": {"type": "InvalidInput", "message": "too long"}}, "InvalidInput: too long"),
        ):
            server.answers["/Evaluate"] = answer
            env.reset(seed=1)
            with pytest.raises(SimulatorError, match=re.escape(text)):
                env.step(np.array([0.5, 2.0]))
        for text in ("[[nan, 1.0]]", "[[-inf, 1.0]]", "[[NaN, 1.0]]"):  # as their server writes it
            server.answers["/Evaluate"] = '{"output": ' + text + " }"
            with pytest.raises(SampleError, match=r"output_0.*non-finite"):
                env.step(np.array([0.5, 2.0]))
        env.close()


def test_a_server_that_is_wrong_or_away_is_an_error_that_names_it():
    with FakeServer() as server:
        for path, answer, text in (
            ("/Info", {"protocolVersion": 2.0, "models": ["twice"]}, "speaks version 2.0"),
            ("/Info", {"protocolVersion": 1.0, "models": "twice"}, "answers /Info with"),
            ("/ModelInfo", {}, "answers /ModelInfo"),
            ("/InputSizes", {"inputSizes": [2.5]}, "answers /InputSizes"),
            ("/OutputSizes", {"outputSizes": [-1]}, "answers /OutputSizes"),
        ):
            good = server.answers[path]
            server.answers[path] = answer
            with pytest.raises(SimulatorError, match=re.escape(text)):
                UmBridgeModel(server.url)
            server.answers[path] = good
        server.answers["/Evaluate"] = lambda _: time.sleep(1.5)
        model = UmBridgeModel(server.url, timeout=0.5)
        with pytest.raises(SimulatorError, match=r"does not answer /Evaluate within 0.5 s; give it longer"):
            model.evaluate([[1.0, 2.0]])
        with pytest.raises(ConfigError, match=r"offers .'twice'.; not 'thrice'"):
            UmBridgeModel(server.url, "thrice")
        server.answers["/Info"] = {"protocolVersion": 1.0, "models": ["twice", "thrice"]}
        with pytest.raises(ConfigError, match="name one with `model`"):
            UmBridgeModel(server.url)
        address = server.url
    with pytest.raises(SimulatorError, match=f"no UM-Bridge server answers at {address}"):
        UmBridgeModel(address, timeout=1)
    for url in ("127.0.0.1:4242", 4242, "ftp://a"):
        with pytest.raises(ConfigError, match="url is the address of a UM-Bridge server"):
            UmBridgeModel(url)


def test_arguments_that_do_not_fit_the_model_are_refused():
    with FakeServer() as server:
        for arguments, text in (
            ({"inputs": None}, "input vectors of lengths [2], for which the protocol has no names and no bounds"),
            ({"inputs": {"a": [0, 1], "b": [0, 1]}}, "input vectors of lengths [2]"),
            ({"inputs": {"a": 3}}, "needs its bounds, [low, high]"),
            ({"inputs": {"a": [1, 0]}}, "the lower one first"),
            ({"inputs": {"a": [[0, 0, 0], 1]}}, "a number or as many"),
            ({"inputs": {"a": {"low": 0}}}, "a number or as many"),
            ({"inputs": {"a": {"low": 0, "high": 1, "colour": 1}}}, "not ['colour']"),
            ({"inputs": {"a": {"low": 0, "high": 1, "shape": [3]}}}, "has 2 values, which are not of shape (3,)"),
            ({"outputs": "u v"}, "output vectors of lengths [2]"),
            ({"url": "http://127.0.0.1:99999"}, "url is the address of a UM-Bridge server"),
            ({"outputs": {"u": {"low": 1}}}, "takes shape and unit, and no bounds"),
            ({"outputs": ["theta"]}, "['theta'] names inputs and outputs"),
            ({"parameters": ["phi"]}, "none of the inputs ['theta']"),
            ({"config": {"a": object()}}, "config of a UM-Bridge model is JSON data"),
            ({"timeout": 0}, "timeout must be positive"),
            ({"jacobian": "no"}, "jacobian must be true or false"),
        ):
            with pytest.raises(ConfigError, match=re.escape(text)):
                UmBridgeSimulation(**{"url": server.url, "inputs": TWICE, **arguments})
        sizes, server.answers["/OutputSizes"] = server.answers["/OutputSizes"], {"outputSizes": [1, 1]}
        with pytest.raises(ConfigError, match="give each of them a name of its own"):
            UmBridgeSimulation(server.url, inputs=TWICE, outputs=["u", "u"])
        server.answers["/OutputSizes"] = sizes
        server.answers["/ModelInfo"] = {"support": {"Evaluate": True}}
        with pytest.raises(ConfigError, match="supports neither Gradient nor ApplyJacobian"):
            UmBridgeSimulation(server.url, inputs=TWICE, jacobian=True)
        model = UmBridgeModel(server.url)
        with pytest.raises(ConfigError, match="does not support Gradient"):
            model.gradient(0, 0, [[1.0, 2.0]], [1.0, 0.0])
        with pytest.raises(ConfigError, match="takes 1 input vectors, not 2"):
            model.evaluate([[1.0], [2.0]])
        with pytest.raises(ConfigError, match="is not finite, which JSON cannot say"):
            model.evaluate([[1.0, np.inf]])
        model.close()


@pytest.mark.slow
def test_their_server_and_our_client():
    with their_server() as url:
        model = UmBridgeModel(url, "products", config={"factor": 2.0})
        assert model.input_sizes == (2, 1)
        assert model.supports == ("Evaluate", "Gradient")
        first, second = model.evaluate([[1.5, -2.0], [3.0]])
        assert first.tolist() == [9.0, -12.0, -3.0]
        assert second.tolist() == [9.0]
        assert model.jacobian(0, 0, [[1.5, -2.0], [3.0]]).tolist() == [[3, 0], [0, 3], [-2, 1.5]]
        assert model.jacobian(0, 1, [[1.5, -2.0], [3.0]]).tolist() == [[1.5], [-2], [0]]
        assert np.isnan(model.evaluate([[85.0, 0.0], [0.0]])[0][0])  # whose JSON is none
        with pytest.raises(ModelFailure, match="status 500"):
            model.evaluate([[95.0, 0.0], [0.0]])
        with pytest.raises(ModelFailure, match="InvalidOutput"):
            model.evaluate([[75.0, 0.0], [0.0]])
        assert model.evaluate([[1.0, 2.0], [3.0]])[1].tolist() == [9.0]  # the server goes on
        model.close()


# --- a network as a model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_is_a_model_with_derivatives(dtype):
    predictor = network(dtype)
    rng = np.random.default_rng(1)
    force, stiffness = rng.normal(size=4), rng.normal(size=1)
    with served(predictor) as server:
        model = UmBridgeModel(server.url)
        assert model.name == "forward"
        assert (model.input_sizes, model.output_sizes) == ((4, 1), (3, 1))
        assert model.supports == ("Evaluate", "Gradient", "ApplyJacobian")
        x, energy = model.evaluate([force, stiffness])
        wanted = predictor.predict({"force": force.reshape(2, 2), "stiffness": stiffness[0]})
        np.testing.assert_array_equal(x, wanted["x"])
        assert energy[0] == wanted["energy"]
        jacobian, by_columns = np.stack([model.gradient(0, 0, [force, stiffness], row) for row in np.eye(3)]), []
        for column in np.eye(4):
            by_columns.append(model.apply_jacobian(0, 0, [force, stiffness], column))
        np.testing.assert_allclose(np.stack(by_columns, axis=1), jacobian, rtol=1e-5)
        step = 1e-3 if dtype == "float32" else 1e-6
        for place, column in enumerate(np.eye(4)):
            above, below = (model.evaluate([force + sign * step * column, stiffness])[0] for sign in (1, -1))
            np.testing.assert_allclose(
                (above - below) / (2 * step), jacobian[:, place], rtol=1e-5 if dtype == "float64" else 2e-2, atol=1e-3
            )
        model.close()


def ask(server, path, body, method="POST"):
    """Send a request as it is; status and answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    link = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    try:
        link.request(method, path, data if method == "POST" else None)
        answer = link.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        link.close()


def test_requests_that_do_not_fit_get_errors_as_the_protocol_has_them():
    good = {"name": "forward", "input": [[0.0] * 4, [1.0]], "config": {}}
    with served(network()) as server:
        for path, body, status, kind in (
            ("/Evaluate", b"{", 400, "InvalidInput"),
            ("/Evaluate", b"[" * 100000, 400, "InvalidInput"),
            ("/Evaluate", [], 400, "InvalidInput"),
            ("/Evaluate", {**good, "name": "other"}, 400, "ModelNotFound"),
            ("/Evaluate", {**good, "name": ["a"]}, 400, "ModelNotFound"),
            ("/Evaluate", {**good, "input": [[0.0] * 4]}, 400, "InvalidInput"),
            ("/Evaluate", {**good, "input": [[0.0] * 3, [1.0]]}, 400, "InvalidInput"),
            ("/Evaluate", {**good, "input": [[0.0, 0.0, 0.0, "1"], [1.0]]}, 400, "InvalidInput"),
            ("/Evaluate", {**good, "input": [[0.0, 0.0, 0.0, float("nan")], [1.0]]}, 400, "InvalidInput"),
            ("/Evaluate", {**good, "input": [[0.0, 0.0, 0.0, 1e300], [1.0]]}, 400, "InvalidInput"),
            ("/Evaluate", {**good, "input": {"force": 1}}, 400, "InvalidInput"),
            ("/Evaluate", {**good, "config": {"level": 1}}, 400, "InvalidInput"),
            ("/Gradient", {**good, "outWrt": 2, "inWrt": 0, "sens": [1.0]}, 400, "InvalidInput"),
            ("/Gradient", {**good, "outWrt": 0, "inWrt": -1, "sens": [1.0] * 3}, 400, "InvalidInput"),
            ("/Gradient", {**good, "outWrt": 0, "inWrt": 0, "sens": [1.0]}, 400, "InvalidInput"),
            ("/ApplyJacobian", {**good, "outWrt": 0, "inWrt": 0, "vec": [1.0]}, 400, "InvalidInput"),
            ("/ApplyHessian", good, 404, "UnsupportedFeature"),
        ):
            found, answer = ask(server, path, body)
            assert (found, answer["error"]["type"]) == (status, kind), (path, body)
            assert answer["error"]["message"]
        assert ask(server, "/Nothing", None, "GET")[0] == 404
        found, answer = ask(server, "/Evaluate", b" " * (server.largest + 1))
        assert (found, answer["error"]["type"]) == (400, "InvalidInput")
        assert ask(server, "/Evaluate", good)[0] == 200


def test_a_prediction_that_is_not_finite_and_a_network_that_fails_are_errors():
    predictor = network()
    good = {"name": "forward", "input": [[0.0] * 4, [1.0]]}
    with served(predictor) as server:
        with torch.no_grad():
            list(predictor.parameters())[-1].fill_(float("nan"))
        status, answer = ask(server, "/Evaluate", good)
        assert (status, answer["error"]["type"]) == (500, "InvalidOutput")
        predictor.network.forward = None
        status, answer = ask(server, "/Evaluate", good)
        assert (status, answer["error"]["type"]) == (500, "ModelError")


def test_clients_that_say_nothing_or_go_do_not_hold_others(monkeypatch):
    monkeypatch.setattr(umbridge_server._Requests, "timeout", 0.2)
    with served(network()) as server:
        silent = [socket.create_connection(server.server_address, 5) for _ in range(20)]
        silent[0].sendall(b"POST /Evaluate HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        silent[1].sendall(b"\x16\x03\x01garbage\r\n\r\n")
        silent[2].sendall(b"POST /Evaluate HTTP/1.1\r\nContent-Length: -5\r\n\r\n")
        assert ask(server, "/Evaluate", {"name": "forward", "input": [[0.0] * 4, [1.0]]})[0] == 200
        assert silent[3].recv(1) == b""  # it is hung up after a while
        for link in silent:
            link.close()


def test_fields_that_are_whole_numbers_are_checked_and_have_no_derivatives():
    spec = SampleSpec([Field("kind", (1,), "int64", "input"), Field("y", (1,), "float32", "target")])

    class Net(torch.nn.Module):
        def forward(self, kind):
            return 2.0 * kind.float()

    with served(Predictor(Net(), spec)) as server:
        good = {"name": "forward", "input": [[3.0]]}
        assert ask(server, "/Evaluate", good)[1] == {"output": [[6.0]]}
        assert ask(server, "/Evaluate", {**good, "input": [[3.5]]})[1]["error"]["type"] == "InvalidInput"
        assert ask(server, "/ModelInfo", good)[1]["support"]["Gradient"] is False
        derived = {**good, "outWrt": 0, "inWrt": 0, "sens": [1.0]}
        assert ask(server, "/Gradient", derived)[1]["error"]["type"] == "UnsupportedFeature"


def test_a_taken_port_and_a_recurrent_network_are_refused():
    with served(network()) as server, pytest.raises(ConfigError, match=r"cannot listen on 127.0.0.1"):
        UmBridgeServer(server.network, port=server.server_address[1])
    predictor = network()
    predictor.recurrent = True
    with pytest.raises(ConfigError, match="a UM-Bridge model has no memory"):
        ServedNetwork(predictor, "forward")
    with pytest.raises(ConfigError, match="engine='fast' must be one of torch, compiled, onnx"):
        ServedNetwork(network(), "forward", "fast")
    with pytest.raises(ConfigError, match="--umbridge"):
        cli.app(["serve-model", "nowhere"], standalone_mode=False)
    with pytest.raises(ConfigError, match="no checkpoint at"):
        cli.app(["serve-model", "nowhere", "--umbridge"], standalone_mode=False)


def test_a_network_is_served_by_another_engine_and_derived_by_torch(monkeypatch, tmp_path):
    found, served_by = network(), []
    monkeypatch.setattr("physgym.experiment.evaluate.network_for", lambda *_: found)
    monkeypatch.setattr("physgym.adapters.umbridge_server.UmBridgeServer.serve_forever", lambda self: ask_it(self))

    def ask_it(server):
        served_by.append(server.network._prepared.engine)
        given = {"force": np.arange(4.0).reshape(2, 2), "stiffness": 2.0}
        request = {"name": "forward", "input": [[0.0, 1.0, 2.0, 3.0], [2.0]]}
        np.testing.assert_allclose(server.network.evaluate(request)[0], found.predict(given)["x"], rtol=1e-5)
        assert len(server.network.gradient({**request, "outWrt": 0, "inWrt": 0, "sens": [1.0, 0.0, 0.0]})) == 4

    cli.app(["serve-model", str(tmp_path), "--umbridge", "--port", "0", "--engine", "onnx"], standalone_mode=False)
    assert served_by == ["onnx"]


@pytest.mark.slow
def test_their_client_and_our_server():
    umbridge = pytest.importorskip("umbridge", reason="UM-Bridge's own package")
    predictor = network()
    with served(predictor, "springs") as server:
        assert umbridge.supported_models(server.url) == ["springs"]
        model = umbridge.HTTPModel(server.url, "springs")
        assert model.get_input_sizes() == [4, 1]
        assert model.get_output_sizes() == [3, 1]
        given = [[0.1, 0.2, 0.3, 0.4], [1.0]]
        wanted = predictor.predict({"force": np.reshape(given[0], (2, 2)), "stiffness": 1.0})
        assert model(given)[0] == wanted["x"].tolist()
        assert model.supports_gradient()
        assert model.supports_apply_jacobian()
        assert not model.supports_apply_hessian()
        assert len(model.gradient(0, 0, given, [1.0, 0.0, 0.0])) == 4
        assert len(model.apply_jacobian(0, 0, given, [1.0, 0.0, 0.0, 0.0])) == 3
        with pytest.raises(Exception, match="InvalidInput: input 0 is a list of 4 numbers"):
            model([[0.1], [1.0]])
        with pytest.raises(Exception, match="takes no config"):
            model(given, {"level": 1})
        shared = umbridge.HTTPModel(server.url, "springs", use_shmem=True)  # which falls back to HTTP
        assert shared(given) == model(given)


@pytest.mark.slow
def test_a_session_is_served_until_it_is_interrupted(tmp_path):
    data = physgym.generate("physgym/Spring-v0", tmp_path / "data", samples=40, max_steps=20, progress=False)
    net = MLP.from_spec(data.spec, hidden=(4,))
    Trainer(net, data, epochs=1, batch_size=16, session=tmp_path / "session", progress=False).fit()
    words = ["serve-model", "session", "--umbridge", "--port", "0", "--name", "spring"]
    command = subprocess.Popen(
        [sys.executable, "-m", "physgym", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = command.stdout.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+", first)[0]
    assert "model 'spring'" in first
    lines = [command.stdout.readline() for _ in range(4)]
    assert lines[2].strip() == "input 2: state, 2 values of shape (2,) [m, m/s]"
    with urllib.request.urlopen(f"{url}/Info", timeout=10) as answer:
        assert json.load(answer)["models"] == ["spring"]
    model = UmBridgeModel(url)
    assert model.input_sizes == (1, 3, 2)
    assert len(model.evaluate([[1.0], [10.0, 1.0, 0.5], [0.1, 0.2]])[0]) == 2
    model.close()
    command.terminate()
    out, err = command.communicate(timeout=60)
    assert (command.returncode, out) == (128 + 15, "")
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_example_finds_the_force(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "umbridge.py"))["main"]
    _, after = main(samples=400, epochs=8)
    assert abs(after[1]) < 0.02


def test_a_worker_for_others_asks_no_server_unasked():
    assert UMBRIDGE not in HARMLESS


def test_it_listens_on_loopback_unless_it_is_told_otherwise():
    with served(network()) as server:
        assert server.server_address[0] == "127.0.0.1"
