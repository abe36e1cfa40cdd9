"""`RerunRecording`: scenes as a recording of rerun (``.rrd``), to scrub through afterwards with ``rerun FILE``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from physgym.checks import at_least
from physgym.errors import ConfigError, needs
from physgym.files import absolute
from physgym.scene.changes import same
from physgym.scene.sinks.base import SceneSink
from physgym.scene.sinks.coloured_mesh import colours_of, image_pixels, rgb, triangles
from physgym.scene.solids import solids

SUFFIX = ".rrd"
TIMELINE = "seen"  # seconds since the recording began
FLUSH = 4.0  # seconds that closing waits for the disk
RATE = 10.0  # snapshots of an environment in a second


class RerunRecording(SceneSink):
    """A file that keeps what chosen environments showed, a few times a second.

    Snapshots that come faster are left out, all but the last one, which is kept when the recording ends. Nothing is
    written again that did not change, such as the triangles of a mesh.

    Args:
        out: The new file, which ends in .rrd.
        chosen: Environments to keep.
        rate: Snapshots of an environment that are kept in a second.

    Attributes:
        left_out: Snapshots that came too fast.
    """

    name: ClassVar[str] = "rerun"

    def __init__(self, out: str | Path, chosen: Sequence[int] | None = None, *, rate: float = RATE) -> None:
        super().__init__(chosen)
        self._file = absolute(out)
        if self._file.suffix != SUFFIX:
            raise ConfigError(f"{out} is to be a recording of rerun; let its name end in {SUFFIX}")
        at_least("rate", rate, 0.01)
        self._pause = 1 / rate
        self._stream: Any = None
        self._start = 0.0
        self._last: dict[int, float] = {}  # when each was kept
        self._kept: dict[str, Mapping[str, Any]] = {}  # objects by their path
        self._late: dict[int, Mapping[str, Any]] = {}
        self.left_out = 0

    def _opened(self) -> str:
        with needs("rerun", "rerun", "a recording"):
            import rerun
        if self._file.exists():
            raise ConfigError(f"{self._file} exists; choose another name")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = rerun.RecordingStream("physgym")
            self._stream.save(self._file)
            self._stream.send_recording_name(self.title)
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"cannot write {self._file}: {error}") from error
        self._start = time.monotonic()
        return str(self._file)

    def _shown(self, environment: int, snapshot: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now < self._last.get(environment, -np.inf) + self._pause:
            self.left_out += environment in self._late
            self._late[environment] = snapshot
            return
        self._late.pop(environment, None)
        self._last[environment] = now
        self._keep(environment, snapshot, now)

    def _polled(self) -> bool:
        now = time.monotonic()
        self._show_late({one: late for one, late in self._late.items() if now >= self._last[one] + self._pause})
        return True

    def _closed(self) -> None:
        if self._stream is None:
            return
        for environment, snapshot in self._late.items():
            with contextlib.suppress(Exception):  # what cannot be shown was said while it was open
                self._keep(environment, snapshot, time.monotonic())
        self._stream.flush(timeout_sec=FLUSH)
        self._stream.disconnect()

    def _keep(self, environment: int, snapshot: Mapping[str, Any], now: float) -> None:
        """Write what changed of an environment."""
        import rerun

        self._stream.set_time(TIMELINE, duration=now - self._start)
        root = f"environment_{environment}"
        objects = {f"{root}/{name}": item for name, item in snapshot["objects"].items()}
        objects[f"{root}/title"] = {"kind": "text", "text": snapshot["title"]}
        for path in [path for path in self._kept if path.startswith(f"{root}/") and path not in objects]:
            self._stream.log(path, rerun.Clear(recursive=False))
            del self._kept[path]
        for path, item in objects.items():
            before = self._kept.get(path)
            if before is not None and before.keys() == item.keys() and all(same(before[k], item[k]) for k in item):
                continue
            if before is not None and before["kind"] != item["kind"]:
                self._stream.log(path, rerun.Clear(recursive=False))
                before = None
            self._stream.log(path, _archetype(item, before))
            self._kept[path] = item


def _archetype(item: Mapping[str, Any], before: Mapping[str, Any] | None) -> Any:
    """Return what rerun is to hold of an object from now on; what is not named in it stays."""
    import rerun

    kind = item["kind"]
    if kind == "text":
        if "point" in item:
            return rerun.Points3D([item["point"]], labels=[item["text"]], radii=[0.0])
        return rerun.TextDocument(item["text"])
    if kind == "image":
        return rerun.Image(image_pixels(item))
    if kind == "curve":
        known = np.isfinite(item["values"])
        points = np.stack([item["x"][known], -item["values"][known]], -1)  # whose second axis points down
        return rerun.LineStrips2D([points], colors=[rgb(item["colour"])])
    colour = (*rgb(item["colour"]), round(255 * float(item["alpha"]) * (0.35 if item["ghost"] else 1)))
    if kind in ("points", "markers"):
        colours = colours_of(item["scalars"], item) if "scalars" in item else colour
        return rerun.Points3D(item["points"], colors=colours, radii=rerun.Radius.ui_points(item["point_size"] / 2))
    if kind == "lines":
        ends = item["points"][item["segments"]]
        colours = colours_of(item["scalars"], item)[item["segments"][:, 0]] if "scalars" in item else colour
        return rerun.LineStrips3D(ends, colors=colours, radii=rerun.Radius.ui_points(item["line_width"] / 2))
    if kind == "arrows" and "scalars" not in item:
        return rerun.Arrows3D(origins=item["points"], vectors=item["vectors"], colors=colour)
    return _mesh(item, before, colour)


def _mesh(item: Mapping[str, Any], before: Mapping[str, Any] | None, colour: tuple[int, ...]) -> Any:
    """Return a mesh; its triangles are written again only where they changed."""
    import rerun

    if item["kind"] != "mesh":
        points, faces, owners = solids(item)
        fixed = False
    else:
        (faces, owners), points = triangles(item["faces"]), item["points"]
        fixed = before is not None and before.keys() == item.keys() and same(before["faces"], item["faces"])
    if "face_scalars" in item:  # corners of their own for each triangle
        colours = np.repeat(colours_of(item["face_scalars"], item)[owners], 3, axis=0)
        points, faces = points[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    elif "scalars" in item:
        colours = colours_of(item["scalars"], item)
        colours = colours if item["kind"] == "mesh" else colours[owners]
    else:
        colours = np.tile(np.array(colour, np.uint8), (len(points), 1))
    entries: dict[str, Any] = {"vertex_positions": points.astype(np.float32), "vertex_colors": colours}
    if not fixed:
        entries["triangle_indices"] = faces.astype(np.uint32)
    return rerun.Mesh3D.from_fields(**entries)
