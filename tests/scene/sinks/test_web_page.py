"""The web page: the contract, who is let in, and what travels."""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
import urllib.parse
from types import SimpleNamespace

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.scene.sinks.gate import Gate
from physgym.scene.sinks.page_panels import PictureTime, moved_on, numbers_of, text_of
from physgym.scene.sinks.page_scene import PageScene
from physgym.scene.sinks.table import make_sink
from physgym.testing.sinks import (
    QUADS,
    SQUARE,
    KeptControls,
    SinkContract,
    every_input,
    shown_object,
    snapshot_of,
)
from tests.support.browser import WEBGL, Browser

pytest.importorskip("viser", reason="pip install 'physgym[web]'")


@pytest.mark.slow
class TestWebPage(SinkContract):
    def sink(self, folder, **options):
        return make_sink("web", **options)

    def change(self, sink, name, value):
        inputs = sink._scenes[1]._inputs
        handle = inputs._handles[name]
        if name == "push":
            handle._impl.value = value
            inputs._slid(name, SimpleNamespace(client="a browser", target=handle))
        elif name == "stop":
            handle._impl.update_cb[0](SimpleNamespace(client="a browser", target=handle))
        else:
            inputs._pull(name, np.add([1.0, 0.0, 0.0], value), ended=False)


@pytest.fixture
def page():
    sink = make_sink("web", chosen=[0, 1])
    sink.open("springs", 5, controls=KeptControls())
    yield sink
    sink.close()


def answer(address, path, **headers):
    """Status and cookie of an answer of the page."""
    where = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        found = connection.getresponse()
        found.read()
        return found.status, found.getheader("Set-Cookie")
    finally:
        connection.close()


def test_only_who_has_the_token_is_let_in(page):
    where = urllib.parse.urlsplit(page.place)
    assert where.hostname == "127.0.0.1"
    token = urllib.parse.parse_qs(where.query)["token"][0]
    status, cookie = answer(page.place, f"/?{where.query}")
    assert status == 200
    assert token in cookie
    assert "HttpOnly; SameSite=Strict" in cookie
    kept = cookie.partition(";")[0]
    assert answer(page.place, "/", Cookie=kept) == (200, None)
    socket_headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for path, headers in (
        ("/", {}),
        ("/?token=" + "0" * len(token), {}),
        ("/index.html", {"Cookie": kept.replace(token, "0" * len(token))}),
        ("/", socket_headers),
    ):
        assert answer(page.place, path, **headers) == (403, None)
    assert answer(page.place, "/", **socket_headers, Cookie=kept)[0] == 101


def test_a_server_that_lets_everybody_in_is_not_used():
    gate = Gate("secret", "cookie")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ConfigError, match="would be open to everybody"):
            gate.check(f"http://127.0.0.1:{server.getsockname()[1]}/")
        thread.join(10)


def test_a_port_that_is_taken_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot use port {port} of 127.0.0.1"):
            make_sink("web", port=port).open("springs", 1)


def test_positions_alone_are_sent_of_a_mesh_that_moves(page):
    mesh = shown_object("mesh", points=SQUARE, faces=QUADS)
    page.show({0: snapshot_of(mesh=mesh)})
    first = page.sent
    time.sleep(0.01)
    page.show({0: snapshot_of(mesh=mesh)})
    assert page.sent == first > SQUARE.nbytes
    page.show({0: snapshot_of(mesh={**mesh, "points": SQUARE + 1})})
    assert page.sent == first + SQUARE.nbytes


def test_a_person_chooses_environments_and_pauses_the_run(page):
    panel = page._panel
    for asked in (("choose", "2-3, 9"), ("others", "next"), ("run", "pause"), ("run", "step")):
        panel._asked.put(asked)
    assert page.poll()
    assert list(page.chosen) == [0, 4]
    assert page.controls.asked == ["pause", "step"]
    assert panel._numbers.value == "0, 4"


def test_numbers_are_read_as_they_are_written():
    assert text_of([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert numbers_of("0-2, 5 7-8") == [0, 1, 2, 5, 7, 8]
    assert numbers_of("all, -1, 3-x, 99999999999999") == []
    assert moved_on([0, 1], 5, 1) == [2, 3]
    assert moved_on([0, 1], 5, -1) == [3, 4]


def test_a_mesh_of_too_many_points_is_thinned_and_that_is_said(page, caplog):
    side = np.linspace(0, 1, 250)
    points = np.stack([*np.meshgrid(side, side), np.zeros((250, 250))], -1).reshape(-1, 3).astype(np.float32)
    corner = (np.arange(249)[:, None] * 250 + np.arange(249)).ravel()
    faces = (corner[:, None] + np.array([0, 1, 251, 250])).astype(np.int32)
    heights, limits = points[:, 0].copy(), [0.0, 1.0]
    page.show({0: snapshot_of(sea=shown_object("mesh", points=points, faces=faces, scalars=heights, limits=limits))})
    assert page.sent < 20_000 * 12 + 40_000 * 6 + 2000
    assert "shown with fewer points than there are: sea" in caplog.text
    assert "sea" in page._panel._note.content


def test_what_colours_stand_for_is_said(page):
    mesh = shown_object("mesh", points=SQUARE, faces=QUADS, scalars=np.arange(4.0), limits=[0.0, 2.5], unit="mm")
    page.show({0: snapshot_of("episode 3", plate=mesh, note=shown_object("text", text="t = 1 s"))})
    assert page._scenes[0]._side._text.content == "episode 3\n\nt = 1 s\n\nplate: 0 to 2.5 mm (viridis)"


class Clock:
    """Stands in for the module `time`."""

    now = 100.0

    def monotonic(self):
        return self.now


def test_pictures_of_curves_leave_time_for_the_page(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("physgym.scene.sinks.page_panels.time", clock)
    pictures = PictureTime()
    assert pictures.is_turn(0)
    assert pictures.is_turn(1)
    pictures.spend(0, 0.02)
    assert not pictures.is_turn(1)
    clock.now += 0.07
    assert not pictures.is_turn(0)  # the other one comes first
    assert pictures.is_turn(1)
    pictures.spend(1, 0.0)
    assert pictures.is_turn(0)


def test_environments_take_turns_where_more_arrives_than_may_be_sent(page, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("physgym.scene.sinks.web_page.time", clock)
    monkeypatch.setattr("physgym.scene.sinks.web_page.BANDWIDTH", 1000.0)
    shown = []
    monkeypatch.setattr(PageScene, "update", lambda self, snapshot: (shown.append(snapshot), _send(self)))

    def _send(scene):
        scene.sent += 20  # 20 ms

    for step in range(8):
        page.show({one: {**snapshot_of(f"{one}"), "step": step} for one in (0, 1)})
        clock.now += 0.012
        assert page.poll()
    assert {one["title"] for one in shown[:3]} == {"0", "1"}
    assert len(shown) < 10


def test_images_are_shown_with_their_first_row_at_the_bottom(page):
    low, high = (
        shown_object("image", values=np.full((2, 2), value), limits=[0.0, 1.0], colours="gray") for value in (0, 1)
    )
    low["values"][0, 0] = 1.0
    page.show({0: snapshot_of(a=low, b=high)})
    pixels = page._scenes[0]._side._handles["image"].image
    assert pixels.shape == (160, 332, 3)
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, 0, 0] == pixels[0, -7, 0] == 255
    photo = shown_object("image", values=np.full((4, 4, 3), [200, 100, 50], np.uint8))
    page.show({0: snapshot_of("road", photo=photo)})
    assert page._scenes[0]._side._handles["image"].image[0, 0].tolist() == [200, 100, 50]
    assert page._scenes[0]._side._text.content == "road"


def picture(tab, folder):
    """Pixels of the part of the page that no panel covers."""
    image = pytest.importorskip("PIL.Image")
    tab.screenshot(folder / "page.png")
    return np.asarray(image.open(io.BytesIO((folder / "page.png").read_bytes())).convert("RGB"))[200:, :900].astype(int)


@pytest.mark.slow
def test_a_browser_shows_meshes_with_their_colours_and_they_move(page, tmp_path):
    corners = SQUARE * 2 - 1
    plain = shown_object("mesh", points=corners, faces=QUADS, colour="#ff0000")
    bounds = {"direction": [0.0, 0.0, 1.0], "up": [0.0, 1.0, 0.0], "flat": True, "bounds": [[-1, -1, 0], [1, 1, 0]]}

    def show(**objects):
        page.show({0: {"title": "a plate", "camera": bounds, "objects": objects}})

    def seen(wanted):
        """Wait for a picture in which enough pixels are of a colour."""
        for _ in range(100):
            page.poll()
            time.sleep(0.1)
            pixels = picture(tab, tmp_path)
            if (found := wanted(pixels)).sum() > 2000:
                return np.argwhere(found).mean(axis=0)
        raise AssertionError("the page does not show it")

    def red(pixels):
        return (pixels[..., 0] > 100) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)

    def green(pixels):
        return (pixels[..., 1] > 80) & (pixels[..., 0] < 60) & (pixels[..., 2] < 60)

    show(plate=plain)
    with Browser(*WEBGL) as browser:
        tab = browser.open(page.place)
        before = seen(red)
        show(plate={**plain, "points": corners + np.array([1, 0, 0], np.float32)})
        deadline = time.monotonic() + 60
        while seen(red)[1] < before[1] + 30:
            assert time.monotonic() < deadline
        scalars, limits = np.ones(4), [0.0, 1.0]
        show(plate={**plain, "scalars": scalars, "limits": limits, "colours": "ocean_r"})
        seen(green)
        assert [one for one in tab.errors if "THREE.Clock" not in one and "WebGL" not in one] == []


@pytest.mark.slow
def test_inputs_are_changed_in_a_browser(tmp_path):
    controls = KeptControls(takes_inputs=True)
    page = make_sink("web", chosen=[0])
    page.open("springs", 1, controls=controls)
    try:
        page.show({0: {**snapshot_of(plate=shown_object("mesh", points=SQUARE, faces=QUADS)), "inputs": every_input()}})
        with Browser(*WEBGL) as browser:
            tab = browser.open(page.place)
            find = "[...document.querySelectorAll('button')].find(one => one.textContent.trim() == 'stop')"
            deadline = time.monotonic() + 60
            while not tab.evaluate(f"!!{find}"):
                assert time.monotonic() < deadline, "the page has no button"
                time.sleep(0.1)
            assert "push [N]" in tab.evaluate("document.body.innerText")
            tab.evaluate(f"{find}.click()")
            slider = "document.querySelector('[role=slider]')"
            tab.evaluate(f"{slider}.focus()")
            for kind in ("rawKeyDown", "keyUp"):
                key = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39}
                tab._call("Input.dispatchKeyEvent", type=kind, **key)
            while {one[1] for one in controls.given} != {"stop", "push"}:
                assert time.monotonic() < deadline, controls.given
                assert page.poll()
                time.sleep(0.05)
        assert (0, "stop", True) in controls.given
        assert max(one[2] for one in controls.given if one[1] == "push") == pytest.approx(0.004, abs=1e-6)
    finally:
        page.close()
