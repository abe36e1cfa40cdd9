"""Off-screen pictures of scenes: curves, fields and meshes as arrays of pixels.

No display is needed and no window opens. matplotlib and vedo are imported on first use, because a worker process that
renders nothing must start fast.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.checks import is_integer
from physgym.errors import ConfigError
from physgym.scene.changes import SceneSnapshot
from physgym.scene.plots import ScenePanel, add_colour_bar, draw_markers, panels_of
from physgym.scene.space import SceneView, Size, space_pixels
from physgym.scene.style import COLOUR_MAP, CURVES, GHOST_COLOUR, MESH_COLOUR, Limits
from physgym.spaces import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE: Size = (640, 480)
LONGEST_SIDE = 10_000  # pixels of a picture
_DPI = 128  # a power of two: inches and back is exact, so a frame has exactly the pixels asked for
_FONT_SIZE = 8.0  # points; readable at 128 dots per inch in a 640 x 480 frame
_ROOM = 110  # pixels that a side of a picture needs to have texts
_LETTER = 9  # pixels of a letter, rather more than it has
FEW_PANELS = 4  # in a picture of the usual size
_WIDE = 1.8  # width of a panel of curves over its height
_BAR = 75  # pixels of a colour bar with its labels
_TITLE = 24  # pixels of a line of the title


@contextmanager
def style() -> Iterator[None]:
    """Set sizes of text for small frames; enclose the drawing code: matplotlib reads them as it makes each text."""
    from matplotlib import rc_context

    with rc_context({"font.size": _FONT_SIZE, "legend.fontsize": "small", "axes.titlesize": "medium"}):
        yield


@contextmanager
def literal_style() -> Iterator[None]:
    """Set sizes of text, and draw texts of scenes as they are: two "$" in a name or unit are no formula."""
    from matplotlib import rc_context

    with style(), rc_context({"text.parse_math": False}):
        yield


def new_figure(size: Size = SIZE) -> Figure:
    """Return an empty matplotlib figure for `figure_frame`, unknown to pyplot and therefore freed with its last name.

    Args:
        size: Width and height in pixels.

    Raises:
        ConfigError: The size is not positive.
    """
    from matplotlib.figure import Figure

    _check_size(size)
    return Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, layout="constrained")


def figure_frame(figure: Figure) -> Array:
    """Return the pixels of a matplotlib figure.

    Returns:
        Frame, shape (height, width, 3), uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def draw(
    snapshots: Sequence[SceneSnapshot],
    size: Size = SIZE,
    *,
    titles: Sequence[str] = (),
    title: str = "",
    columns: int | None = None,
) -> Array:
    """Draw snapshots of scenes, several side by side in a grid.

    Args:
        snapshots: The snapshots, see `physgym.scene.objects.Scene.snapshot`.
        size: Width and height in pixels.
        titles: A title for each in the place of its own.
        title: Text above all of them.
        columns: How many stand side by side; by default about as many as below each other.

    Returns:
        Picture, shape (height, width, 3), uint8.

    Raises:
        ConfigError: There is no snapshot, the size is not positive, or there are more titles than snapshots.
    """
    _check_size(size)
    if not snapshots or len(titles) > len(snapshots):
        raise ConfigError(f"a picture needs a snapshot, and one for each title; there are {len(snapshots)}")
    top = min(size[1] // 4, _TITLE * (title.count("\n") + 1)) if title else 0
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    if title:
        canvas[:top] = _text_pixels(title, (size[0], top))
    boxes = _boxes(len(snapshots), (size[0], size[1] - top), columns)
    for number, (snapshot, (left, above, width, height)) in enumerate(zip(snapshots, boxes, strict=True)):
        text = titles[number] if number < len(titles) else snapshot["title"]
        canvas[top + above : top + above + height, left : left + width] = _one(snapshot, (width, height), text)
    return canvas


def _boxes(count: int, size: Size, columns: int | None) -> list[tuple[int, int, int, int]]:
    """Return left, top, width and height of so many parts of a picture, without gaps."""
    columns = min(count, size[0], columns or int(np.ceil(np.sqrt(count))))
    rows = -(-count // columns)
    if rows > size[1]:
        raise ConfigError(f"a picture of {size} pixels has no room for {count} scenes; make it larger")
    across, down = (
        np.linspace(0, side, parts + 1).astype(int) for side, parts in zip(size, (columns, rows), strict=True)
    )
    places = [divmod(number, columns) for number in range(count)]
    return [
        (int(across[c]), int(down[r]), int(across[c + 1] - across[c]), int(down[r + 1] - down[r])) for r, c in places
    ]


def _columns(count: int, size: tuple[float, float]) -> int:
    """Return how many squares side by side make them largest; of several numbers the smallest."""
    count = max(1, count)
    return max(range(1, count + 1), key=lambda columns: min(size[0] / columns, size[1] / -(-count // columns)))


def _one(snapshot: SceneSnapshot, size: Size, title: str) -> Array:
    """Return the picture of a snapshot: a block for each large panel, such as those of space, and one for others."""
    panels = panels_of(snapshot)
    large = [panel for panel in panels if panel.kind == "space"]
    if len(panels) > FEW_PANELS:  # next to so many a drawing in the plane would be small
        large += [panel for panel in panels if panel.kind == "plane" and panel.plotted]
    plots = [panel for panel in panels if panel not in large]
    blocks = [[panel] for panel in large] + ([plots] if plots or not panels else [])
    if len(blocks) == 1:
        return _block(blocks[0], size, title)
    columns = len(blocks) if size[0] > 2 * size[1] else 1 if len(blocks) == 2 else None
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    for number, (left, top, width, height) in enumerate(_boxes(len(blocks), size, columns)):
        pixels = _block(blocks[number], (width, height), title if number == 0 else "")
        canvas[top : top + height, left : left + width] = pixels
    return canvas


def _block(panels: Sequence[ScenePanel], size: Size, title: str) -> Array:
    if panels and panels[0].kind == "space":
        return _space_block(panels[0], size, title)
    return _plots_block(panels, size, title)


def _plots_block(panels: Sequence[ScenePanel], size: Size, title: str) -> Array:
    """Return a figure of matplotlib with panels: with images as large as they can be, others below each other."""
    images = any(panel.kind == "image" for panel in panels)
    curves = sum(panel.kind == "curves" for panel in panels)
    texts = [panel for panel in panels if not panel.plotted]
    panels = [panel for panel in panels if panel not in texts] or panels
    texts = [panel for panel in texts if panel not in panels]
    several = curves > 1  # whose first curves have one colour: one legend of all would be of no use
    columns = _columns(len(panels), size) if images else _columns(len(panels), (size[0] / _WIDE, size[1]))
    rows = max(1, -(-len(panels) // columns))
    lines = _in_lines("\n".join(panel.corner_text for panel in texts), size[0] // _LETTER)
    room = min(size[0] / columns, size[1] / rows) >= _ROOM
    with literal_style(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a layout without room
        figure = new_figure(size)
        if not room:
            figure.set_layout_engine("none")
            figure.subplots_adjust(0.02, 0.02, 0.98, 0.98, 0.05, 0.05)
        elif images:
            figure.set_layout_engine("compressed")  # "constrained" leaves gaps around panels of fixed aspect
        grid = figure.add_gridspec(rows + bool(lines), columns, height_ratios=[*[100] * rows, *[1] * bool(lines)])
        if lines and room:  # in a row as high as they are
            below = figure.add_subplot(grid[rows, :])
            below.set_axis_off()
            below.text(0.0, 1.0, lines, transform=below.transAxes, va="top")
        ghosts: dict[str, Any] = {}
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(grid[divmod(number, columns)])
            panel.draw(axes, decorated=room)
            if several and room and panel.kind == "curves":
                ghosts |= _name_curves(axes, panel)
                if any(_alike(panel, other) for other in panels[number + columns :: columns]):
                    axes.set_xlabel("")  # it stands below
            if columns > 2:  # a title is soon wider than its image
                axes.title.set_fontsize("small")
        if room:
            figure.suptitle(title)
            if ghosts or (curves and not several):
                every = {"handles": [*ghosts.values()], "labels": [*ghosts]} if ghosts else {}
                figure.legend(loc="outside lower center", ncols=4, frameon=False, **every)
        return figure_frame(figure)


def _in_lines(text: str, longest: int) -> str:
    """Return short lines of a text side by side, in lines of so many letters at most."""
    found: list[str] = []
    for line in text.splitlines():
        if found and len(joined := f"{found[-1]}     {line}") <= longest:
            found[-1] = joined
        else:
            found.append(line)
    return "\n".join(found)


def _alike(one: ScenePanel, other: ScenePanel) -> bool:
    """Return whether two panels are curves over the same abscissae."""
    if one.kind != "curves" or other.kind != "curves":
        return False
    first, second = one.items[0], other.items[0]
    return first["xlabel"] == second["xlabel"] and np.array_equal(first["x"], second["x"])


def _name_curves(axes: Axes, panel: ScenePanel) -> dict[str, Any]:
    """Name the curves of a panel: one by the title of the panel, several by a legend to its right.

    Returns:
        What a legend of the whole picture says besides: which curve is solid, and which is dashed, by text.
    """
    lines, labels = axes.get_legend_handles_labels()
    ghosts = [item["label"] for item in panel.items if item["kind"] == "curve" and item["ghost"]]
    solid = [label for label in labels if label not in ghosts]
    if len(solid) == 1 and labels[1:] in ([], [f"{solid[0]}, predicted"]):
        axes.set_title(labels[0])
        return dict(zip(("solver", "predicted"), lines, strict=True)) if len(lines) == 2 else {}
    if labels:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), borderaxespad=0.2, frameon=False)
    return {}


def _space_block(panel: ScenePanel, size: Size, title: str) -> Array:
    """Return what a camera sees, with a title, a colour bar, texts and markers that matplotlib draws over it."""
    view = SceneView.of(panel.camera, size)
    pixels = space_pixels(panel.items, view, size)
    with literal_style():
        figure = new_figure(size)
        figure.set_layout_engine("none")
        figure.figimage(pixels, zorder=-1)
        over = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
        over.set_axis_off()
        room = min(size) >= _ROOM
        for item in panel.items:
            if item["kind"] == "markers" and len(item["points"]):
                draw_markers(over, item, view.pixels(item["points"], size))
            elif item["kind"] == "text" and "point" in item and room:
                x, y = view.pixels(item["point"], size)
                over.text(x, y, item["text"], color=item["colour"], ha="center", clip_on=True)
        if room:
            lines = [text for text in (title, panel.name) if text]
            figure.text(0.5, 0.985, "\n".join(lines), ha="center", va="top", fontsize="large")
            figure.text(0.01, 0.985, panel.corner_text, va="top")
            shown = next((item for item in panel.items if "limits" in item and not item["ghost"]), None)
            if shown is not None:
                add_colour_bar(figure, shown, cax=figure.add_axes((min(0.875, 1 - _BAR / size[0]), 0.2, 0.02, 0.6)))
        return figure_frame(figure)


def _text_pixels(text: str, size: Size) -> Array:
    with literal_style():
        figure = new_figure(size)
        figure.set_layout_engine("none")
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize="large")
        return figure_frame(figure)


# --- arrays without a scene


_PLAIN: dict[str, Any] = {
    "panel": "",
    "label": "",
    "unit": "",
    "colour": MESH_COLOUR,
    "colours": COLOUR_MAP,
    "alpha": 1.0,
    "wireframe": False,
    "point_size": 6.0,
    "line_width": 1.0,
    "ghost": False,
}


def _draw_objects(objects: Mapping[str, Any], size: Size, title: str, camera: Mapping[str, Any] | None = None) -> Array:
    filled = {name: {**_PLAIN, **item} for name, item in objects.items()}
    return draw([{"title": title, "camera": camera or {}, "objects": filled}], size)


def curves_frame(
    x: Array,
    curves: Mapping[str, Array],
    *,
    ghosts: Mapping[str, Array] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    ylim: Limits | None = None,
    size: Size = SIZE,
) -> Array:
    """Draw curves over a common axis.

    Args:
        x: Abscissae, shape (n,).
        curves: Label to ordinates, shape (n,) each; drawn solid.
        ghosts: The same for what was predicted; drawn dashed, in another colour.
        xlabel: Axis label with its unit.
        ylabel: Axis label with its unit.
        title: Text above.
        ylim: Range of the ordinate; give it so that successive frames can be compared.
        size: Width and height in pixels.

    Returns:
        Frame, shape (height, width, 3), uint8.
    """
    drawn = [(label, y, False) for label, y in curves.items()] + [
        (label, y, True) for label, y in (ghosts or {}).items()
    ]
    ends = ylim or _range([y for _, y, _ in drawn])
    said = {"kind": "curve", "xlabel": xlabel, "unit": ylabel, "symbol": "", "limits": ends, "x": np.asarray(x)}
    objects = {
        f"{number}": {
            **said,
            "values": np.asarray(y),
            "label": label,
            "ghost": ghost,
            "colour": GHOST_COLOUR if ghost else CURVES[number % len(CURVES)],
        }
        for number, (label, y, ghost) in enumerate(drawn)
    }
    return _draw_objects(objects, size, title)


@dataclass(frozen=True)
class Panel:
    """One field in an `image_frame`.

    Attributes:
        title: Text above the panel, with the unit of the values.
        values: Field, shape (rows, columns); the first row is drawn at the bottom.
        limits: Values at the ends of the colour scale; by default plus and minus the largest magnitude.
        colours: Name of a matplotlib colour map.
    """

    title: str
    values: Array
    limits: Limits | None = None
    colours: str = "RdBu_r"


def image_frame(panels: Sequence[Panel], *, title: str = "", size: Size = SIZE) -> Array:
    """Draw two-dimensional fields, up to two in a row.

    Args:
        panels: The fields.
        title: Text above.
        size: Width and height in pixels.

    Returns:
        Frame, shape (height, width, 3), uint8.

    Raises:
        ConfigError: There is no panel.
    """
    if not panels:
        raise ConfigError("image_frame needs at least one panel")
    objects = {
        f"{number}": {
            "kind": "image",
            "label": panel.title,
            "colours": panel.colours,
            "values": np.asarray(panel.values),
            "limits": panel.limits or _symmetric(panel.values),
        }
        for number, panel in enumerate(panels)
    }
    return _draw_objects(objects, size, title)


def mesh_frame(
    points: Array,
    faces: Array,
    *,
    scalars: Array | None = None,
    ghost: Array | None = None,
    bounds: Array | None = None,
    limits: Limits | None = None,
    size: Size = SIZE,
    title: str = "",
    unit: str = "",
) -> Array:
    """Draw a surface mesh in three dimensions, z upwards, seen obliquely from the front.

    Args:
        points: Positions of the nodes, shape (n, 3).
        faces: Node numbers of the quadrilaterals (or of any polygons with m corners), shape (f, m), int.
        scalars: Value at each node, shape (n,), shown in colour with a bar.
        ghost: A second set of positions, shape (n, 3), such as a prediction; drawn as a wire frame.
        bounds: Lower and upper corner of what must be in view, shape (2, 3); by default those of all points. The camera
            follows from them alone: give it so that successive frames can be compared.
        limits: Values at the ends of the colour scale; by default those of the scalars.
        size: Width and height in pixels.
        title: Text above.
        unit: Unit of the scalars, written at the colour bar.

    Returns:
        Frame, shape (height, width, 3), uint8.

    Raises:
        ConfigError: The size is not positive, or an array has a wrong shape.
    """
    _check_size(size)
    points = _check_shape("points", points, (None, 3))
    faces = _check_shape("faces", faces, (None, None))
    seen = points
    if scalars is not None:
        scalars = _check_shape("scalars", scalars, (len(points),))
        limits = limits or (float(scalars.min()), float(scalars.max()))
    if ghost is not None:
        ghost = _check_shape("ghost", ghost, points.shape)
        seen = np.concatenate([points, ghost])
    if bounds is None:
        bounds = np.stack([seen.min(axis=0), seen.max(axis=0)])
    mesh: dict[str, Any] = {"kind": "mesh", "points": points, "faces": faces, "unit": unit}
    coloured = {} if scalars is None else {"scalars": scalars, "limits": limits}
    objects = {"mesh": {**mesh, **coloured}}
    if ghost is not None:
        objects["ghost"] = {**mesh, "points": ghost, "ghost": True, "colour": GHOST_COLOUR}
    bounds = _check_shape("bounds", bounds, (2, 3))
    camera = {"direction": (-0.55, -1.0, 0.55), "up": (0.0, 0.0, 1.0), "bounds": bounds, "flat": False}
    return _draw_objects(objects, size, title, camera)


def _range(values: Sequence[Array]) -> Limits:
    """Return where an ordinate begins and ends that shows all values, with a margin."""
    low, high = (float(end(np.concatenate([np.ravel(one) for one in values]))) for end in (np.nanmin, np.nanmax))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _symmetric(values: Array) -> Limits:
    largest = float(np.abs(values).max()) or 1.0
    return -largest, largest


def _check_size(size: Size) -> None:
    if len(size) != 2 or not all(is_integer(side, 1) and side <= LONGEST_SIDE for side in size):
        raise ConfigError(f"a frame needs a positive width and height in pixels, of at most {LONGEST_SIDE}, not {size}")


def _check_shape(name: str, values: Array, want: tuple[int | None, ...]) -> Array:
    values = np.asarray(values)
    fits = values.ndim == len(want) and all(w in (None, g) for g, w in zip(values.shape, want, strict=True))
    if not fits:
        raise ConfigError(f"{name} has shape {values.shape}; mesh_frame wants {want}, where None is any number")
    return values
