"""The tutorial that is a notebook runs in a kernel, and shows what it promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "notebook.ipynb"


def shown(cell):
    """What a cell shows: the kinds of its values, and its text."""
    kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
    texts = [output.get("text") or output.get("data", {}).get("text/html", "") for output in cell.outputs]
    return kinds, "".join(texts)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):  # the developer's own are left alone
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = {cell.source.splitlines()[-1]: shown(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert "<b>SampleDataset</b> 240 training samples" in cells["dataset"][1]
    assert "image/png" in cells["dataset.show(17)"][0]
    _, bar = cells["history = trainer.fit()"]  # and not lines; nothing of it is cut off
    assert re.search(r"train: 100%\|█{20}\| \d.* loss .* validation \S+\]", bar)
    assert "<b>History</b> 8 epochs" in cells["history"][1]
    assert '<img src="data:image/png;base64,' in cells["history"][1]
    assert ">train, completed</td>" in cells["SessionSummary(trainer.session)"][1]
    assert [place.name for place in (tmp_path / "sessions").iterdir()] == ["heat"]
    assert sum("image/png" in kinds for kinds, _ in cells.values()) == 2  # a sample, and a prediction


def test_the_notebook_is_small_and_names_no_folder_of_a_machine():
    text = NOTEBOOK.read_text()
    assert len(text) < 300_000
    assert not [place for place in ("/tmp/", "/root/", "/work/") if place in text]
    cells = json.loads(text)["cells"]
    assert not [output for cell in cells for output in cell.get("outputs", ()) if output["output_type"] == "error"]
