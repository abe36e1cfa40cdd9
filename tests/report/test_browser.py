"""Reports in headless Chromium: nothing is blank, nothing complains, nothing is fetched, nothing sticks out."""

import io
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from physgym.experiment.config import check_config
from physgym.experiment.runs import train
from physgym.report.reports import write_report
from tests.report.test_dataset_report import numbers
from tests.support.browser import Browser, BrowserTab
from tests.support.datasets import PARAMETERS, write

pytestmark = pytest.mark.slow

PHONE, DESK = 390, 1280  # pixels
PLACES = """Array.from(document.querySelectorAll("SELECTOR"), e => {const r = e.getBoundingClientRect();
return [r.left + scrollX, r.top + scrollY, r.width, r.height].map(Math.round)})"""
PICTURES = {"dataset": 2, "not finite": 2, "session": 0}  # the session's fields are drawn as plots
COLOURED = 30  # difference of red, green and blue from which on a pixel is no grey


@pytest.fixture
def browser():
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A dataset with everything, and a session whose network predicts numbers and whose pictures are images."""
    folder = tmp_path_factory.mktemp("pages")
    write(folder / "line", 60, parameters=PARAMETERS, rejected=True)
    write(folder / "line", 10, mode="test", parameters=PARAMETERS)
    x = np.random.default_rng(0).normal(size=200)
    x[17] = np.nan
    numbers(folder / "data", x, nonfinite="allow")
    numbers(folder / "learned", np.linspace(0, 3, 200))
    session = train(
        check_config(
            {
                "session": str(folder / "a-session-with-a-name-that-is-much-too-long-for-the-screen-of-a-telephone"),
                "description": "<b>x</b> </script>",
                "dataset": {"path": str(folder / "learned")},
                "network": {"arguments": {"hidden": [4]}},
                "training": {"epochs": 3, "batch_size": 20},
                "validation": {"fraction": 0.25},
            },
            "the test",
        )
    ).session
    return {
        "dataset": write_report(folder / "line", folder / "line.html"),
        "not finite": write_report(folder / "data", folder / "data.html"),
        "session": write_report(session),
    }


def faults(tab: BrowserTab, shown: Path, width: int) -> list[str]:
    """What is wrong with a page."""
    found = [*tab.errors, *(f"fetched {address}" for address in tab.requests[1:])]
    if (across := tab.evaluate("document.documentElement.scrollWidth")) > width:
        found.append(f"is {across} wide on a screen of {width}")
    tab.screenshot(shown)
    pixels = (matplotlib.image.imread(io.BytesIO(shown.read_bytes()))[..., :3] * 255).astype(int)
    for selector in (".plot", "img", "canvas"):
        for number, (left, top, across, down) in enumerate(tab.evaluate(PLACES.replace("SELECTOR", selector))):
            part = pixels[top : top + down, left : left + across]
            coloured = int((part.max(2) - part.min(2) > COLOURED).sum()) if part.size else 0
            if coloured < 20:
                found.append(f"{selector} {number} is blank: {coloured} pixels of {part.shape} have a colour")
    return found


def test_reports_are_seen(browser, reports, tmp_path):
    for name, file in reports.items():
        for width in (PHONE, DESK):
            tab = browser.open(file.as_uri(), width)
            assert faults(tab, tmp_path / "seen.png", width) == [], (name, width)
            plots = tab.evaluate("document.querySelectorAll('.plot').length")
            assert plots >= 4
            assert plots == tab.evaluate("document.querySelectorAll('.js-plotly-plot .plot-container').length")
            assert tab.evaluate("document.images.length") == PICTURES[name]
            tab.close()


def test_what_is_wrong_is_noticed(browser, reports, tmp_path):
    text = reports["dataset"].read_text()
    for old, new in (
        ("const figures=", "console.error('oh');setTimeout(() => nowhere());const figures="),
        ("figures.forEach(", "figures.slice(1).forEach("),
        ("<h2", '<img src="https://example.org/a.png"><div style="width:2000px">x</div><h2'),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    broken = tmp_path / "broken.html"
    broken.write_text(text)
    found = faults(browser.open(broken.as_uri(), DESK), tmp_path / "seen.png", DESK)
    for said in (
        "error: ['oh']",
        "nowhere is not defined",
        "is blank",
        "wide on a screen",
        "Content Security",
    ):
        assert any(said in one for one in found), (said, found)
