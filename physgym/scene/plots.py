"""Panels of a picture that matplotlib draws: curves, fields on grids, and what lies in a plane.

matplotlib is imported on first use, because a worker process that renders nothing must start fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from physgym.scene.changes import SceneSnapshot
from physgym.scene.kinds import KINDS
from physgym.scene.style import DARK_COLOUR, colour_map
from physgym.spaces import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINT = 72 / 128  # of a pixel at the resolution of pictures, see `physgym.scene.frames`
PLANE_MARGIN = 0.05  # of what is seen in a plane
SYMBOLS = {"*": (5, 1, 0)}  # the others are those of matplotlib


@dataclass(frozen=True)
class ScenePanel:
    """Objects that are drawn together.

    Attributes:
        kind: "space" for what a camera sees, "plane" where it looks down on x and y, "curves" or "image".
        name: Name of the panel.
        items: The objects.
        camera: That of the snapshot.
    """

    kind: Literal["space", "plane", "curves", "image"]
    name: str
    items: list[Mapping[str, Any]]
    camera: Mapping[str, Any]

    @property
    def corner_text(self) -> str:
        """Return the texts without a place."""
        return "\n".join(item["text"] for item in self.items if item["kind"] == "text" and "point" not in item)

    @property
    def plotted(self) -> bool:
        """Return whether there is more than texts without a place."""
        return any(item["kind"] != "text" or "point" in item for item in self.items)

    def draw(self, axes: Axes, *, decorated: bool) -> None:
        """Draw a panel that is not one of space.

        Args:
            axes: Where.
            decorated: Whether there is room for texts.
        """
        if self.kind == "curves":
            _draw_curves(axes, [item for item in self.items if item["kind"] == "curve"], decorated=decorated)
        elif self.kind == "image":
            _draw_image(axes, self.items[0], decorated=decorated)
        else:
            _draw_plane(axes, self.items, self.camera, decorated=decorated)
            axes.set_title(self.name if decorated else "")
        if self.corner_text and decorated:
            axes.text(0.01, 0.99, self.corner_text, transform=axes.transAxes, va="top")


def panels_of(snapshot: SceneSnapshot) -> list[ScenePanel]:
    """Return the panels of a snapshot, those of space first, then in the order of their objects."""
    camera = snapshot["camera"]
    spatial: Literal["space", "plane"] = "space" if "bounds" in camera and not camera["flat"] else "plane"
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for name, item in snapshot["objects"].items():
        kind = item["kind"]
        key = spatial if KINDS[kind].spatial else "curves" if kind == "curve" else f"image {name}"
        found.setdefault((key, item["panel"]), []).append(item)
    for key, panel in [(key, panel) for key, panel in found if key == spatial and ("curves", panel) in found]:
        if all(item["kind"] == "text" and "point" not in item for item in found[key, panel]):
            found["curves", panel] += found.pop((key, panel))  # texts of a panel that has curves
    kinds: list[tuple[Literal["space", "plane", "curves", "image"], str, list[Mapping[str, Any]]]] = [
        (spatial if key == spatial else "curves" if key == "curves" else "image", name, items)
        for (key, name), items in found.items()
    ]
    return [ScenePanel(kind, name, items, camera) for kind, name, items in sorted(kinds, key=lambda k: k[0] != "space")]


def _draw_curves(axes: Axes, items: Sequence[Mapping[str, Any]], *, decorated: bool) -> None:
    for item in items:
        style: dict[str, Any] = {"color": item["colour"], "linewidth": 1.6 * item["line_width"], "alpha": item["alpha"]}
        if item["ghost"]:
            style |= {"linestyle": "--", "linewidth": 1.4 * item["line_width"]}
        if item["symbol"]:
            style |= {"marker": SYMBOLS.get(item["symbol"], item["symbol"]), "markersize": POINT * item["point_size"]}
        axes.plot(item["x"], item["values"], label=item["label"], **style)
    ends = np.array([item["limits"] for item in items])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    axes.set_ylim(low, high)
    x = [x[np.isfinite(x)] for item in items if len(x := item["x"])]
    left, right = (min(map(np.min, x)), max(map(np.max, x))) if x and all(map(len, x)) else (0.0, 1.0)
    if any(item["symbol"] for item in items) or left == right:
        margin = 0.05 * (right - left) or 0.5
        left, right = left - margin, right + margin
    axes.set_xlim(float(left), float(right))
    if x and all(np.array_equal(one, np.round(one)) for one in x):  # steps, or numbers of grid points
        whole_ticks(axes)
    if not decorated:
        axes.set_axis_off()
        return
    units = dict.fromkeys(item["unit"] for item in items if item["unit"])
    axes.set(xlabel=next((item["xlabel"] for item in items if item["xlabel"]), ""), ylabel=", ".join(units))
    axes.grid(alpha=0.3)


def whole_ticks(axes: Axes, axis: Literal["x", "y"] = "x") -> None:
    """Let an axis have ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def _draw_image(axes: Axes, item: Mapping[str, Any], *, decorated: bool) -> None:
    values, (low, high) = item["values"], item.get("limits", (None, None))
    image = axes.imshow(
        np.ma.masked_invalid(values) if "limits" in item else values,
        origin="lower" if "limits" in item else "upper",
        cmap=colour_map(item["colours"]),
        vmin=low,
        vmax=high,
        alpha=item["alpha"],
        extent=item.get("extent"),
    )
    axes.set(xticks=[], yticks=[])
    if not decorated:
        axes.set_axis_off()
        return
    axes.set_title(f"{item['label']} [{item['unit']}]" if item["unit"] else item["label"])
    if "limits" not in item:
        return
    grid = axes.get_gridspec()
    below = grid is None or grid.nrows == 1
    axes.figure.colorbar(image, ax=axes, location="bottom" if below else "right", aspect=30, pad=0.04)


def _draw_plane(axes: Axes, items: Sequence[Mapping[str, Any]], camera: Mapping[str, Any], *, decorated: bool) -> None:
    axes.set_axis_off()
    if "bounds" not in camera:  # texts alone
        return
    axes.set_aspect("equal")
    low, high = np.asarray(camera["bounds"])[:, :2]
    margin = PLANE_MARGIN * float(np.max(high - low)) or 1.0
    axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
    for item in items:
        if (item["kind"] != "text" or decorated) and (item["kind"] == "text" or len(item["points"])):
            _DRAW[item["kind"]](axes, item)
    shown = next((i for i in items if "limits" in i), None)
    if shown is not None and decorated:
        add_colour_bar(axes.figure, shown, ax=axes)


def add_colour_bar(figure: Any, item: Mapping[str, Any], **place: Any) -> None:
    """Draw the colour scale of an object."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure.colorbar(
        ScalarMappable(Normalize(*item["limits"]), colour_map(item["colours"])), label=item["unit"], **place
    )


def _colours_of(item: Mapping[str, Any], scalars: Array | None) -> Any:
    """Return the colours of parts, one for each scalar, or that of the object."""
    if scalars is None:
        return item["colour"]
    low, high = item["limits"]
    return colour_map(item["colours"])((scalars - low) / (high - low))


def _polygons(axes: Axes, item: Mapping[str, Any], points: Array, faces: Array, scalars: Array | None) -> None:
    from matplotlib.collections import PolyCollection

    corners = points[faces][..., :2]
    bare = item["wireframe"] or item["ghost"]
    style: dict[str, Any] = {"alpha": item["alpha"], "linewidths": POINT * item["line_width"]}
    if bare:
        style |= {"facecolors": "none", "edgecolors": item["colour"], "linestyles": "--" if item["ghost"] else "-"}
        style["linewidths"] = max(1.0, style["linewidths"])
    else:
        style |= {"facecolors": _colours_of(item, scalars), "edgecolors": DARK_COLOUR if item["line_width"] else "none"}
    axes.add_collection(PolyCollection(list(corners), **style), autolim=False)


def _draw_mesh(axes: Axes, item: Mapping[str, Any]) -> None:
    scalars = item.get("face_scalars")
    if "scalars" in item:
        scalars = item["scalars"][item["faces"]].mean(axis=1)
    _polygons(axes, item, item["points"], item["faces"], scalars)


def _draw_glyphs(axes: Axes, item: Mapping[str, Any]) -> None:
    from physgym.scene.solids import solids

    points, faces, owners = solids(item)
    scalars = item["scalars"][owners][faces].mean(axis=1) if "scalars" in item else None
    _polygons(axes, {**item, "line_width": 0.0}, points, faces, scalars)


def draw_markers(axes: Axes, item: Mapping[str, Any], places: Array | None = None) -> None:
    """Draw points or markers, at other places of axes where these are given."""
    places = item["points"][:, :2] if places is None else places
    side = POINT * item["point_size"]
    symbol: Any = SYMBOLS.get(item.get("symbol", "o"), item.get("symbol", "o") or "o")
    colours = _colours_of(item, item.get("scalars"))
    filled = symbol not in ("x", "+")
    style: dict[str, Any] = {"linewidths": 0.0 if filled else max(1.0, side / 6)}
    if item["ghost"] and filled:
        style = {"facecolors": "none", "edgecolors": colours, "linewidths": 1.0}
    else:
        style["c"] = [colours] if isinstance(colours, str) else colours
    axes.scatter(places[:, 0], places[:, 1], s=side**2, marker=symbol, alpha=item["alpha"], zorder=3, **style)


def _draw_arrows(axes: Axes, item: Mapping[str, Any]) -> None:
    kept = np.linalg.norm(item["vectors"][:, :2], axis=1) > 0
    if not kept.any():
        return
    scalars = item["scalars"][kept] if "scalars" in item else None
    axes.quiver(
        *item["points"][kept, :2].T,
        *item["vectors"][kept, :2].T,
        angles="xy",
        scale_units="xy",
        scale=1.0,
        width=2.5 * item["line_width"],
        units="dots",
        color=_colours_of(item, scalars),
        alpha=item["alpha"],
        zorder=4,
    )


def _draw_lines(axes: Axes, item: Mapping[str, Any]) -> None:
    from matplotlib.collections import LineCollection

    scalars = item["scalars"][item["segments"]].mean(axis=1) if "scalars" in item else None
    lines = LineCollection(
        list(item["points"][item["segments"]][..., :2]),
        colors=_colours_of(item, scalars),
        linewidths=POINT * item["line_width"],
        linestyles="--" if item["ghost"] else "-",
        alpha=item["alpha"],
    )
    axes.add_collection(lines, autolim=False)


def _draw_text(axes: Axes, item: Mapping[str, Any]) -> None:
    if "point" in item:
        x, y = item["point"][:2]
        axes.text(x, y, item["text"], color=item["colour"], ha="center", fontsize="small", zorder=5)


_DRAW = {
    "mesh": _draw_mesh,
    "points": draw_markers,
    "markers": draw_markers,
    "glyphs": _draw_glyphs,
    "arrows": _draw_arrows,
    "lines": _draw_lines,
    "text": _draw_text,
}
