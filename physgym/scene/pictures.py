"""`Picture`: a figure that a notebook shows, and panels of arrays and curves in it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.errors import ConfigError
from physgym.scene.frames import new_figure, style
from physgym.scene.plots import whole_ticks
from physgym.spaces import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (420, 320)  # pixels of one
MARKED = 30  # points that are drawn as such
FEW = 8  # columns that are drawn as curves; more are an image


@dataclass(frozen=True)
class Picture:
    """A figure, which a notebook shows as the value of a cell.

    Attributes:
        figure: The figure of matplotlib, to change it further.
    """

    figure: Figure

    def _repr_png_(self) -> bytes:
        held = io.BytesIO()
        self.figure.savefig(held, format="png")
        return held.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the picture to a file, whose suffix says its format, such as png or pdf.

        Raises:
            ConfigError: The format is unknown.
            OSError: The file cannot be written.
        """
        try:
            self.figure.savefig(path)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error


@dataclass(frozen=True)
class ArrayPanel:
    """One array of numbers in a picture, which is not empty.

    Attributes:
        title: Text above it.
        values: Of shape (n,), drawn as a curve; or (n, m), drawn as m curves where these are few, else as an image.
        unit: Of the values.
        axis: Abscissae of the n rows, shape (n,); their numbers by default.
        label: Text of that axis.
        places: Numbers of the n values where these are no grid, which are bars then; empty for a curve.
    """

    title: str
    values: Array
    unit: str = ""
    axis: Array | None = None
    label: str = ""
    places: tuple[int, ...] = ()

    def draw(self, axes: Axes) -> None:
        """Draw it."""
        rows = np.arange(len(self.values)) if self.axis is None else self.axis
        axes.set(title=self.title)
        if self.places:
            axes.bar(range(len(self.values)), self.values)
            axes.set_xticks(range(len(self.values)), [f"[{place}]" for place in self.places])
            axes.set(ylabel=self.unit)
            axes.grid(alpha=0.3, axis="y")
            return
        if np.array_equal(rows, np.round(rows)):
            whole_ticks(axes)
        if self.values.ndim == 1 or self.values.shape[1] <= FEW:
            columns = self.values.reshape(len(self.values), -1)
            for number in range(columns.shape[1]):
                axes.plot(
                    rows, columns[:, number], label=f"[{number}]", marker="." if len(rows) < 30 else "", linewidth=1
                )
            axes.set(xlabel=self.label, ylabel=self.unit)
            axes.grid(alpha=0.3)
            if columns.shape[1] > 1:
                axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False)
            return
        image = axes.imshow(self.values, origin="lower", aspect="auto", interpolation="nearest")
        axes.set(ylabel=self.label)
        if self.axis is not None:
            image.set_extent((-0.5, self.values.shape[1] - 0.5, *_edges(self.axis)))
        axes.figure.colorbar(image, ax=axes, label=self.unit)


def _edges(axis: Array) -> tuple[float, float]:
    """Return where the first row of an image begins and the last one ends."""
    half = (axis[-1] - axis[0]) / max(1, len(axis) - 1) / 2 or 0.5
    return float(axis[0] - half), float(axis[-1] + half)


def draw_arrays(panels: Sequence[ArrayPanel], *, title: str = "") -> Picture:
    """Draw arrays, up to three in a row.

    Raises:
        ConfigError: There is nothing to draw, or matplotlib is not installed.
    """
    return _drawn([panel.draw for panel in panels], title)


def draw_curves(curves: Mapping[str, tuple[Array, Array]], *, label: str, logarithmic: bool) -> Picture:
    """Draw curves with abscissae of their own into one pair of axes.

    Args:
        curves: Abscissae and ordinates of each by name, both of shape (n,).
        label: Text of the abscissae.
        logarithmic: Whether the ordinate is.

    Raises:
        ConfigError: There is nothing to draw, or matplotlib is not installed.
    """

    def panel(axes: Axes) -> None:
        for name, (x, y) in curves.items():
            axes.plot(x, y, label=name, marker="." if len(x) < MARKED else "")
        axes.set(xlabel=label, yscale="log" if logarithmic else "linear")
        if all(np.array_equal(x, np.round(x)) for x, _ in curves.values()):  # epochs, or steps
            whole_ticks(axes)
        axes.grid(alpha=0.3)
        axes.legend()

    return _drawn([panel] if curves else [], "")


def _drawn(panels: Sequence[Callable[[Axes], Any]], title: str) -> Picture:
    if not panels:
        raise ConfigError("there is nothing to draw")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    try:
        with style():
            figure = new_figure((PANEL[0] * max(columns, 2), PANEL[1] * rows + (60 if title else 0)))
            for number, panel in enumerate(panels):
                panel(figure.add_subplot(rows, columns, number + 1))
            figure.suptitle(title)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ConfigError("a picture needs matplotlib: pip install matplotlib") from error
    return Picture(figure)
