"""Recordings of rerun: the contract, what is kept, and how often."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.scene.sinks.table import make_sink
from physgym.testing.sinks import QUADS, SQUARE, SinkContract, every_object, shown_object, snapshot_of

pytest.importorskip("rerun", reason="pip install 'physgym[rerun]'")
pytestmark = pytest.mark.slow  # rerun takes seconds to import


class TestRerunRecording(SinkContract):
    def sink(self, folder, **options):
        return make_sink("rerun", out=folder / "run.rrd", rate=1e6, **options)


def chunks(file):
    """What a recording has written, by entity: the names of components, and their values."""
    from rerun.chunk import RrdReader

    found = {}
    for chunk in RrdReader(file).stream():
        batch = chunk.to_record_batch().to_pydict()
        found.setdefault(chunk.entity_path, []).append(batch)
    return found


def test_what_did_not_change_is_written_once(tmp_path):
    sink = make_sink("rerun", out=tmp_path / "a" / "run.rrd", rate=1e6)
    sink.open("plates", 2)
    mesh = shown_object("mesh", points=SQUARE, faces=QUADS)
    for step in range(3):
        sink.show({1: snapshot_of(f"step {step}", plate={**mesh, "points": SQUARE + step}, **every_object())})
    photo = shown_object("image", values=np.full((2, 2, 3), [200, 100, 50], np.uint8))
    sink.show({1: snapshot_of("step 3", photo=photo)})
    sink.close()
    assert sink.place == str(tmp_path / "a" / "run.rrd")
    found = chunks(tmp_path / "a" / "run.rrd")
    plate = found["/environment_1/plate"]
    positions = [row for batch in plate for row in batch.get("Mesh3D:vertex_positions", []) if row]
    assert sorted(row[0][0] for row in positions) == [0, 1, 2]
    assert sum(len([row for row in batch.get("Mesh3D:triangle_indices", []) if row]) for batch in plate) == 1
    assert any("Clear:is_recursive" in batch for batch in plate)
    titles = [row[0] for batch in found["/environment_1/title"] for row in batch["TextDocument:text"]]
    assert sorted(titles) == ["step 0", "step 1", "step 2", "step 3"]
    edges = [row for batch in found["/environment_1/edges"] for row in batch.get("LineStrips3D:strips", []) if row]
    assert len(edges) == 1
    (buffer,) = found["/environment_1/photo"][0]["Image:buffer"]
    assert list(buffer[0])[:3] == [200, 100, 50]
    assert not any(path.startswith("/environment_0") for path in found)


def test_snapshots_that_come_too_fast_are_left_out_but_the_last(tmp_path):
    sink = make_sink("rerun", out=tmp_path / "run.rrd", rate=0.1)
    sink.open("plates", 1)
    for step in range(10):
        sink.show({0: snapshot_of(f"step {step}")})
        assert sink.poll()
    sink.close()
    assert sink.left_out == 8
    titles = [
        row[0] for batch in chunks(tmp_path / "run.rrd")["/environment_0/title"] for row in batch["TextDocument:text"]
    ]
    assert sorted(titles) == ["step 0", "step 9"]


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"let its name end in \.rrd"):
        make_sink("rerun", out=tmp_path / "run.mp4")
    (tmp_path / "run.rrd").write_text("mine")
    with pytest.raises(ConfigError, match="exists; choose another name"):
        make_sink("rerun", out=tmp_path / "run.rrd").open("plates", 1)
    with pytest.raises(ConfigError, match=r"cannot write .*run\.rrd"):
        make_sink("rerun", out=tmp_path / "run.rrd" / "run.rrd").open("plates", 1)
    assert (tmp_path / "run.rrd").read_text() == "mine"
