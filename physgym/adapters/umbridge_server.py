"""`UmBridgeServer`: a trained network as a UM-Bridge model, for everything that speaks this protocol.

The server of UM-Bridge's own Python package listens on all addresses of the machine and writes what is not finite as no
JSON; this one listens on loopback unless another address is given, and needs the standard library alone.
"""

from __future__ import annotations

import json
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.adapters.umbridge_client import VERSION
from physgym.checks import is_integer, is_real
from physgym.engine_names import Engine
from physgym.errors import ConfigError, PhysGymError
from physgym.machines.address import Address
from physgym.sample import Field

if TYPE_CHECKING:
    from physgym.nn import Predictor

IDLE = 60.0  # seconds after which a connection that says nothing is closed
PER_NUMBER, BESIDES = 64, 1 << 16  # bytes of a request, for each number of the vectors and for the rest
INVALID_INPUT, INVALID_OUTPUT = "InvalidInput", "InvalidOutput"


class RequestError(Exception):
    """A request that gets an error as UM-Bridge defines them.

    Args:
        kind: Type of the error.
        message: What is wrong.
        status: Status of the answer.
    """

    def __init__(self, kind: str, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


class ServedNetwork:
    """A network as UM-Bridge sees it: its input fields are input vectors, its output fields output vectors, in order.

    Values are in physical units; a field is flat in the order of C. Derivatives are those of the network with its
    normalization, where all fields that take part are floating-point numbers.

    Args:
        predictor: The network.
        name: Name of the model.
        engine: What computes predictions, see `physgym.nn.prepared.PreparedPredictor`; derivatives are torch's.

    Attributes:
        name: Name of the model.

    Raises:
        ConfigError: The network is recurrent: what it predicts depends on what it was asked before; or the engine
            cannot be made of it.
    """

    def __init__(self, predictor: Predictor, name: str, engine: Engine = "torch") -> None:
        if predictor.recurrent:
            raise ConfigError(
                "a recurrent network remembers earlier steps, and a UM-Bridge model has no memory; serve another one"
            )
        from physgym.nn.prepared import PreparedPredictor

        self.name, self._predictor = name, predictor.eval()
        self._prepared = PreparedPredictor(self._predictor, engine=engine)
        self._inputs = [predictor.spec[field] for field in predictor.inputs]
        self._outputs = [predictor.spec[field] for field in predictor.outputs]
        self._one_at_a_time = threading.Lock()

    @property
    def input_sizes(self) -> list[int]:
        """Return the lengths of the input vectors."""
        return [_size(field) for field in self._inputs]

    @property
    def output_sizes(self) -> list[int]:
        """Return the lengths of the output vectors."""
        return [_size(field) for field in self._outputs]

    @property
    def support(self) -> dict[str, bool]:
        """Return what the model supports, as ModelInfo says it."""
        smooth = any(field.dtype.kind == "f" for field in self._inputs) and all(
            field.dtype.kind == "f" for field in self._outputs
        )
        return {"Evaluate": True, "Gradient": smooth, "ApplyJacobian": smooth, "ApplyHessian": False}

    @property
    def lines(self) -> list[str]:
        """Return what the vectors are, a line for each."""
        return [
            f"{what} {place}: {field.name}, {_size(field)} values of shape {field.shape}"
            + (f" [{field.unit}]" if field.unit else "")
            for what, fields in (("input", self._inputs), ("output", self._outputs))
            for place, field in enumerate(fields)
        ]

    def evaluate(self, request: Mapping[str, Any]) -> list[list[float]]:
        """Return the output vectors of a request.

        Raises:
            RequestError: The request does not fit, or an output is not finite.
        """
        given = self._given(request)
        with self._one_at_a_time:
            found = self._prepared.predict(given)
        return [_finite(field.name, found[field.name]) for field in self._outputs]

    def gradient(self, request: Mapping[str, Any]) -> list[float]:
        """Return the sensitivity of a request times the Jacobian.

        Raises:
            RequestError: The request does not fit, or the result is not finite.
        """
        import torch

        out, given, fields = self._derived(request, "Gradient")
        weights = _vector(request, "sens", _size(out))
        with self._one_at_a_time, torch.enable_grad():
            tensors = self._predictor.tensors(fields)
            tensors[given.name].requires_grad_(True)
            result = self._predictor.physical(tensors)[out.name]
            seed = torch.as_tensor(weights, dtype=result.dtype, device=result.device).reshape(result.shape)
            if not result.requires_grad:  # it does not depend on this input
                return [0.0] * _size(given)
            (found,) = torch.autograd.grad(result, tensors[given.name], seed, allow_unused=True)
        return [0.0] * _size(given) if found is None else _finite("the gradient", found.cpu().numpy())

    def apply_jacobian(self, request: Mapping[str, Any]) -> list[float]:
        """Return the Jacobian times the vector of a request.

        Raises:
            RequestError: The request does not fit, or the result is not finite.
        """
        import torch

        out, given, fields = self._derived(request, "ApplyJacobian")
        vector = _vector(request, "vec", _size(given))
        with self._one_at_a_time, torch.enable_grad():
            tensors = self._predictor.tensors(fields)

            def predicted(value: torch.Tensor) -> torch.Tensor:
                return self._predictor.physical({**tensors, given.name: value})[out.name]

            at = tensors[given.name]
            direction = torch.as_tensor(vector, dtype=at.dtype, device=at.device).reshape(at.shape)
            _, found = torch.autograd.functional.jvp(predicted, at, direction)  # type: ignore[no-untyped-call]
        return _finite("the product", found.cpu().numpy())

    def _derived(self, request: Mapping[str, Any], feature: str) -> tuple[Field, Field, dict[str, Any]]:
        """Return the output and the input of a derivative, and the fields of a batch of one."""
        if not self.support[feature]:
            raise RequestError("UnsupportedFeature", f"{feature}: a field is no floating-point number")
        out = self._outputs[_index(request, "outWrt", len(self._outputs))]
        given = self._inputs[_index(request, "inWrt", len(self._inputs))]
        if given.dtype.kind != "f":
            raise RequestError("UnsupportedFeature", f"{feature}: {given.name} is no floating-point number")
        return out, given, {name: value[np.newaxis] for name, value in self._given(request).items()}

    def _given(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the input fields of a request."""
        config = request.get("config", {})
        if config != {}:
            raise RequestError(INVALID_INPUT, f"this model takes no config, not {config!r}")
        vectors = request.get("input")
        if not isinstance(vectors, list) or len(vectors) != len(self._inputs):
            count = len(vectors) if isinstance(vectors, list) else type(vectors).__name__
            raise RequestError(INVALID_INPUT, f"input has {len(self._inputs)} vectors, not {count}")
        return {
            field.name: _as_field(field, _vector({f"input {place}": vector}, f"input {place}", _size(field)))
            for place, (field, vector) in enumerate(zip(self._inputs, vectors, strict=True))
        }


def _size(field: Field) -> int:
    return int(np.prod(field.shape, dtype=int))


def _index(request: Mapping[str, Any], key: str, count: int) -> int:
    index = request.get(key)
    if not is_integer(index, 0) or index >= count:
        raise RequestError(INVALID_INPUT, f"{key} is an index from 0 to {count - 1}, not {index!r}")
    return index


def _vector(request: Mapping[str, Any], key: str, size: int) -> Any:
    vector = request.get(key)
    if not isinstance(vector, list) or len(vector) != size or not all(is_real(number) for number in vector):
        said = f"{len(vector)} values" if isinstance(vector, list) else repr(vector)
        raise RequestError(INVALID_INPUT, f"{key} is a list of {size} numbers, not {said}")
    values = np.array(vector, np.float64)
    if not np.isfinite(values).all():
        raise RequestError(INVALID_INPUT, f"{key} has values that are not finite")
    return values


def _as_field(field: Field, values: Any) -> Any:
    if field.dtype.kind == "f":
        found = values
        with np.errstate(over="ignore"):
            fits = np.isfinite(values.astype(field.dtype)).all()
    else:
        found = values.astype(field.dtype)
        fits = (found == values).all()
    if not fits:
        raise RequestError(INVALID_INPUT, f"{field.name} is {field.dtype}, which cannot hold {values.tolist()}")
    return found.reshape(field.shape)


def _finite(name: str, values: Any) -> list[float]:
    flat = np.asarray(values, np.float64).ravel()
    if not np.isfinite(flat).all():
        raise RequestError(
            INVALID_OUTPUT,
            f"{name} has values that are not finite, which JSON cannot say",
            HTTPStatus.INTERNAL_SERVER_ERROR,
        )
    found: list[float] = flat.tolist()
    return found


class UmBridgeServer(ThreadingHTTPServer):
    """An HTTP server that offers one network as a UM-Bridge model; `serve_forever` serves, `close` ends it.

    Everybody who reaches its address may ask it: the protocol has no authentication.

    Args:
        network: The network.
        host: Address to listen on.
        port: Port; 0 for a free one.

    Attributes:
        network: The network.
        largest: Bytes of a request at most.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # connections that wait to be accepted

    def __init__(self, network: ServedNetwork, host: str = "127.0.0.1", port: int = 0) -> None:
        self.network = network
        self.largest = BESIDES + PER_NUMBER * sum([*network.input_sizes, *network.output_sizes])
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Requests)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error

    @property
    def url(self) -> str:
        """Return where it is."""
        host, port = self.server_address[:2]
        return f"http://{Address(str(host), int(port))}"

    def server_bind(self) -> None:
        """Bind without asking for the name of the address, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """End `serve_forever` in another thread, and stop listening."""
        self.shutdown()
        self.server_close()


class _Requests(BaseHTTPRequestHandler):
    """Answers to the requests of a connection."""

    server: UmBridgeServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE
    disable_nagle_algorithm = True  # else the end of an answer waits for the acknowledgement of its beginning

    def do_GET(self) -> None:
        if self.path == "/Info":
            self._answer(HTTPStatus.OK, {"protocolVersion": VERSION, "models": [self.server.network.name]})
        else:
            self._refuse("UnsupportedFeature", f"there is no {self.path}", HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        network = self.server.network
        answers: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "/ModelInfo": lambda _: {"support": network.support},
            "/InputSizes": lambda _: {"inputSizes": network.input_sizes},
            "/OutputSizes": lambda _: {"outputSizes": network.output_sizes},
            "/Evaluate": lambda request: {"output": network.evaluate(request)},
            "/Gradient": lambda request: {"output": network.gradient(request)},
            "/ApplyJacobian": lambda request: {"output": network.apply_jacobian(request)},
        }
        try:
            request = self._request()
            if self.path not in answers:
                raise RequestError("UnsupportedFeature", f"there is no {self.path}", HTTPStatus.NOT_FOUND)
            if request.get("name") != network.name:
                raise RequestError(
                    "ModelNotFound", f"Model {request.get('name')!r} not found; there is {[network.name]}"
                )
            answer = answers[self.path](request)
        except RequestError as error:
            self._refuse(error.kind, str(error), error.status)
        except PhysGymError as error:
            self._refuse(INVALID_INPUT, str(error), HTTPStatus.BAD_REQUEST)
        except OSError:  # the client has gone, or says nothing
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 - whatever a network of somebody raises; the server goes on
            self._refuse("ModelError", f"{type(error).__name__}: {error}", HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._answer(HTTPStatus.OK, answer)

    def _request(self) -> dict[str, Any]:
        """Return the JSON object of a request."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > self.server.largest:
            self.close_connection = True  # what follows cannot be read
            raise RequestError(
                INVALID_INPUT, f"a request says its length, {self.server.largest} bytes at most, not {length!r}"
            )
        try:
            request = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise RequestError(INVALID_INPUT, f"a request is JSON: {error}") from error
        except RecursionError as error:
            raise RequestError(INVALID_INPUT, "a request is JSON that is not nested so deeply") from error
        if not isinstance(request, dict):
            raise RequestError(INVALID_INPUT, "a request is an object of JSON")
        return request

    def _refuse(self, kind: str, message: str, status: HTTPStatus) -> None:
        self._answer(status, {"error": {"type": kind, "message": message}})

    def _answer(self, status: HTTPStatus, answer: Mapping[str, Any]) -> None:
        body = json.dumps(answer, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of each request."""
