"""What several pictures are made of: images of fields, curves, and a small file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from physgym.scene.frames import mesh_frame

COLOURS = 96  # of a picture's palette
COUNTED = ("epoch", "step", "recorded drive")  # what an axis counts, of which there are no halves
SOLVER, NETWORK = {"color": "0.55", "linewidth": 2.5, "label": "solver"}, {"color": "tab:blue", "label": "network"}


def new(columns: int = 2, width: float = 7.0, height: float = 2.9) -> tuple[Figure, Any]:
    """Return a figure, and its panels side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def image(
    axes: Any, values: np.ndarray, title: str, unit: str = "", limit: float | None = None, **options: Any
) -> None:
    """Draw a field on a grid, with a bar of its colours."""
    style: dict[str, Any] = {"cmap": "viridis", "interpolation": "nearest", "origin": "lower", **options}
    if limit is not None:
        style |= {"vmin": -limit, "vmax": limit, "cmap": "RdBu_r"}
    drawn = axes.imshow(values, **style)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.75, pad=0.03)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(unit, fontsize=8)


def bent(axes: Any, env: Any, displacement: np.ndarray, title: str, limit: float | None = None) -> None:
    """Draw a bent beam of physgym, coloured by the displacement of its nodes in mm."""
    points = env.rest_positions + displacement
    size = np.linalg.norm(displacement, axis=1)
    limits = (0.0, float(size.max() if limit is None else limit))
    reach = np.stack([points.min(0) - 2, points.max(0) + 2])
    frame = mesh_frame(points, env.surface_faces, scalars=size, bounds=reach, limits=limits, size=(720, 480), unit="mm")
    inked = (frame < 255).any(-1)
    rows, columns = (np.flatnonzero(inked.any(axis)) for axis in (1, 0))
    axes.imshow(frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def shown(file: Path, width: float, rows: float = 1.0, columns: tuple[float, float] = (0.0, 1.0)) -> Figure:
    """Return a figure of a part of a picture: of its upper rows, and of some columns."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    first, last = (int(part * pixels.shape[1]) for part in columns)
    pixels = pixels[: int(rows * len(pixels)), first:last]
    figure = Figure(figsize=(width, width * pixels.shape[0] / pixels.shape[1] + 0.25), layout="constrained")
    axes = figure.subplots()
    axes.imshow(pixels, interpolation="antialiased")
    axes.set_axis_off()
    return figure


def finish(axes: Any, x: str, y: str, title: str = "", *, legend: bool = True) -> None:
    """Label a panel of curves."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if x.partition(",")[0] in COUNTED:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        if high < 100 * low:  # two decades: a power of ten alone would stand there
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if legend:
        axes.legend(fontsize=8, frameon=False)


def history(axes: Any, curves: Mapping[str, Sequence[float]], title: str = "loss", y: str = "loss") -> None:
    """Draw values by epoch, on a logarithmic axis."""
    for label, values in curves.items():
        axes.semilogy(range(1, len(values) + 1), values, marker="." if len(values) < 25 else "", label=label)
    finish(axes, "epoch", y, title)


def median_example(report: Any, field: str) -> Any:
    """Return the rollout whose error is in the middle of those that were kept: of all episodes."""
    errors = np.nanmean(report.errors["relative_l2"][field][: len(report.examples)], axis=1)
    return report.examples[int(np.argsort(errors)[len(errors) // 2])]


def horizons(axes: Any, report: Any, field: str, title: str = "", x: str = "time (s)") -> None:
    """Draw how the error of a network grows that goes on from its own predictions, with the range of the episodes."""
    errors, times = report.errors["relative_l2"][field] * 100, report.times
    seconds = np.nanmean(times, axis=0) if np.isfinite(times).any() else np.arange(1, report.horizon + 1)
    low, middle, high = np.nanquantile(errors, (0.1, 0.5, 0.9), axis=0)
    axes.fill_between(seconds, low, high, alpha=0.25, label="8 of 10")
    axes.plot(seconds, middle, label="median")
    finish(axes, x, "relative L2 error (%)", title)
    axes.set_ylim(bottom=0)


def save(picture: Figure, path: Path) -> None:
    """Write a figure as a small PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = io.BytesIO()
    picture.savefig(held, format="png", dpi=100)
    pixels = Image.open(held).convert("RGB")
    pixels.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
