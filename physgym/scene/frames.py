"""Off-screen pictures of simulations: curves, fields and meshes as arrays of pixels.

No display is needed and no window opens. matplotlib and vedo are imported on first use, because a worker process that
renders nothing must start fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.checks import is_integer
from physgym.errors import ConfigError
from physgym.spaces import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size = tuple[int, int]
Limits = tuple[float, float]

SIZE: Size = (640, 480)
GHOST_COLOUR = "#d1495b"
MESH_COLOUR = "#8fb8d0"
COLOURS = "viridis"
_DPI = 128  # a power of two: inches and back is exact, so a frame has exactly the pixels asked for
_FONT_SIZE = 8.0  # points; readable at 128 dots per inch in a 640 x 480 frame
_GHOST_STYLE: dict[str, Any] = {"color": GHOST_COLOUR, "linestyle": "--", "linewidth": 1.4}


@contextmanager
def style() -> Iterator[None]:
    """Set sizes of text for small frames; enclose the drawing code: matplotlib reads them as it makes each text."""
    from matplotlib import rc_context

    with rc_context({"font.size": _FONT_SIZE, "legend.fontsize": "small", "axes.titlesize": "medium"}):
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
    with style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        for label, y in curves.items():
            axes.plot(x, y, label=label, linewidth=1.6)
        for label, y in (ghosts or {}).items():
            axes.plot(x, y, label=label, **_GHOST_STYLE)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(float(x[0]), float(x[-1])))
        if ylim is not None:
            axes.set_ylim(*ylim)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
        return figure_frame(figure)


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
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    with style():
        figure = new_figure(size)
        figure.set_layout_engine("compressed")  # "constrained" leaves gaps around panels of fixed aspect
        for position, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, position + 1)
            low, high = panel.limits or _symmetric(panel.values)
            image = axes.imshow(panel.values, origin="lower", cmap=panel.colours, vmin=low, vmax=high)
            axes.set(title=panel.title, xticks=[], yticks=[])
            figure.colorbar(image, ax=axes, location="bottom" if rows == 1 else "right", aspect=30, pad=0.04)
        figure.suptitle(title)
        return figure_frame(figure)


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
    pixels = _mesh_pixels(points, faces, scalars, limits, ghost, _check_shape("bounds", bounds, (2, 3)), size)
    return _annotated(pixels, title, unit, limits if scalars is not None else None)


def _mesh_pixels(
    points: Array,
    faces: Array,
    scalars: Array | None,
    limits: Limits | None,
    ghost: Array | None,
    bounds: Array,
    size: Size,
) -> Array:
    import vedo

    mesh = vedo.Mesh([points, faces], c=MESH_COLOUR).linewidth(1).linecolor("#303030")
    if scalars is not None and limits is not None:
        mesh.cmap(COLOURS, scalars, vmin=limits[0], vmax=limits[1])
    actors = [mesh.lighting(ambient=0.35, diffuse=0.75, specular=0.0)]
    if ghost is not None:
        surface = vedo.Mesh([ghost, faces], c=GHOST_COLOUR, alpha=0.25).lighting("off")
        actors.append(surface.linewidth(1).linecolor(GHOST_COLOUR))
    other = vedo.current_plotter()  # a window that the caller may have open
    with _quiet_vtk():
        plotter = vedo.Plotter(offscreen=True, size=size, bg="white")
        try:
            _place_camera(plotter.camera, bounds, size)
            plotter.show(*actors, resetcam=False, interactive=False)
            frame = plotter.screenshot(asarray=True)
        finally:
            plotter.close()
            vedo.set_current_plotter(other)
    return np.ascontiguousarray(frame[..., :3])


def _place_camera(
    camera: Any,
    bounds: Array,
    size: Size,
    direction: Sequence[float] = (-0.55, -1.0, 0.55),
    fill: float = 0.72,
) -> None:
    """Make a VTK camera see a box whole, without perspective.

    Args:
        camera: The camera to place.
        bounds: Lower and upper corner of the box, shape (2, 3).
        size: Width and height of the picture in pixels.
        direction: From the middle of the box to the camera, not upright; any length.
        fill: Part of the picture that the box may fill; title and colour bar need the rest.
    """
    towards = np.asarray(direction) / np.linalg.norm(direction)
    right = np.cross((0.0, 0.0, 1.0), towards)
    right /= np.linalg.norm(right)
    up = np.cross(towards, right)
    half = (bounds[1] - bounds[0]) / 2
    # a box's half width along an axis is the sum of the magnitudes of its half edges' projections
    half_width, half_height = float(np.abs(right) @ half), float(np.abs(up) @ half)
    scale = max(half_height, half_width * size[1] / size[0]) or 1.0
    centre = bounds.mean(axis=0)
    reach = 4 * float(np.linalg.norm(half)) + scale  # far enough to be outside of everything that is drawn
    camera.SetParallelProjection(True)
    camera.SetFocalPoint(*centre)
    camera.SetPosition(*(centre + reach * towards))
    camera.SetViewUp(*up)
    camera.SetParallelScale(scale / fill)
    camera.SetClippingRange(reach / 1000, 2 * reach)


def _annotated(pixels: Array, title: str, unit: str, limits: Limits | None) -> Array:
    """Return a picture with a title and, for given ends of the scale, a colour bar, drawn by matplotlib."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    height, width = pixels.shape[:2]
    with style():
        figure = new_figure((width, height))
        figure.set_layout_engine("none")
        figure.figimage(pixels, zorder=-1)
        figure.text(0.5, 0.95, title, ha="center", va="center", fontsize="large")
        if limits is not None:
            axes = figure.add_axes((0.875, 0.2, 0.02, 0.6))
            figure.colorbar(ScalarMappable(Normalize(*limits), COLOURS), cax=axes, label=unit)
        return figure_frame(figure)


@contextmanager
def _quiet_vtk() -> Iterator[None]:
    """Keep back the warning of VTK that there is no display, after which it renders with EGL."""
    from vtkmodules.vtkCommonCore import vtkLogger

    before = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)
    try:
        yield
    finally:
        vtkLogger.SetStderrVerbosity(before)


def _symmetric(values: Array) -> Limits:
    largest = float(np.abs(values).max()) or 1.0
    return -largest, largest


def _check_size(size: Size) -> None:
    if not all(is_integer(side, 1) for side in size):
        raise ConfigError(f"a frame needs a positive width and height in pixels, not {size}")


def _check_shape(name: str, values: Array, want: tuple[int | None, ...]) -> Array:
    values = np.asarray(values)
    fits = values.ndim == len(want) and all(w in (None, g) for g, w in zip(values.shape, want, strict=True))
    if not fits:
        raise ConfigError(f"{name} has shape {values.shape}; mesh_frame wants {want}, where None is any number")
    return values
