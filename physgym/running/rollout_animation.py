"""Animation of a rollout: what is predicted, what is true, and the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from physgym.checks import integer
from physgym.errors import ConfigError
from physgym.running.autoregression import PredictedTrajectory
from physgym.scene.films import GIF, Film, save_film
from physgym.scene.frames import figure_frame, new_figure, style
from physgym.scene.style import COLOUR_MAP, GHOST_COLOUR
from physgym.spaces import Array

FEW = 8  # numbers of a field that are drawn over time
FPS = 12.5
CURVES, PICTURES = (640, 480), (900, 340)


def save_animation(file: Path, rollout: PredictedTrajectory, name: str, unit: str, frames: int = 100) -> None:
    """Write a rollout as a GIF.

    Args:
        file: Where to, ending with ``.gif``.
        rollout: The rollout; it is shown up to a divergence.
        name: The field.
        unit: Its unit.
        frames: Largest number of frames.

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
    if predicted.ndim == 3:
        pictures = _pictures(predicted, true, labels, titles, shown)
    elif predicted.shape[1] <= FEW:
        pictures = _series(predicted, true, labels, rollout.seconds, titles, shown)
    else:
        pictures = _curves(predicted, true, labels, titles, shown)
    last = round(FPS)  # frames for which the last one stays: a second
    save_film(file, Film(pictures.__getitem__, [*[1] * (len(pictures) - 1), last], FPS), overwrite=True)


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


def _curves(predicted: Array, true: Array, labels: tuple[str, ...], titles: list[str], shown: Array) -> list[Array]:
    """Draw fields of one axis: both above, the error below; the true field sets the scale of the upper one."""
    x, error = np.arange(true.shape[1]), predicted - true
    high, low = _limits(true), _limits(error)
    found = []
    for i in shown:
        with style():
            figure = new_figure(CURVES)
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
            upper.plot(x, true[i], linewidth=1.6, label="solver")
            upper.plot(x, predicted[i], color=GHOST_COLOUR, linestyle="--", linewidth=1.4, label="network")
            lower.plot(x, error[i], color="0.3", linewidth=1.2)
            upper.set(ylabel=labels[0], ylim=high, title=titles[i])
            lower.set(ylabel=labels[1], ylim=low, xlabel="entry of the field")
            upper.legend(loc="upper right")
            for axes in (upper, lower):
                axes.grid(alpha=0.3)
            found.append(figure_frame(figure))
    return found


def _series(
    predicted: Array, true: Array, labels: tuple[str, ...], seconds: Array | None, titles: list[str], shown: Array
) -> list[Array]:
    """Draw a few numbers over time, up to each step."""
    time = np.arange(1, len(true) + 1) if seconds is None else seconds[: len(true)]
    error = predicted - true
    high, low = _limits(true), _limits(error)
    ends = (float(time[0]), float(time[-1]) if len(time) > 1 else float(time[0]) + 1)
    found = []
    for i in shown:
        with style():
            figure = new_figure(CURVES)
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
            for part in range(true.shape[1]):
                colour = f"C{part}"
                upper.plot(time[: i + 1], true[: i + 1, part], color=colour, label=f"[{part}] solver")
                upper.plot(time[: i + 1], predicted[: i + 1, part], color=colour, ls="--", label=f"[{part}] network")
                lower.plot(time[: i + 1], error[: i + 1, part], color=colour)
            upper.set(ylabel=labels[0], ylim=high, xlim=ends, title=titles[i])
            lower.set(ylabel=labels[1], ylim=low, xlabel="step" if seconds is None else "time (s)")
            upper.legend(loc="upper right", ncols=2)
            for axes in (upper, lower):
                axes.grid(alpha=0.3)
            found.append(figure_frame(figure))
    return found


def _pictures(predicted: Array, true: Array, labels: tuple[str, ...], titles: list[str], shown: Array) -> list[Array]:
    """Draw fields of two axes: network, solver, error; the true field sets the scale of the first two."""
    low, high = float(true.min()), float(true.max())
    largest = float(np.abs(predicted - true).max()) or 1.0
    found = []
    for i in shown:
        panels: list[tuple[str, Array, dict[str, Any]]] = [
            ("network", predicted[i], {"cmap": COLOUR_MAP, "vmin": low, "vmax": high}),
            ("solver", true[i], {"cmap": COLOUR_MAP, "vmin": low, "vmax": high}),
            ("error", predicted[i] - true[i], {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}),
        ]
        with style():
            figure = new_figure(PICTURES)
            figure.set_layout_engine("compressed")
            for number, (title, values, colours) in enumerate(panels):
                axes = figure.add_subplot(1, 3, number + 1)
                image = axes.imshow(values, origin="lower", **colours)
                axes.set(title=title, xticks=[], yticks=[])
                figure.colorbar(image, ax=axes, location="bottom", aspect=25, pad=0.04, label=labels[number == 2])
            figure.suptitle(titles[i])
            found.append(figure_frame(figure))
    return found
