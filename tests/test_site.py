"""The documentation as a site: what is searched is found, and no page is wider than its window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.extensions.gallery import examples
from tests.support.browser import Browser

pytestmark = pytest.mark.timeout(400)  # a hundred pages, on a machine that others use too
ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (1280, 390)  # pixels: of a desk, of a phone
SOUGHT = {  # what somebody types, and the page that should come first
    "installation": "start/installation",
    "Trainer": "reference/api/training",
    "SurrogateEnv": "reference/api/runner",
    "WorkerLost": "reference/api/errors",
    "MuJoCo": "howto/mujoco",
    "ParaView": "howto/paraview",
    "cluster": "howto/cluster",
    "display": "troubleshooting/machines",
    "Lightning": "coming_from/lightning",
    "DeepPhysX": "coming_from/deepphysx",
    "driving": "howto/driving",
    "protocol": "reference/protocol",
    "hyperparameters": "howto/hyperparameters",
    "resume": "howto/short/continue_training",
    "checkpoint": "howto/short/checkpoint",
    "Normalization": "howto/networks",
    "Ctrl-C": "howto/command_line",
    "HDF5": "reference/format",
    "remote worker": "howto/machines",
    "ONNX": "howto/short/to_onnx",
    "crash": "howto/short/survive_crashes",
    "seed": "howto/short/reproduce",
    "merge datasets": "howto/short/merge",
    "GPU": "howto/training",
    "memory": "troubleshooting/machines",
    "quick start": "start/first_ten_minutes",
    "FMU": "howto/fmu",
    "SLURM": "howto/cluster",
    "callback": "howto/short/callback",
    "finite elements": "tutorials/finite_elements",
    "snapshot": "howto/short/snapshots",
    "disk full": "concepts/data",
    "NaN": "howto/generation",
    "import CSV": "howto/interop",
    "uncommitted": "howto/short/without_git",
}
# blocks whose text ends behind their edge, where nobody can scroll to it; and how far the page itself is too wide
MEASURE = """(() => {
  const cut = [...document.querySelectorAll("pre, table, img, svg, dt.sig")].filter(one => {
    for (let box = one; box && box !== document.body; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (style.overflowX === "auto" || style.overflowX === "scroll" || style.visibility === "hidden") return false;
    }
    const place = one.getBoundingClientRect();
    const hidden = one.tagName === "PRE" && one.scrollWidth > one.clientWidth + 1;
    return place.width > 0 && (hidden || place.right > innerWidth + 1);
  });
  return JSON.stringify({
    wide: Math.max(0, document.documentElement.scrollWidth - innerWidth),
    cut: cut.map(one => one.tagName + " " + one.textContent.trim().slice(0, 60)),
    blocks: document.querySelectorAll("div.highlight").length,
    buttons: document.querySelectorAll("button.copybtn").length,
  });
})()"""
FIRST = """(query => {
  const found = Search._performSearch(...Search._parseQuery(query));
  return JSON.stringify(found.slice(-3).reverse().map(one => one[0]));
})"""


def newest(*folders):
    """When the last file in these folders was changed."""
    kinds = (".py", ".md", ".ipynb", ".png", ".gif", ".yaml")
    files = (file for folder in folders for file in folder.rglob("*") if file.suffix in kinds)
    return max(file.stat().st_mtime for file in files)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site; that which `make docs` has built if nothing has changed since."""
    built = ROOT / "site"
    made = built / "search.html"
    if made.is_file() and made.stat().st_mtime > newest(ROOT / "docs", ROOT / "physgym", ROOT / "examples"):
        return built
    built, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source")
    for file in ROOT.iterdir():  # the pages of the examples are written among the others
        if file.is_file():  # a link would lead from the changelog to pages elsewhere
            shutil.copyfile(file, source / file.name)
        elif file.name not in ("docs", "site"):
            (source / file.name).symlink_to(file)
    shutil.copytree(ROOT / "docs", source / "docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "docs", str(built)]
    subprocess.run(command, cwd=source, check=True, timeout=300)
    return built


@pytest.mark.slow
def test_a_search_has_the_right_page_first(site):
    with Browser() as browser:
        tab = browser.open(f"file://{site}/search.html")
        assert tab.evaluate("Search.hasIndex()")
        first = {query: json.loads(tab.evaluate(f"{FIRST}({json.dumps(query)})"))[:1] for query in SOUGHT}
    assert first == {query: [page] for query, page in SOUGHT.items()}


@pytest.mark.slow
def test_each_example_has_a_page_with_its_picture_and_its_file(site):
    index = (site / "gallery" / "index.html").read_text()
    for name, file in examples().items():
        page = (site / "gallery" / f"{name}.html").read_text()
        shown = re.search(r'<figure.*?<img alt="([^"]+)"[^>]* src="([^"]+)".*?</figure>', page, re.S)
        assert shown is not None, name
        assert len(shown[1]) > 10
        assert (site / "gallery" / "x" / shown[2]).resolve().is_file(), name
        (given,) = re.findall(rf'href="([^"]+/{file.name})"', page)
        assert (site / "gallery" / "x" / given).resolve().read_bytes() == file.read_bytes()
        assert index.count(f'href="{name}.html"') >= 2, name  # in the list of pages, and on a card


@pytest.mark.slow
def test_tables_of_keys_and_options_stand_one_below_the_other_on_a_phone(site):
    shown = "JSON.stringify([...document.querySelectorAll('table.generated td')].map(one => one.offsetLeft))"
    with Browser() as browser:
        for page in ("keys", "command_line"):
            tab = browser.open(f"file://{site}/reference/{page}.html", width=390)
            places = json.loads(tab.evaluate(shown))
            assert len(places) > 100
            assert {*places} == {0}  # next to each other, what they mean would lie outside of the window


@pytest.mark.slow
def test_no_page_is_wider_than_its_window_and_no_block_is_cut_off(site):
    pages = sorted(file for file in site.rglob("*.html") if not file.name.startswith(("genindex", "py-modindex")))
    assert len(pages) > 50
    wrong, blocks, buttons = {}, 0, 0
    with Browser() as browser:
        tab = browser.open("about:blank")
        for page in pages:
            tab.go(f"file://{page}")
            for width in WIDTHS:
                tab.resize(width)
                found = json.loads(tab.evaluate(MEASURE))
                blocks, buttons = blocks + found.pop("blocks"), buttons + found.pop("buttons")
                if found != {"wide": 0, "cut": []}:
                    wrong[f"{page.relative_to(site)} at {width}"] = found
    assert wrong == {}
    assert buttons == blocks > 200


@pytest.mark.slow
def test_what_is_cut_off_is_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<meta charset=utf-8><pre style='overflow: hidden; width: 200px'>" + "long " * 40 + "</pre>"
        "<div style='overflow-x: auto; width: 200px'><pre>" + "long " * 40 + "</pre></div><table><td>" + "x" * 400
    )
    with Browser() as browser:
        found = json.loads(browser.open(f"file://{page}", WIDTHS[1]).evaluate(MEASURE))
    assert found["wide"] > 0
    assert [text.split()[0] for text in found["cut"]] == ["PRE", "TABLE"]
