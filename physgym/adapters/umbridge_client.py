"""`UmBridgeModel`: a model behind UM-Bridge's protocol, JSON over HTTP, with timeouts and errors that say what failed.

The client of UM-Bridge's own Python package waits for ever and brings a web server; the protocol is a handful of
requests, which are made here.
"""

from __future__ import annotations

import http.client
import json
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np

from physgym.checks import is_integer, is_real, positive
from physgym.errors import ConfigError, SimulatorError
from physgym.spaces import Array

VERSION = 1.0  # of the protocol
FEATURES = ("Evaluate", "Gradient", "ApplyJacobian", "ApplyHessian")
OURS = ("InvalidInput", "UnsupportedFeature", "ModelNotFound", "InvalidOutput")  # errors of calls, not of a computation
SHOWN = 200  # characters of an answer that errors show
NONFINITE = re.compile(r"(?<![\w.\"])(-?)(nan|inf)(?![\w\"])")  # as Python prints it, which no JSON is


class ModelFailure(SimulatorError):
    """A UM-Bridge model could not compute what it was asked for.

    Attributes:
        kind: The error's type as the server says it; empty where it says none.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class UmBridgeModel:
    """A model that a UM-Bridge server offers: a function of several vectors whose results are several vectors.

    Args:
        url: Of the server, such as "http://127.0.0.1:4242".
        name: Of the model; None for the only one that there is.
        config: What every request passes to the model.
        timeout: Seconds for an answer.

    Attributes:
        name: Of the model.
        supports: Which of "Evaluate", "Gradient", "ApplyJacobian" and "ApplyHessian" it supports.
        input_sizes: Lengths of its input vectors.
        output_sizes: Lengths of its output vectors.

    Raises:
        ConfigError: An argument is wrong, or there is no such model.
        SimulatorError: The server does not answer, or speaks something else.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
    ) -> None:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
            raise ConfigError(f"url is the address of a UM-Bridge server, such as http://127.0.0.1:4242, not {url!r}")
        self.url, self._path, self._timeout = url, parts.path.rstrip("/"), positive("timeout", timeout)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._link = kind(parts.hostname, parts.port, timeout=self._timeout)
        weakref.finalize(self, self._link.close)
        try:
            self.config = json.loads(json.dumps(dict(config or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config of a UM-Bridge model is JSON data: {error}") from error
        try:
            self.name = self._find(name)
            said = self._ask("/ModelInfo", {"name": self.name}).get("support")
            if not isinstance(said, Mapping):
                raise self._wrong("/ModelInfo", said)
            self.supports = tuple(feature for feature in FEATURES if said.get(feature) is True)
            self.input_sizes = self._sizes("/InputSizes", "inputSizes")
            self.output_sizes = self._sizes("/OutputSizes", "outputSizes")
        except BaseException:
            self.close()
            raise

    def _find(self, name: str | None) -> str:
        """Return the name of the model, as the server has it."""
        info = self._ask("/Info")
        version, models = info.get("protocolVersion"), info.get("models")
        if version != VERSION:
            raise SimulatorError(f"{self.url} speaks version {version} of UM-Bridge's protocol, this is {VERSION}")
        if not isinstance(models, list) or not all(isinstance(one, str) for one in models):
            raise self._wrong("/Info", models)
        if name is None and len(models) == 1:
            return str(models[0])
        if name not in models:
            asked = "name one with `model`" if name is None else f"not {name!r}"
            raise ConfigError(f"{self.url} offers {models}; {asked}")
        return str(name)

    def _sizes(self, request: str, key: str) -> tuple[int, ...]:
        sizes = self._ask(request, {"name": self.name, "config": self.config}).get(key)
        if not isinstance(sizes, list) or not all(is_integer(size, 0) for size in sizes):
            raise self._wrong(request, sizes)
        return tuple(sizes)

    def evaluate(self, inputs: Sequence[Any]) -> list[Array]:
        """Return the output vectors at some input vectors.

        Args:
            inputs: One array for each of `input_sizes`, flat; finite, since JSON has no other numbers.

        Returns:
            One array for each of `output_sizes`, float64.

        Raises:
            ConfigError: The model does not support it, or the inputs do not fit.
            ModelFailure: The model failed.
            SimulatorError: The server does not answer, or with something else.
        """
        found = self._computed("Evaluate", {"input": self._vectors(inputs)})
        if not isinstance(found, list) or len(found) != len(self.output_sizes):
            raise self._wrong("/Evaluate", found)
        return [self._vector("/Evaluate", *pair) for pair in zip(found, self.output_sizes, strict=True)]

    def gradient(self, output: int, given: int, inputs: Sequence[Any], sensitivity: Any) -> Array:
        """Return a sensitivity times the Jacobian of an output vector by an input vector.

        Args:
            output: Which output vector, from 0.
            given: Which input vector, from 0.
            inputs: As for `evaluate`.
            sensitivity: Weights of the output vector's components, shape (output size,).

        Returns:
            Shape (input size,), float64.

        Raises:
            ConfigError: As for `evaluate`.
            ModelFailure: The model failed.
            SimulatorError: The server does not answer, or with something else.
        """
        weights = self._one("sensitivity", sensitivity, self.output_sizes[output])
        asked = {"outWrt": output, "inWrt": given, "input": self._vectors(inputs), "sens": weights}
        return self._vector("/Gradient", self._computed("Gradient", asked), self.input_sizes[given])

    def apply_jacobian(self, output: int, given: int, inputs: Sequence[Any], direction: Any) -> Array:
        """Return the Jacobian of an output vector by an input vector, times a direction.

        Args:
            output: Which output vector, from 0.
            given: Which input vector, from 0.
            inputs: As for `evaluate`.
            direction: Change of the input vector, shape (input size,).

        Returns:
            Shape (output size,), float64.

        Raises:
            ConfigError: As for `evaluate`.
            ModelFailure: The model failed.
            SimulatorError: The server does not answer, or with something else.
        """
        change = self._one("direction", direction, self.input_sizes[given])
        asked = {"outWrt": output, "inWrt": given, "input": self._vectors(inputs), "vec": change}
        return self._vector("/ApplyJacobian", self._computed("ApplyJacobian", asked), self.output_sizes[output])

    def jacobian(self, output: int, given: int, inputs: Sequence[Any]) -> Array:
        """Return the Jacobian of an output vector by an input vector, shape (output size, input size), float64.

        It takes a request for each row or each column, whichever are fewer and supported.

        Raises:
            ConfigError: The model supports neither Gradient nor ApplyJacobian, or the inputs do not fit.
            ModelFailure: The model failed.
            SimulatorError: The server does not answer, or with something else.
        """
        rows, columns = self.output_sizes[output], self.input_sizes[given]
        by_rows = "Gradient" in self.supports
        if "ApplyJacobian" in self.supports and (columns < rows or not by_rows):
            found = [self.apply_jacobian(output, given, inputs, unit) for unit in np.eye(columns)]
            return np.stack(found, axis=1) if found else np.zeros((rows, 0))
        found = [self.gradient(output, given, inputs, unit) for unit in np.eye(rows)]
        return np.stack(found) if found else np.zeros((0, columns))

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        self._link.close()

    # --- requests and answers

    def _vectors(self, inputs: Sequence[Any]) -> list[list[float]]:
        if len(inputs) != len(self.input_sizes):
            raise ConfigError(f"model {self.name!r} takes {len(self.input_sizes)} input vectors, not {len(inputs)}")
        return [
            self._one(f"input {place}", value, size)
            for place, (value, size) in enumerate(zip(inputs, self.input_sizes, strict=True))
        ]

    def _one(self, what: str, value: Any, size: int) -> list[float]:
        vector = np.asarray(value, np.float64)
        if vector.shape != (size,):
            raise ConfigError(f"{what} of model {self.name!r} has shape ({size},), not {vector.shape}")
        if not np.isfinite(vector).all():
            raise ConfigError(f"{what} of model {self.name!r} is not finite, which JSON cannot say: {vector}")
        found: list[float] = vector.tolist()
        return found

    def _vector(self, request: str, found: Any, size: int) -> Array:
        if not isinstance(found, list) or len(found) != size or not all(is_real(number) for number in found):
            raise self._wrong(request, found, f"; it is to be a list of {size} numbers")
        return np.array(found, np.float64)

    def _computed(self, feature: str, asked: Mapping[str, Any]) -> Any:
        if feature not in self.supports:
            raise ConfigError(f"model {self.name!r} of {self.url} does not support {feature}")
        return self._ask(f"/{feature}", {"name": self.name, **asked, "config": self.config}).get("output")

    def _ask(self, request: str, asked: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Return the answer to a request, a dictionary."""
        status, text = self._exchange(request, None if asked is None else json.dumps(asked, allow_nan=False).encode())
        try:
            answer = json.loads(text)
        except ValueError:
            try:
                answer = json.loads(NONFINITE.sub(_as_json, text))  # of the Python package's server
            except ValueError:
                if status >= 500:
                    raise ModelFailure(self._said(request, status, text), "") from None
                raise SimulatorError(f"{self._said(request, status, text)}, which is no JSON") from None
        if not isinstance(answer, Mapping):
            raise self._wrong(request, answer)
        error = answer.get("error")
        if isinstance(error, Mapping):
            kind = str(error.get("type", ""))
            raise ModelFailure(f"model {self.name!r} of {self.url}: {kind}: {error.get('message')}", kind)
        if status != http.client.OK:
            raise ModelFailure(self._said(request, status, text), "")
        return answer

    def _exchange(self, request: str, body: bytes | None) -> tuple[int, str]:
        """Return status and text of the answer; a connection that the server has closed meanwhile is opened again."""
        fresh = self._link.sock is None
        try:
            method, headers = ("GET", {}) if body is None else ("POST", {"Content-Type": "application/json"})
            self._link.request(method, self._path + request, body, headers)
            answer = self._link.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except TimeoutError as error:
            self.close()
            raise SimulatorError(
                f"{self.url} does not answer {request} within {self._timeout:g} s; give it longer with `timeout`"
            ) from error
        except (http.client.HTTPException, OSError) as error:
            self.close()
            if not fresh and isinstance(error, (ConnectionError, http.client.CannotSendRequest)):
                return self._exchange(request, body)
            raise SimulatorError(
                f"no UM-Bridge server answers at {self.url}: {type(error).__name__} {error}"
            ) from error

    def _said(self, request: str, status: int, text: str) -> str:
        return f"{self.url} answers {request} with status {status}: {text[:SHOWN]!r}"

    def _wrong(self, request: str, found: Any, more: str = "") -> SimulatorError:
        return SimulatorError(f"{self.url} answers {request} with {str(found)[:SHOWN]!r}{more}")


def _has_port(parts: SplitResult) -> bool:
    """Return whether the port of an address is one, where it has any."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _as_json(found: re.Match[str]) -> str:
    return "NaN" if found[2] == "nan" else f"{found[1]}Infinity"
