"""Animation of a rollout: what is predicted, what is true, and the error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from physgym.checks import integer
from physgym.errors import ConfigError
from physgym.running.autoregression import PredictedTrajectory
from physgym.scene.films import GIF, Film, save_film
from physgym.scene.frames import figure_frame, new_figure, style
from physgym.scene.over_time import SMALL, in_units
from physgym.scene.plots import whole_ticks
from physgym.scene.style import COLOUR_MAP, GHOST_COLOUR
from physgym.spaces import Array

FRAMES = 100  # of an animation at most
FPS = 12.5
CURVES, MANY_CURVES, PICTURES = (640, 480), (960, 600), (900, 340)
SOLVER: dict[str, Any] = {"linewidth": 1.6, "label": "solver"}
NETWORK: dict[str, Any] = {"color": GHOST_COLOUR, "linestyle": "--", "linewidth": 1.4, "label": "network"}

Drawing = tuple[Any, Callable[[int], None]]  # a figure, and what draws a step in it


def save_animation(
    file: Path,
    rollout: PredictedTrajectory,
    name: str,
    unit: str,
    frames: int = FRAMES,
    drawn: Callable[[], None] | None = None,
) -> None:
    """Write a rollout as a GIF.

    Args:
        file: Where to, ending with ``.gif``.
        rollout: The rollout; it is shown up to a divergence.
        name: The field.
        unit: Its unit.
        frames: Largest number of frames.
        drawn: Called after each frame that was drawn.

    Raises:
        ConfigError: The field has too many axes, nothing is finite, or the file cannot be written.
    """
    if file.suffix.lower() != GIF:
        raise ConfigError(f"an animation is written as .gif, not as {file.name!r}")
    frames = integer("frames", frames, 1)
    count = rollout.finite
    if not count:
        raise ConfigError(f"the rollout of episode {rollout.trajectory.episode} diverges at its first step")
    (predicted, true), label = _drawable(rollout.predicted[name][:count], rollout.true[name][:count], name)
    labels = tuple(f"{one} ({unit})" if unit else one for one in (label, "error"))
    shown = np.unique(np.linspace(0, count - 1, min(count, frames)).round().astype(int))
    titles = [_title(rollout, i) for i in range(count)]
    with style():
        if predicted.ndim == 3:
            figure, draw = _images(predicted, true, labels)
        elif predicted.shape[1] <= SMALL:
            figure, draw = _series(predicted, true, name, unit, rollout.seconds)
        else:
            figure, draw = _curves(predicted, true, labels)
        pictures = []
        for i in shown:  # in one figure, whose parts move: a new one for each step would take three times as long
            figure.suptitle(titles[i])
            draw(int(i))
            pictures.append(figure_frame(figure))
            figure.set_layout_engine("none")  # what was placed stays there
            if drawn is not None:
                drawn()
    last = round(FPS)  # frames for which the last one stays: a second
    save_film(file, Film(pictures.__getitem__, [*[1] * (len(pictures) - 1), last], FPS), overwrite=True)


def frames_of(rollout: PredictedTrajectory, frames: int = FRAMES) -> int:
    """Return how many frames an animation of a rollout draws."""
    return min(rollout.finite, frames)


def can_animate(shape: tuple[int, ...]) -> bool:
    """Return whether a field of some shape can be animated."""
    return len(shape) <= 2 or (len(shape) == 3 and min(shape[0], shape[-1]) <= 3)


def _drawable(predicted: Array, true: Array, name: str) -> tuple[tuple[Array, Array], str]:
    """Return both with one or two axes after the axis of the steps, and what they are then."""
    both, shape = (np.asarray(predicted, np.float64), np.asarray(true, np.float64)), true.shape[1:]
    if not can_animate(shape):
        raise ConfigError(f"{name!r} has shape {shape}; animations are of fields with one or two axes, or such vectors")
    if not shape:
        return (both[0][:, None], both[1][:, None]), name
    if len(shape) == 1:
        return both, name
    axis = 1 if len(shape) == 3 and shape[0] <= 3 else -1
    if len(shape) == 2 and shape[-1] > 3:
        return both, name
    if both[0].shape[axis] == 1:
        return (both[0].squeeze(axis), both[1].squeeze(axis)), name
    return (np.linalg.norm(both[0], axis=axis), np.linalg.norm(both[1], axis=axis)), f"|{name}|"


def _title(rollout: PredictedTrajectory, i: int) -> str:
    time = "" if rollout.seconds is None else f", {rollout.seconds[i]:.4g} s"
    return f"episode {rollout.trajectory.episode}: step {i + 1}{time}"


def _limits(*values: Array) -> tuple[float, float]:
    low, high = min(float(one.min()) for one in values), max(float(one.max()) for one in values)
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin


def _curves(predicted: Array, true: Array, labels: tuple[str, ...]) -> Drawing:
    """Draw fields of one axis: both above, the error below; the true field sets the scale of the upper one."""
    x, error = np.arange(true.shape[1]), predicted - true
    figure = new_figure(CURVES)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    lines = [upper.plot(x, true[0], **SOLVER)[0], upper.plot(x, predicted[0], **NETWORK)[0]]
    lines += lower.plot(x, error[0], color="0.3", linewidth=1.2)
    upper.set(ylabel=labels[0], ylim=_limits(true))
    lower.set(ylabel=labels[1], ylim=_limits(error), xlabel="index", xlim=(0, max(1, len(x) - 1)))
    whole_ticks(lower)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.legend(handles=lines[:2], loc="outside lower center", ncols=2, frameon=False)

    def draw(i: int) -> None:
        for line, values in zip(lines, (true, predicted, error), strict=True):
            line.set_ydata(values[i])

    return figure, draw


def _series(predicted: Array, true: Array, name: str, unit: str, seconds: Array | None) -> Drawing:
    """Draw a few numbers over time up to each step, each in a panel of its own."""
    time = np.arange(1, len(true) + 1) if seconds is None else seconds[: len(true)]
    count = true.shape[1]
    columns = 1 if count < 3 else 2 if count < 7 else 3
    figure = new_figure(CURVES if count < 3 else MANY_CURVES)
    rows = -(-count // columns)
    ends = (float(time[0]), float(time[-1]) if len(time) > 1 else float(time[0]) + 1)
    lines = []
    for part, one in enumerate(in_units(unit, count)):
        axes = figure.add_subplot(rows, columns, part + 1)
        axes.plot(time, true[:, part], color="0.85", linewidth=1.0)  # what is to come
        lines.append((axes.plot([], [], **SOLVER)[0], axes.plot([], [], **NETWORK)[0]))
        axes.set(title=f"{name}[{part}]" if count > 1 else name, ylabel=one, xlim=ends, ylim=_limits(true[:, part]))
        axes.grid(alpha=0.3)
        if part + columns >= count:
            axes.set_xlabel("step" if seconds is None else "time (s)")
        if seconds is None:
            whole_ticks(axes)
    figure.legend(handles=lines[0], loc="outside lower center", ncols=2, frameon=False)

    def draw(i: int) -> None:
        for part, (solver, network) in enumerate(lines):
            solver.set_data(time[: i + 1], true[: i + 1, part])
            network.set_data(time[: i + 1], predicted[: i + 1, part])

    return figure, draw


def _images(predicted: Array, true: Array, labels: tuple[str, ...]) -> Drawing:
    """Draw fields of two axes: network, solver, error; the true field sets the scale of the first two."""
    error = predicted - true
    low, high = float(true.min()), float(true.max())
    largest = float(np.abs(error).max()) or 1.0
    both: dict[str, Any] = {"cmap": COLOUR_MAP, "vmin": low, "vmax": high}
    signed: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    figure = new_figure(PICTURES)
    figure.set_layout_engine("compressed")
    images = []
    for number, (title, values) in enumerate((("network", predicted), ("solver", true), ("error", error))):
        axes = figure.add_subplot(1, 3, number + 1)
        image = axes.imshow(values[0], origin="lower", **(signed if number == 2 else both))
        axes.set(title=title, xticks=[], yticks=[])
        figure.colorbar(image, ax=axes, location="bottom", aspect=25, pad=0.04, label=labels[number == 2])
        images.append((image, values))

    def draw(i: int) -> None:
        for image, values in images:
            image.set_data(values[i])

    return figure, draw
