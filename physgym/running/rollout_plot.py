"""Picture of the errors of rollouts by horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import ConfigError
from physgym.files import replacing
from physgym.scene.frames import new_figure, style
from physgym.scene.plots import whole_ticks
from physgym.spaces import Array

ENDINGS = ("png", "pdf", "svg")
SIZE = (900, 560)
DPI = 160


def save_error_plot(
    file: Path,
    metric: str,
    curves: Mapping[str, tuple[Array, list[Array]]],
    units: Mapping[str, str],
    quantiles: Sequence[float],
    counts: Array,
    seconds: Array | None,
    limits: Sequence[float],
) -> None:
    """Draw errors by horizon, and the number of episodes where that changes.

    Args:
        file: Where to, ending with one of `ENDINGS`.
        metric: What is drawn.
        curves: Mean and quantiles of each field, all of shape (horizon,); infinite from where a network has diverged.
        units: Unit of the error of each field.
        quantiles: The parts whose quantiles they are, ascending.
        counts: Episodes at each horizon.
        seconds: Time of each horizon in s; None draws steps.
        limits: Thresholds, drawn as lines.

    Raises:
        ConfigError: The ending is another one, or the file cannot be written.
    """
    if file.suffix.lower().removeprefix(".") not in ENDINGS:
        raise ConfigError(f"a plot is written as .{', .'.join(ENDINGS)}, not as {file.name!r}")
    across = np.arange(1, len(counts) + 1) if seconds is None else seconds
    shown = {unit for unit in units.values() if unit}
    label = f"{metric} ({shown.pop()})" if len(shown) == 1 and all(units.values()) else metric
    with style():
        figure = new_figure(SIZE)
        axes = figure.add_subplot()
        for number, (name, (mean, bands)) in enumerate(curves.items()):
            _draw(axes, f"C{number % 10}", across, name, units[name] if shown else "", mean, bands, quantiles)
        for limit in limits:
            axes.axhline(limit, color="0.4", linewidth=0.8, linestyle=":")
        axes.set(xlabel="step" if seconds is None else "time (s)", ylabel=label)
        values = np.concatenate([np.concatenate([mean, *bands]) for mean, bands in curves.values()])
        good = values[np.isfinite(values)]
        if len(good) and good.min() > 0 and good.max() > 30 * good.min():
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        if seconds is None:
            whole_ticks(axes)
        if len(set(counts.tolist())) > 1:
            other = axes.twinx()
            other.step(across, counts, where="mid", color="0.6", linewidth=0.8)
            other.set(ylabel="episodes", ylim=(0, None))
            whole_ticks(other, "y")
        axes.set_title(f"rollouts of {counts[0]} episodes")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        try:
            with replacing(file, durable=False) as temporary:
                figure.savefig(temporary, dpi=DPI, format=file.suffix.lower().removeprefix("."))
        except OSError as error:
            raise ConfigError(f"cannot write the picture {file}: {error.strerror}") from error


def _draw(
    axes: Any,
    colour: str,
    across: Array,
    name: str,
    unit: str,
    mean: Array,
    bands: Sequence[Array],
    quantiles: Sequence[float],
) -> None:
    label = f"{name} ({unit})" if unit else name
    good = np.isfinite(mean)
    mark = {"marker": "o", "markersize": 3} if len(across) < 15 else {}
    axes.plot(across, np.where(good, mean, np.nan), color=colour, linewidth=1.6, label=f"{label}: mean", **mark)
    if not good.all():
        begin = across[int(np.argmin(good))]
        axes.axvline(begin, color=colour, linewidth=0.9, linestyle="--", label=f"{name} diverges")
    if len(bands) > 1:
        low, high = (np.where(np.isfinite(one), one, np.nan) for one in (bands[0], bands[-1]))
        text = f"{100 * quantiles[0]:g} to {100 * quantiles[-1]:g} % of the episodes"
        axes.fill_between(across, low, high, color=colour, alpha=0.2, linewidth=0, label=text)
