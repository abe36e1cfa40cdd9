"""Headless Chromium, spoken to by its DevTools protocol over two pipes: no port, no driver, no further package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--mute-audio", "--remote-debugging-pipe"),
)
WAIT = 30.0  # seconds for an answer


def chromium() -> str:
    """Where Chromium is; the test that asks is skipped where there is none."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(PROGRAMS)} is installed")
    return found


WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # spaces are drawn without a graphics card


class Browser:
    """A browser of its own, with a folder of its own, which is gone at the end of the block.

    Args:
        flags: More of its options, such as those of `WEBGL`.
    """

    def __init__(self, *flags: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="physgym-browser-")
        reading, theirs = os.pipe()
        mine, self._writing = os.pipe()
        self._reading, self._number, self._buffer = reading, 0, b""
        self.events: list[dict[str, Any]] = []
        # it reads from 3 and writes to 4
        shell = f'exec "$@" 3<&{mine} 4>&{theirs}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", chromium(), *FLAGS, *flags, f"--user-data-dir={self._folder}", "about:blank"],
            pass_fds=(mine, theirs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(mine)
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):
            self.call("Browser.close")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(5)
        os.close(self._reading)
        os.close(self._writing)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Answer of the browser to a method of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writing, data) :]
        deadline = time.monotonic() + WAIT
        while True:
            found = self._receive(deadline - time.monotonic())
            if found.get("id") == self._number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return dict(found["result"])

    def wait_for(self, method: str) -> None:
        """Wait for an event, unless it has come."""
        deadline = time.monotonic() + WAIT
        while not any(event["method"] == method for event in self.events):
            self._receive(deadline - time.monotonic())

    def _receive(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._reading], [], [], max(0.0, seconds))[0]:
                raise TimeoutError("the browser does not answer")
            if not (more := os.read(self._reading, 1 << 20)):
                raise RuntimeError("the browser has ended")
            self._buffer += more
        data, _, self._buffer = self._buffer.partition(b"\0")
        found = dict(json.loads(data))
        if "method" in found:
            self.events.append(found)
        return found

    def open(self, address: str, width: int = 1280, height: int = 900) -> BrowserTab:
        """Open a page in a tab of its own, and wait until it is loaded."""
        return BrowserTab(self, address, width, height)


class BrowserTab:
    """A page in the browser.

    Attributes:
        requests: Addresses that it fetched.
    """

    def __init__(self, browser: Browser, address: str, width: int, height: int) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = str(browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self.resize(width, height)
        self.go(address)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window another size, in pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)

    def go(self, address: str) -> None:
        """Open another page, and wait until it is loaded."""
        self._browser.events.clear()
        self._call("Page.navigate", url=address)
        self._browser.wait_for("Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """Value of an expression of JavaScript; of a promise what it is fulfilled with."""
        found = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    @property
    def errors(self) -> list[str]:
        """What the page has complained of so far: exceptions, console messages, and entries of the browser's log."""
        found = []
        for event in self._browser.events:
            said = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(said["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                found.append(f"{said['type']}: {[one.get('value') for one in said['args']]}")
            elif event["method"] == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                found.append(f"{said['entry']['source']}: {said['entry']['text']}")
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that the page has fetched; not what lies in it."""
        sent = [
            one["params"]["request"]["url"]
            for one in self._browser.events
            if one["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in sent if not address.startswith(("data:", "blob:"))]

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def screenshot(self, file: Path) -> None:
        """Save a picture of the whole page as PNG."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(found["data"]))
