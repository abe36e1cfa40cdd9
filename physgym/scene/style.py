"""Settings of the objects of a scene: colours, limits, sizes, and their checks."""

from __future__ import annotations

import re
import sys
from typing import Any, Literal, TypedDict

import numpy as np

from physgym.errors import SceneError
from physgym.scene.kinds import CHOICES

GHOST_COLOUR = "#d1495b"
MESH_COLOUR = "#8fb8d0"
DARK_COLOUR = "#303030"  # of edges, lines and texts
CURVES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
COLOUR_MAP = "viridis"
# of matplotlib; each has a reversed one, with _r behind its name
COLOUR_MAPS = frozenset({
    "Accent", "Blues", "BrBG", "BuGn", "BuPu", "CMRmap", "Dark2", "GnBu", "Grays", "Greens", "Greys", "OrRd",
    "Oranges", "PRGn", "Paired", "Pastel1", "Pastel2", "PiYG", "PuBu", "PuBuGn", "PuOr", "PuRd", "Purples", "RdBu",
    "RdGy", "RdPu", "RdYlBu", "RdYlGn", "Reds", "Set1", "Set2", "Set3", "Spectral", "Wistia", "YlGn", "YlGnBu",
    "YlOrBr", "YlOrRd", "afmhot", "autumn", "berlin", "binary", "bone", "brg", "bwr", "cividis", "cool", "coolwarm",
    "copper", "cubehelix", "flag", "gist_earth", "gist_gray", "gist_grey", "gist_heat", "gist_ncar", "gist_rainbow",
    "gist_stern", "gist_yarg", "gist_yerg", "gnuplot", "gnuplot2", "gray", "grey", "hot", "hsv", "inferno", "jet",
    "magma", "managua", "nipy_spectral", "ocean", "okabe_ito", "pink", "plasma", "prism", "rainbow", "seismic",
    "spring", "summer", "tab10", "tab20", "tab20b", "tab20c", "terrain", "turbo", "twilight", "twilight_shifted",
    "vanimo", "viridis", "winter"
})  # fmt: skip
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
PAIRS = {"limits": 2, "extent": 4, "ends": 2}  # numbers in pairs, the lower first

Limits = tuple[float, float]


class Style(TypedDict, total=False):
    """Settings that all objects have.

    Attributes:
        colour: "#rrggbb"; where there are no scalars.
        colours: Name of a colour map of matplotlib.
        limits: Values at the ends of the colour map, or of a curve's ordinate. None: the range of what was shown so
            far; "symmetric": the same about zero.
        group: Name that objects share whose limits, where they are not given, are to be the same.
        alpha: From 0, not seen, to 1.
        wireframe: Whether edges alone are drawn.
        point_size: In pixels.
        line_width: In pixels.
        ghost: Whether it is drawn as what was predicted: another colour, a wire frame, a dashed line.
        panel: Name of the panel of the picture; an image has one of its own.
        label: Text for people; the name by default.
        unit: Of the scalars or values.
        fixed: Whether arrays that are no `Values` stay as they are, so that they are stored with a dataset.
    """

    colour: str | None
    colours: str
    limits: Limits | Literal["symmetric"] | None
    group: str
    alpha: float
    wireframe: bool
    point_size: float
    line_width: float
    ghost: bool
    panel: str | None
    label: str
    unit: str
    fixed: bool


STYLE: dict[str, Any] = {
    "colour": None,
    "colours": COLOUR_MAP,
    "limits": None,
    "group": "",
    "alpha": 1.0,
    "wireframe": False,
    "point_size": 6.0,
    "line_width": 1.0,
    "ghost": False,
    "panel": None,
    "label": "",
    "unit": "",
    "fixed": False,
}


def setting(name: str, value: Any, default: Any) -> Any:
    """Return a setting of an object, where it is right, as JSON data.

    Args:
        name: Its name.
        value: Its value.
        default: Its value where none is given; one that is None may be None again.

    Raises:
        ValueError: It is wrong.
    """
    if value is None and default is None:
        return None
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name} must be one of {', '.join(one for one in CHOICES[name] if one)}, not {value!r}")
    if name in PAIRS and not (name == "limits" and value == "symmetric"):
        return _pairs(name, value)
    if name == "colours":
        _check_colour_map(value)
    if name == "colour" and not (isinstance(value, str) and COLOUR.fullmatch(value)):
        raise ValueError(f"colour must be a text such as {MESH_COLOUR!r}, not {value!r}")
    if isinstance(default, bool):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False, not {value!r}")
        return bool(value)
    if isinstance(default, float) or name == "scale":
        return _number(name, value)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {value!r}")
    return value


def _check_colour_map(name: Any) -> None:
    """Check the name of a colour map, without matplotlib, which a worker does not import.

    Raises:
        ValueError: Matplotlib has none of this name, nor has somebody given it one in this process.
    """
    own = sys.modules.get("matplotlib")
    known = isinstance(name, str) and (name.removesuffix("_r") in COLOUR_MAPS or (own and name in own.colormaps))
    if not known:
        raise ValueError(f"colours must name a colour map of matplotlib, such as 'viridis' or 'coolwarm', not {name!r}")


def _pairs(name: str, value: Any) -> list[float]:
    numbers = np.asarray(value if isinstance(value, (list, tuple, np.ndarray)) else ())
    good = numbers.shape == (PAIRS[name],) and numbers.dtype.kind in "iuf" and bool(np.isfinite(numbers).all())
    if not good or (numbers[0::2] >= numbers[1::2]).any():
        raise ValueError(f"{name} must be {PAIRS[name]} finite numbers, the lower ends first, not {value!r}")
    return [float(one) for one in numbers]


def _number(name: str, value: Any) -> float:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    most = 1.0 if name == "alpha" else np.inf
    if not (number and 0 <= value <= most and np.isfinite(value)):
        raise ValueError(f"{name} must be a number {'from 0 to 1' if most == 1 else 'of at least 0'}, not {value!r}")
    return float(value)


def colour_map(name: str) -> Any:
    """Return a colour map of matplotlib; what is not finite is seen through.

    Raises:
        SceneError: There is none of this name.
    """
    from matplotlib import colormaps

    if name not in colormaps:
        raise SceneError(f"colours must name a colour map of matplotlib, such as 'viridis' or 'coolwarm', not {name!r}")
    return colormaps[name]
