"""`Chart`: a plot of a report, as what plotly.js takes; made without plotly."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physgym.report.figures import drawn_rows, missing, plain
from physgym.spaces import Array

COLOURS = ("#2a6f97", "#d1495b", "#2d936c", "#e09f3e", "#7b5ea7", "#5c677d", "#00a6a6", "#a44a3f")
POINTS = 2000  # of a curve or a cloud; more are thinned
BINS = 8, 48  # of a histogram, at least and at most
WHOLE = 8  # a range of whole numbers up to this has a tick at each
MARKED = 30  # points of a curve that are drawn as such
DECADES = 30.0  # values that differ by more are drawn on a logarithmic scale
FEW = 12  # different values that are counted one by one
WIDE = 2.0**50  # numbers next to which a bar of the width of less than 1 is not seen


@dataclass(frozen=True)
class Chart:
    """One plot.

    Attributes:
        title: Text above it.
        traces: What is drawn, as plotly.js has it: texts escaped, numbers rounded, None for what is not finite.
        layout: Axes, as plotly.js has them.
        notes: What is to be said below it.
        wide: Whether it takes the whole width of the page.
        height: In pixels.
    """

    title: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    notes: tuple[str, ...] = ()
    wide: bool = False
    height: int = 240

    @property
    def empty(self) -> bool:
        """Return whether no trace has a number to draw."""
        drawn = (value for trace in self.traces for name in ("x", "y") for value in trace.get(name, ()))
        return all(value is None for value in drawn)


@dataclass
class _Drawing:
    """Traces of a chart that is being made, with what is left out of them."""

    traces: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    thinned: list[str] = field(default_factory=list)

    def add(self, name: str, x: Any, y: Any, **more: Any) -> None:
        """Add a trace of points; more than `POINTS` of them are thinned."""
        x, y = np.asarray(x), np.asarray(y)
        if len(y) > POINTS:
            rows = np.unique(np.linspace(0, len(y) - 1, POINTS).astype(np.int64))
            self.thinned = [f"{POINTS:,} of {len(y):,} points are drawn"]
            x, y = x[rows], y[rows]
        found = plain(y)
        self.left_out += missing(found)
        colour = COLOURS[len(self.traces) % len(COLOURS)]
        self.traces.append({"name": escaped(name), "x": plain(x), "y": found, "line": {"color": colour}} | more)

    def notes(self, *said: str) -> tuple[str, ...]:
        """Return the notes of the chart."""
        lost = [f"{_number(self.left_out)} not finite and not drawn"] if self.left_out else []
        return tuple(text for text in (*said, *self.thinned, *lost) if text)

    def axes(self, across: str, up: str, *, log_x: bool = False, log_y: bool = False) -> dict[str, Any]:
        """Return the axes of what was drawn."""
        found = axes(across, up)
        for name, log in (("x", log_x), ("y", log_y)):
            given = [value for trace in self.traces for value in trace[name] if value is not None]
            axis = found[f"{name}axis"]
            if log:  # ticks at powers of ten, and not all of them where there are many
                good = [value for value in given if value > 0] or [1]
                decades = math.log10(max(good) / min(good))
                axis |= {"type": "log", "exponentformat": "power", "minor": {"ticks": "outside", "ticklen": 2}}
                axis |= {"dtick": max(1, round(decades / 5))} if decades >= 1 else {}
            elif given and (size := abs(max(given))) > 0 and max(given) == min(given):
                axis |= {"range": [given[0] - size / 2, given[0] + size / 2]}  # plotly.js would show 0.001 as 0
            elif given and max(given) - min(given) <= WHOLE and all(value == int(value) for value in given):
                axis |= {"dtick": 1}
        return found


def escaped(text: str) -> str:
    """Return a text that plotly.js shows as it is: it reads some HTML in its texts."""
    return html.escape(str(text))


def curves(
    title: str,
    drawn: Mapping[str, tuple[Any, Any]],
    *,
    across: str,
    up: str = "",
    logarithmic: bool | None = None,
    wide: bool = False,
    note: str = "",
) -> Chart:
    """Return curves over an axis.

    Args:
        title: Text above.
        drawn: Abscissae and ordinates of each by name, both of shape (n,).
        across: Text of the axis.
        up: Text of the ordinates.
        logarithmic: Whether their scale is; by default where all are positive and differ much.
        wide: Whether the chart takes the whole width.
        note: What is to be said below.
    """
    drawing = _Drawing()
    for name, (x, y) in drawn.items():
        mode = "lines+markers" if len(y) <= MARKED else "lines"
        drawing.add(name, x, y, type="scatter", mode=mode, marker={"size": 5})
    log = _differs_much(drawing.traces) if logarithmic is None else logarithmic
    layout = drawing.axes(across, up, log_y=log)
    return Chart(title, drawing.traces, layout, drawing.notes(note), wide)


def band(
    title: str,
    x: Array,
    middle: Array,
    low: Array,
    high: Array,
    *,
    names: tuple[str, str],
    across: str,
    up: str = "",
    note: str = "",
) -> Chart:
    """Return a curve within a band.

    Args:
        title: Text above.
        x: Abscissae, shape (n,), as all others.
        middle: The curve.
        low: Lower end of the band.
        high: Upper end.
        names: What the curve and the band are.
        across: Text of the axis.
        up: Text of the ordinates.
        note: What is to be said below.
    """
    drawing = _Drawing()
    shade = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    drawing.add(names[1], x, low, **shade, showlegend=False)
    drawing.add(names[1], x, high, **shade, fill="tonexty", fillcolor="rgba(42,111,151,0.18)")
    lost = drawing.left_out
    marked = "lines+markers" if len(x) <= MARKED else "lines"
    drawing.add(names[0], x, middle, type="scatter", mode=marked, marker={"size": 5})
    drawing.left_out -= lost  # of the band too, which ends where the curve does
    drawing.traces[-1]["line"] = {"color": COLOURS[0]}
    layout = drawing.axes(across, up, log_y=_differs_much(drawing.traces))
    return Chart(title, drawing.traces, layout, drawing.notes(note))


def histogram(title: str, given: Mapping[str, Array], *, across: str = "", note: str = "") -> Chart:
    """Return how often values occur: bars, or lines where there are several kinds of them.

    Values that are not finite are left out and counted.

    Args:
        title: Text above.
        given: Arrays of numbers of any shape by name.
        across: Text of the axis, such as the unit.
        note: What is to be said below.
    """
    flat = {name: np.asarray(one, np.float64).reshape(-1) for name, one in given.items()}
    good = {name: one[np.isfinite(one)] for name, one in flat.items()}
    drawing = _Drawing(left_out=sum(map(len, flat.values())) - sum(map(len, good.values())))
    there = np.concatenate([*good.values(), np.zeros(0)])
    if not len(there):
        return Chart(title, [], axes(across, "share"), drawing.notes(note))
    levels = np.unique(there)  # of all values: one that is rare would fall between the bars, or into that of another
    counted = len(levels) <= FEW and bool((levels == np.round(levels)).all())
    edges = np.zeros(2) if counted else _edges(there, max(map(len, good.values())))
    middle = levels if counted else (edges[:-1] + edges[1:]) / 2
    width = 0.8 / len(good) if counted else float(edges[1] - edges[0])
    for name, one in good.items():
        found = [np.count_nonzero(one == level) for level in levels] if counted else np.histogram(one, edges)[0]
        share = np.array(found) / max(1, len(one))
        colour = COLOURS[len(drawing.traces) % len(COLOURS)]
        look: dict[str, Any] = {"type": "bar", "marker": {"color": colour}}
        if len(good) > 1 and not counted:
            look = {"type": "scatter", "mode": "lines", "line": {"color": colour, "shape": "hvh", "width": 1.5}}
        elif not counted or np.abs(levels).max() < WIDE:
            look["width"] = width
        drawing.add(name, middle, share, **look)
    layout = axes(across, "share of the values")
    layout["yaxis"]["tickformat"] = ".3~%"
    layout["yaxis"]["rangemode"] = "tozero"
    if counted and len(levels) <= FEW // 2:
        layout["xaxis"] |= {"tickvals": plain(levels), "range": [float(levels[0]) - 1, float(levels[-1]) + 1]}
    return Chart(title, drawing.traces, layout, drawing.notes(note))


def _edges(values: Array, count: int) -> Array:
    """Return the ends of as many bins as so many values fill."""
    low, high = float(values.min()), float(values.max())
    span = high - low
    bins = int(np.clip(np.sqrt(count), *BINS))
    if not span or not np.isfinite(span) or span <= 8 * bins * np.spacing(max(abs(low), abs(high))):
        half = max(abs(high), abs(low), 1.0) * 1e-3
        low, high = low - half, high + half
    return np.linspace(low, high, bins + 1)


def values(title: str, drawn: Mapping[str, Array], *, up: str = "") -> Chart:
    """Return the values of arrays of the same length by their index: as bars where these are few, else as curves.

    Args:
        title: Text above.
        drawn: Arrays of shape (n,) by name.
        up: Text of the ordinates, such as the unit.
    """
    length = max(map(len, drawn.values()))
    if length > FEW:
        return curves(
            title, {n: (np.arange(length), one) for n, one in drawn.items()}, across="", up=up, logarithmic=False
        )
    drawing = _Drawing()
    for name, one in drawn.items():
        colour = COLOURS[len(drawing.traces) % len(COLOURS)]
        drawing.add(name, np.arange(length), one, type="bar", marker={"color": colour})
    layout = axes("", up)
    layout["xaxis"] |= {
        "tickvals": list(range(length)),
        "ticktext": [f"[{i}]" if length > 1 else "" for i in range(length)],
    }
    return Chart(title, drawing.traces, layout, drawing.notes())


def counts(title: str, found: Mapping[str, int], *, what: str, note: str = "") -> Chart:
    """Return how often each of some texts occurs, as horizontal bars."""
    names = list(found)[::-1]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [found[name] for name in names],
        "y": [escaped(name if len(name) <= 40 else f"{name[:37]}...") for name in names],
        "marker": {"color": COLOURS[0]},
    }
    layout = axes(what, "")
    layout["yaxis"] |= {"type": "category", "automargin": True}
    return Chart(title, [trace], layout, (note,) if note else (), height=max(150, 70 + 26 * len(names)))


def cloud(
    title: str,
    groups: Mapping[str, tuple[Array, Array]],
    *,
    across: str,
    up: str,
    diagonal: bool = False,
    logarithmic: tuple[bool, bool] = (False, False),
    categories: Sequence[str] = (),
    note: str = "",
) -> Chart:
    """Return points of one or several groups; of more than `POINTS` some are drawn.

    Args:
        title: Text above.
        groups: Abscissae and ordinates of each by name, both of shape (n,).
        across: Text of the axis.
        up: Text of the ordinates.
        diagonal: Whether to draw the line on which both are equal.
        logarithmic: Whether the scale of each axis is.
        categories: Texts of the abscissae 0, 1, ...; by default they are numbers.
        note: What is to be said below.
    """
    drawing = _Drawing()
    for x, y in groups.values():
        there = np.isfinite(x) & np.isfinite(y)
        drawing.left_out += int((~there).sum())
    for number, (name, (x, y)) in enumerate(groups.items()):
        good = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        kept = good[drawn_rows(len(good), POINTS)]
        if len(kept) < len(good):
            drawing.thinned = [f"{POINTS:,} of {len(good):,} points are drawn"]
        colour = COLOURS[number % len(COLOURS)]
        marker = {"size": 5 if len(kept) < 500 else 4, "opacity": 0.75 if len(kept) < 500 else 0.45, "color": colour}
        drawing.add(name, x[kept], y[kept], type="scatter", mode="markers", marker=marker)
    layout = drawing.axes(across, up, log_x=logarithmic[0], log_y=logarithmic[1])
    if categories:
        layout["xaxis"] |= {"tickvals": list(range(len(categories))), "ticktext": [escaped(c) for c in categories]}
    if diagonal:
        both = [value for trace in drawing.traces for name in ("x", "y") for value in trace[name]]
        if both:
            ends = [min(both), max(both)]
            line = {"color": "#888", "width": 1, "dash": "dash"}
            drawing.traces.append(
                {"type": "scatter", "mode": "lines", "name": "equal", "x": ends, "y": ends, "line": line}
                | {"hoverinfo": "skip", "showlegend": False}
            )
    return Chart(title, drawing.traces, layout, drawing.notes(note))


def axes(across: str, up: str) -> dict[str, Any]:
    """Return the two axes of a chart."""
    texts = {"xaxis": across, "yaxis": up}
    return {name: {"title": {"text": escaped(text), "standoff": 8}} for name, text in texts.items()}


def _differs_much(traces: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all ordinates are positive, and differ so much that a linear scale shows little."""
    values = [value for trace in traces for value in trace["y"] if value is not None]
    return bool(values) and min(values) > 0 and max(values) > DECADES * min(values)


def _number(count: int) -> str:
    return f"{count:,} value is" if count == 1 else f"{count:,} values are"
