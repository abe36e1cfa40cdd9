"""Models behind UM-Bridge's protocol: one that may be faulty, and one of the `umbridge` package."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

THEIRS = """
import functools, math, sys
import umbridge
from umbridge import um

class Products(umbridge.Model):
    def get_input_sizes(self, config): return [2, 1]
    def get_output_sizes(self, config): return [3, 1]
    def __call__(self, given, config):
        (a, b), (c,) = given
        if a > 90: raise ValueError("no convergence")
        if a > 80: return [[math.nan, math.inf, -math.inf], [0.0]]
        if a > 70: return [[1.0], [2.0]]
        factor = config.get("factor", 1.0)
        return [[factor * a * c, factor * b * c, a * b], [c * c]]
    def gradient(self, out, wrt, given, sens, config):
        (a, b), (c,) = given
        rows = [[[c, 0.0], [0.0, c], [b, a]], [[a], [b], [0.0]]][wrt] if out == 0 else [[[0.0, 0.0]], [[2 * c]]][wrt]
        return [sum(s * row[k] for s, row in zip(sens, rows)) for k in range(len(rows[0]))]
    def supports_evaluate(self): return True
    def supports_gradient(self): return True

um.web.run_app = functools.partial(um.web.run_app, host="127.0.0.1", print=None)  # theirs listens everywhere
umbridge.serve_models([Products("products")], int(sys.argv[1]))
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def their_server():
    """A server of the `umbridge` package; gives its address."""
    port = free_port()
    child = subprocess.Popen([sys.executable, "-c", THEIRS, str(port)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert child.poll() is None
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait(20)


class FakeServer(ThreadingHTTPServer):
    """A model that doubles a vector of two, with answers that a test may replace.

    Attributes:
        answers: By path, what to answer: a dictionary, text, or a function of the request that returns one or raises.
        status: Of answers that are replaced.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = {
            "/Info": {"protocolVersion": 1.0, "models": ["twice"]},
            "/ModelInfo": {"support": {"Evaluate": True, "Gradient": True}},
            "/InputSizes": {"inputSizes": [2]},
            "/OutputSizes": {"outputSizes": [2]},
            "/Evaluate": lambda request: {"output": [[2.0 * x for x in request["input"][0]]]},
            "/Gradient": lambda request: {"output": [2.0 * x for x in request["sens"]]},
        }
        self.status, self.requests = {}, []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self._thread.join(10)

    def handle_error(self, request, client_address) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 0.3  # after which a connection is closed without a word

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        request = json.loads(self.rfile.read(length) or "{}")
        self.server.requests.append((self.path, request))
        answer = self.server.answers[self.path]
        answer = answer(request) if callable(answer) else answer
        body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(self.server.status.get(self.path, 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _serve

    def log_message(self, format, *arguments) -> None:
        pass
